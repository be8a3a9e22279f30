"""A share of a subscriber's work: a cursor, its ownership, and what was delivered of it."""

from __future__ import annotations

import weakref
from zlib import crc32

from hangarlog.errors import CursorConflictError
from hangarlog.eventstore.cursor import Cursor
from hangarlog.eventstore.engine import Durability, Engine
from hangarlog.eventstore.subscriber_errors import SubscriptionLostError
from hangarlog.record.cursor_move import CursorMove


def share_name(name: str, number: int, workers: int | None) -> str:
    """Return the name of the cursor of share `number`, from 0 on: `NAME`, or `NAME#1/4` of four workers."""
    return name if workers is None else f"{name}#{number + 1}/{workers}"


def split_name(cursor_name: str) -> tuple[str, int, int | None]:
    """Return (name of the subscriber, number of the share, workers) of a cursor; (its name, 0, None) if it has one."""
    name, mark, rest = cursor_name.rpartition("#")
    number, slash, workers = rest.partition("/")
    if name and mark and slash and number.isdecimal() and workers.isdecimal():
        found = name, int(number) - 1, int(workers)
        if share_name(*found) == cursor_name and 0 <= found[1] < found[2]:
            return found
    return cursor_name, 0, None


def share_of(stream_id: str, workers: int) -> int:
    """Return the number of the share that a stream belongs to, in every process and for ever."""
    return crc32(stream_id.encode()) % workers


class Claim:
    """A place in the queue for a name. It is left when the claim is garbage, too."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name, self._place = name, engine._queue_for(name)
        self.is_first = self._place.is_first
        self.leave = weakref.finalize(self, self._place.leave)
        self.leave.atexit = False  # The end of the process is enough.


class Share(Claim):
    """A cursor that a subscription owns, or waits for.

    Attributes:
        at: where the cursor is, as far as this subscription has moved it.
        floor: the position up to which this share's events were processed before the current scan of the store.
        last: the position of its event delivered last, 0 if none was.
        before: the position of the one delivered before that, 0 if none was.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(engine, name)
        self.cursor = Cursor(engine, name)
        self.at = self.floor = self.last = self.before = 0
        self._offered = 0

    def begin(self) -> None:
        """Continue from where the cursor is now."""
        self.at = self._offered = self.floor = self.cursor.position
        self.last = self.before = 0

    def was_moved(self) -> bool:
        """True if somebody else has moved the cursor."""
        return self.cursor.position not in (self.at, self._offered)

    def deliver(self, position: int) -> None:
        """Note that the event at a position, or a part of it, is delivered."""
        if position != self.last:
            self.before, self.last = self.last, position

    def is_settled(self, delivered: int | None = None) -> bool:
        """True if the cursor has passed what was delivered. Raises `SubscriptionLostError`."""
        delivered = self.last if delivered is None else delivered
        if delivered > self.at:
            self._settle()
        return delivered <= self.at

    def move(self, to: int, durability: Durability | None = None) -> None:
        """Move the cursor to a position, or leave it if it is there. Raises `SubscriptionLostError`."""
        self._settle()
        if to > self.at:
            self._offered = to
            try:
                self.cursor.advance(to, expected=self.at, durability=durability)
            except CursorConflictError as conflict:
                raise SubscriptionLostError(self.name, to, self.at, conflict.actual) from conflict
            self.at = to

    def offer(self, to: int) -> CursorMove:
        """Return a move to a position, for an append. Raises `SubscriptionLostError`."""
        self._settle()
        self._offered = max(to, self.at)
        return self.cursor.at(self._offered, expected=self.at)

    def _settle(self) -> None:
        """Learn whether the move that was offered last has been made."""
        if self._offered != self.at:
            actual = self.cursor.position
            if actual not in (self.at, self._offered):
                raise SubscriptionLostError(self.name, self._offered, self.at, actual)
            self.at = self._offered = actual
