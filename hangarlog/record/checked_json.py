"""Small JSON files whose last key is a checksum over everything before it."""

from __future__ import annotations

import msgspec

from hangarlog.record.checksum import crc32
from hangarlog.record.envelope import LineError
from hangarlog.record.line import CRC_BYTES


def with_crc(value: object) -> bytes:
    """Return an object as JSON with a checksum as its last key, and a newline."""
    body = msgspec.json.encode(value)[:-1]
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


def without_crc(content: bytes) -> bytes:
    """Check the content of such a file and return it without its newline. Raises `LineError` if it is damaged."""
    line = content.removesuffix(b"\n")
    tail = line[-CRC_BYTES:]
    if b',"crc":"%08x"}' % crc32(line[:-CRC_BYTES]) != tail:
        raise LineError("the checksum does not match")
    return line
