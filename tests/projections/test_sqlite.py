"""Projections into a SQLite database of the user's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counting import LONG, Running, append, create, in_sqlite, insert, rows

from hangarlog import FileEventStore, MemoryEventStore, Record
from hangarlog.eventstore.base import EventStore
from hangarlog.projections import ProjectionError, ProjectionVersionError, SqliteProjection
from hangarlog.testing import registered
from hangarlog.testing.events import Counted


@pytest.fixture(autouse=True)
def counted_is_registered() -> Iterator[None]:
    with registered(Counted=Counted):
        yield


@pytest.fixture(params=["file", "memory"])
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore[Any]]:
    with FileEventStore(tmp_path / "store") if request.param == "file" else MemoryEventStore() as store:
        yield store


def test_rows_and_position_are_of_one_transaction(each: EventStore[Any], tmp_path: Path) -> None:
    """A function that fails leaves both as they were before the events since the last save."""

    def refuses(connection: sqlite3.Connection, record: Record[Counted]) -> None:
        insert(connection, record)
        if record.event.number == 3:
            raise ValueError("no luck")

    append(each, 1)
    in_sqlite(tmp_path).run(each, 0)
    append(each, 2, 3)
    with pytest.raises(ProjectionError, match="position 3"):
        in_sqlite(tmp_path, apply=refuses).run(each, 0)
    assert (rows(tmp_path), in_sqlite(tmp_path).position) == ([("a:1", 1, 1)], 1)
    in_sqlite(tmp_path).run(each, 0)
    assert (rows(tmp_path), in_sqlite(tmp_path).position) == ([("a:1", 3, 6)], 3)
    assert each.wait("sums", 3, 0)


def test_a_coroutine_function_is_refused(each: EventStore[Any], tmp_path: Path) -> None:
    """Nobody would await it, and the position would pass its events."""

    async def later(connection: sqlite3.Connection, record: Record[Counted]) -> None:
        raise AssertionError("nobody awaits it")

    append(each, 1)
    with pytest.raises(ProjectionError, match="nobody awaits an async function here"):
        in_sqlite(tmp_path, apply=later).run(each, 0)
    assert in_sqlite(tmp_path).position == 0


def test_a_function_must_not_end_the_transaction(each: EventStore[Any], tmp_path: Path) -> None:
    """Its rows would be there without their position."""

    def commits(connection: sqlite3.Connection, record: Record[Counted]) -> None:
        connection.commit()

    append(each, 1)
    with pytest.raises(ProjectionError, match="must not end the transaction"):
        in_sqlite(tmp_path, apply=commits).run(each, 0)


def test_a_rebuild_replaces_the_tables_with_all_that_belongs_to_them(each: EventStore[Any], tmp_path: Path) -> None:
    """In one transaction; other tables stay. Who has the old version may read until then, and is refused after."""

    def differently(connection: sqlite3.Connection) -> None:
        connection.execute(
            "CREATE TABLE sums "
            "(stream_id TEXT PRIMARY KEY, total INTEGER, half AS (total / 2), n INTEGER) WITHOUT ROWID"
        )
        connection.execute('CREATE TABLE "the ""last""" (number INTEGER)')
        connection.execute("CREATE UNIQUE INDEX by_total ON sums (n)")
        connection.execute("CREATE VIEW halves AS SELECT half FROM sums")
        connection.execute(
            'CREATE TRIGGER counts AFTER INSERT ON sums BEGIN INSERT INTO "the ""last""" VALUES (new.total); END'
        )

    def total(connection: sqlite3.Connection, record: Record[Counted]) -> None:
        connection.execute("INSERT INTO sums VALUES (?, ?, 1)", (record.stream_id, record.event.number))

    append(each, 8)
    in_sqlite(tmp_path).run(each, 0)
    with sqlite3.connect(tmp_path / "model.db") as connection:
        connection.execute("CREATE TABLE others (x)")
        connection.execute("INSERT INTO others VALUES (1)")
    connection.close()
    newer = SqliteProjection("sums", tmp_path / "model.db", total, create=differently, version=2)
    newer.run(each, 0)
    connection = sqlite3.connect(tmp_path / "model.db")
    for query, expected in (
        ("SELECT * FROM sums", [("a:1", 8, 4, 1)]),
        ('SELECT * FROM "the ""last"""', [(8,)]),
        ("SELECT * FROM halves", [(4,)]),
        ("SELECT * FROM others", [(1,)]),
    ):
        assert connection.execute(query).fetchall() == expected
    connection.close()
    with pytest.raises(ProjectionVersionError):
        in_sqlite(tmp_path).run(each, 0)
    assert newer.position == 1


def test_a_rebuild_runs_beside_the_live_tables(each: EventStore[Any], tmp_path: Path) -> None:
    """In the same runner, or in another one; who runs it goes on with the new tables."""
    append(each, *range(300))
    in_sqlite(tmp_path).run(each, 0)
    with Running(in_sqlite(tmp_path), each, rebuild=True):
        assert each.wait("sums", append(each, 1), LONG)
        while in_sqlite(tmp_path)._stored(each)[1] == 0:  # type: ignore[index]
            assert rows(tmp_path) == [("a:1", 301, sum(range(300)) + 1)]
        assert each.wait("sums", append(each, 2), LONG)
    with Running(in_sqlite(tmp_path), each):
        assert each.wait("sums", append(each, 0), LONG)
        in_sqlite(tmp_path).run(each, 0, rebuild=True)
        assert each.wait("sums", append(each, 3), LONG)
        assert rows(tmp_path) == [("a:1", 304, sum(range(300)) + 6)]


def test_rows_of_another_history_are_built_anew(tmp_path: Path) -> None:
    """As when the store was restored from an older backup, and the database was not."""
    for number in (1, 2):
        with FileEventStore(tmp_path / str(number)) as store:
            append(store, number)
            in_sqlite(tmp_path).run(store, 0)
            assert rows(tmp_path) == [("a:1", 1, number)]


def test_two_projections_share_a_database(each: EventStore[Any], tmp_path: Path) -> None:
    """Each has its row, and its tables."""

    def log(connection: sqlite3.Connection, record: Record[Counted]) -> None:
        connection.execute("INSERT INTO log VALUES (?)", (record.position,))

    append(each, 1, 2)
    other = SqliteProjection(
        "log", tmp_path / "model.db", log, create=lambda connection: connection.execute("CREATE TABLE log (n)")
    )
    in_sqlite(tmp_path).run(each, 0)
    other.run(each, 0)
    other.run(each, 0, rebuild=True)
    assert rows(tmp_path) == [("a:1", 2, 3)]
    assert (in_sqlite(tmp_path).position, other.position) == (2, 2)


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="not in memory"):
        SqliteProjection("sums", ":memory:", insert, create=create)
