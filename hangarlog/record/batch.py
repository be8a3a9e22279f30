"""What a commit is before it has a place: the rule of expected versions, and the lines of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import msgspec

from hangarlog.errors import ConcurrencyError, NumberError, RetryUnknownError, TooLargeError
from hangarlog.record.line import MAX_LINE, MAX_NUMBER, EncodedEvent, encode_records

NO_STREAM = -1
"""Expected version of a stream that must not exist yet."""
ANY = -2
"""Expected version that matches whatever the stream holds."""
STREAM_EXISTS = -4
"""Expected version that matches any stream with at least one event."""

MAX_BATCH = 1 << 30
"""Bytes of a batch. Appended to a full segment, it ends within the 32-bit offsets of an index."""


class Pending(msgspec.Struct, frozen=True):
    """One stream's share of an append, encoded and checked, not yet placed."""

    stream_id: str
    events: list[EncodedEvent]
    expected: int
    metadata: bytes | None = None
    first_version: int = 0  # Where a new stream begins: above 0 only for the rest of a compacted one that is imported.
    retry: bool = True  # Whether it may be taken for one by its event ids.

    def retried_version(self, actual: int, last_event_id: str, ids_at: Callable[[int, int], list[str]]) -> int | None:
        """Check the expected version against `actual` (-1: no stream), where `last_event_id` is.

        Returns None where the events are to be written, or the version they gave the stream when they were written
        before: an append whose event ids are already at that place is a retry. `ids_at(version, count)` gives the
        event ids stored there, and is asked only where a look at the last one does not settle it.

        Raises:
            ConcurrencyError: neither; `RetryUnknownError` where the events at that place are compacted away.
        """
        expected, count = self.expected, len(self.events)
        matches = expected in (actual, ANY) or (expected == STREAM_EXISTS and actual >= 0)
        if not count:
            if not matches:
                raise ConcurrencyError(self.stream_id, expected, actual)
            return actual
        if self.retry and (not matches or expected in (ANY, STREAM_EXISTS)):
            first = expected + 1 if expected >= NO_STREAM else actual - count + 1
            last = first + count - 1
            ids = [event_id for _, event_id, _, _ in self.events]
            stands = first >= 0 and last <= actual and None not in ids and (last < actual or ids[-1] == last_event_id)
            found = ids_at(first, count) if stands else []
            if stands and (found == ids or (last == actual and not found)):  # The last id, which is kept, says it too.
                return last
            if stands and not found and not matches:
                raise RetryUnknownError(self.stream_id, expected, actual)
        if not matches:
            raise ConcurrencyError(self.stream_id, expected, actual)
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
        version = pending.retried_version(actual, last_event_id, partial(ids_at, stream_id))
        if version is None:
            to_write.append((pending, actual + 1 if actual >= 0 else pending.first_version))
        else:
            versions[stream_id] = version
            if pending.events:
                retried = ConcurrencyError(stream_id, pending.expected, actual)
    if retried and to_write:
        raise retried
    return versions, to_write


Share = tuple[str, bytes, list[int], tuple[int, str]]
"""What a stream gets of a batch: its id, the lines, their lengths, (version, event id) of the last record."""


def encode_batch(
    to_write: list[tuple[Pending, int]], position: int, recorded_at: bytes
) -> tuple[bytes, list[int], list[Share], int]:
    """A batch whose first record gets `position`: (lines, their lengths, the streams' shares, the last position).

    Raises `TooLargeError` and `NumberError`.
    """
    if len(to_write) == 1:
        pending, version = to_write[0]
        count = len(pending.events)
        last = position + count - 1
        # One record is a batch by itself.
        share = _share(pending, version, position, recorded_at, last if count > 1 else 0)
        if len(share[1]) > MAX_LINE:
            _refuse_too_large(share[2])
        if last > MAX_NUMBER or share[3][0] > MAX_NUMBER:
            _refuse_beyond(last, [share])
        return share[1], share[2], [share], last
    last = position - 1 + sum(len(pending.events) for pending, _ in to_write)
    shares: list[Share] = []
    for pending, version in to_write:
        shares.append(_share(pending, version, position, recorded_at, last))
        position += len(pending.events)
    lengths = [length for share in shares for length in share[2]]
    _refuse_too_large(lengths)
    _refuse_beyond(last, shares)
    return b"".join([share[1] for share in shares]), lengths, shares, last


def _refuse_too_large(lengths: list[int]) -> None:
    for what, size, limit in (("event", max(lengths), MAX_LINE), ("batch", sum(lengths), MAX_BATCH)):
        if size > limit:
            raise TooLargeError(what, size, limit)


def _refuse_beyond(last: int, shares: list[Share]) -> None:
    for stream_id, _, _, (version, _) in shares:
        if version > MAX_NUMBER:
            raise NumberError("stream_version", version, MAX_NUMBER, stream_id)
    if last > MAX_NUMBER:
        raise NumberError("position", last, MAX_NUMBER)


def _share(pending: Pending, version: int, position: int, recorded_at: bytes, batch_end: int) -> Share:
    stream_id = pending.stream_id
    lines, last_id = encode_records(
        position, stream_id, version, pending.events, recorded_at, pending.metadata, batch_end
    )
    if len(lines) == 1:
        return stream_id, lines[0], [len(lines[0])], (version, last_id)
    return stream_id, b"".join(lines), list(map(len, lines)), (version + len(lines) - 1, last_id)


_second = (-1, b"")


def now() -> bytes:
    """The time as RFC 3339 in UTC with microseconds."""
    global _second
    seconds, micros = divmod(time.time_ns() // 1000, 1_000_000)
    known, text = _second
    if seconds != known:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        _second = (seconds, text)
    return b"%b.%06dZ" % (text, micros)
