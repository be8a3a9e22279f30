"""The rule of expected versions: whether an append may be written, is a retry, or conflicts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hangarlog.errors import ConcurrencyError, RetryUnknownError
from hangarlog.record.batch import Pending

NO_STREAM = -1
"""Expected version of a stream that must not exist yet."""
ANY = -2
"""Expected version that matches whatever the stream holds."""
STREAM_EXISTS = -4
"""Expected version that matches any stream with at least one event."""


def retried_version(
    pending: Pending, actual: int, last_event_id: str, ids_at: Callable[[int, int], list[str]]
) -> int | None:
    """Check the expected version against `actual` (-1: no stream), where `last_event_id` is.

    Returns None where the events are to be written, or the version they gave the stream when they were written
    before: an append whose event ids are already at that place is a retry. `ids_at(version, count)` gives the
    event ids stored there, and is asked only where a look at the last one does not settle it.

    Raises:
        ConcurrencyError: neither; `RetryUnknownError` where the events at that place are compacted away.
    """
    expected, count = pending.expected, len(pending.events)
    matches = expected in (actual, ANY) or (expected == STREAM_EXISTS and actual >= 0)
    if not count:
        if not matches:
            raise ConcurrencyError(pending.stream_id, expected, actual)
        return actual
    if pending.retry and (not matches or expected in (ANY, STREAM_EXISTS)):
        first = expected + 1 if expected >= NO_STREAM else actual - count + 1
        last = first + count - 1
        ids = [event_id for _, event_id, _, _ in pending.events]
        stands = first >= 0 and last <= actual and None not in ids and (last < actual or ids[-1] == last_event_id)
        found = ids_at(first, count) if stands else []
        if stands and (found == ids or (last == actual and not found)):  # The last id, which is kept, says it too.
            return last
        if stands and not found and not matches:
            raise RetryUnknownError(pending.stream_id, expected, actual)
    if not matches:
        raise ConcurrencyError(pending.stream_id, expected, actual)
    return None


def settle(
    pendings: list[Pending], end_of: Callable[[str], tuple[int, str]], ids_at: Callable[[str, int, int], list[str]]
) -> tuple[dict[str, int], list[tuple[Pending, int]]]:
    """Check all expected versions: (the versions of streams with nothing to write, [(pending, its next version)]).

    `end_of` gives a stream's (version, last event id), `ids_at` the event ids from a version on.

    Raises:
        ConcurrencyError: one does not hold; or only some of the streams have their events already, which a batch that
            is written whole or not at all cannot have done.
    """
    versions: dict[str, int] = {}
    to_write: list[tuple[Pending, int]] = []
    retried: ConcurrencyError | None = None
    for pending in pendings:
        stream_id = pending.stream_id
        actual, last_event_id = end_of(stream_id)
        version = retried_version(pending, actual, last_event_id, partial(ids_at, stream_id))
        if version is None:
            to_write.append((pending, actual + 1 if actual >= 0 else pending.first_version))
        else:
            versions[stream_id] = version
            if pending.events:
                retried = ConcurrencyError(stream_id, pending.expected, actual)
    if retried and to_write:
        raise retried
    return versions, to_write
