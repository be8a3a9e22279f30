"""Compares the events of two stores, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

import msgspec

from hangarlog.copying.batches import carried_move
from hangarlog.copying.positions import Positions
from hangarlog.record.cursor_move import encode_move
from hangarlog.record.envelope import Envelope

_FIELDS = ("event_type", "event_id", "recorded_at", "data", "metadata")
_content = attrgetter("stream_id", "stream_version", *_FIELDS)
_place = attrgetter("stream_id", "stream_version")


class DifferenceError(Exception):
    """Two events differ. The message says where, and in what."""


class _Events:
    """The events of a store, with a look ahead."""

    def __init__(self, blocks: Iterator[Sequence[Envelope]]) -> None:
        self._blocks = blocks
        self._block: Sequence[Envelope] = ()
        self._at = 0

    def ahead(self) -> Sequence[Envelope]:
        """Return the next events, none at the end."""
        while self._at == len(self._block):
            block = next(self._blocks, None)
            if block is None:
                return ()
            self._block, self._at = [*block], 0
        return self._block[self._at :] if self._at else self._block

    def next(self) -> Envelope | None:
        """Return the next event, None at the end."""
        return self._block[self._at] if self._at < len(self._block) else next(iter(self.ahead()), None)

    def take(self, count: int = 1) -> None:
        """Pass over the next events."""
        self._at += count


class Comparison:
    """Compares the events of a target with those of its source, and notes where they are.

    An event that its stream in the source hides may be in both stores, in either one or in none. All others must be in
    both, in one order, with the same content, and in the same batches.
    """

    def __init__(self, hidden: Mapping[str, int], positions: Positions, *, notes: bool) -> None:
        """`hidden` has the last version that each stream hides. With `notes`, `positions` are noted, else they are
        known."""
        self._hidden, self._positions, self._notes = hidden, positions, notes
        self.count = 0
        self.last: Envelope | None = None
        """The last event of the source that is in both."""
        self._last_there: Envelope | None = None

    def run(
        self, source: Iterator[Sequence[Envelope]], target: Iterator[Sequence[Envelope]], *, part: bool = False
    ) -> Iterator[int]:
        """Compare, and yield how many events were. With `part`, the target may end before the source.

        Raises `DifferenceError`.
        """
        here, there = _Events(source), _Events(target)
        while True:
            equal = self._equal(here, there)
            if equal:
                yield equal
            first, second = here.next(), there.next()
            if second is None and (part or first is None):
                return
            if first and second and _place(first) == _place(second):
                self._match(first, second)
                here.take()
                there.take()
                yield 1
            elif second and self._may_lack(second):
                there.take()
            elif first and self._may_lack(first):
                here.take()
            else:
                raise DifferenceError(_unmatched(first, second))

    def _equal(self, here: _Events, there: _Events) -> int:
        """Pass over the events that are equal in every field, position and batch included. Return how many they are."""
        first, second = here.ahead(), there.ahead()
        count = min(len(first), len(second))
        if not count or first[0].position != second[0].position or first[:count] != second[:count]:
            return 0
        if self._notes:
            self._positions.note(first[0].position, first[0].position)
            self._positions.note(first[count - 1].position, first[count - 1].position)
        self.last, self._last_there = first[count - 1], second[count - 1]
        self.count += count
        here.take(count)
        there.take(count)
        return count

    def _may_lack(self, event: Envelope) -> bool:
        return event.stream_version <= self._hidden.get(event.stream_id, -1)

    def _match(self, first: Envelope, second: Envelope) -> None:
        """Raise `DifferenceError` unless an event of the target is one of the source."""
        if _content(first) != _content(second):
            fields = [name for name in _FIELDS if getattr(first, name) != getattr(second, name)]
            raise DifferenceError(f"{_named(first)} has another {' and '.join(fields)} in the target, {_at(second)}")
        if self._notes:
            self._positions.note(first.position, second.position)
        before, before_there = self.last, self._last_there
        if before and before_there and _goes_on(before, first) != _goes_on(before_there, second):
            raise DifferenceError(f"{_named(first)} is in another batch in the target, {_at(second)}")
        if bytes(first.cursor) != bytes(second.cursor) and self._moved(first) != bytes(second.cursor):
            raise DifferenceError(f"{_named(first)} moves a cursor to another place in the target, {_at(second)}")
        self.last, self._last_there = first, second
        self.count += 1

    def _moved(self, event: Envelope) -> bytes:
        try:
            return encode_move(carried_move(bytes(event.cursor), self._positions.in_target))
        except (msgspec.MsgspecError, ValueError):
            return b""


def _goes_on(before: Envelope, event: Envelope) -> bool:
    """True if two events are of one batch."""
    return 0 < before.open_batch == event.batch_end


def _unmatched(first: Envelope | None, second: Envelope | None) -> str:
    if first is None:
        assert second
        return f"the target has an event that the source lacks, {_at(second)}: {_named(second, '')}"
    if second is None:
        return f"{_named(first)} is missing in the target"
    return f"{_named(first)} is missing in the target, which has {_named(second, '')} there, {_at(second)}"


def _named(event: Envelope, of: str = "of the source") -> str:
    place = f"position {event.position} {of}".strip()
    return (
        f"{place} (stream {event.stream_id!r}, version {event.stream_version}, {event.event_type} {event.event_id})"
        if of
        else f"stream {event.stream_id!r}, version {event.stream_version}, {event.event_type} {event.event_id}"
    )


def _at(event: Envelope) -> str:
    return f"at its position {event.position}"
