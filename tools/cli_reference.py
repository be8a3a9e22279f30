"""Print docs/cli.md, the help of every command: `python tools/cli_reference.py > docs/cli.md`. A test compares it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hangarlog.cli.app import hangarlog

INTRODUCTION = """\
# The command line

`tools/cli_reference.py` writes this page from the help of the commands.

On a terminal, results are formatted for reading. Characters that are invisible, or that control the terminal, are
escaped as in JSON, also with `--raw` and in `export STORE -`. In a pipe, results are JSON lines, and events are the
stored lines, byte for byte. Errors and warnings are one line each on standard error, escaped in a pipe too.

| exit code | meaning |
| --- | --- |
| 0 | success; also if the reader of a pipe closes it early |
| 1 | the command failed: a conflict, damage found, an unknown stream, a full disk |
| 2 | wrong usage: an unknown flag, a missing argument, a payload that is not a JSON object, an invalid stream id |
| 3 | `schema check` could not be made: no lock or a damaged one, events that cannot be imported, a damaged store |
| 130 | interrupted |

If `HANGARLOG_STORE` is set, you may omit STORE. `read` and `tail` let you omit STREAM too: a single argument is the
store if it is a folder with a `hangarlog.json`, else the stream.

hangarlog imports no module from the current folder, because you may be inside a store from someone else. The exception
is a module that `--events` or `--handler` names: if it is found nowhere else, it comes from the current folder, and
hangarlog prints its file first. `python -m hangarlog` imports some of Python's modules with the current folder first on
the path, before hangarlog runs. Use `hangarlog` or `python -P -m hangarlog` instead.
"""


def _help(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path, max_content_width=100)
    context.terminal_width = 100
    return command.get_help(context)


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield (path, command) of every command; the commands of a group follow it."""
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
