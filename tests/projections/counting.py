"""Projections that the tests run: they count the tests' events, and would show one that came twice."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hangarlog import Record
from hangarlog.eventstore.base import EventStore
from hangarlog.projections import Projection, SqliteProjection
from hangarlog.testing.events import Counted

LONG = 60.0


class Sums(msgspec.Struct):
    """How many events came, and the sum of their numbers by stream."""

    events: int = 0
    by_stream: dict[str, int] = {}


def add(sums: Sums, record: Record[Counted]) -> None:
    sums.events += 1
    sums.by_stream[record.stream_id] = sums.by_stream.get(record.stream_id, 0) + record.event.number


def sums(name: str = "sums", **options: Any) -> Projection[Sums]:
    return Projection(name, options.pop("apply", add), initial=Sums, **options)


class Running:
    """A projection that runs in a thread for the block. Its error is raised at the end."""

    def __init__(self, projection: Projection[Any] | SqliteProjection, store: EventStore[Any], **options: Any) -> None:
        self.follower = projection.follow(store, **options)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.follower.run()
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(LONG)
        assert not self._thread.is_alive()

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.follower.stop()
        self.join()
        if self.error:
            raise self.error


def append(store: EventStore[Any], *numbers: int, stream_id: str = "a:1") -> int:
    """Append events, in one batch, and return the last position."""
    return store.append_at_end(stream_id, [Counted(number) for number in numbers]).last_position or 0


def create(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE sums (stream_id TEXT PRIMARY KEY, events INTEGER, total INTEGER)")
    connection.execute("CREATE INDEX by_total ON sums (total)")


def insert(connection: sqlite3.Connection, record: Record[Counted]) -> None:
    connection.execute(
        "INSERT INTO sums VALUES (?, 1, ?) "
        "ON CONFLICT DO UPDATE SET events = events + 1, total = total + excluded.total",
        (record.stream_id, record.event.number),
    )


def in_sqlite(
    path: Path, name: str = "sums", apply: Callable[..., object] = insert, **options: Any
) -> SqliteProjection:
    return SqliteProjection(name, path / "model.db", apply, create=create, **options)


def rows(path: Path) -> list[tuple[str, int, int]]:
    connection = sqlite3.connect(path / "model.db")
    try:
        return connection.execute("SELECT * FROM sums ORDER BY stream_id").fetchall()
    finally:
        connection.close()
