"""What stores keep beside events: which events are hidden, snapshots, and cursors."""

from __future__ import annotations

import contextlib
from typing import Any

from msgspec.structs import replace

from hangarlog.copying.positions import Positions
from hangarlog.errors import CursorConflictError
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.cursor import Cursor
from hangarlog.eventstore.snapshot import Snapshot


def hidden_in(store: EventStore[Any]) -> dict[str, int]:
    """Return the last version that each stream hides, for the streams that hide any."""
    snapshots = store._stored_snapshots("")
    return {each.stream_id: each.compacted_through for each in snapshots if each.compacted_through >= 0}


class SnapshotCopy:
    """Gives the target's streams the snapshots of the source, and hides there what is hidden here."""

    def __init__(self, source: EventStore[Any], target: EventStore[Any]) -> None:
        self._source, self._target = source, target
        self._done: dict[str, tuple[Any, ...]] = {}  # What is known to be in the target.

    def run(self) -> tuple[int, dict[str, str]]:
        """Return (the number of saved states in the source, {stream: why its mark was not taken}).

        A mark of events that the target does not have yet waits for the next run.
        """
        count, not_taken, seen = 0, dict[str, str](), set[str]()
        for snapshot in self._source._stored_snapshots(""):
            stream_id, what = snapshot.stream_id, _sign(snapshot)
            seen.add(stream_id)
            count += snapshot.version >= 0
            if self._done.get(stream_id) == what:
                continue
            version = self._target.get_stream_version(stream_id)
            if version >= snapshot.compacted_through:
                _keep(self._target, snapshot)
                self._done[stream_id] = what
            elif version < 0 <= self._source.get_stream_version(stream_id):
                cause = "was deleted for good" if snapshot.tombstone else "is deleted"
                not_taken[stream_id] = f"it {cause}, and its events were dropped: it does not exist in the target"
        self._forget_others(seen)
        return count, not_taken

    def _forget_others(self, seen: set[str]) -> None:
        """Delete the states of the target that the source has deleted."""
        for snapshot in [*self._target._stored_snapshots("")]:
            if snapshot.version >= 0 and snapshot.stream_id not in seen:
                self._target._change_snapshot(
                    snapshot.stream_id, lambda before: before.without_state() if before else None
                )


def _sign(snapshot: Snapshot) -> tuple[Any, ...]:
    return (snapshot.number, snapshot.saved_at, snapshot.version, snapshot.compacted_through, snapshot.deleted_through)


def _keep(target: EventStore[Any], snapshot: Snapshot) -> None:
    """Replace a stream's snapshot by that of the source. What is hidden stays so."""

    def merged(before: Snapshot | None) -> Snapshot:
        if not before:
            return snapshot
        through = max(before.compacted_through, snapshot.compacted_through)
        return replace(snapshot, compacted_through=through, number=before.number)

    if snapshot.compacted_through < 0:
        target._change_snapshot(snapshot.stream_id, lambda before: None if merged(before) == before else merged(before))
        return
    target._hide_events(  # Also if it says so already: a copy that was killed may not have freed the space.
        snapshot.stream_id, lambda version, before: merged(before) if version >= snapshot.compacted_through else None
    )


class CursorCopy:
    """Moves the cursors of a target to where those of its source are."""

    def __init__(self, source: EventStore[Any], target: EventStore[Any], positions: Positions) -> None:
        self._source, self._target, self._positions = source, target, positions
        self._moved: dict[str, int] = {}

    def run(self) -> tuple[int, dict[str, int]]:
        """Move them, without a sync. Return (the number of cursors in the source, {name: where one is further on}).

        A cursor of the target goes back only if this copy has put it where it is: else somebody uses it there.
        """
        ahead: dict[str, int] = {}
        there = {cursor.name: cursor.position for cursor in self._target.cursors()}
        found = self._source.cursors()
        for cursor in found:
            (to, most), at = self._positions.bounds(cursor.position), there.get(cursor.name, 0)
            if cursor.name in there and to <= at <= most:
                to = at
            if at > to and self._moved.get(cursor.name) != at:
                ahead[cursor.name] = at
                continue
            if at != to or cursor.name not in there:  # One at 0 must be there, too: it begins anywhere else.
                with contextlib.suppress(CursorConflictError):  # Somebody uses it just now.
                    move = Cursor(self._target, cursor.name)
                    (move.advance if at < to else move.reset)(to, expected=at, durability="relaxed")
            self._moved[cursor.name] = to
        return len(found), ahead
