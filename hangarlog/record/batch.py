"""Batches: the records of one append, which are committed together or not at all."""

from __future__ import annotations

import msgspec

from hangarlog.errors import NumberError, TooLargeError
from hangarlog.record.cursor_move import CursorMove, encode_move
from hangarlog.record.envelope import MAX_NUMBER, EncodedEvent
from hangarlog.record.line import MAX_LINE_BYTES, encode_records

MAX_BATCH_BYTES = 1 << 30
"""The most bytes of a batch. Appended to a full segment, it still ends within an index's 32-bit offsets."""


class Pending(msgspec.Struct, frozen=True):
    """One stream's part of an append: encoded and checked, but without position and version yet."""

    stream_id: str
    events: list[EncodedEvent]
    expected: int
    metadata: bytes | None = None
    first_version: int = 0  # The first version of a new stream: above 0 only when a compacted stream is imported.
    retry: bool = True  # False: never take it for a retry, whatever its event ids.
    cursor: CursorMove | None = None  # A move that the last record carries.


StreamShare = tuple[str, bytes, list[int], tuple[int, str]]
"""One stream's part of a batch: stream id, lines, their lengths in bytes, (version, event id) of the last record."""


def encode_batch(
    to_write: list[tuple[Pending, int]], position: int, recorded_at: bytes
) -> tuple[bytes, list[int], list[StreamShare], int]:
    """Encode a batch whose first record gets `position`. `to_write` has (pending, its first version).

    Return (lines, their lengths in bytes, each stream's share, the last position). Raises `TooLargeError` and
    `NumberError`.
    """
    if len(to_write) == 1:
        pending, version = to_write[0]
        count = len(pending.events)
        last = position + count - 1
        # A single record needs no `batch_end`.
        share = _share(pending, version, position, recorded_at, last if count > 1 else 0)
        if len(share[1]) > MAX_LINE_BYTES:
            _refuse_too_large(share[2])
        if last > MAX_NUMBER or share[3][0] > MAX_NUMBER:
            _refuse_beyond(last, [share])
        return share[1], share[2], [share], last
    last = position - 1 + sum(len(pending.events) for pending, _ in to_write)
    shares: list[StreamShare] = []
    for pending, version in to_write:
        shares.append(_share(pending, version, position, recorded_at, last))
        position += len(pending.events)
    lengths = [length for share in shares for length in share[2]]
    _refuse_too_large(lengths)
    _refuse_beyond(last, shares)
    return b"".join([share[1] for share in shares]), lengths, shares, last


def _refuse_too_large(lengths: list[int]) -> None:
    for what, size, limit in (("event", max(lengths), MAX_LINE_BYTES), ("batch", sum(lengths), MAX_BATCH_BYTES)):
        if size > limit:
            raise TooLargeError(what, size, limit)


def _refuse_beyond(last: int, shares: list[StreamShare]) -> None:
    for stream_id, _, _, (version, _) in shares:
        if version > MAX_NUMBER:
            raise NumberError("stream_version", version, MAX_NUMBER, stream_id)
    if last > MAX_NUMBER:
        raise NumberError("position", last, MAX_NUMBER)


def _share(pending: Pending, version: int, position: int, recorded_at: bytes, batch_end: int) -> StreamShare:
    stream_id, events, lines = pending.stream_id, pending.events, list[bytes]()
    if pending.cursor:
        if len(events) > 1:
            lines, _ = encode_records(
                position, stream_id, version, events[:-1], recorded_at, pending.metadata, batch_end
            )
        before, move = len(events) - 1, encode_move(pending.cursor)
        last, last_id = encode_records(
            position + before, stream_id, version + before, events[-1:], recorded_at, pending.metadata, batch_end, move
        )
        lines += last
    else:
        lines, last_id = encode_records(position, stream_id, version, events, recorded_at, pending.metadata, batch_end)
    if len(lines) == 1:
        return stream_id, lines[0], [len(lines[0])], (version, last_id)
    return stream_id, b"".join(lines), list(map(len, lines)), (version + len(lines) - 1, last_id)
