"""Events as messages: the body is the line's JSON, the headers say its place.

The number of a message in its JetStream stream is the event's position. It is known only when the server has stored
it, so the line has the event's place in its append there, from 1 on, and the size of the append as `batch_end`.
Reading puts the positions in. The checksum covers the line as it was written.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import uuid4

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.jetstream.subjects import stream_id_of, stream_tokens, token
from hangarlog.jetstream.wire import Message, Outgoing, head_of
from hangarlog.record.batch import Pending, StreamShare, encode_batch
from hangarlog.record.envelope import Envelope, LineError
from hangarlog.record.line import decode_record
from hangarlog.record.timestamp import now

VERSION, EVENT_ID, FIRST, MOVE = "Hl-Version", "Hl-Event-Id", "Hl-First", "Hl-Move"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"


class End(NamedTuple):
    """The last event of a stream: its version, id and position; `first` is the version that the stream began with.

    A new stream has version -1 and position 0; `first` is then the version that it will begin with.
    """

    version: int
    event_id: str
    position: int
    first: int = 0


NO_END = End(-1, "", 0)


def encode(
    prefix: str, to_write: list[tuple[Pending, int]], ends: dict[str, End], move: tuple[str, str] | None
) -> tuple[list[Outgoing], list[StreamShare]]:
    """Return the messages of an append, and each stream's share, with positions from 1 on.

    Several messages are a batch: the server stores all or none.

    `move` is (a stream, the id of the cursor's move that is decided by the stream's first message of this append).
    Raises what `encode_batch` raises.
    """
    text, _, shares, _ = encode_batch(to_write, 1, now())
    ids = {share.stream_id: iter(share.ids) for share in shares}
    lines = iter(text.split(b"\n"))
    messages, begun, total = list[Outgoing](), set[str](), sum(len(pending.events) for pending, _ in to_write)
    batch = uuid4().hex if total > 1 else ""
    for pending, version in to_write:
        stream_id = pending.stream_id
        subject, end = f"{prefix}{stream_tokens(stream_id)}", ends[stream_id]
        for number in range(len(pending.events)):
            headers = {VERSION: str(version + number), EVENT_ID: token(next(ids[stream_id]))}
            if end.first:
                headers[FIRST] = str(end.first)
            if stream_id not in begun:
                begun.add(stream_id)
                headers[EXPECTED] = str(end.position)
                if move and move[0] == stream_id:
                    headers[MOVE] = move[1]
            if batch:
                headers["Nats-Batch-Id"], headers["Nats-Batch-Sequence"] = batch, str(len(messages) + 1)
                if len(messages) + 1 == total:
                    headers["Nats-Batch-Commit"] = "1"
            messages.append(Outgoing(subject, head_of(headers), next(lines)))
    return messages, shares


def results_of(shares: list[StreamShare], last: int, total: int) -> dict[str, AppendResult]:
    """Return what an append of `total` events returns whose last event has position `last`."""
    before = last - total
    return {
        share.stream_id: AppendResult(
            share.version, before + share.first_position, before + share.last_position, share.ids, True
        )
        for share in shares
    }


def decode(message: Message, path: str) -> Envelope:
    """Return the event of a message. Raises `CorruptionError` if its line is not as it was written."""
    try:
        line = decode_record(message.data)
        place = line.position
        position = message.seq
        if line.stream_version != version_of(message) or stream_tokens(line.stream_id) != ".".join(
            message.subject.split(".")[-2:]
        ):
            raise LineError("its header or its subject is that of another event")
    except (LineError, ValueError) as error:
        raise damage(path, message, str(error)) from error
    return msgspec.structs.replace(
        line, position=position, batch_end=position - place + line.batch_end if line.batch_end else 0
    )


def version_of(message: Message) -> int:
    """Return the version that a message's header states, -1 if it has none."""
    text = message.headers.get(VERSION, "")
    return int(text) if text.isdecimal() else -1


def end_of(message: Message, path: str) -> End:
    """Return the end of a stream whose last message this is. Raises `CorruptionError`."""
    envelope, first = decode(message, path), message.headers.get(FIRST, "0")
    return End(envelope.stream_version, envelope.event_id, envelope.position, int(first) if first.isdecimal() else 0)


def damage(path: str, message: Message, cause: str) -> CorruptionError:
    """Return the error for a message that is not as it was written."""
    try:
        stream_id: str | None = stream_id_of(message.subject)
    except ValueError:
        stream_id = None
    version = version_of(message)
    return CorruptionError(
        path, message.subject, 0, cause, message.seq, stream_id, version if version >= 0 else None, mendable=False
    )


def missing(
    path: str, cause: str, position: int | None = None, stream_id: str | None = None, version: int | None = None
) -> CorruptionError:
    """Return the error for an event that must be there and is not."""
    return CorruptionError(path, "JetStream", 0, cause, position, stream_id, version, mendable=False)
