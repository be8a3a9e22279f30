"""What reaches a person: results, events, errors and progress; never a raw character that acts on a terminal.

Whatever is text goes through `say`, and lines of JSON through `write_line`: nothing else in this package writes.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import click
import msgspec

from hangarlog.record.envelope import Envelope

# What `str.isprintable` lets through and nobody sees: fillers that look like blanks, joiners, variation selectors.
_HIDDEN = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U00013441\U00013442\U00016fe4"
    "\U0001d159\U000e0100-\U000e01ef"
)
_hidden_in = re.compile(f"[{_HIDDEN}]").search


def printable(text: str) -> str:
    r"""The text with invisible characters, and those that act on a terminal, escaped as in JSON: `\u001b`.

    These are all that are no letter, mark, number, sign or plain blank: controls, formats, surrogates, other blanks
    and line ends, private and unassigned characters; and the letters and marks that look like nothing.
    """
    if text.isprintable() and not _hidden_in(text):
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() and not _hidden_in(character):
        return character
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


class Styled(NamedTuple):
    """Text with what `click.style` takes."""

    text: str
    style: Mapping[str, Any]

    def __str__(self) -> str:
        return click.style(printable(self.text), **self.style)


def styled(text: object, **style: Any) -> Styled:
    """A part for `say`, in colours where there are any."""
    return Styled(str(text), style)


def say(*parts: str | Styled, err: bool = False) -> None:
    """A line of text for a person, made of these parts, to standard output or, with `err`, to standard error."""
    click.echo("".join(str(part) if isinstance(part, Styled) else printable(part) for part in parts), err=err)


def say_lines(text: str, *, err: bool = False) -> None:
    """A text of several lines."""
    for line in text.split("\n"):
        say(line, err=err)


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def write_line(line: bytes) -> None:
    """A line of JSON, with its newline or without, to standard output: byte for byte, but for a terminal."""
    line = line.rstrip(b"\n")
    if is_terminal():
        say(line.decode("utf-8", "surrogateescape"))
    else:
        sys.stdout.buffer.write(line + b"\n")


def write_json(value: object) -> None:
    """A result as a line of JSON; a file's name that is no UTF-8 as Python has it, with `\\udcff` for the byte 0xFF."""
    try:
        write_line(msgspec.json.encode(value))
    except UnicodeEncodeError:
        import json  # Here: to load it takes as long as much of a short command.

        write_line(json.dumps(value, separators=(",", ":")).encode())


def write_object(value: dict[str, Any]) -> None:
    """A result: `name: value` lines for a person, one line of JSON in a pipe."""
    if not is_terminal():
        write_json(value)
        return
    width = max(map(len, value))
    for name, item in value.items():
        shown = f"{item:,}" if type(item) is int else str(item)
        say(styled(name.replace("_", " ").ljust(width), dim=True), "  ", shown)


def write_event(envelope: Envelope, line: bytes, *, raw: bool) -> None:
    """An event: for a person unless `raw`, its stored `line` in a pipe."""
    if raw or not is_terminal():
        write_line(line)
        return
    parts: list[str | Styled] = [
        styled(f"{envelope.position:>8}", dim=True),
        " ",
        styled(envelope.recorded_at[:23].replace("T", " "), dim=True),
        " ",
        styled(f"{envelope.stream_id}@{envelope.stream_version}", fg="cyan"),
        " ",
        styled(envelope.event_type, fg="green", bold=True),
        " ",
        bytes(envelope.data).decode("utf-8", "surrogateescape"),
    ]
    if envelope.metadata_json:
        parts += [" ", styled(envelope.metadata_json.decode("utf-8", "surrogateescape"), dim=True)]
    say(*parts)


@contextlib.contextmanager
def progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error while a person watches it; else nothing."""
    with click.progressbar(
        length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty(), show_pos=True
    ) as bar:
        yield bar.update
