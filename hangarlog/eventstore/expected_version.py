"""Expected versions: the rule that decides whether an append is written, is a retry, or conflicts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hangarlog.errors import ANY, NO_STREAM, STREAM_EXISTS, ConcurrencyError, RetryUnknownError
from hangarlog.record.batch import Pending

__all__ = ["ANY", "NO_STREAM", "STREAM_EXISTS", "conflict", "is_at", "retried_version", "settle"]


def retried_version(
    pending: Pending, actual: int, last_event_id: str, ids_at: Callable[[int, int], list[str]], deleted: int = -1
) -> int | None:
    """Check an append against a stream at version `actual` (-1: no stream) whose last event is `last_event_id`.

    The stream was deleted up to version `deleted` (-1: never). It begins anew after that.

    Return None if the events must be written. If their ids already stand at that place, the append is a retry: return
    the version that the stream got when they were written. `ids_at(version, count)` returns the event ids stored there.
    It is called only if the last id does not settle the question.

    Raises:
        ConcurrencyError: the versions conflict. `RetryUnknownError` if the events at that place are compacted away.
    """
    expected, count = pending.expected, len(pending.events)
    matches = is_at(expected, actual, deleted)
    if not count:
        if not matches:
            raise conflict(pending.stream_id, expected, actual, deleted)
        return actual
    is_deleted = 0 <= actual <= deleted
    if pending.retry and (not matches or is_deleted or expected in (ANY, STREAM_EXISTS)):
        before = deleted if expected == NO_STREAM else expected
        anywhere = expected < NO_STREAM or (expected == NO_STREAM and is_deleted)
        first = actual - count + 1 if anywhere else before + 1
        last = first + count - 1
        ids = [event_id for _, event_id, _, _ in pending.events]
        stands = first >= 0 and last <= actual and None not in ids and (last < actual or ids[-1] == last_event_id)
        found = ids_at(first, count) if stands else []
        if stands and (found == ids or (last == actual and not found)):  # Compacted, but the last id is kept.
            return last
        if stands and not found and not matches:
            raise RetryUnknownError(pending.stream_id, expected, actual)
    if not matches:
        raise conflict(pending.stream_id, expected, actual, deleted)
    return None


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
    end_of: Callable[[str], tuple[int, str]],
    ids_at: Callable[[str, int, int], list[str]],
    deleted_of: Callable[[str], int] = lambda _: -1,
) -> tuple[dict[str, int], list[tuple[Pending, int]]]:
    """Check all expected versions of a batch.

    Return (versions of the streams with nothing to write, [(pending, its first version)] of the others).
    `end_of(stream_id)` returns the stream's (version, last event id), `ids_at(stream_id, version, count)` the event ids
    from a version on, `deleted_of(stream_id)` the version up to which the stream was deleted, -1 if it never was.

    Raises:
        ConcurrencyError: a version conflicts. Also if only some of the streams already have their events: a batch is
            written as a whole, so this is no retry.
    """
    versions: dict[str, int] = {}
    to_write: list[tuple[Pending, int]] = []
    retried: ConcurrencyError | None = None
    for pending in pendings:
        stream_id = pending.stream_id
        actual, last_event_id = end_of(stream_id)
        ids = partial(ids_at, stream_id)
        version = retried_version(pending, actual, last_event_id, ids, deleted_of(stream_id))
        if version is None:
            to_write.append((pending, actual + 1 if actual >= 0 else pending.first_version))
        else:
            versions[stream_id] = version
            if pending.events:
                retried = ConcurrencyError(stream_id, pending.expected, actual)
    if retried and to_write:
        raise retried
    return versions, to_write
