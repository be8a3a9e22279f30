"""A line proves itself: whatever is stored comes back, and whatever is changed is noticed."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangarlog.record.envelope import LineError
from hangarlog.record.line import decode_record, encode_envelope, encode_records

texts = st.text(st.characters(exclude_categories=["Cs"]))
payloads = st.dictionaries(texts, st.recursive(st.none() | st.integers(-(2**63), 2**63 - 1) | texts, st.lists))


@given(st.integers(1, 2**53 - 2), texts, st.integers(0, 2**53 - 1), texts, texts, payloads, st.none() | payloads)
def test_a_record_is_one_line_that_comes_back_whole(
    position: int,
    stream_id: str,
    version: int,
    event_type: str,
    event_id: str,
    data: dict[str, object],
    metadata: dict[str, object] | None,
) -> None:
    encode = msgspec.json.encode
    (line,), ids = encode_records(
        position,
        stream_id,
        version,
        [(event_type, event_id, encode(data), None, None)],
        b"2026-01-01T00:00:00.000000Z",
        None if metadata is None else encode(metadata),
        position + 1,
    )
    assert ids == [event_id]
    assert line.count(b"\n") == 1
    envelope = decode_record(line[:-1])
    assert (envelope.position, envelope.stream_id, envelope.stream_version) == (position, stream_id, version)
    assert (envelope.event_type, envelope.event_id, envelope.batch_end) == (event_type, event_id, position + 1)
    assert msgspec.json.decode(envelope.data) == data
    assert encode_envelope(envelope) == line
    plain = json.loads(line)
    assert plain["data"] == data
    assert plain.get("metadata") == metadata


def test_every_flipped_bit_removed_byte_and_cut_is_noticed() -> None:
    """In a line of the usual size, at every place."""
    event = ("ProviderStarted", "0199", b'{"_version":1,"a":"\\u00e9"}', None, None)
    lines, _ = encode_records(17, "provider:math", 3, [event], b"2026-01-01T00:00:00.000000Z")
    line = lines[0][:-1]
    decode_record(line)
    changed = [line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 :] for at in range(len(line)) for bit in range(8)]
    changed += [line[:at] + line[at + 1 :] for at in range(len(line))]
    changed += [line[:at] for at in range(len(line))]
    changed += [
        line[:at] + bytes([value]) + line[at + 1 :]
        for at in range(len(line))
        for value in (0, 10, 255)
        if line[at] != value
    ]
    for bad in changed:
        with pytest.raises(LineError):
            decode_record(bad)


def test_a_right_checksum_over_something_else_is_no_record() -> None:
    from zlib import crc32

    for body in (b"{", b'{"position":1', b'{"position":"1","stream_id":1', b'{"position":1,"data":' + b"[" * 3000):
        with pytest.raises(LineError):
            decode_record(b'%b,"crc":"%08x"}' % (body, crc32(body)))
