"""The exit codes of the command line. docs/cli.md has them from here."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """An exit code and its `meaning`."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> ExitCode:
        """Make a member from a row of the table."""
        member = int.__new__(cls, number)
        member._value_, member.meaning = number, meaning
        return member

    SUCCESS = 0, "success; also if the reader of a pipe closes it early"
    FAILED = (
        1,
        "the command failed: a conflict, damage found, a warning of `doctor`, an unknown stream, a full disk, an "
        "output that is closed",
    )
    USAGE = 2, "wrong usage: an unknown flag, a missing argument, a payload that is not a JSON object, a bad stream id"
    UNCHECKED = (
        3,
        "`schema check` could not be made: no lock or a damaged one, events that cannot be imported, a damaged store, "
        "a verdict that could not be written",
    )
    UNTOLD = (
        4,
        "the command has changed the store, or written its file, but could not write its answer to standard output; "
        "standard error says what was done",
    )
    INTERRUPTED = 130, "interrupted"
