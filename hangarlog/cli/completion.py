"""`hangarlog completion`."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

import click

from hangarlog.cli.app import hangarlog, named, note_done
from hangarlog.cli.completion_scripts import SCRIPTS
from hangarlog.cli.terminal import say_lines, write_object

_READ_AT_START = {"bash": ".bashrc", "zsh": ".zshrc"}
"""Shell -> the file in which a line must name the script; fish finds it by itself."""


@hangarlog.command(short_help="Let the shell complete commands, streams and types.")
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
@click.option("--install", is_flag=True, help="Install the script for this user, and print which files were written.")
def completion(shell: str, install: bool) -> None:
    """Print the script that lets SHELL complete commands, options, stores, streams and event types.

    With --install, the script is written to the place where SHELL looks for it. For bash and zsh, a line that reads it
    is added to ~/.bashrc or ~/.zshrc, once. Shells that you start afterwards complete.
    """
    if not install:
        say_lines(SCRIPTS[shell].removesuffix("\n"))
        return
    home = os.environ.get("HOME", "")
    if not os.path.isdir(home):
        cause = "HOME does not name a folder" if home else "HOME is not set"
        raise click.UsageError(f"{cause}, so there is no place for the script; print it without --install")
    script = _place(shell, Path(home))
    start = _read_at_start(shell, Path(home))
    if start is not None and start.exists() and not start.is_file():
        raise click.UsageError(f"{start} is no file, so the line cannot be added; print the script without --install")
    with named("the script was not installed"):
        _replace(script, SCRIPTS[shell])
    note_done(f"{script} was written")
    with named(f"{script} was written, but the line that reads it was not added"):
        added = start is not None and _add_line(start, f"[ -r {_quoted(script)} ] && . {_quoted(script)}")
    write_object({"script": str(script), "added_to": str(start) if added else None})


def _folder(variable: str, home: Path, default: str) -> Path:
    """Return a folder of the XDG standard, which ignores relative paths."""
    given = os.environ.get(variable, "")
    return Path(given) if os.path.isabs(given) else home / default


def _place(shell: str, home: Path) -> Path:
    if shell == "fish":
        return _folder("XDG_CONFIG_HOME", home, ".config") / "fish/completions/hangarlog.fish"
    data = _folder("XDG_DATA_HOME", home, ".local/share")
    if shell == "bash":
        return data / "bash-completion/completions/hangarlog"
    return data / "zsh/site-functions/_hangarlog"


def _read_at_start(shell: str, home: Path) -> Path | None:
    if shell not in _READ_AT_START:
        return None
    folder = _folder("ZDOTDIR", home, "") if shell == "zsh" else home
    return folder / _READ_AT_START[shell]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _replace(path: Path, text: str) -> None:
    """Write a file that is whole at any time, as a shell may start meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.write_text(text)
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise


def _add_line(path: Path, line: str) -> bool:
    """Add a line to the end of a file, unless it has it already. Return True if it was added."""
    is_new = not path.exists()
    data = b"" if is_new else path.read_bytes()
    wanted = os.fsencode(line)
    if wanted in data.split(b"\n"):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("ab") as file:
            file.write((b"" if not data or data.endswith(b"\n") else b"\n") + wanted + b"\n")
    except OSError:  # A part of the line would break each shell that starts.
        with contextlib.suppress(OSError):
            path.unlink() if is_new else os.truncate(path, len(data))
        raise
    return True
