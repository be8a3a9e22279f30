"""Expected versions: the rule that decides whether an append is written, is a retry, or conflicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from hangarlog.errors import ANY, NO_STREAM, STREAM_EXISTS, ConcurrencyError, RetryUnknownError
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.record.batch import Pending

__all__ = ["ANY", "NO_STREAM", "STREAM_EXISTS", "End", "settle"]

End = tuple[int, str, int]
"""The last record of a stream: its version (-1: no stream), event id and position."""

StoredId = tuple[str, int]
"""A stored record's event id and position."""


def _matches(expected: int, actual: int) -> bool:
    return expected in (actual, ANY) or (expected == STREAM_EXISTS and actual >= 0)


def _retried(
    pending: Pending, end: End, later: int, stored_at: Callable[[int, int], list[StoredId]]
) -> AppendResult | None:
    """Return where an append's events stand if it is a retry, None if the events must be written.

    `later` is the number of the batch's events that follow in the same stream. `stored_at(version, count)` returns
    the records there; it is called only if the last event's id does not settle the question.

    Raises what `settle` raises.
    """
    actual, last_event_id, last_position = end
    expected, count = pending.expected, len(pending.events)
    matches = _matches(expected, actual)
    if count and pending.retry and (not matches or expected in (ANY, STREAM_EXISTS)):
        first = expected + 1 if expected >= NO_STREAM else actual - later - count + 1
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
        raise ConcurrencyError(pending.stream_id, expected, actual)
    return None if count else AppendResult(actual)


def settle(
    pendings: list[Pending],
    end_of: Callable[[str], End],
    stored_at: Callable[[str, int, int], list[StoredId]],
) -> tuple[dict[str, AppendResult], list[tuple[Pending, int]]]:
    """Check all expected versions of a batch.

    Return (results of the streams with nothing to write, [(pending, its first version)] of the others). A stream may
    be named more than once: each append follows the one before. `stored_at(stream_id, version, count)` returns the
    stored records from a version on.

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
        actual = written.get(stream_id)
        if actual is None:
            end = end_of(stream_id)
            actual = end[0]
            result = _retried(pending, end, left[stream_id], partial(stored_at, stream_id))
        elif _matches(pending.expected, actual):  # It follows events of this batch, so it is no retry.
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
