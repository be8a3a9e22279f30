"""Print docs/cli.md: the help of every command. `python tools/cli_reference.py > docs/cli.md`; a test compares."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hangarlog.cli.app import hangarlog

INTRODUCTION = """\
# The command line

Made by `tools/cli_reference.py` from the commands' own help.

On a terminal results are made for reading. Characters that are invisible, or act on a terminal, are escaped as JSON
escapes them, with `--raw` and in `export STORE -` too. In a pipe results are JSON lines, and events are the lines as
they are stored, byte for byte. Errors and warnings are one line on standard error, escaped in a pipe too.

| exit code | meaning |
| --- | --- |
| 0 | fine; also when the reader of a pipe has seen enough |
| 1 | the store says no: a conflict, damage found, no such stream, a full disk |
| 2 | wrong usage: an unknown flag, a missing argument, a payload that is no JSON object, a bad stream id |
| 130 | interrupted |

Where `HANGARLOG_STORE` is set, STORE may be left out. With `read` and `tail`, whose STREAM may be left out too, a lone
argument is the store if it is a folder with a `hangarlog.json`, else the stream.

No module is imported from the current folder, which may be a store that somebody else has made. The exception is the
module that `--events` names: it is imported from there if it is nowhere else, and its file is printed first.
`python -m hangarlog` imports some of Python's modules with the current folder first on the path, before hangarlog runs:
use `hangarlog`, or `python -P -m hangarlog`.
"""


def _help(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path, max_content_width=100)
    context.terminal_width = 100
    return command.get_help(context)


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """(path, command) of every command, those of groups after their group."""
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
