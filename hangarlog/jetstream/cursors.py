"""Cursors in the bucket, also those that move with an append.

Events and cursors are in two JetStream streams, which no batch can write together. So a move with an append is offered
first: the cursor notes which message would decide it. The append's first message of that stream carries the move's id,
and takes exactly the place after a known position. What stands at that place decides, for everybody and for ever. While
nothing stands there, the cursor has not moved, and others who want to move it wait for the offer to end.
"""

from __future__ import annotations

from time import monotonic, sleep
from typing import Literal
from uuid import uuid4

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.eventstore.cursor import check_move
from hangarlog.jetstream.bucket import Bucket
from hangarlog.jetstream.messages import MOVE
from hangarlog.jetstream.reader import Reader
from hangarlog.jetstream.subjects import token, untoken
from hangarlog.record.checked_json import with_crc
from hangarlog.record.cursor_move import CursorMove, CursorPlace
from hangarlog.record.timestamp import now

OFFER_SECONDS = 5.0
"""An append that carries a move must be sent within this time after the offer. Others wait for twice as long."""
_PAUSE_SECONDS = 0.05


class Offer(msgspec.Struct, frozen=True):
    """A move that is decided by the first message of a stream after a position."""

    move_id: str
    to: int
    stream_id: str
    after: int


class _Stored(msgspec.Struct, frozen=True):
    name: str
    position: int
    moved_at: str
    offer: Offer | None = None


class OvertakenError(Exception):
    """An offer of this append was decided already: look at the stream again."""


_Decision = Literal["open", "made", "void"]
_decode = msgspec.json.Decoder(_Stored).decode
_NOTHING = _Stored("", 0, "")


def new_move_id() -> str:
    """Return the id of a move."""
    return uuid4().hex


class Cursors:
    """The cursors of a store."""

    def __init__(self, bucket: Bucket, reader: Reader) -> None:
        self._bucket, self._reader = bucket, reader

    def position(self, name: str) -> int:
        """Return where a cursor is, 0 if it does not exist. Raises `CorruptionError`."""
        stored, _ = self._load(name)
        position = self._decided(stored)[0]
        if position > (last := self._committed(position)):
            raise self._bucket.damage(_key(name), f"its position is {position}, and the store's last event is {last}")
        return position

    def places(self) -> tuple[int, list[CursorPlace]]:
        """Return (the store's last position, all cursors)."""
        found = []
        for key in self._bucket.keys("c."):
            stored, _ = self._load(untoken(key.removeprefix("c.")))
            if stored.name:
                found.append(CursorPlace(stored.name, self._decided(stored)[0], stored.moved_at))
        return self._reader.last(), found

    def move(self, move: CursorMove) -> bool:
        """Check a move and make it. Return False if the cursor is there already."""
        while True:
            stored, revision = self._settled(move)
            check_move(move, stored.position, self._committed(move.position))
            if stored.name and stored.position == move.position and stored.offer is None:
                return False
            if self._put(_Stored(move.name, move.position, now().decode()), revision):
                return True

    def offer(self, move: CursorMove, offer: Offer) -> float:
        """Check a move, and offer it for an append. Return until when (monotonic) that may be sent.

        Raises what `move` raises, and `OvertakenError`.
        """
        while True:
            stored, revision = self._settled(move, offer.move_id)
            check_move(move, stored.position, self._committed(move.position))
            until = monotonic() + OFFER_SECONDS
            if self._put(
                msgspec.structs.replace(stored, name=move.name, moved_at=now().decode(), offer=offer), revision
            ):
                return until

    def delete(self, name: str) -> None:
        """Delete a cursor, if it exists."""
        while True:
            stored, revision = self._settled(CursorMove(name, 0, back=True))
            if not stored.name and not revision:
                return
            if self._bucket.put(_key(name), None, revision):
                return

    def _committed(self, position: int) -> int:
        """Return a position that the store has reached, the last one if it has not reached `position`."""
        return self._reader.seen if position <= self._reader.seen else self._reader.last()

    def _put(self, stored: _Stored, revision: int) -> bool:
        return self._bucket.put(_key(stored.name), with_crc(stored), revision)

    def _load(self, name: str) -> tuple[_Stored, int]:
        content, revision = self._bucket.get(_key(name))
        if content is None:
            return _NOTHING, revision
        try:
            stored = _decode(self._bucket.checked(_key(name), content))
        except msgspec.MsgspecError as error:
            raise self._bucket.damage(_key(name), f"it is no cursor: {error}") from error
        if stored.name != name:
            raise self._bucket.damage(_key(name), f"it is cursor {stored.name!r}")
        return stored, revision

    def _decided(self, stored: _Stored) -> tuple[int, _Decision]:
        """Return where a cursor is, and what became of its offer; without one, it is void."""
        offer = stored.offer
        if offer is None:
            return stored.position, "void"
        message = self._reader.following(offer.stream_id, offer.after)
        if message is None:
            return stored.position, "open"
        return (offer.to, "made") if message.headers.get(MOVE) == offer.move_id else (stored.position, "void")

    def _settled(self, move: CursorMove, own: str = "") -> tuple[_Stored, int]:
        """Return where a cursor is, and its revision, once no other append may move it with an older offer.

        Raises `OvertakenError` if the move `own` was made.
        """
        seen, since = -1, monotonic()
        while True:
            try:
                stored, revision = self._load(move.name)
            except CorruptionError:
                if not move.back or move.expected is not None:
                    raise
                return _NOTHING, self._bucket.get(_key(move.name)).revision  # A reset mends it.
            position, decision = self._decided(stored)
            is_own = stored.offer is not None and stored.offer.move_id == own
            if is_own and decision == "made":
                raise OvertakenError
            if revision != seen:
                seen, since = revision, monotonic()
            if decision != "open" or is_own or monotonic() - since > 2 * OFFER_SECONDS:
                left = stored.offer if decision == "open" else None
                return msgspec.structs.replace(stored, position=position, offer=left), revision
            sleep(_PAUSE_SECONDS)


def _key(name: str) -> str:
    return f"c.{token(name)}"
