"""A move of a cursor: as a caller asks for it, as a record carries it, and where it leads."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hangarlog.record.envelope import MAX_NUMBER

_Position = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]

MOVE_MARK = b',"cursor":{"name":'
"""The bytes in every line that carries a move. A payload may have them too."""


class CursorMove(msgspec.Struct, frozen=True):
    """A move of the cursor `name` to `position`.

    `expected` is the position that the cursor must be at, None: any. Only with `back` may the cursor go back.
    """

    name: str
    position: int
    expected: int | None = None
    back: bool = False


class CursorPlace(msgspec.Struct, frozen=True):
    """Where a cursor is, and when it was moved there (RFC 3339)."""

    name: str
    position: int
    moved_at: str


class _Carried(msgspec.Struct, frozen=True):
    name: str
    position: _Position


class _Line(msgspec.Struct, frozen=True):
    position: _Position
    recorded_at: str
    cursor: _Carried | None = None


_encode = msgspec.json.encode
_decode, _decode_carried = msgspec.json.Decoder(_Line).decode, msgspec.json.Decoder(_Carried).decode


def encode_move(move: CursorMove) -> bytes:
    """Return the value of the key `cursor` in the record that carries a move."""
    return _encode(_Carried(move.name, move.position))


def is_move(cursor: msgspec.Raw) -> bool:
    """True if the value of the key `cursor` is the move of a cursor, or the record has no such key."""
    try:
        return not bytes(cursor) or bool(_decode_carried(cursor))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def carried_move(line: bytes) -> tuple[int, CursorPlace] | None:
    """Return (position of the record, where the move that its line carries leads), None if it carries none.

    The line may be given with or without its newline. Its checksum is not verified.
    """
    if MOVE_MARK not in line:
        return None
    try:
        found = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    carried = found.cursor
    return (found.position, CursorPlace(carried.name, carried.position, found.recorded_at)) if carried else None
