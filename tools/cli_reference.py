"""Print docs/cli.md: the help of every command. `python tools/cli_reference.py > docs/cli.md`; a test compares."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hangarlog.cli.app import hangarlog

INTRODUCTION = """\
# The command line

`tools/cli_reference.py` generates this page from the help of the commands.

On a terminal, results are readable text. Invisible and control characters are escaped as in JSON, also with `--raw` and
in `export STORE -`. In a pipe, results are JSON lines, and events are the stored lines, byte for byte. Each error or
warning is one line on standard error, escaped in a pipe too.

| exit code | meaning |
| --- | --- |
| 0 | success; also when the reader of a pipe closes it early |
| 1 | the store refuses or is damaged: a conflict, damage found, no such stream, a full disk |
| 2 | wrong usage: an unknown option, a missing argument, a payload that is not a JSON object, a bad stream id |
| 130 | interrupted |

If `HANGARLOG_STORE` is set, you can leave out STORE. In `read` and `tail` you can leave out STREAM too. A single
argument is then the store if it is a folder with a `hangarlog.json`, and the stream otherwise.

No module is imported from the current folder, because it may be a store that another user has made. The exception is
the module that `--events` names: if it is nowhere else, it is imported from there, and its file is printed first. Use
`hangarlog` or `python -P -m hangarlog`. A plain `python -m hangarlog` imports some of Python's modules with the current
folder first on the path, before hangarlog runs.
"""


def _help(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path, max_content_width=100)
    context.terminal_width = 100
    return command.get_help(context)


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield (path, command) for every command; the commands of a group follow it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


def main() -> None:
    """Print the page."""
    print(INTRODUCTION)
    print(f"```text\n{_help(hangarlog, 'hangarlog')}\n```\n")
    for path, command in _commands(hangarlog, "hangarlog"):
        print(f"## {path}\n\n```text\n{_help(command, path)}\n```\n")


if __name__ == "__main__":
    main()
