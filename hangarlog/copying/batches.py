"""Stored batches as appends that write them again: with their ids, versions, times, metadata and moves of cursors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import msgspec

from hangarlog.eventstore.cursor import check_cursor_name
from hangarlog.record.batch import Pending
from hangarlog.record.cursor_move import CursorMove
from hangarlog.record.envelope import Encoded, Envelope


def runs(batch: Sequence[Envelope]) -> Iterator[tuple[str, list[Envelope]]]:
    """Yield (stream id, events) of the runs of a batch: events of one stream that follow on each other."""
    for stream_id, events in groupby(batch, key=lambda event: event.stream_id):
        yield stream_id, [*events]


def pendings(
    stream_id: str,
    events: Sequence[Envelope],
    expected: int,
    position_of: Callable[[int], int] | None = None,
    *,
    retry: bool = False,
) -> Iterator[Pending]:
    """Yield the appends that write a run again to a stream at version `expected`.

    Moves of cursors lead to `position_of` their position; with None, none is made. The last event of an append carries
    its move. Raises `msgspec.ValidationError`, `CursorNameError` or `ValueError` if a record carries none.
    """
    part: list[Encoded] = []
    first = events[0].stream_version
    for event in events:
        part.append((event.event_type, event.event_id, bytes(event.data), event.recorded_at, event.metadata_json))
        carried = bytes(event.cursor) if position_of else b""
        if carried or event is events[-1]:
            move = carried_move(carried, position_of) if carried and position_of else None
            yield Pending(stream_id, part, expected, first_version=first, retry=retry, cursor=move)
            expected, first, part = event.stream_version, event.stream_version + 1, []


def carried_move(carried: bytes, position_of: Callable[[int], int]) -> CursorMove:
    """Return the move of a cursor that a record carries."""
    move = msgspec.json.decode(carried, type=CursorMove)
    return CursorMove(check_cursor_name(move.name), position_of(max(0, move.position)), back=True)
