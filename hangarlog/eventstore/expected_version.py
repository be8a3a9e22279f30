"""Expected versions: the rule that decides whether an append is written, is a retry, or conflicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from hangarlog.errors import ANY, NO_STREAM, STREAM_EXISTS, ConcurrencyError, RetryUnknownError
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.record.batch import Pending

__all__ = ["ANY", "NO_STREAM", "STREAM_EXISTS", "End", "conflict", "is_at", "settle"]

End = tuple[int, str, int]
"""The last record of a stream: its version (-1: no stream), event id and position."""

StoredId = tuple[str, int]
"""A stored record's event id and position."""


def _retried(
    pending: Pending, end: End, deleted: int, later: int, stored_at: Callable[[int, int], list[StoredId]]
) -> AppendResult | None:
    """Return where an append's events stand if it is a retry, None if the events must be written.

    The stream was deleted up to version `deleted` (-1: never); it begins anew after that. `later` is the number of the
    batch's events that follow in the same stream. `stored_at(version, count)` returns the records there; it is called
    only if the last event's id does not settle the question.

    Raises what `settle` raises.
    """
    actual, last_event_id, last_position = end
    expected, count = pending.expected, len(pending.events)
    matches = is_at(expected, actual, deleted)
    is_deleted = 0 <= actual <= deleted
    if count and pending.retry and (not matches or is_deleted or expected in (ANY, STREAM_EXISTS)):
        before = deleted if expected == NO_STREAM else expected
        anywhere = expected < NO_STREAM or (expected == NO_STREAM and is_deleted)
        first = actual - later - count + 1 if anywhere else before + 1
        last = first + count - 1
        ids = [event[1] for event in pending.events]
        stands = first >= 0 and last <= actual and None not in ids and (last < actual or ids[-1] == last_event_id)
        found = stored_at(first, count) if stands else []
        if stands and [event_id for event_id, _ in found] == ids:
            return AppendResult(last, found[0][1], found[-1][1], [event_id for event_id, _ in found])
        if stands and last == actual and not found:  # Compacted, but the last id is kept.
            return AppendResult(last, 0 if count > 1 else last_position, last_position, list(filter(None, ids)))
        if stands and not found and not matches:
            raise RetryUnknownError(pending.stream_id, expected, actual)
    if not matches:
        raise conflict(pending.stream_id, expected, actual, deleted)
    return None if count else AppendResult(actual)


def is_at(expected: int, actual: int, deleted: int) -> bool:
    """True if a stream at version `actual`, deleted up to `deleted` (-1: never), is where `expected` says."""
    if expected == ANY:
        return True
    if expected == STREAM_EXISTS:
        return actual > deleted
    return actual <= deleted if expected == NO_STREAM else actual == expected


def conflict(stream_id: str, expected: int, actual: int, deleted: int) -> ConcurrencyError:
    """Return the error for a stream that is not where `expected` says."""
    return ConcurrencyError(stream_id, expected, -1 if expected == STREAM_EXISTS and actual <= deleted else actual)


def settle(
    pendings: list[Pending],
    end_of: Callable[[str], End],
    stored_at: Callable[[str, int, int], list[StoredId]],
    deleted_of: Callable[[str], int] = lambda _: -1,
) -> tuple[dict[str, AppendResult], list[tuple[Pending, int]]]:
    """Check all expected versions of a batch.

    Return (results of the streams with nothing to write, [(pending, its first version)] of the others). A stream may
    be named more than once: each append follows the one before. `stored_at(stream_id, version, count)` returns the
    stored records from a version on, `deleted_of(stream_id)` the version up to which the stream was deleted, -1 if it
    never was.

    Raises:
        ConcurrencyError: a version conflicts. Also if only some of the appends already have their events: a batch is
            written as a whole, so this is no retry. `RetryUnknownError` if the events at that place are compacted away.
    """
    results: dict[str, AppendResult] = {}
    to_write: list[tuple[Pending, int]] = []
    retried: ConcurrencyError | None = None
    written: dict[str, int] = {}  # The version of each stream after the events to write.
    left = Counter[str]()
    for pending in pendings:
        left[pending.stream_id] += len(pending.events)
    for pending in pendings:
        stream_id = pending.stream_id
        left[stream_id] -= len(pending.events)
        deleted, actual = deleted_of(stream_id), written.get(stream_id)
        if actual is None:
            end = end_of(stream_id)
            actual = end[0]
            result = _retried(pending, end, deleted, left[stream_id], partial(stored_at, stream_id))
        elif is_at(pending.expected, actual, deleted):  # It follows events of this batch, so it is no retry.
            result = None if pending.events else AppendResult(actual)
        else:
            raise ConcurrencyError(stream_id, pending.expected, actual)
        if result is None:
            first = actual + 1 if actual >= 0 else pending.first_version
            to_write.append((pending, first))
            written[stream_id] = first + len(pending.events) - 1
            continue
        before = results.get(stream_id)
        results[stream_id] = result if before is None else before.followed_by(result)
        if pending.events:
            retried = ConcurrencyError(stream_id, pending.expected, actual)
    if retried and to_write:
        raise retried
    return results, to_write
