"""What the policies of a retention hide: for each stream the last version that goes.

Policies of the whole store go by whole segments of the journal, whose sizes, numbers and times are known without a look
at the lines. Those of some streams count the lines of these streams.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from typing import NamedTuple

from hangarlog.eventstore.retention_policy import HiddenByPolicy, RetentionPolicy
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.hidden_events import HiddenEvents
from hangarlog.filestore.journal import Journal
from hangarlog.log.segment import Segment
from hangarlog.log.time_search import latest_time
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, decode_record, decode_records, is_erased, is_record
from hangarlog.record.timestamp import as_recorded, in_form


class Sealed(NamedTuple):
    """A sealed segment of the journal: its positions, and the bytes of its text."""

    first: int
    following: int
    size: int


class Streams(NamedTuple):
    """What a plan asks of the store: the last version of a stream, and its snapshot if that matches its events."""

    version: Callable[[str], int]
    snapshot: Callable[[str], Snapshot | None]


def sealed_segments(journal: Journal, active_first: int) -> list[Sealed]:
    """Return the sealed segments before the active one, which begins with position `active_first`."""
    found = []
    for first, following in pairwise([*journal.sealed_before(active_first), active_first]):
        with contextlib.closing(journal.open_sealed(first)) as segment:
            found.append(Sealed(first, following, segment.size))
    return found


def latest_recorded(journal: Journal, each: Sealed) -> str:
    """Return the latest time in a sealed segment, a late one if a line is damaged or has a time of another form."""
    latest = latest_time(journal, each.first, each.following)
    if latest is None:
        with contextlib.closing(journal.open_sealed(each.first)) as segment:
            times = [record.recorded_at for record, _ in _records(segment)]
        latest = max(times) if len(times) == each.following - each.first and in_form(times) else "~"
    return latest


class Plan:
    """What goes by some policies. `through` has the last version of each stream that is to be hidden."""

    def __init__(
        self,
        journal: Journal,
        sealed: list[Sealed],
        committed: int,
        unread: int,
        streams: Streams,
        hidden: HiddenEvents,
        go_on: Callable[[], None],
    ) -> None:
        """`unread` is the first position that a subscriber has not read. `go_on` is called often, and may raise."""
        self._journal, self._sealed, self._committed, self._unread = journal, sealed, committed, unread
        self._streams, self._hidden, self._go_on = streams, hidden, go_on
        self.through: dict[str, int] = {}

    def add(self, policy: RetentionPolicy) -> HiddenByPolicy:
        """Add what a policy hides, and return how much that is beyond what is hidden already."""
        by_segment = not policy.prefix and policy.max_events_per_stream is None
        end = self._end_of_segments(policy) if by_segment else sys.maxsize
        if not (policy.limits or policy.behind_snapshot):
            return HiddenByPolicy()
        most = None if by_segment else self._counted(policy)
        due = _Due(policy, end, most, self._streams)
        report, streams = HiddenByPolicy(), set()
        last = end if policy.past_subscribers else min(end, self._unread)
        for segment in self._segments(last):
            for record, size in _records(segment):
                if record.position >= last:
                    break
                if not record.stream_id.startswith(policy.prefix) or self._is_hidden(record):
                    continue
                if due(record, size):
                    self.through[record.stream_id] = record.stream_version
                    streams.add(record.stream_id)
                    report.events += 1
        report.streams = len(streams)
        return report

    def _is_hidden(self, record: StoredEnvelope) -> bool:
        through = max(self._hidden.through(record.stream_id), self.through.get(record.stream_id, -1))
        return record.stream_version <= through or is_erased(record)

    def _segments(self, before: int) -> Iterator[Segment]:
        for each in self._sealed:
            if each.first < before:
                self._go_on()
                with contextlib.closing(self._journal.open_sealed(each.first)) as segment:
                    yield segment

    def _end_of_segments(self, policy: RetentionPolicy) -> int:
        """Return the position before which all segments are beyond a limit of the whole store."""
        if not policy.limits:
            return sys.maxsize  # All that snapshots cover.
        seconds, bytes_kept = policy.seconds, policy.bytes
        left, end = sum(each.size for each in self._sealed) + self._active_bytes(), 1
        aged = True
        for each in self._sealed:
            left -= each.size
            aged = aged and seconds is not None and latest_recorded(self._journal, each) < time_before(seconds)
            many = policy.max_events is not None and self._committed - each.following + 1 >= policy.max_events
            if not (aged or many or (bytes_kept is not None and left >= bytes_kept)):
                break
            end = each.following
        return end

    def _active_bytes(self) -> int:
        active = self._journal.open_active()
        if active is None:
            return 0
        with contextlib.closing(active):
            return active.size

    def _counted(self, policy: RetentionPolicy) -> tuple[int, int] | None:
        """Return how many events and bytes of a policy's streams are beyond its limits; None without such limits."""
        if policy.max_events is None and policy.bytes is None:
            return None
        events = size = 0
        for segment in chain(self._segments(sys.maxsize), self._active()):
            for record, line in _records(segment):
                if record.stream_id.startswith(policy.prefix) and not self._is_hidden(record):
                    events, size = events + 1, size + line
        most_events = sys.maxsize if policy.max_events is None else policy.max_events
        most_bytes = sys.maxsize if policy.bytes is None else policy.bytes
        return max(0, events - most_events), max(0, size - most_bytes)

    def _active(self) -> Iterator[Segment]:
        if active := self._journal.open_active():
            with contextlib.closing(active):
                yield active


class _Due:
    """Tells which events of one policy go. It is asked in the order of positions."""

    def __init__(self, policy: RetentionPolicy, end: int, beyond: tuple[int, int] | None, streams: Streams) -> None:
        self._policy, self._end, self._streams = policy, end, streams
        self._events, self._bytes = beyond or (0, 0)
        self._oldest = None if policy.seconds is None else time_before(policy.seconds)
        self._kept: set[str] = set()  # Streams of which an event stays: so do all later ones.
        self._covered: dict[str, int] = {}
        self._lasts: dict[str, int] = {}

    def __call__(self, record: StoredEnvelope, size: int) -> bool:
        beyond = self._is_beyond(record, size)
        stream_id = record.stream_id
        if not beyond or stream_id in self._kept or not self._is_covered(record):
            self._kept.add(stream_id)
            return False
        return True

    def _is_beyond(self, record: StoredEnvelope, size: int) -> bool:
        policy = self._policy
        self._events, self._bytes = self._events - 1, self._bytes - size
        if self._end < sys.maxsize or not policy.limits:
            return record.position < self._end
        aged = self._oldest is not None and record.recorded_at < self._oldest
        many = self._events >= 0 or self._bytes >= 0
        each = policy.max_events_per_stream
        return aged or many or (each is not None and record.stream_version <= self._last(record.stream_id) - each)

    def _last(self, stream_id: str) -> int:
        if stream_id not in self._lasts:
            self._lasts[stream_id] = self._streams.version(stream_id)
        return self._lasts[stream_id]

    def _is_covered(self, record: StoredEnvelope) -> bool:
        if not self._policy.behind_snapshot:
            return True
        stream_id = record.stream_id
        if stream_id not in self._covered:
            snapshot = self._streams.snapshot(stream_id)
            self._covered[stream_id] = snapshot.version if snapshot else -1
        return record.stream_version <= self._covered[stream_id]


def time_before(seconds: float) -> str:
    """Return the time so many seconds ago, in the form of records."""
    try:
        return as_recorded(datetime.now(UTC) - timedelta(seconds=seconds))
    except OverflowError:
        return ""  # Before any time.


def _records(segment: Segment) -> Iterator[tuple[StoredEnvelope, int]]:
    """Yield (record, bytes of its line) of the whole lines of a segment."""
    for lines in segment.blocks():
        records: Sequence[StoredEnvelope]
        try:
            records = decode_records(lines)
        except LineError:
            lines = [line for line in lines if is_record(line)]
            records = [decode_record(line) for line in lines]
        yield from zip(records, [len(line) + 1 for line in lines], strict=True)
