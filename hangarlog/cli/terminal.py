"""What goes to a person's terminal: events on a line each, colours, progress; never a raw control character."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec

from hangarlog.record import Envelope, encode_envelope

# Control characters, and the invisible ones that reorder, join or hide text.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""The text with every character that could act on a terminal written as JSON would: `\u001b`."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def write_line(line: bytes) -> None:
    """A line of JSON, with its newline or without, to standard output."""
    line = line.rstrip(b"\n")
    if is_terminal():
        line = printable(line.decode()).encode()
    sys.stdout.buffer.write(line + b"\n")


def write_object(value: dict[str, Any]) -> None:
    """A result: `name: value` lines for a person, one line of JSON in a pipe."""
    if not is_terminal():
        write_line(msgspec.json.encode(value))
        return
    width = max(map(len, value))
    for name, item in value.items():
        shown = f"{item:,}" if type(item) is int else str(item)
        click.echo(f"{click.style(name.replace('_', ' ').ljust(width), dim=True)}  {printable(shown)}")


def write_event(envelope: Envelope, *, raw: bool) -> None:
    """An event: for a person unless `raw`, its stored line in a pipe."""
    if raw or not is_terminal():
        write_line(encode_envelope(envelope))
        return
    parts = [
        click.style(f"{envelope.position:>8}", dim=True),
        click.style(envelope.recorded_at[:23].replace("T", " "), dim=True),
        click.style(f"{printable(envelope.stream_id)}@{envelope.stream_version}", fg="cyan"),
        click.style(printable(envelope.event_type), fg="green", bold=True),
        printable(bytes(envelope.data).decode()),
    ]
    if envelope.metadata_json:
        parts.append(click.style(printable(bytes(envelope.metadata).decode()), dim=True))
    click.echo(" ".join(parts))


@contextlib.contextmanager
def progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error while a person watches it; else nothing."""
    with click.progressbar(
        length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty(), show_pos=True
    ) as bar:
        yield bar.update
