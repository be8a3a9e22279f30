"""Compares the events of two stores, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter

import msgspec

from hangarlog.copying.positions import Positions
from hangarlog.record.cursor_move import CursorMove
from hangarlog.record.envelope import Envelope

_FIELDS = ("event_type", "event_id", "recorded_at", "data", "metadata")
_content = attrgetter("stream_id", "stream_version", *_FIELDS)
_place = attrgetter("stream_id", "stream_version")


Find = Callable[[str], Envelope | None]


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

    def __init__(self, hidden: Mapping[str, int], find: Find, positions: Positions, *, notes: bool, after: int) -> None:
        """`hidden` has the last version that each stream hides, and `find` finds an event of the source by its id.

        With `notes`, `positions` are noted, else they are known. The source's events are those `after` a position.
        """
        self._hidden, self._find, self._positions, self._notes = hidden, find, positions, notes
        self._read = after  # The position of the source's last event that was looked at.
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
            elif second and self._may_lack(second) and self._is_gone(first, second):
                there.take()
            elif first and self._may_lack(first):
                self._read = first.position
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
            self._note(first[:count])
        self.last, self._last_there = first[count - 1], second[count - 1]
        self._read = first[count - 1].position
        self.count += count
        here.take(count)
        there.take(count)
        return count

    def _note(self, events: Sequence[Envelope]) -> None:
        """Note events that have the same positions in both."""
        start, stop = events[0].position, events[-1].position
        if stop - start == len(events) - 1:
            self._positions.note(start, start, len(events))
            return
        for event in events:
            self._positions.note(event.position, event.position)

    def _is_gone(self, first: Envelope | None, second: Envelope) -> bool:
        """True if a hidden event of the target, in whose place the source has `first`, is not behind it there."""
        if first is None:
            return True
        if first.position == self._read + 1:
            return False  # The source has lost nothing here.
        if not self._may_lack(first):
            return True  # The target has it, too, and behind this one.
        found = self._find(second.event_id)
        return not found or _place(found) != _place(second)

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
        if bytes(first.cursor) != bytes(second.cursor) and not self._moves_alike(first, second):
            raise DifferenceError(f"{_named(first)} moves a cursor to another place in the target, {_at(second)}")
        self.last, self._last_there = first, second
        self._read = first.position
        self.count += 1

    def _moves_alike(self, first: Envelope, second: Envelope) -> bool:
        try:
            here, there = (msgspec.json.decode(each.cursor, type=CursorMove) for each in (first, second))
        except msgspec.MsgspecError:
            return False
        low, high = self._positions.bounds(here.position)
        return here.name == there.name and low <= there.position <= high


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
