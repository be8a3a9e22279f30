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


def copy_snapshots(source: EventStore[Any], target: EventStore[Any]) -> tuple[int, dict[str, str]]:
    """Give the target's streams the snapshots of the source, and hide there what is hidden here.

    Return (the number of saved states in the source, {stream: why its mark was not taken}). A mark of events that the
    target does not have yet waits for the next copy.
    """
    count, not_taken, seen = 0, dict[str, str](), set[str]()
    for snapshot in source._stored_snapshots(""):
        stream_id = snapshot.stream_id
        seen.add(stream_id)
        count += snapshot.version >= 0
        if target.get_stream_version(stream_id) >= snapshot.compacted_through:
            _keep(target, snapshot)
        elif source.get_stream_version(stream_id) >= 0 > target.get_stream_version(stream_id):
            what = "was deleted for good" if snapshot.tombstone else "is deleted"
            not_taken[stream_id] = f"it {what}, and its events were dropped: it does not exist in the target"
    for snapshot in [*target._stored_snapshots("")]:
        if snapshot.version >= 0 and snapshot.stream_id not in seen:  # It was deleted in the source.
            target._change_snapshot(snapshot.stream_id, lambda before: before.without_state() if before else None)
    return count, not_taken


def _keep(target: EventStore[Any], snapshot: Snapshot) -> None:
    """Replace a stream's snapshot by that of the source. What is hidden stays so."""

    def merged(before: Snapshot | None) -> Snapshot | None:
        after = snapshot
        if before:
            through = max(before.compacted_through, after.compacted_through)
            after = replace(after, compacted_through=through, number=before.number)
        return None if after == before else after

    hides = snapshot.compacted_through
    before = target._load_snapshot(snapshot.stream_id)
    if hides >= 0 and not (before and before.hides_as(snapshot)):
        target._hide_events(snapshot.stream_id, lambda version, before: merged(before) if version >= hides else None)
    else:
        target._change_snapshot(snapshot.stream_id, merged)


class CursorCopy:
    """Moves the cursors of a target to where those of its source are."""

    def __init__(self, source: EventStore[Any], target: EventStore[Any], positions: Positions) -> None:
        self._source, self._target, self._positions = source, target, positions
        self._moved: dict[str, int] = {}

    def run(self) -> tuple[int, dict[str, int]]:
        """Move them. Return (the number of cursors in the source, {name: position of one that is further on}).

        A cursor of the target goes back only if this copy has put it where it is: else somebody uses it there.
        """
        ahead: dict[str, int] = {}
        there = {cursor.name: cursor.position for cursor in self._target.cursors()}
        found = self._source.cursors()
        for cursor in found:
            to, at = self._positions.in_target(cursor.position), there.get(cursor.name, 0)
            if at > to and self._moved.get(cursor.name) != at:
                ahead[cursor.name] = at
                continue
            if at != to or cursor.name not in there:  # One at 0 must be there, too: it begins anywhere else.
                with contextlib.suppress(CursorConflictError):  # Somebody uses it just now.
                    move = Cursor(self._target, cursor.name)
                    (move.advance if at < to else move.reset)(to, expected=at, durability="always")
            self._moved[cursor.name] = to
        return len(found), ahead
