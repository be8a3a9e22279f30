"""Snapshots, compaction and deletion: the calls of an event store that say what is kept of a stream."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from hangarlog.errors import CompactionError, CorruptionError, SnapshotError, StreamNotFoundError
from hangarlog.events.payload import FAILURES, encode_object
from hangarlog.eventstore.arguments import flag, is_whole, moment_or_none, number_or_none, text, whole_number
from hangarlog.eventstore.engine import Engine
from hangarlog.eventstore.expected_version import ANY, STREAM_EXISTS, conflict, is_at
from hangarlog.eventstore.selection import Span
from hangarlog.eventstore.snapshot import Snapshot, SnapshotInfo, decode_state
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.record.envelope import MAX_NUMBER
from hangarlog.record.timestamp import as_recorded, now


class KeptStreams(Engine):
    """The part of an event store's interface that is about snapshots and deletion."""

    def save_snapshot(
        self,
        stream_id: str,
        version: int,
        state: dict[str, Any],
        *,
        schema_version: int = 1,
        saved_at: datetime | str | None = None,
        ahead: bool = False,
    ) -> None:
        """Save `state` as the aggregate's state at stream version `version`, in place of any earlier snapshot.

        The snapshot is on the device when the call returns. `schema_version` is that of the state: `load_snapshot`
        ignores snapshots of another one. `saved_at` is the time of the snapshot (a datetime with a time zone, or RFC
        3339 text), by default now. With `ahead`, the stream need not be at that version yet: `load_snapshot` then
        cannot tell whether the state matches the events.

        A snapshot older than the stored one is refused, unless the stored one is of a lower `schema_version`, or does
        not match the stream's events any more.

        Raises:
            EventSerializationError: the state has no JSON form, or is too large.
            StreamNotFoundError: the stream does not exist.
            SnapshotError: the stream is not at that version yet, or no longer shows it, or a newer snapshot is stored.
            ValueError: the version is not a whole number from 0 up, or `saved_at` is not a time with a time zone.
            TypeError: `saved_at` is neither a datetime nor text, or `schema_version` is not a whole number.
        """
        check_stream_id(stream_id)
        if not is_whole(version) or not 0 <= version <= MAX_NUMBER:
            raise ValueError(f"a snapshot's version must be a whole number from 0 up, not {version!r}")
        form, time = whole_number("schema_version", schema_version), moment_or_none("saved_at", saved_at)
        encoded = msgspec.Raw(encode_object(state, "snapshot"))
        with self._calling():
            event_id = self._event_id_at(stream_id, version)
            if event_id is None and not flag("ahead", ahead):
                self._refuse_ahead(stream_id, version)
            stored = self._load_snapshot(stream_id)
            overtaken = None  # A stored snapshot that does not match its events.
            if stored and stored.version > version and not self._matches(stored):
                overtaken = stored.event_id
            saved = Snapshot(stream_id, int(version), encoded, time or now().decode(), form, event_id)
            self._change_snapshot(stream_id, lambda before: _saved(saved, before, overtaken))

    def _refuse_ahead(self, stream_id: str, version: int) -> None:
        last = self.get_stream_version(stream_id)
        if last < 0:
            raise StreamNotFoundError(stream_id)
        if version > last:
            cause = f"it is of version {version}, but the stream is at version {last}"
            raise SnapshotError(stream_id, f"{cause}; save the state with the version of the last event in it")

    def load_snapshot(self, stream_id: str, *, schema_version: int | None = None) -> dict[str, Any] | None:
        """Return the latest snapshot as {"version": …, "state": …}, or None.

        Return None also if the snapshot has another `schema_version` than the one asked for, or if its event is gone,
        as after a power cut in a store with relaxed durability. The state must then be replayed from the events.

        Raises:
            CorruptionError: the file is not a snapshot.
            TypeError: `schema_version` is not a whole number.
        """
        form = number_or_none("schema_version", schema_version)
        snapshot = self._load_snapshot(check_stream_id(stream_id))
        if (
            snapshot is None
            or snapshot.version < 0
            or (form is not None and snapshot.schema_version != form)
            or not self._matches(snapshot)
        ):
            return None
        try:
            return {"version": snapshot.version, "state": decode_state(snapshot.state)}
        except FAILURES as error:
            cause = f"the state in the snapshot is not an object ({error}); delete the snapshot, and save a new one"
            path = os.path.join(getattr(self, "path", ""), "snapshots")
            raise CorruptionError(path, "snapshots", 0, cause, None, stream_id, snapshot.version) from error

    def _matches(self, snapshot: Snapshot) -> bool:
        """True if the event at the snapshot's version is the one it was saved with, or is hidden."""
        if not snapshot.event_id or snapshot.version <= snapshot.compacted_through:
            return True
        return self._event_id_at(snapshot.stream_id, snapshot.version) == snapshot.event_id

    def snapshot_time(self, stream_id: str) -> str | None:
        """Return when the latest snapshot of a stream was saved (RFC 3339), None if there is none."""
        snapshot = self._load_snapshot(check_stream_id(stream_id))
        return snapshot.saved_at if snapshot and snapshot.version >= 0 else None

    def list_snapshots(self, prefix: str = "", *, since: datetime | str | None = None) -> list[SnapshotInfo]:
        """Return the snapshots of the streams whose ids begin with `prefix`, sorted by stream id, without their states.

        `since` (a datetime with a time zone, or RFC 3339 text) leaves out those whose `saved_at` is before it.

        Raises:
            ValueError: `since` has no time zone, or is not a time.
            TypeError: `prefix` is not text, or `since` is neither a datetime nor text.
            CorruptionError: a file is not a snapshot.
        """
        earliest, beginning = moment_or_none("since", since), text("prefix", prefix)
        with self._calling():
            found = [each for each in self._stored_snapshots(beginning) if each.version >= 0]
        return sorted(
            (
                SnapshotInfo(each.stream_id, each.version, each.saved_at, each.schema_version)
                for each in found
                if earliest is None or _is_since(each.saved_at, earliest)
            ),
            key=lambda info: info.stream_id,
        )

    def delete_snapshot(self, stream_id: str, *, force: bool = False) -> bool:
        """Delete a stream's snapshot. Return False if there is none.

        The stream of a snapshot may have lost events to a compaction or a truncation. Its state is then the last that
        is known of them, so it is deleted only with `force`. They stay hidden.

        Raises:
            CompactionError: the state is needed, and there is no `force`.
        """
        check_stream_id(stream_id)
        there = False

        def delete(before: Snapshot | None) -> Snapshot | None:
            nonlocal there
            there = before is not None and before.version >= 0
            if before is None or not there:
                return None
            if before.compacted_through >= 0 and not force:
                raise CompactionError(
                    stream_id,
                    f"its snapshot cannot be deleted: the stream no longer shows the events up to version "
                    f"{before.compacted_through}, and only the snapshot has their state; save a newer one in its "
                    "place, or delete it with force=True",
                )
            return before.without_state()

        self._change_snapshot(stream_id, delete)
        return there

    def compact_stream(self, stream_id: str) -> int:
        """Drop the events of a stream that its snapshot covers, and return how many were dropped.

        Reads of the stream then begin after the snapshot. The stream keeps its version, the journal keeps all events
        until `retain`.

        Raises:
            StreamNotFoundError: the stream does not exist.
            CompactionError: the stream has no snapshot, or its snapshot does not match its events.
        """
        with self._calling():
            version = self.get_stream_version(stream_id)
            if version < 0:
                raise StreamNotFoundError(stream_id)
            snapshot = self._load_snapshot(stream_id)
            if snapshot is None or snapshot.version < 0:
                cause = "it has no snapshot, so its state could not be rebuilt; save one first"
                raise CompactionError(stream_id, cause)
            through = snapshot.version
            if through > version or self.load_snapshot(stream_id) is None:
                raise CompactionError(stream_id, f"its snapshot (version {through}) does not match its events")
            return self._hide_through(stream_id, lambda _: through)

    def truncate_stream(self, stream_id: str, before_version: int) -> int:
        """Drop the events of a stream before `before_version`, and return how many were dropped.

        Reads of the stream then begin with `before_version`. The stream keeps its version, the journal keeps all
        events until `retain`. A version beyond the end drops all events; one that is dropped already changes nothing. A
        snapshot that would miss dropped events goes too.

        Raises:
            StreamNotFoundError: the stream does not exist.
            ValueError: `before_version` is not a whole number from 0 up.
        """
        check_stream_id(stream_id)
        if not is_whole(before_version) or before_version < 0:
            raise ValueError(f"before_version must be a whole number from 0 up, not {before_version!r}")
        with self._calling():
            return self._hide_through(stream_id, lambda version: min(int(before_version) - 1, version))

    def _hide_through(self, stream_id: str, through_at: Callable[[int], int]) -> int:
        """Hide a stream's events up to the version that `through_at` returns for the stream's; return how many.

        A snapshot of a lower version goes too.
        """
        dropped = 0

        def hide(version: int, before: Snapshot | None) -> Snapshot | None:
            nonlocal dropped
            if version < 0:
                raise StreamNotFoundError(stream_id)
            through = through_at(version)
            kept = before or Snapshot(stream_id)
            if through <= kept.compacted_through:
                return before  # It is hidden. Its space may still have to be freed.
            dropped = through - kept.compacted_through
            if kept.version < through:
                kept = kept.without_state()
            return msgspec.structs.replace(kept, compacted_through=through)

        self._hide_events(stream_id, hide)
        return dropped

    def delete_stream(self, stream_id: str, *, permanent: bool = False, expected_version: int = ANY) -> int:
        """Delete a stream: its events, and its snapshot. Return how many events were dropped.

        The stream reads as empty and is not listed. It keeps its version: an append begins it anew with the next one.
        With `permanent`, it takes no appends any more. The journal keeps all events until `retain`. Deleting a
        stream again is fine.

        `expected_version` is the version that the stream must be at, or `STREAM_EXISTS`.

        Raises:
            StreamNotFoundError: the stream does not exist, and was never deleted.
            ConcurrencyError: it is at another version than expected.
        """
        check_stream_id(stream_id)
        if not is_whole(expected_version) or (expected_version < 0 and expected_version not in (ANY, STREAM_EXISTS)):
            raise ValueError(f"expected_version must be a version, ANY or STREAM_EXISTS, not {expected_version!r}")
        dropped = 0

        def delete(version: int, before: Snapshot | None) -> Snapshot | None:
            nonlocal dropped
            if version < 0:
                raise StreamNotFoundError(stream_id)
            kept = before or Snapshot(stream_id)
            if not is_at(expected_version, version, kept.deleted_through):
                raise conflict(stream_id, expected_version, version, kept.deleted_through)
            if kept.deleted_through >= version and (kept.tombstone or not permanent):
                return before  # It is deleted. Its space may still have to be freed.
            dropped = version - kept.compacted_through
            mark = kept.without_state()
            return msgspec.structs.replace(
                mark, compacted_through=version, deleted_through=version, tombstone=permanent or kept.tombstone
            )

        with self._calling():
            self._hide_events(stream_id, delete)
        return dropped

    def _event_id_at(self, stream_id: str, version: int) -> str | None:
        for block in self._blocks(Span(stream_id, version, limit=1)):
            return block[0].event_id if block and block[0].stream_version == version else None
        return None


def _saved(saved: Snapshot, before: Snapshot | None, overtaken: str | None) -> Snapshot:
    """Return `saved` with what the stored snapshot `before` hides.

    One with the event id `overtaken` may be replaced by an older one. Raises `SnapshotError`.
    """
    if before is None:
        return saved
    stream_id, version = saved.stream_id, saved.version
    if version <= before.deleted_through:
        cause = f"the stream was deleted up to version {before.deleted_through}; append to it first"
        raise SnapshotError(stream_id, cause)
    if version < before.compacted_through:
        cause = f"version {version} is too old: the stream no longer shows those up to {before.compacted_through}"
        raise SnapshotError(stream_id, f"{cause}; save the state at that version or a later one")
    outdated = before.schema_version < saved.schema_version or before.event_id == overtaken is not None
    if version < before.version and not outdated:
        cause = f"it is of version {version}, the stored one of {before.version}; keep that, or delete it first"
        raise SnapshotError(stream_id, cause)
    return msgspec.structs.replace(
        saved,
        compacted_through=before.compacted_through,
        deleted_through=before.deleted_through,
        tombstone=before.tombstone,
    )


def _is_since(saved_at: str, earliest: str) -> bool:
    """True if a snapshot was saved at or after a time, also if its own time is no time: then nobody may miss it."""
    try:
        time = datetime.fromisoformat(saved_at)
        return as_recorded(time if time.tzinfo else time.replace(tzinfo=UTC)) >= earliest
    except (ValueError, OverflowError):
        return True
