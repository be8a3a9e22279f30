"""One line of a log: encoding, decoding and checksum. No other module knows how a line is written.

docs/format.md has the grammar. A line ends in `,"crc":"9ae0daaf"}` and a newline; the checksum covers everything before
that. `position`, `stream_id` and `stream_version` come first, so they can be found without a parser.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import count, repeat
from struct import pack

import msgspec

from hangarlog.record.checksum import crc32
from hangarlog.record.envelope import Encoded, Envelope, LineError, Place
from hangarlog.record.event_id import new_event_id
from hangarlog.record.nesting import MAX_NESTING, nesting

MAX_LINE_BYTES = 256 << 20
"""The most bytes of a line, with its newline. An append refuses a longer line; in a file it is damage."""

MIN_LINE_BYTES = 64
"""Every line has more bytes than this."""

TOO_LONG = b"(a line of more than %d bytes)" % MAX_LINE_BYTES
"""Readers return this in place of a longer line. It is not a record nor the start of one. Zeros may follow."""

HEAD = b'{"position":'
"""The bytes that every line begins with."""
HEAD_BYTES = len(HEAD)
_NULL = b"null"


class StoredEnvelope(Envelope, gc=False, frozen=True, kw_only=True):
    """An envelope as stored: with the checksum of its line, eight hexadecimal digits."""

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
    events: Sequence[Encoded],
    recorded_at: bytes,
    metadata: bytes | None = None,
    batch_end: int = 0,
    cursor: bytes = b"",
) -> tuple[list[bytes], Sequence[str]]:
    """Encode consecutive events of one stream. Return (the lines with their newlines, the ids of the events).

    `recorded_at` is the time of events that have none of their own, `metadata` (JSON) the metadata of those. `cursor`
    is JSON too: the move that each record carries.
    """
    end = b',"batch_end":%d' % batch_end if batch_end else b""
    if cursor:
        end += b',"cursor":%b' % cursor
    options = end if metadata is None else _options(metadata, end)
    template = _template(stream_id)
    if len(events) == 1:
        event_type, event_id, data, own_time, own_metadata = events[0]
        if event_id is None:
            event_id = new_event_id()
        time = recorded_at if own_time is None else own_time.encode()
        if own_metadata is not None:
            options = _options(own_metadata, end)
        body = template % (position, stream_version, _name(event_type), _encode(event_id), time, options, data)
        return [b'%b,"crc":"%08x"}\n' % (body, crc32(body))], [event_id]
    # The same for many events at once: a loop in Python would take half as long again.
    types, own_ids, datas, own_times, metadatas = zip(*events, strict=True)
    ids = [new_event_id() if event_id is None else event_id for event_id in own_ids] if None in own_ids else own_ids
    names: Iterable[bytes] = repeat(_name(types[0])) if len(set(types)) == 1 else map(_name, types)
    columns: list[Iterable[object]] = [count(position), count(stream_version), names, _encode_lines(ids).split(b"\n")]
    if set(own_times) == set(metadatas) == {None}:  # Constant parts go into the template.
        template = template[: -len(_END)] + b'%b"%b,"data":%%b' % (recorded_at, options.replace(b"%", b"%%"))
    else:
        columns.append([recorded_at if time is None else time.encode() for time in own_times])
        columns.append([options if own is None else _options(own, end) for own in metadatas])
    bodies = list(map(template.__mod__, zip(*columns, datas, strict=False)))  # `datas` limits the others.
    crcs = pack(f">{len(bodies)}I", *map(crc32, bodies)).hex("\n", 4).encode().split(b"\n")
    return list(map(_LINE.__mod__, zip(bodies, crcs, strict=True))), ids


def _options(metadata: bytes, end: bytes) -> bytes:
    """Return the optional keys of a line with metadata."""
    return b',"metadata":%b%b' % (metadata, end)


_LINE = b'%b,"crc":"%b"}\n'
CRC_BYTES = len(_LINE % (b"", b"00000000")) - 1
"""The bytes of the end of a line, without its newline: `,"crc":"9ae0daaf"}`."""


@lru_cache(maxsize=4096)
def _template(stream_id: str) -> bytes:
    """Return a format string for the lines of a stream, up to their checksum."""
    stream = _encode(stream_id).replace(b"%", b"%%")
    start = b'{"position":%%d,"stream_id":%b,"stream_version":%%d,"event_type":%%b,"event_id":%%b,"recorded_at":"'
    return start % stream + _END


_END = b'%b"%b,"data":%b'


def stream_key(stream_id: str) -> bytes:
    """Return the text between position and version in every line of a stream."""
    return b',"stream_id":%b,"stream_version":' % _encode(stream_id)


@lru_cache(maxsize=4096)
def _name(event_type: str) -> bytes:
    return _encode(event_type)


def stored_crc(line: bytes) -> bytes:
    """Return the checksum that a line, without its newline, ends with; it is not verified."""
    return line[-10:-2]


def read_crc(envelope: StoredEnvelope) -> int:
    """Return the checksum that an envelope was stored with."""
    return int(envelope.crc, 16)


def encode_envelope(envelope: Envelope) -> bytes:
    """Return the line that an envelope was decoded from, with its newline."""
    event = (envelope.event_type, envelope.event_id, bytes(envelope.data), envelope.recorded_at, None)
    (line,), _ = encode_records(
        envelope.position,
        envelope.stream_id,
        envelope.stream_version,
        [event],
        b"",
        envelope.metadata_json,
        envelope.batch_end,
        bytes(envelope.cursor),
    )
    return line


def erased_line(record: Envelope) -> bytes:
    """Return the line that keeps a hidden record's place in its stream without its content, with a newline.

    Its type is empty, and its metadata is null, which no other line has. So only a stream's end takes it for a record.
    """
    return _without_content(record, _NULL)


ERASED_MARK = b"\t"
"""Each erased line of the journal has this byte, and no other line that a store writes: it is found at no cost."""


def erased_in_journal(record: Envelope, marks: int = 1) -> bytes:
    """Return the line that keeps a hidden record's place in the journal without its content, with a newline.

    It has `marks` tabs before its null, and the move of a cursor, if the record carries one.
    """
    return _without_content(record, ERASED_MARK * marks + _NULL, bytes(record.cursor))


def _without_content(record: Envelope, metadata: bytes, cursor: bytes = b"") -> bytes:
    event = ("", record.event_id, b"{}", record.recorded_at, None)
    (line,), _ = encode_records(
        record.position, record.stream_id, record.stream_version, [event], b"", metadata, record.batch_end, cursor
    )
    return line


def is_erased(record: Envelope) -> bool:
    """True if a record was decoded from an erased line."""
    return bytes(record.metadata) == _NULL


def erased_record(line: bytes) -> StoredEnvelope | None:
    """Return the record of an erased line of a stream, given without its newline; None if it is another line."""
    record = decode_record(line) if b'"metadata":null' in line and is_record(line) else None
    return record if record and is_erased(record) else None


def erased_journal_record(line: bytes) -> StoredEnvelope | None:
    """Return the record of an erased line of the journal, given without its newline; None if it is another line."""
    record = decode_record(line) if ERASED_MARK in line and is_record(line) else None
    whole = record and is_erased(record) and erased_in_journal(record, line.count(ERASED_MARK))[:-1] == line
    return record if whole else None


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
    """Decode one line, with or without its newline, whose bytes a checksum has verified. Raises `LineError`."""
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LineError(f"the checksum is right but the line is not a record: {error}") from error
    except RecursionError as error:
        # If the nesting is within bounds, the call stack was full already: the line is good.
        if nesting(line) <= MAX_NESTING + 1:
            raise
        raise LineError(f"it is nested deeper than {MAX_NESTING} levels") from error


LONG_LINE_BYTES = 4 << 10
"""From this size on, looking for a line's payload is faster than decoding the line."""

_DATA = b',"data":'
_MAX_HEAD_BYTES = 64 << 10
_MAX_DATA_KEYS = 4
_decode_any = msgspec.json.Decoder(msgspec.Raw).decode


def payload_at(text: bytes, start: int) -> int:
    """Return where the payload of the line that begins at `start` begins, -1 if its text does not show it at once.

    `,"data":` cannot occur within a JSON string, so only metadata may have it before the payload does.
    """
    at = start
    for _ in range(_MAX_DATA_KEYS):
        at = text.find(_DATA, at + 1, start + _MAX_HEAD_BYTES)
        if at < 0 or text.count(b"{", start, at) == 1 or _is_json(text[start:at] + b"}"):
            return at + len(_DATA) if at >= 0 else -1
    return -1


def _is_json(text: bytes) -> bool:
    try:
        _decode_any(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def decode_long(text: bytes, start: int, stop: int) -> StoredEnvelope:
    """Decode the line from `start` to `stop`, its newline, without a look at its payload, which may be no JSON.

    A checksum has verified the bytes. Raises `LineError`.
    """
    data, end = payload_at(text, start), stop - CRC_BYTES
    if not start < data < end:
        return decode_proved(text[start:stop])
    try:
        envelope = _decode(text[start:data] + b"{}" + text[end:stop])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return decode_proved(text[start:stop])
    return msgspec.structs.replace(envelope, data=msgspec.Raw(memoryview(text)[data:end]))


def decode_proved_lines(text: bytes) -> list[StoredEnvelope]:
    """Decode whole lines, with their newlines, that one checksum has verified together. Raises `LineError`."""
    try:
        return _decoder.decode_lines(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return [decode_proved(line) for line in text.split(b"\n")[:-1]]  # To name the bad line.


def decode_records(lines: list[bytes]) -> list[StoredEnvelope]:
    """Check and decode many lines: `decode_record` of each, but faster. Raises `LineError` about the first bad line."""
    if len(lines) == 1:  # As a follower reads at the end. What follows takes twice as long for it.
        return [decode_record(lines[0])]
    crcs = tuple([crc32(line[:-CRC_BYTES]) for line in lines])
    if b'},"crc":"%08x"}' * len(lines) % crcs == b"".join([line[-CRC_BYTES - 1 :] for line in lines]):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return [_decode(line) for line in lines]
    return [decode_record(line) for line in lines]


def decode_places(lines: list[bytes]) -> list[Place]:
    """Return the places that lines state, without checking the checksums. Raises `LineError`."""
    try:
        return [_decode_place(line) for line in lines]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LineError(f"a line is not a record: {error}") from error


def says_nothing(line: bytes) -> bool:
    """True if a line is blank, or has zeros, as in a page that a power cut took: at a log's end it is a torn tail."""
    return b"\0" in line or not line.strip()


def may_be_torn(rest: bytes) -> bool:
    """True if `rest`, the bytes after the last newline of a file, may be a torn tail."""
    return says_nothing(rest) or HEAD.startswith(rest[: len(HEAD)])


def is_record(line: bytes) -> bool:
    """True if a line, given without its newline, is a whole record."""
    if not line.startswith(HEAD):
        return False  # Faster than an exception: hostile files may hold millions of such lines.
    try:
        decode_record(line)
    except LineError:
        return False
    return True


def why_bad(line: bytes, tail: bytes) -> str:
    """Return why the checksum at the end of a line, `tail`, does not verify it."""
    if not line:
        return "an empty line"
    if line.startswith(TOO_LONG):
        return f"the line is longer than the limit of {MAX_LINE_BYTES} bytes"
    if not line.startswith(HEAD):
        return f"the line does not start with {HEAD.decode()}"
    if not (tail.startswith(b',"crc":"') and tail.endswith(b'"}')):
        return "the line does not end in a checksum"
    if tail == b',"crc":"%08x"}' % crc32(line[:-CRC_BYTES]):
        return "the checksum is right but the line is not a record: the field before it is not an object"
    return f"the checksum is {tail[8:16].decode('ascii', 'replace')}, the bytes have {crc32(line[:-CRC_BYTES]):08x}"
