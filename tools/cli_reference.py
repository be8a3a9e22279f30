"""Print docs/cli.md, the help of every command: `python tools/cli_reference.py > docs/cli.md`. A test compares it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hangarlog.cli.app import hangarlog
from hangarlog.cli.exit_codes import ExitCode

INTRODUCTION = """\
# The command line

`tools/cli_reference.py` writes this page from the help of the commands.

On a terminal, results are formatted for reading. Characters that are invisible, or that control the terminal, are
escaped as in JSON, also with `--raw` and in `export STORE -`. In a pipe, results are JSON lines, and events are the
stored lines, byte for byte. Errors and warnings are one line each on standard error, escaped in a pipe too. There are
no colours if `NO_COLOR` is set or `TERM` is `dumb`.

{exit_codes}

If a command cannot write to standard output because it is closed or full, standard error says so. The exit code is
then 1 if the command only reads, and 4 if it has changed the store: do not repeat it, its work is done. If the reader
of a pipe closes it, a command ends without a message, with 0 or the code that it already had. What cannot be written
to standard error is dropped.

Commands that take longer than half a second show on standard error how far they are, if that is a terminal. `read` and
`export STORE -` do so only if they write to a file.

If `HANGARLOG_STORE` is set, you may omit STORE. `read` and `tail` let you omit STREAM too: a single argument is the
store if it is a folder with a `hangarlog.json`, else the stream.

hangarlog imports no module from the current folder, because you may be inside a store from someone else. The exception
is a module that `--events` or `--handler` names: if it is found nowhere else, it comes from the current folder, and
hangarlog prints its file first. `python -m hangarlog` imports some of Python's modules with the current folder first on
the path, before hangarlog runs. Use `hangarlog` or `python -P -m hangarlog` instead.

## Completion in the shell

    hangarlog completion bash --install   # or zsh, or fish

lets the Tab key complete commands, options, stores (folders with a `hangarlog.json`), streams, categories, event types
and names of subscribers, in shells that you start afterwards. It needs bash 4.1, zsh 5 or fish 3.1. The command prints
which files it wrote: a script and, for bash and zsh, a line in `~/.bashrc` or `~/.zshrc` that reads it. To undo it,
delete both. Without `--install`, the script is printed.

Streams and types are those of the store in the command line or in `HANGARLOG_STORE`. The store is not opened for it:
nothing is locked, recovered or written. Categories are completed first, up to their colon. Event types are those of
the latest 256 KiB of the journal. Names are quoted, so that none of them acts on the shell. Names with invisible
characters, with a leading dash, or with more than 200 bytes in their file's name are not offered.
"""


def _exit_codes() -> str:
    rows = [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    return "\n".join(["| exit code | meaning |", "| --- | --- |", *rows])


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
    print(INTRODUCTION.replace("{exit_codes}", _exit_codes()))
    print(f"```text\n{_help(hangarlog, 'hangarlog')}\n```\n")
    for path, command in _commands(hangarlog, "hangarlog"):
        print(f"## {path}\n\n```text\n{_help(command, path)}\n```\n")


if __name__ == "__main__":
    main()
