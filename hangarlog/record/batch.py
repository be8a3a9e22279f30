"""Batches: the records of one append, which are committed together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from hangarlog.errors import HangarlogError, NumberError, TooLargeError
from hangarlog.record.cursor_move import CursorMove, encode_move
from hangarlog.record.envelope import MAX_NUMBER, Encoded
from hangarlog.record.line import MAX_LINE_BYTES, encode_records

MAX_BATCH_BYTES = 1 << 30
"""The most bytes of a batch. Appended to a full segment, it still ends within an index's 32-bit offsets."""


class Pending(msgspec.Struct, frozen=True):
    """One stream's part of an append: encoded and checked, but without position and version yet."""

    stream_id: str
    events: list[Encoded]
    expected: int
    metadata: bytes | None = None
    first_version: int = 0  # The first version of a new stream: above 0 only when a compacted stream is imported.
    retry: bool = True  # False: never take it for a retry, whatever its event ids.
    idempotent: bool = False  # Its ids are looked for in the whole stream. Then `retry` is False.
    cursor: CursorMove | None = None  # A move that the last record carries.


class StreamShare(msgspec.Struct, gc=False):
    """One stream's part of a batch. `lengths` are those of its lines, in bytes, `version` that of its last record."""

    stream_id: str
    data: bytes
    lengths: list[int]
    version: int
    first_position: int
    last_position: int
    ids: Sequence[str]


EncodedBatch = tuple[bytes, list[int], list[StreamShare], int]
"""Lines, their lengths in bytes, each stream's share, the last position."""


def encode_batch(to_write: list[tuple[Pending, int]], position: int, recorded_at: bytes) -> EncodedBatch:
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
        if len(share.data) > MAX_LINE_BYTES:
            _refuse_too_large(share.lengths)
        if last > MAX_NUMBER or share.version > MAX_NUMBER:
            _refuse_beyond(last, [share])
        return share.data, share.lengths, [share], last
    last = position - 1 + sum(len(pending.events) for pending, _ in to_write)
    shares: list[StreamShare] = []
    for pending, version in to_write:
        shares.append(_share(pending, version, position, recorded_at, last))
        position += len(pending.events)
    lengths = [length for share in shares for length in share.lengths]
    _refuse_too_large(lengths)
    _refuse_beyond(last, shares)
    return b"".join([share.data for share in shares]), lengths, _joined(shares), last


def encode_batches(
    batches: Iterable[list[tuple[Pending, int]]], position: int, recorded_at: bytes, room: int
) -> tuple[EncodedBatch, list[int]]:
    """Encode batches one after the other, until their lines take `room` bytes, or one cannot be encoded.

    Return (what `encode_batch` returns, for all of them; the first position of each). Raises the error of the first.
    """
    texts, lengths, shares, firsts = list[bytes](), list[int](), list[StreamShare](), list[int]()
    size, last = 0, position - 1
    try:
        for batch in batches:
            text, its_lengths, its_shares, its_last = encode_batch(batch, last + 1, recorded_at)
            firsts.append(last + 1)
            texts.append(text)
            lengths += its_lengths
            shares += its_shares
            last, size = its_last, size + len(text)
            if size >= room:
                break
    except HangarlogError:
        if not firsts:
            raise
    return (b"".join(texts), lengths, _joined(shares), last), firsts


def _joined(shares: list[StreamShare]) -> list[StreamShare]:
    """Join the shares of a stream that is named more than once."""
    of_stream: dict[str, list[StreamShare]] = {}
    for share in shares:
        of_stream.setdefault(share.stream_id, []).append(share)
    return [each[0] if len(each) == 1 else _as_one(each) for each in of_stream.values()]


def _as_one(shares: list[StreamShare]) -> StreamShare:
    first, last = shares[0], shares[-1]
    return StreamShare(
        first.stream_id,
        b"".join([share.data for share in shares]),
        [length for share in shares for length in share.lengths],
        last.version,
        first.first_position,
        last.last_position,
        [event_id for share in shares for event_id in share.ids],
    )


def _refuse_too_large(lengths: list[int]) -> None:
    for what, size, limit in (("event", max(lengths), MAX_LINE_BYTES), ("batch", sum(lengths), MAX_BATCH_BYTES)):
        if size > limit:
            raise TooLargeError(what, size, limit)


def _refuse_beyond(last: int, shares: list[StreamShare]) -> None:
    for share in shares:
        if share.version > MAX_NUMBER:
            raise NumberError("stream_version", share.version, MAX_NUMBER, share.stream_id)
    if last > MAX_NUMBER:
        raise NumberError("position", last, MAX_NUMBER)


def _share(pending: Pending, version: int, position: int, recorded_at: bytes, batch_end: int) -> StreamShare:
    stream_id = pending.stream_id
    lines, ids = (
        encode_records(position, stream_id, version, pending.events, recorded_at, pending.metadata, batch_end)
        if pending.cursor is None
        else _carrying(pending, encode_move(pending.cursor), version, position, recorded_at, batch_end)
    )
    if len(lines) == 1:
        return StreamShare(stream_id, lines[0], [len(lines[0])], version, position, position, ids)
    last = len(lines) - 1
    return StreamShare(
        stream_id, b"".join(lines), list(map(len, lines)), version + last, position, position + last, ids
    )


def _carrying(
    pending: Pending, move: bytes, version: int, position: int, recorded_at: bytes, batch_end: int
) -> tuple[list[bytes], Sequence[str]]:
    """Encode the records of a stream, the last of which carries the move of a cursor."""
    stream_id, metadata, before = pending.stream_id, pending.metadata, len(pending.events) - 1
    lines, ids = list[bytes](), list[str]()
    for events, cursor in ((pending.events[:before], b""), (pending.events[before:], move)):
        if events:
            place = (position + len(lines), stream_id, version + len(lines))
            more, more_ids = encode_records(*place, events, recorded_at, metadata, batch_end, cursor)
            lines += more
            ids += more_ids
    return lines, ids
