"""Lines of records, made by hand: their checksums are right, whatever is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

from hangarlog import EventSerializer, FileEventStore

TIME = '"2026-01-01T00:00:00.000000Z"'


def line(position: object, **fields: str | bytes) -> bytes:
    """A line with a right checksum of values that are JSON texts already; a key may be named twice as `key__`."""
    values: dict[str, Any] = {
        "position": str(position),
        "stream_id": '"a:1"',
        "stream_version": str(int(str(position)) - 1) if str(position).isdigit() and len(str(position)) < 9 else "1",
        "event_type": '"T"',
        "event_id": f'"e{position}"',
        "recorded_at": TIME,
        **{key: value for key, value in fields.items() if key not in ("data", "data__")},
        **{key: fields.get(key, '{"_version":1}') for key in ("data", "data__") if key == "data" or key in fields},
    }
    parts = [
        b'"%b":%b' % (key.rstrip("_").encode(), value if isinstance(value, bytes) else value.encode())
        for key, value in values.items()
    ]
    body = b"{" + b",".join(parts)
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


def ends_otherwise(key: str, value: str) -> bytes:
    body = line(2).rpartition(b',"crc"')[0] + f',"{key}":{value}'.encode()
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


def opened(path: Path) -> FileEventStore:
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), durability="relaxed")
