"""The copy of a store into another one: events, then what is kept beside them; and until when it goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

import msgspec

from hangarlog.copying.batches import pendings, runs
from hangarlog.copying.comparison import Comparison, DifferenceError
from hangarlog.copying.errors import CopyError
from hangarlog.copying.marks_and_cursors import CursorCopy, SnapshotCopy, hidden_in
from hangarlog.copying.positions import Positions
from hangarlog.copying.sound import UnsoundError, sound
from hangarlog.errors import (
    ConcurrencyError,
    CorruptionError,
    NumberError,
    OutcomeUnknownError,
    StreamDeletedError,
    SyncError,
    TooLargeError,
)
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.tail import Tail
from hangarlog.filestore.store import FileEventStore
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import Envelope

Progress = Callable[[str, int, int], None]
"""Told ("comparing" or "copying", how many events are done, how many there are)."""

_BEAT_SECONDS = 0.5
_CHUNK_BYTES, _ENVELOPE_BYTES = 4 << 20, 200
"""So much is copied at once; what an event takes beside its payload."""

_KNOWN_STREAMS = 1 << 16


class Copied(msgspec.Struct):
    """What a copy did.

    `events` were copied now, `already` events were in the target before, `compared` were found equal in both. The copy
    ends at `position` of the source, which is `target_position` of the target. `snapshots` and `cursors` are those of
    the source. `not_taken` says of streams why they are not in the target, `cursors_ahead` has the positions of the
    cursors that are further on in the target, and were left there.
    """

    events: int = 0
    already: int = 0
    compared: int = 0
    position: int = 0
    target_position: int = 0
    positions_kept: bool = True
    snapshots: int = 0
    cursors: int = 0
    not_taken: dict[str, str] = {}
    cursors_ahead: dict[str, int] = {}


def copy(
    source: EventStore[Any], target: EventStore[Any], *, progress: Progress = lambda what, done, total: None
) -> Copied:
    """Copy all events of a store into another one, with snapshots, marks and cursors, and compare the two.

    The target is new, or an earlier copy of the source, which is then brought up to date: so you may interrupt this,
    and run it again. Event ids, versions, times, metadata, payloads and batches are kept. Positions are kept, too,
    unless a retention has dropped or erased events of the source: then they are dense from 1.

    Others may write to the source meanwhile: what they append after the call has begun is not copied. Nobody else may
    write to the target.

    Raises:
        CopyError: the target has other events, or somebody writes to it; an event of the source is damaged in both
            copies, or says what no store writes; or the two are not equal.
        EventsDroppedError: events of the source were dropped meanwhile. Run it again.
        StorageError, OutcomeUnknownError: the target could not be written. Run it again.
    """
    work = Copy(source, target, progress=progress)
    work.catch_up()
    work.finish()
    work.compare()
    return work.done


class Copy:
    """A copy that goes on. `catch_up` or `follow`, then `finish`, then `compare`; each raises what `copy` raises."""

    def __init__(
        self,
        source: EventStore[Any],
        target: EventStore[Any],
        *,
        progress: Progress = lambda what, done, total: None,
    ) -> None:
        self._source, self._target, self._progress = source, target, progress
        self._names = _name(source), _name(target)
        if _are_one(source, target):
            raise self._error("both are the same store; name another target")
        self._positions = Positions()
        self._snapshots, self._cursors = SnapshotCopy(source, target), CursorCopy(source, target, self._positions)
        self._batch: list[Envelope] = []  # Its end was not read yet.
        self._ready: list[list[Envelope]] = []  # Whole batches, to be copied together.
        self._ready_bytes = 0
        self._open_batch = self._begun_batch = 0  # Positions of the source.
        self._seen = 0  # The position of the source's last event that was read.
        self._known: dict[str, None] = {}  # Streams that the target has.
        self._last_versions: dict[str, int] = {}  # Of the source; and those in the target. Of streams that hide events.
        self._there: dict[str, int] = {}
        self._hidden: dict[str, int] = {}
        self._leaves_out = self._began = self._stopped = False
        self._begin_source = self._begin_target = 0  # Where copying began: what is before was compared first.
        self._tail: Tail | None = None
        self.done = Copied()

    # What a caller does

    def catch_up(self) -> None:
        """Copy all events that the source has now."""
        self._begin()
        self._copy_to(self._source.last_position)

    def follow(self, *, until_idle: float | None = None, caught_up: Callable[[], None] = lambda: None) -> None:
        """Copy events as they come, until `stop`, or until none has come for `until_idle` seconds.

        Then copy those that the source has at that time. `caught_up` is called when the target has all for the first
        time.
        """
        self.catch_up()
        self._settle()
        caught_up()
        with contextlib.closing(self._source._tail(self.done.position, durable=False, skip=False)) as self._tail:
            busy = monotonic()
            while not self._stopped and (until_idle is None or monotonic() - busy < until_idle):
                block = self._step(self._tail)
                if block:
                    self._take(block)
                    busy = monotonic()
                elif self._ready:
                    self._flush(self._tail.position)
                    self._target.sync()
                else:
                    left = _BEAT_SECONDS if until_idle is None else max(0.001, busy + until_idle - monotonic())
                    self._tail.wait(min(left, _BEAT_SECONDS))
            self._flush(self._tail.position)
        self._tail = None
        self._copy_to(self._source.last_position)

    def stop(self) -> None:
        """End `follow` soon. Any thread may call it, and a signal handler."""
        self._stopped = True
        if tail := self._tail:
            tail.stop()

    def finish(self) -> Copied:
        """Bring all to the device, with snapshots, marks and cursors. The target may be used from then on."""
        if self._target.last_position != self.done.target_position:
            raise self._foreign(self.done.target_position + 1)
        self._settle()
        return self.done

    def left(self) -> int:
        """Return how many positions the source has after those that were copied."""
        return max(0, self._source.last_position - self.done.position)

    def compare(self) -> Copied:
        """Compare what was copied with the source, event by event. What was there before is compared already."""
        done = self.done
        here = self._read(from_position=self._begin_source, to_position=done.position)
        there = self._target.envelopes(from_position=self._begin_target, to_position=done.target_position)
        hidden, after = hidden_in(self._source), self._begin_source
        work = Comparison(hidden, self._source._find, self._positions, notes=False, after=after)
        try:
            for count in work.run(here, there):
                done.compared += count
                self._progress("comparing", done.compared, done.events + done.already)
        except DifferenceError as error:
            raise self._error(f"the copy differs: {error}; copy to a new target") from error
        return done

    # How it begins

    def _begin(self) -> None:
        if self._began:
            return
        self._began = True
        source, target = self._source, self._target
        end, last = target.last_position, source.last_position
        self._hidden = hidden_in(source)
        self._leaves_out = bool(self._hidden) and not self._is_dense(last)
        if end:
            self._compare_before(end, last)
        self.done.position, self.done.target_position = self._positions.source, self._positions.target
        self._seen = self._begin_source = self.done.position
        self._begin_target = self.done.target_position

    def _is_dense(self, last: int) -> bool:
        """True if the source has all events from position 1 on."""
        before = 0
        for block in self._read(to_position=last):
            if block[0].position != before + 1 or block[-1].position - block[0].position != len(block) - 1:
                return False
            before = block[-1].position
        return before == last

    def _compare_before(self, end: int, last: int) -> None:
        """Compare the events that the target has with the first ones of the source."""
        done = self.done
        work = Comparison(self._hidden, self._source._find, self._positions, notes=True, after=0)
        here, there = self._read(to_position=last), self._target.envelopes(to_position=end)
        try:
            for count in work.run(here, there, part=True):
                done.already = done.compared = done.compared + count
                self._progress("comparing", done.compared, end)
        except DifferenceError as error:
            raise self._error(f"the target has other events: {error}; copy to a new target") from error
        self._positions.target = end
        self._open_batch = self._begun_batch = work.last.open_batch if work.last else 0

    # How events go

    def _copy_to(self, last: int) -> None:
        """Copy the events up to a position of the source."""
        if self.done.position >= last:
            return
        begun = max(self.done.position, self._seen if self._open_batch else 0)  # It may have been stopped in a batch.
        with contextlib.closing(self._source._tail(begun, durable=False, skip=False)) as tail:
            while tail.position < last:
                before, block = tail.position, self._step(tail)
                if block:
                    self._take(block)
                elif tail.position == before:
                    tail.wait(_BEAT_SECONDS)
            self._flush(tail.position)

    def _step(self, tail: Tail) -> Sequence[Envelope] | None:
        try:
            return tail.step()
        except CorruptionError as error:
            self._flush()
            raise self._flaw(error) from error

    def _read(self, **options: Any) -> Iterator[Sequence[Envelope]]:
        """Yield events of the source in blocks."""
        try:
            yield from self._source.envelopes(**options)
        except CorruptionError as error:
            raise self._flaw(error) from error

    def _take(self, block: Sequence[Envelope]) -> None:
        """Take the events of a block, and copy the batches that are whole once they are large enough together."""
        try:
            for events in sound(self._source, iter([block])):
                for event in events:
                    self._add(event)
        except UnsoundError as error:
            self._flush()
            raise self._error(f"{error}; what comes before it is copied") from error
        except CorruptionError as error:
            self._flush()
            raise self._flaw(error) from error
        if self._ready_bytes >= _CHUNK_BYTES:
            self._flush()

    def _flush(self, position: int = 0) -> None:
        """Copy the batches that are whole. If no other is open, everything up to `position` was read."""
        last = self._ready[-1][-1].position if self._ready else 0
        if last > self._source.durable_position:
            self._sync_source()
        batches, self._ready, self._ready_bytes = self._ready, [], 0
        self._append(batches)
        self.done.position = max(self.done.position, last, 0 if self._batch else position)
        total = 0 if self._tail else self._source.last_position
        self._progress("following" if self._tail else "copying", self.done.position, total)

    def _sync_source(self) -> None:
        """Bring the source's events to its device: a power cut must not take what the target has.

        In a store that may only be read, it must be left to the writers.
        """
        try:
            self._source.sync()
        except SyncError:
            raise
        except OutcomeUnknownError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise

    def _add(self, event: Envelope) -> None:
        if 0 < self._open_batch < event.position:
            self._end_batch()  # Its last events were erased.
        first_left = (
            not self._open_batch and event.ends_batch and event.position > self._seen + 1
        )  # Others were erased.
        if not (first_left or event.may_follow(self._open_batch)):
            raise self._error(f"the batch of position {event.position} of the source is not whole; repair the source")
        self._open_batch, self._seen = event.open_batch, event.position
        if not (self._leaves_out and self._is_left_out(event)):
            if 0 < event.batch_end == self._begun_batch:
                cause = f"it has only a part of the batch that ends at position {event.batch_end} of the source"
                raise self._error(f"the target has other events: {cause}; copy to a new target")
            self._batch.append(event)
            self._ready_bytes += len(bytes(event.data)) + _ENVELOPE_BYTES
        if not self._open_batch:
            self._end_batch()

    def _end_batch(self) -> None:
        if self._batch:
            self._ready.append(self._batch)
        self._batch, self._open_batch = [], 0

    def _is_left_out(self, event: Envelope) -> bool:
        """True if a stream hides an event, which does not continue it in the target, and has later ones.

        The last event of a stream keeps its version.
        """
        stream_id, version = event.stream_id, event.stream_version
        if (hidden := self._hidden.get(stream_id)) is None:
            return False
        if stream_id not in self._there:
            self._there[stream_id] = self._target.get_stream_version(stream_id)
        goes_on = 0 <= self._there[stream_id] == version - 1
        if version <= hidden and not goes_on and version < self._last_version(stream_id, version):
            return True
        self._there[stream_id] = version
        return False

    def _last_version(self, stream_id: str, version: int) -> int:
        """Return the version of a stream of the source, or an earlier one above `version`."""
        if version >= self._last_versions.get(stream_id, -1):
            self._last_versions[stream_id] = self._source.get_stream_version(stream_id)
        return self._last_versions[stream_id]

    def _append(self, batches: list[list[Envelope]]) -> None:
        if not batches:
            return
        at = self.done.target_position
        for batch in batches:
            self._note(batch, at + 1)
            at += len(batch)
        at = self.done.target_position
        try:
            firsts = self._target.append_batches([self._pendings(batch) for batch in batches])
        except ConcurrencyError as error:
            if 0 <= error.actual < error.expected:
                gap = f"versions {error.actual + 1} to {error.expected} of stream {error.stream_id!r}"
                cause = f"{gap} were dropped from the source, and the target has those before; copy to a new target"
                raise self._error(cause) from error
            raise self._foreign(at + 1, str(error)) from error
        except StreamDeletedError as error:
            raise self._foreign(at + 1, str(error)) from error
        except (TooLargeError, NumberError, ValueError) as error:
            raise self._error(str(error)) from error
        for batch, first in zip(batches, firsts, strict=True):
            if first != at + 1:
                raise self._foreign(at + 1)
            at += len(batch)
            self.done.events += len(batch)
        self.done.target_position = at

    def _note(self, batch: list[Envelope], target: int) -> None:
        if batch[-1].position - batch[0].position == len(batch) - 1:
            self._positions.note(batch[0].position, target, len(batch))
            return
        for number, event in enumerate(batch):
            self._positions.note(event.position, target + number)

    def _pendings(self, batch: list[Envelope]) -> list[Pending]:
        found: list[Pending] = []
        begun: dict[str, None] = {}
        for stream_id, events in runs(batch):
            expected = events[0].stream_version - 1
            if expected >= 0 and stream_id not in self._known and stream_id not in begun:
                expected = self._begin_stream(stream_id, expected)
            begun[stream_id] = None
            found += pendings(stream_id, events, expected, self._positions.in_target, retry=True)
        if sum(1 for each in found if each.cursor) > 1:
            raise self._error(f"the batch of position {batch[0].position} of the source moves more than one cursor")
        if len(self._known) > _KNOWN_STREAMS:
            self._known.clear()
        self._known.update(begun)
        return found

    def _begin_stream(self, stream_id: str, before: int) -> int:
        """Return the version that a stream of the target is at before an event. Begin it if its first ones are gone."""
        version = self._target.get_stream_version(stream_id)
        if version >= 0:
            return before  # The append will see whether it is there.
        self._target.begin_stream(stream_id, before + 1)
        return -1

    # How it ends

    def _settle(self) -> None:
        self._target.sync()  # First: what is hidden, or passed by a cursor, must be there.
        self.done.snapshots, self.done.not_taken = self._snapshots.run()
        self.done.cursors, self.done.cursors_ahead = self._cursors.run()
        self._target.sync()
        self.done.positions_kept = self._positions.kept

    def _flaw(self, error: CorruptionError) -> CopyError:
        """Return the error for an event that the source has lost."""
        of = f"position {error.position} (stream {error.stream_id!r}, version {error.stream_version}) of the source"
        where = f"is damaged in both copies, in {error.path} at offset {error.offset}: {error.cause}"
        advice = "restore it from a backup, or keep all others in a folder by `hangarlog backup`"
        return self._error(f"{of} {where}. Nothing behind it is copied: {advice}")

    def _error(self, cause: str) -> CopyError:
        return CopyError(*self._names, cause)

    def _foreign(self, position: int, cause: str = "") -> CopyError:
        more = f" ({cause})" if cause else ""
        return self._error(
            f"somebody else writes to the target: its position {position} is not of this copy{more}; stop that, and "
            "copy to a new target"
        )


def _are_one(source: Any, target: Any) -> bool:
    if isinstance(source, FileEventStore) and isinstance(target, FileEventStore):
        return source.folder.home == target.folder.home
    return source is target or (hasattr(source, "path") and _name(source) == _name(target))


def _name(store: Any) -> str:
    return str(getattr(store, "path", "")) or "a store in memory"
