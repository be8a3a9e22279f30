"""How events are shown to people: a line each, cut to the terminal's width, or with their payloads indented."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import click
import msgspec

from hangarlog import EventStore
from hangarlog.cli.terminal import is_terminal, printable, say, say_lines, styled, write_line
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.record.envelope import Envelope
from hangarlog.record.line import StoredEnvelope

WriteEvent = Callable[[Envelope, bytes], None]
"""Writes an event, given its envelope and its line as stored."""

_Part = tuple[str, dict[str, Any]]
"""A text and how it is styled."""

_Cell = tuple[str, int, int]
"""A character as it is shown, its columns, and the number of its part."""

_MARKS_PER_COLUMN = 4
"""A line has at most so many characters for each column: any number of combining marks fit into one."""
_MAX_CUT_BYTES = 64 << 10  # More of a payload is not looked at if it is cut.
_INDENT = 4


def event_writer(*, raw: bool = False, pretty: bool = False, full: bool = False) -> WriteEvent:
    """Return what writes events: as stored in a pipe or if `raw`, on a terminal one line each, unless `full` cut to it.

    With `pretty`, payloads are indented, in a pipe too.
    """
    if raw and pretty:
        raise click.UsageError("--raw and --pretty contradict each other; leave one out")
    if pretty:
        return _write_indented
    if raw or not is_terminal():
        return lambda envelope, line: write_line(line)
    return _write_whole if full else _write_cut


def with_lines(
    store: EventStore[Any], blocks: Iterable[Sequence[Envelope]], skip_damaged: bool = False
) -> Iterator[tuple[StoredEnvelope, bytes]]:
    """Yield the records of blocks with their lines as stored. Raises what `as_stored` raises."""
    for block, lines in as_stored(store, blocks, skip_damaged=skip_damaged):
        yield from zip(block, lines, strict=True)


def shown_time(text: str) -> str:
    """Return a time of a record as people read it: `2026-11-23 03:01:02.123 UTC`."""
    return (
        f"{text[:23].replace('T', ' ')} UTC"
        if text.endswith("Z") and len(text) >= len("2026-11-23T03:01:02Z")
        else text
    )


def _head(envelope: Envelope) -> list[_Part]:
    return [
        (f"{envelope.position:>8}", {"dim": True}),
        (" ", {}),
        (shown_time(envelope.recorded_at), {"dim": True}),
        (" ", {}),
        (f"{envelope.stream_id}@{envelope.stream_version}", {"fg": "cyan"}),
        (" ", {}),
        (envelope.event_type, {"fg": "green", "bold": True}),
    ]


def _say_parts(parts: Iterable[_Part]) -> None:
    say(*[styled(text, **style) if style else text for text, style in parts])


def _line(envelope: Envelope, most: int | None = None) -> list[_Part]:
    parts = [*_head(envelope), (" ", {}), (_text(bytes(envelope.data)[:most]), {})]
    if envelope.metadata_json:
        parts += [(" ", {}), (_text(envelope.metadata_json[:most]), {"dim": True})]
    return parts


def _text(json: bytes) -> str:
    return json.decode("utf-8", "surrogateescape")


def _write_whole(envelope: Envelope, line: bytes) -> None:
    _say_parts(_line(envelope))


def _write_cut(envelope: Envelope, line: bytes) -> None:
    _say_parts(cut(_line(envelope, _MAX_CUT_BYTES), columns()))


def _write_indented(envelope: Envelope, line: bytes) -> None:
    _say_parts(_head(envelope))
    for name, json in (("", bytes(envelope.data)), ("metadata ", envelope.metadata_json)):
        if json:
            text = name + _text(msgspec.json.format(json, indent=2))
            say_lines("\n".join(" " * _INDENT + each for each in text.split("\n")))


# The width of text


def columns() -> int | None:
    """Return the width of the terminal, None if it is not known."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def cut(parts: list[_Part], width: int | None, encoding: str | None = None) -> list[_Part]:
    """Return a line that fits into `width` columns, with an ellipsis at its end if something was cut off."""
    encoding = encoding or sys.stdout.encoding or "utf-8"
    if width is None:
        return parts
    cells, used, most = list[_Cell](), 0, _MARKS_PER_COLUMN * (width + 1)
    for cell in _cells(parts, encoding):
        cells.append(cell)
        used += cell[1]
        if used > width or len(cells) > most:
            break
    else:
        return parts
    ellipsis = "\u2026" if len(_encoded("\u2026", encoding)) == 1 else "..."
    while cells and used > width - len(ellipsis):
        used -= cells.pop()[1]
    kept = [
        ("".join(shown for shown, _, _ in group), parts[number][1]) for number, group in groupby(cells, itemgetter(2))
    ]
    return [*kept, (ellipsis[:width], {"dim": True})]


def fitted(text: str, width: int) -> str:
    """Return a text as a terminal shows it, cut or filled up with blanks to `width` columns."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = "".join(part for part, _ in cut([(text, {})], width, encoding)) if width > 0 else ""
    cells = list(_cells([(shown, {})], encoding))
    return "".join(cell[0] for cell in cells) + " " * max(0, width - sum(cell[1] for cell in cells))


def _cells(parts: list[_Part], encoding: str) -> Iterator[_Cell]:
    for number, (text, _) in enumerate(parts):
        for character in text:
            shown = _encoded(printable(character), encoding)
            yield shown, (_columns_of(shown) if len(shown) == 1 else len(shown)), number


def _encoded(text: str, encoding: str) -> str:
    """Return a text as a terminal of this encoding shows it: with escapes for what the encoding lacks."""
    return text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)


def _columns_of(character: str) -> int:
    if character < "\u0300":
        return 1
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
