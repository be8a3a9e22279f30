"""Import of an export: the journal's lines, or CloudEvents."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import chain, groupby
from typing import Any

import msgspec

from hangarlog.copying.batches import pendings
from hangarlog.errors import (
    ConcurrencyError,
    CursorConflictError,
    CursorNameError,
    HangarlogError,
    NumberError,
    StreamDeletedError,
    TooLargeError,
)
from hangarlog.eventstore.base import EventStore
from hangarlog.integrations.imported import Imported
from hangarlog.integrations.line_source import LineSource
from hangarlog.record.batch import MAX_BATCH_BYTES
from hangarlog.record.envelope import Envelope

_REFUSALS = (
    CursorConflictError,
    CursorNameError,
    NumberError,
    StreamDeletedError,
    TooLargeError,
    msgspec.ValidationError,
    ValueError,
)
_PART = "or, if this is a part of an export on purpose, import it with --partial"

_Numbered = tuple[int, Envelope]
"""(the number of its line, an event)."""


def import_lines(store: EventStore[Any], source: LineSource, report: Imported, *, partial: bool = False) -> None:
    """Import events with their order, versions, ids, times, metadata and batches. `report` says how far it came.

    Positions are the same if the store ends where the source begins. You can run it again: it imports only what is new.
    Without `partial` the source must be a whole export, or what follows the events that the store has: every position
    must be there. Moves of cursors are imported only if positions are the same.

    Raises:
        SourceError: a line is damaged, missing, or contradicts the store. Everything before it is imported.
        StorageError, OutcomeUnknownError: the store could not be written. Run the import again.
    """
    importer = _Importer(store, source, report, partial)
    try:
        for number, event in source:
            importer.add(number, event)
        importer.end()
    except BaseException:
        with contextlib.suppress(HangarlogError):  # The first error is the cause.
            store.sync()
        raise
    finally:
        report.streams = len(importer.streams)
    store.sync()


class _Importer:
    """Takes the events of a source one after another, and appends them batch by batch."""

    def __init__(self, store: EventStore[Any], source: LineSource, report: Imported, partial: bool) -> None:
        self._store, self._source, self._report, self._partial = store, source, report, partial
        self._first = self._last = 0  # The positions of the first and the last event.
        self._number = 0  # That of the last event's line.
        self._open_batch = 0  # The position of the end of the batch that the last event is in.
        self._batch: list[_Numbered] = []
        self._batch_bytes = 0
        self._stored: Iterator[Envelope] | None = None
        self._versions: dict[str, int] = {}
        self.streams = set[str]()

    def add(self, number: int, event: Envelope) -> None:
        """Take an event. Raises `SourceError`."""
        if not self._first:
            self._first = event.position
            self._stored = chain.from_iterable(self._store.envelopes(from_position=event.position - 1))
        self._check_order(number, event)
        self.streams.add(event.stream_id)
        if self._is_stored_in_place(event):
            self._report.already += 1
        else:
            self._add_to_batch(number, event)
        self._number, self._last, self._open_batch = number, event.position, event.open_batch
        if not self._open_batch:
            self._flush()

    def end(self) -> None:
        """Take the end of the source. Raises `SourceError`."""
        if self._open_batch and not self._partial:
            cause = f"the source ends within a batch: positions {self._last + 1} to {self._open_batch} are missing"
            advice = f"a batch is imported as a whole or not at all; export it again, {_PART}"
            raise self._source.refuse(self._number, f"{cause}; {advice}")
        self._flush()

    def _check_order(self, number: int, event: Envelope) -> None:
        position, last = event.position, self._last
        if last and position <= last:
            raise self._source.refuse(
                number, f"position {position} comes after {last}: lines stand twice, or in disorder"
            )
        if last and position > last + 1 and not self._partial:
            missing = (
                f"position {last + 1} is" if position == last + 2 else f"positions {last + 1} to {position - 1} are"
            )
            raise self._source.refuse(number, f"{missing} missing before position {position}; export it again, {_PART}")
        follows = event.may_follow(self._open_batch)
        if not follows and self._partial:
            self._flush()
        elif not follows:
            cause = f"its batch_end is {event.batch_end}, but the batch before it ends at {self._open_batch}"
            raise self._source.refuse(
                number, cause if self._open_batch else f"its batch_end {event.batch_end} is wrong"
            )

    def _is_stored_in_place(self, event: Envelope) -> bool:
        """True if the store has the event at the same position, as when an import is run again."""
        if self._stored is None:
            return False
        stored = next(self._stored, None)
        if stored and stored.position == event.position and _place(stored) == _place(event) and _same(stored, event):
            return True
        self._stored = None  # From here on, look for each event in its stream.
        return False

    def _add_to_batch(self, number: int, event: Envelope) -> None:
        self._batch.append((number, event))
        self._batch_bytes += len(bytes(event.data))
        if self._batch_bytes > MAX_BATCH_BYTES:
            raise self._source.refuse(number, f"its batch has more than the limit of {MAX_BATCH_BYTES} bytes")

    def _flush(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return
        versions: dict[str, int] = {}
        runs: list[tuple[str, list[Envelope], int]] = []
        for stream_id, group in groupby(batch, key=lambda each: each[1].stream_id):
            run = [*group]
            version = versions.get(stream_id, self._version(stream_id))
            known = [each for each in run if each[1].stream_version <= version]
            self._check_known(stream_id, known)
            events = self._continuing(run[len(known) :], stream_id, version)
            if events:
                runs.append((stream_id, events, version))
                versions[stream_id] = events[-1].stream_version
        taken = sum(len(events) for _, events, _ in runs)
        self._report.already += len(batch) - taken
        if taken:
            self._append(batch[0][0], runs)
            self._report.taken += taken
            self._versions.update(versions)

    def _version(self, stream_id: str) -> int:
        if stream_id not in self._versions:
            self._versions[stream_id] = self._store.get_stream_version(stream_id)
        return self._versions[stream_id]

    def _continuing(self, run: list[_Numbered], stream_id: str, version: int) -> list[Envelope]:
        """Return the events of a run, which continue a stream at `version` (-1: a new one). Raises `SourceError`."""
        due = version + 1
        for number, event in run:
            if event.stream_version != due:
                may_begin = version < 0 and due == 0 and (self._first == 1 or self._partial)
                if not may_begin:
                    missing = (
                        f"version {due} of it"
                        if due == event.stream_version - 1
                        else f"its versions {due} to {event.stream_version - 1}"
                    )
                    cause = (
                        f"it is version {event.stream_version} of stream {stream_id!r}, and {missing} must come before"
                    )
                    raise self._source.refuse(number, f"{cause}; import that first, {_PART}")
                self._store.begin_stream(stream_id, event.stream_version)  # It was imported compacted, there too.
                due = event.stream_version
            due += 1
        return [event for _, event in run]

    def _append(self, number: int, runs: list[tuple[str, list[Envelope], int]]) -> None:
        position = runs[0][1][0].position
        moves = sum(1 for _, events, _ in runs for event in events if bytes(event.cursor))
        if moves > 1:
            raise self._source.refuse(number, "its batch moves cursors more than once, as no store writes it")
        with_moves = bool(moves) and self._report.positions_kept and self._store.last_position == position - 1
        try:
            position_of = _same_position if with_moves else None
            results = self._store.append_encoded([each for run in runs for each in pendings(*run, position_of)])
        except ConcurrencyError as error:
            cause = f"another process appended to stream {error.stream_id!r} meanwhile; run the import again"
            raise self._source.refuse(number, cause) from error
        except _REFUSALS as error:
            raise self._source.refuse(number, str(error)) from error
        if min(result.first_position for result in results.values()) != position:
            self._report.positions_kept = False

    def _check_known(self, stream_id: str, known: list[_Numbered]) -> None:
        """Raise `SourceError` if the store's events differ from `known`, events of one stream."""
        if not known:
            return
        first, last = known[0][1].stream_version, known[-1][1].stream_version
        blocks = self._store.envelopes(stream_id, from_version=first, to_version=last)
        stored = {envelope.stream_version: envelope for envelope in chain.from_iterable(blocks)}
        for number, event in known:
            found = stored.get(event.stream_version)
            if found is None:  # The stream no longer shows it, or never had it here.
                if self._store.contains(event.event_id):
                    continue
                cause = f"the store has stream {stream_id!r} only from a later version on"
            elif _same(found, event):
                continue
            else:
                cause = (
                    f"stream {stream_id!r} version {event.stream_version} is {event.event_type} {event.event_id} here, "
                    f"but {found.event_type} {found.event_id} in the store"
                )
                if (found.event_type, found.event_id) == (event.event_type, event.event_id):
                    cause = f"stream {stream_id!r} version {event.stream_version} has another content in the store"
            raise self._source.refuse(number, f"{cause}; import into an empty store")


def _same_position(position: int) -> int:
    return position


def _place(event: Envelope) -> tuple[str, int]:
    return event.stream_id, event.stream_version


def _same(stored: Envelope, event: Envelope) -> bool:
    """True if both are the same event, wherever they stand."""
    return (
        stored.event_id == event.event_id
        and stored.event_type == event.event_type
        and stored.recorded_at == event.recorded_at
        and bytes(stored.data) == bytes(event.data)
    )
