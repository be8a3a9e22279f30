"""Idempotent appends: an append whose event ids are in the stream already is not written again, for ever."""

from __future__ import annotations

from collections.abc import Callable

from hangarlog.errors import PartialRetryError
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import Envelope

Find = Callable[[str, str], Envelope | None]
"""Returns the first event with an id in a stream: (event id, stream id)."""


def check_ids(pendings: list[Pending]) -> None:
    """Raise `ValueError` if an event of an idempotent append has no id of its own, or one that comes twice."""
    seen = set()
    for pending in pendings:
        for event_type, event_id, *_ in pending.events:
            if event_id is None:
                raise ValueError(
                    f"idempotent=True needs the event's own id, and this {event_type!r} has none; give it an event_id "
                    "(a field of its class, or EncodedEvent(event_id=…)), and use the same one when you try again"
                )
            if (event_id, pending.stream_id) in seen:
                raise ValueError(
                    f"event id {event_id!r} comes twice for stream {pending.stream_id!r}; give each event its own id"
                )
            seen.add((event_id, pending.stream_id))


def retried(pendings: list[Pending], version_of: Callable[[str], int], find: Find) -> dict[str, AppendResult]:
    """Return where the events of an append are if it is a retry, {} if none of them is stored.

    `version_of(stream_id)` returns a stream's version. Raises `PartialRetryError` if only some of them are stored.
    """
    there: list[Envelope] = []
    missing: tuple[Pending, str] | None = None
    results: dict[str, AppendResult] = {}
    for pending in pendings:
        stream_id, found = pending.stream_id, []
        for _, event_id, *_ in pending.events:
            assert event_id is not None
            record = find(event_id, stream_id)
            if record:
                found.append(record)
            else:
                missing = missing or (pending, event_id)
            if missing and (found or there):
                first = (there or found)[0]
                behind, absent = missing
                raise PartialRetryError(
                    behind.stream_id,
                    behind.expected,
                    version_of(behind.stream_id),
                    (absent, first.event_id, first.stream_id, first.stream_version),
                )
        if found:
            there += found
            result = _result(found)
            results[stream_id] = results[stream_id].followed_by(result) if stream_id in results else result
    if results:
        for pending in pendings:
            results.setdefault(pending.stream_id, AppendResult(version_of(pending.stream_id)))
    return results


def _result(found: list[Envelope]) -> AppendResult:
    last = max(record.stream_version for record in found)
    positions = [record.position for record in found]
    return AppendResult(
        last,
        min(positions),
        max(positions),
        [record.event_id for record in found],
        first_version=min(record.stream_version for record in found),
    )
