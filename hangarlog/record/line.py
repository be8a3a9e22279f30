"""One line of the log: its fields, its bytes, its checksum. Nothing else knows how a line is written.

The grammar is in docs/format.md. A line ends in `,"crc":"9ae0daaf"}` and a newline; the checksum is over everything
before that. `position`, `stream_id` and `stream_version` come first so that they can be found without a parser.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import count, repeat
from struct import pack

import msgspec

from hangarlog.record.checksum import crc32
from hangarlog.record.envelope import EncodedEvent, Envelope, LineError, Place
from hangarlog.record.event_id import new_event_id
from hangarlog.record.nesting import MAX_NESTING, nesting

MAX_LINE_BYTES = 256 << 20
"""Bytes of a line, with its newline. A longer one is refused in an append, and is damage in a file."""

MIN_LINE_BYTES = 64
"""Bytes of a line, and fewer than any record has."""

TOO_LONG = b"(a line of more than %d bytes)" % MAX_LINE_BYTES
"""Stands for a longer line where lines are read: no record, and no beginning of one. Zeros may follow."""

HEAD = b'{"position":'
"""What every line begins with."""
HEAD_BYTES = len(HEAD)


class StoredEnvelope(Envelope, gc=False, frozen=True, kw_only=True):
    """An envelope as a line has it: with its checksum, eight hexadecimal digits."""

    crc: str


_decoder = msgspec.json.Decoder(StoredEnvelope)
_decode = _decoder.decode
_encoder = msgspec.json.Encoder()
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines
_decode_place = msgspec.json.Decoder(Place).decode


def encode_records(
    position: int,
    stream_id: str,
    stream_version: int,
    events: Sequence[EncodedEvent],
    recorded_at: bytes,
    metadata: bytes | None = None,
    batch_end: int = 0,
) -> tuple[list[bytes], str]:
    """(the lines, with their newlines, of events that stand one after the other in a batch; the id of the last).

    `recorded_at` is the time of those that have none of their own; `metadata` is JSON already.
    """
    options = b"" if metadata is None else b',"metadata":%b' % metadata
    if batch_end:
        options += b',"batch_end":%d' % batch_end
    template = _template(stream_id)
    if len(events) == 1:
        event_type, event_id, data, own_time = events[0]
        if event_id is None:
            event_id = new_event_id()
        time = recorded_at if own_time is None else own_time.encode()
        body = template % (position, stream_version, _name(event_type), _encode(event_id), time, options, data)
        return [b'%b,"crc":"%08x"}\n' % (body, crc32(body))], event_id
    # The same for all of a batch at once: a loop in Python would take half as long again.
    types, own_ids, datas, own_times = zip(*events, strict=True)
    ids = [new_event_id() if event_id is None else event_id for event_id in own_ids] if None in own_ids else own_ids
    names: Iterable[bytes] = repeat(_name(types[0])) if len(set(types)) == 1 else map(_name, types)
    columns: list[Iterable[object]] = [count(position), count(stream_version), names, _encode_lines(ids).split(b"\n")]
    if set(own_times) == {None}:  # What is the same in all lines is put in once.
        template = template[: -len(_END)] + b'%b"%b,"data":%%b' % (recorded_at, options.replace(b"%", b"%%"))
    else:
        columns += [recorded_at if time is None else time.encode() for time in own_times], repeat(options)
    bodies = list(map(template.__mod__, zip(*columns, datas, strict=False)))  # There are as many as datas.
    crcs = pack(f">{len(bodies)}I", *map(crc32, bodies)).hex("\n", 4).encode().split(b"\n")
    return list(map(_LINE.__mod__, zip(bodies, crcs, strict=True))), ids[-1]


_LINE = b'%b,"crc":"%b"}\n'
CRC_BYTES = len(_LINE % (b"", b"00000000")) - 1
"""Of a line, without its newline: `,"crc":"9ae0daaf"}`."""


@lru_cache(maxsize=4096)
def _template(stream_id: str) -> bytes:
    """A line up to its checksum, with places for what is not the same in all lines of a stream."""
    stream = _encode(stream_id).replace(b"%", b"%%")
    start = b'{"position":%%d,"stream_id":%b,"stream_version":%%d,"event_type":%%b,"event_id":%%b,"recorded_at":"'
    return start % stream + _END


_END = b'%b"%b,"data":%b'


def stream_key(stream_id: str) -> bytes:
    """The text that a line of a stream has between its position and its version."""
    return b',"stream_id":%b,"stream_version":' % _encode(stream_id)


@lru_cache(maxsize=4096)
def _name(event_type: str) -> bytes:
    return _encode(event_type)


def read_crc(envelope: StoredEnvelope) -> int:
    """The checksum that an envelope was stored with."""
    return int(envelope.crc, 16)


def encode_envelope(envelope: Envelope) -> bytes:
    """The line that an envelope was decoded from, with its newline."""
    event = (envelope.event_type, envelope.event_id, bytes(envelope.data), envelope.recorded_at)
    (line,), _ = encode_records(
        envelope.position,
        envelope.stream_id,
        envelope.stream_version,
        [event],
        b"",
        envelope.metadata_json,
        envelope.batch_end,
    )
    return line


def decode_record(line: bytes) -> StoredEnvelope:
    """Check and decode one line, given without its newline.

    Raises:
        LineError: the checksum does not match, or the line is not a record.
    """
    tail = line[-CRC_BYTES - 1 :]
    if b'},"crc":"%08x"}' % crc32(line[:-CRC_BYTES]) != tail:
        raise LineError(why_bad(line, tail[1:]))
    return decode_proved(line)


def decode_proved(line: bytes) -> StoredEnvelope:
    """Decode one line, with or without its newline, whose bytes a checksum has proved. Raises `LineError`."""
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LineError(f"the checksum is right but the line is not a record: {error}") from error
    except RecursionError as error:
        # Within bounds it is the caller who is deep in calls: no reason to call a good line bad.
        if nesting(line) <= MAX_NESTING + 1:
            raise
        raise LineError(f"it is nested deeper than {MAX_NESTING} levels") from error


def decode_proved_lines(text: bytes) -> list[StoredEnvelope]:
    """Decode whole lines, with their newlines, that a checksum has proved together. Raises `LineError`."""
    try:
        return _decoder.decode_lines(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return [decode_proved(line) for line in text.split(b"\n")[:-1]]  # So that the line can be named.


def decode_records(lines: list[bytes]) -> list[StoredEnvelope]:
    """Check and decode many lines, as `decode_record` does each, in less time. Raises `LineError` about the first."""
    crcs = tuple([crc32(line[:-CRC_BYTES]) for line in lines])
    if b'},"crc":"%08x"}' * len(lines) % crcs == b"".join([line[-CRC_BYTES - 1 :] for line in lines]):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return [_decode(line) for line in lines]
    return [decode_record(line) for line in lines]


def decode_places(lines: list[bytes]) -> list[Place]:
    """Where lines say that they belong, whether their checksums match or not. Raises `LineError`."""
    try:
        return [_decode_place(line) for line in lines]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LineError(f"a line is not a record: {error}") from error


def may_be_torn(rest: bytes) -> bool:
    """Whether what follows the last newline of a file may be the beginning of a record that a crash has cut short."""
    return b"\0" in rest or HEAD.startswith(rest[: len(HEAD)])


def is_record(line: bytes) -> bool:
    """Whether a line, given without its newline, is a whole record."""
    if not line.startswith(HEAD):
        return False  # To raise and catch an error takes long, where somebody has put millions of other lines.
    try:
        decode_record(line)
    except LineError:
        return False
    return True


def why_bad(line: bytes, tail: bytes) -> str:
    """Why a line that ends in `tail` is not proved by its checksum."""
    if not line:
        return "an empty line"
    if line.startswith(TOO_LONG):
        return f"the line is longer than the {MAX_LINE_BYTES} bytes that one may have"
    if not line.startswith(HEAD):
        return f"the line does not start with {HEAD.decode()}"
    if not (tail.startswith(b',"crc":"') and tail.endswith(b'"}')):
        return "the line does not end in a checksum"
    if tail == b',"crc":"%08x"}' % crc32(line[:-CRC_BYTES]):
        return "the checksum is right but the line is not a record: no object stands before it"
    return f"the checksum is {tail[8:16].decode('ascii', 'replace')}, the bytes have {crc32(line[:-CRC_BYTES]):08x}"
