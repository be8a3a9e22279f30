"""sqlite3 as an event store: one table, WAL, the version check in the transaction."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bench.harness.engine import Conflict, Engine, Session
from bench.harness.payload import event_classes

_TABLE = """CREATE TABLE IF NOT EXISTS events (
    position INTEGER PRIMARY KEY, stream_id TEXT NOT NULL, stream_version INTEGER NOT NULL, event_type TEXT NOT NULL,
    event_id TEXT NOT NULL, recorded_at REAL NOT NULL, data BLOB NOT NULL, UNIQUE (stream_id, stream_version))"""
_INSERT = (
    "INSERT INTO events (stream_id, stream_version, event_type, event_id, recorded_at, data) VALUES (?, ?, ?, ?, ?, ?)"
)
_VERSION = "SELECT MAX(stream_version) FROM events WHERE stream_id = ?"
_STREAM = "SELECT event_type, data FROM events WHERE stream_id = ? ORDER BY stream_version"
_ALL = "SELECT position, stream_id, event_type, data FROM events WHERE position > ? ORDER BY position"
_AT_VERSION = "SELECT event_type, data FROM events WHERE stream_id = ? AND stream_version = ?"
_AT_POSITION = "SELECT event_type, data FROM events WHERE position = ?"


class _Table(Session):
    def __init__(self, folder: str, payload_kind: str, *, durable: bool) -> None:
        path = os.path.join(folder, "events.db")
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=60)
        self.execute = self.connection.execute
        self.execute("PRAGMA journal_mode = WAL")
        self.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self.execute(_TABLE)
        self.encode = msgspec.json.Encoder().encode
        self.decoders: dict[str, Callable[[bytes], Any]] = {
            name: msgspec.json.Decoder(cls).decode for name, cls in event_classes(payload_kind).items()
        }

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        now = time.time()
        self.execute("BEGIN IMMEDIATE")
        try:
            actual = self.version(stream)
            if actual != expected:
                raise Conflict(actual)
            rows = [
                (stream, version, type(event).__name__, event.event_id, now, self.encode(event))
                for version, event in enumerate(events, expected + 1)
            ]
            if len(rows) == 1:
                self.execute(_INSERT, rows[0])
            else:
                self.connection.executemany(_INSERT, rows)
            self.execute("COMMIT")
        except BaseException:
            self.execute("ROLLBACK")
            raise
        return expected + len(events)

    def version(self, stream: str) -> int:
        (version,) = self.execute(_VERSION, (stream,)).fetchone()
        return -1 if version is None else int(version)

    def read_stream(self, stream: str) -> Sequence[Any]:
        decoders = self.decoders
        return [decoders[name](data) for name, data in self.execute(_STREAM, (stream,))]

    def read_all(self) -> int:
        count, decoders = 0, self.decoders
        for _, _, name, data in self.execute(_ALL, (0,)):
            decoders[name](data)
            count += 1
        return count

    def read_new(self, position: int) -> int:
        last = position
        for last, _, name, data in self.execute(_ALL, (position,)):  # noqa: B007 - only the last position matters
            self.decoders[name](data)
        return last

    def read_by_version(self, stream: str, version: int) -> Any:
        name, data = self.execute(_AT_VERSION, (stream, version)).fetchone()
        return self.decoders[name](data)

    def read_by_position(self, position: int) -> Any:
        name, data = self.execute(_AT_POSITION, (position,)).fetchone()
        return self.decoders[name](data)

    def close(self) -> None:
        self.connection.close()


class _Sqlite3(Engine):
    title = "sqlite3"
    settings = (
        "one table with a unique (stream_id, stream_version), WAL, BEGIN IMMEDIATE around the version check and the "
        "insert, synchronous FULL if durable and NORMAL if relaxed, busy_timeout 60 s, payloads by msgspec"
    )

    def version(self) -> str:
        return sqlite3.sqlite_version

    def open(self, target: str, *, durable: bool, variant: str = "", payload_kind: str = "") -> Session:
        return _Table(target, payload_kind, durable=durable)


ENGINE = _Sqlite3()
