"""What a commit is before it has a place: the rule of expected versions, and the lines of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from random import getrandbits

import msgspec

from hangarlog.errors import ConcurrencyError
from hangarlog.record import encode_record, encode_text
from hangarlog.serializer import EncodedEvent

NO_STREAM = -1
"""Expected version of a stream that must not exist yet."""
ANY = -2
"""Expected version that matches whatever the stream holds."""
STREAM_EXISTS = -4
"""Expected version that matches any stream with at least one event."""


class Pending(msgspec.Struct, frozen=True):
    """One stream's share of an append, encoded and checked, not yet placed."""

    stream_id: str
    events: list[EncodedEvent]
    expected: int
    metadata: bytes | None = None
    first_version: int = 0  # Where a new stream begins: above 0 only for the rest of a compacted one that is imported.

    def retried_version(self, actual: int, last_event_id: str, ids_at: Callable[[int, int], list[str]]) -> int | None:
        """Check the expected version against `actual` (-1: no stream), where `last_event_id` is.

        Returns None where the events are to be written, or the version they gave the stream when they were written
        before: an append whose event ids are already at that place is a retry. `ids_at(version, count)` gives the
        event ids stored there, and is asked only where a look at the last one does not settle it.

        Raises:
            ConcurrencyError: neither.
        """
        expected, count = self.expected, len(self.events)
        matches = expected in (actual, ANY) or (expected == STREAM_EXISTS and actual >= 0)
        if not count:
            if not matches:
                raise ConcurrencyError(self.stream_id, expected, actual)
            return actual
        if not matches or expected in (ANY, STREAM_EXISTS):
            first = expected + 1 if expected >= NO_STREAM else actual - count + 1
            last = first + count - 1
            ids = [event.event_id for event in self.events]
            stands = first >= 0 and last <= actual and None not in ids and (last < actual or ids[-1] == last_event_id)
            if stands and ids == ids_at(first, count):
                return last
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


class Placed(msgspec.Struct, gc=False):
    """The share of a stream in a batch, as it is written; `version` and `event_id` are those of its last record."""

    stream_id: str
    data: bytes
    version: int
    event_id: str


def encode_batch(to_write: list[tuple[Pending, int]], position: int, recorded_at: bytes) -> list[Placed]:
    """The lines of a batch whose first record gets `position`."""
    count = sum(len(pending.events) for pending, _ in to_write)
    batch_end = position + count - 1 if count > 1 else 0
    batch = []
    for pending, version in to_write:
        stream_id = encode_text(pending.stream_id)
        lines = []
        for version, event in enumerate(pending.events, version):  # noqa: B020 - the last one is wanted after it
            event_id = event.event_id or new_event_id()
            lines.append(
                encode_record(
                    position,
                    stream_id,
                    version,
                    encode_text(event.event_type),
                    msgspec.json.encode(event_id),
                    recorded_at if event.recorded_at is None else event.recorded_at.encode(),
                    event.data,
                    pending.metadata,
                    batch_end,
                )
            )
            position += 1
        batch.append(Placed(pending.stream_id, b"".join(lines), version, event_id))
    return batch


def new_event_id() -> str:
    """A UUID of version 7 (RFC 9562): milliseconds since 1970, then 74 random bits."""
    random = getrandbits(74)
    value = (
        (time.time_ns() // 1_000_000) << 80
        | 7 << 76
        | (random >> 62) << 64
        | 2 << 62
        | (random & 0x3FFF_FFFF_FFFF_FFFF)
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


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
