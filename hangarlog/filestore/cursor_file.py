"""The file `cursors.jsonl`: two lines of fixed length for each cursor, written in turn. docs/format.md has the bytes.

A move overwrites the older line of its cursor, so a write that is cut short leaves the other one. Each line fills a
sector, and the file rarely grows, so that a sync of it is as cheap as one of the commit ring.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec
from msgspec.structs import replace

from hangarlog.errors import CorruptionError
from hangarlog.record.checked_json import with_crc, without_crc
from hangarlog.record.cursor_move import CursorPlace
from hangarlog.record.envelope import MAX_NUMBER
from hangarlog.system.filesystem import FileSystem

LINE_BYTES = 512
"""A sector, which a device writes completely or not at all."""
PAIR_BYTES = 2 * LINE_BYTES
GROWTH_BYTES = 4 * PAIR_BYTES
"""The file grows by a block of 4 KiB."""

MAX_CURSORS = 1 << 14

UNKNOWN = "unknown"
"""In place of the checksum of the last record: the cursor's position was lost with the records it relied on."""

BLANK = b" " * (LINE_BYTES - 1) + b"\n"

_Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
Fallback = tuple[_Number, _Number, _Number]


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line: where a cursor is.

    Attributes:
        cursor: Its name.
        position: Its position.
        moved_at: When it was moved there.
        move: The number of the move: the line with the higher one counts.
        tip: The store's last position at the time of the move, 0 if it had no event.
        tip_crc: The checksum of the record at `tip`.
        created: The store's last position when the cursor was created.
        appended: The last position of the last append that moved the cursor, 0 if none has. Until that is committed,
            the line does not count.
        fallback: The (position, appended, move) of an earlier move whose `appended` was durable; None if that of this
            move was. It counts if a power cut takes the append.
    """

    cursor: str
    position: _Number
    moved_at: str
    move: _Number
    tip: _Number = 0
    tip_crc: str = ""
    created: _Number = 0
    appended: _Number = 0
    fallback: Fallback | None = None

    @property
    def state(self) -> Fallback:
        """What a later move falls back to."""
        return self.position, self.appended, self.move


_decode = msgspec.json.Decoder(Place).decode


def encode_place(place: Place) -> bytes:
    """Return the line of a place, filled up with blanks."""
    return with_crc(place)[:-1].ljust(LINE_BYTES - 1) + b"\n"


class Pair(NamedTuple):
    """The two lines of a cursor: the offset of the first, and what each says; None if it is blank or damaged."""

    offset: int
    places: tuple[Place | None, Place | None]
    damaged: tuple[bool, bool]

    @property
    def whole(self) -> list[Place]:
        """The lines that are whole, the latest first."""
        return sorted(filter(None, self.places), key=lambda place: place.move, reverse=True)

    @property
    def name(self) -> str | None:
        """The name of the cursor, None if no line is whole."""
        return next((place.cursor for place in self.places if place), None)

    @property
    def is_unreadable(self) -> bool:
        """True if both lines are damaged. If the other one is blank, a creation or a deletion was cut short."""
        return all(self.damaged)

    @property
    def is_free(self) -> bool:
        """True if the pair has no cursor."""
        return self.name is None and not self.is_unreadable

    def counting(self, committed: int) -> Place | None:
        """Return the latest line whose append is committed, None if there is none."""
        return next((place for place in self.whole if place.appended <= committed), None)

    def surviving(self, last: int) -> Place | None:
        """Return where the cursor is if the store ends at position `last`, None if its lines do not tell."""
        whole = self.whole
        places = [place for place in whole if place.appended <= last]
        for place in whole:
            if place.fallback and place.appended > last >= place.fallback[1]:
                position, appended, move = place.fallback
                places.append(replace(place, position=position, appended=appended, move=move, fallback=None))
        return max(places, key=lambda place: place.move, default=None)


def read_pair(data: bytes, offset: int = 0, at: int = 0) -> Pair:
    """Decode the pair that begins at `at` in `data`, and at `offset` in the file."""
    first, second = data[at : at + LINE_BYTES], data[at + LINE_BYTES : at + PAIR_BYTES]
    one, damaged = _read_line(first)
    if first == second:
        return Pair(offset, (one, one), (damaged, damaged))
    other, also = _read_line(second)
    if one and other and one.cursor != other.cursor:
        return Pair(offset, (None, None), (True, True))
    return Pair(offset, (one, other), (damaged, also))


def _read_line(line: bytes) -> tuple[Place | None, bool]:
    """Return (what a line says, True if it is damaged)."""
    text = line.rstrip(b" \n\0")  # A sector that was never written, or is lost, reads as zeros.
    if not text:
        return None, False
    try:
        return _decode(without_crc(text)), False
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None, True


def pairs_in(content: bytes) -> Iterator[Pair]:
    """Yield all pairs of a file's content that are not blank."""
    for offset in range(0, len(content), PAIR_BYTES):
        pair = read_pair(content, offset, offset)
        if pair.name is not None or any(pair.damaged):
            yield pair


def find_pair(content: bytes, name: str, path: str) -> Pair | None:
    """Return the pair of a cursor, None if it has none.

    Raises `CorruptionError` if it has none, but the file has a pair that cannot be read, which may be its.
    """
    start = b'{"cursor":%b,' % msgspec.json.encode(name)
    at = content.find(start)
    while at >= 0:
        if at % LINE_BYTES == 0:
            offset = at // PAIR_BYTES * PAIR_BYTES
            pair = read_pair(content, offset, offset)
            if pair.name == name:
                return pair
        at = content.find(start, at + 1)
    unreadable = next((pair for pair in pairs_in(content) if pair.is_unreadable), None)
    if unreadable:
        cause = f"the position of a cursor, perhaps {name!r}, cannot be read; call reset(position), or repair the store"
        raise cursor_damage(path, unreadable.offset, cause)
    return None


def cursor_damage(path: str, offset: int, cause: str) -> CorruptionError:
    """Return the error for damage in the file at `path`."""
    return CorruptionError(path, os.path.basename(path), offset, cause, mendable=False)


def read_content(filesystem: FileSystem, path: str) -> bytes:
    """Return the content of the file, b"" if it is missing. Raises `OSError`."""
    try:
        fd = filesystem.open_read(path)
    except FileNotFoundError:
        return b""
    try:
        return filesystem.read(fd, min(filesystem.size(fd), MAX_CURSORS * PAIR_BYTES), 0)
    finally:
        filesystem.close(fd)


def as_place(place: Place, committed: int) -> CursorPlace:
    """Return where a line says that its cursor is."""
    return CursorPlace(place.cursor, min(place.position, committed), place.moved_at)


def content_of(pairs: dict[int, bytes]) -> bytes:
    """Return the content of a file with these {offset: text of a pair}, and blanks elsewhere."""
    end = max(pairs, default=0) + PAIR_BYTES
    content = bytearray(BLANK * (-(-end // GROWTH_BYTES) * GROWTH_BYTES // LINE_BYTES))
    for offset, text in pairs.items():
        content[offset : offset + PAIR_BYTES] = text
    return bytes(content)
