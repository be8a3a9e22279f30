"""A projection into a SQLite database of the user's: its rows and its position change in one transaction."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from typing import Any

from hangarlog.eventstore.arguments import refuse_awaitable
from hangarlog.eventstore.record import Record
from hangarlog.projections.definition import AnyStore, Definition, Filters, Model, StoredModel
from hangarlog.projections.errors import ProjectionStateError
from hangarlog.projections.follower import Follower
from hangarlog.projections.rebuilding import Progress
from hangarlog.projections.saved import is_of_history
from hangarlog.record.timestamp import now
from hangarlog.system.filesystem import FileSystem

Apply = Callable[[sqlite3.Connection, Record[Any]], object]
Connect = Callable[[str], sqlite3.Connection]

_TABLE = "hangarlog_projections"
_CREATE = (
    f"CREATE TABLE IF NOT EXISTS {_TABLE} (name TEXT PRIMARY KEY, version INTEGER NOT NULL, "
    "generation INTEGER NOT NULL, position INTEGER NOT NULL, event_id TEXT NOT NULL, saved_at TEXT NOT NULL)"
)
_BUSY_SECONDS = 60.0


class SqliteProjection(Definition):
    """Writes what follows from events into tables of a SQLite database.

    Args:
        name: of its row in the table `hangarlog_projections`, and of its cursor.
        database: the path of the database.
        apply: called with (connection, record) for each event, in a transaction, which it must not end.
        create: called with the connection to create its tables, in a transaction; they must be this projection's only.
        connect: opens a connection to a path, by default `sqlite3.connect`.
        version: raise it when `apply` or `create` changes: the tables are then built anew, in a file beside the
            database, and replaced in one transaction.
        stream_id, category, not_category, event_types: which events to apply, as in `EventStore.subscribe`.
        every_events, every_seconds: while many events come, a transaction ends after so many, or so much time. It also
            ends whenever there are no more.
    """

    def __init__(
        self,
        name: str,
        database: str | os.PathLike[str],
        apply: Apply,
        *,
        create: Callable[[sqlite3.Connection], object],
        connect: Connect | None = None,
        version: int = 1,
        stream_id: str | None = None,
        category: str | Collection[str] | None = None,
        not_category: str | Collection[str] | None = None,
        event_types: str | type | Collection[str | type] | None = None,
        every_events: int = 1000,
        every_seconds: float = 1.0,
    ) -> None:
        super().__init__(
            name, version, Filters(stream_id, category, not_category, event_types), every_events, every_seconds
        )
        path = os.fspath(database)
        if path == ":memory:" or not path:
            raise ValueError("a projection needs a database in a file, not in memory")
        self.database = os.path.abspath(path)
        self._apply, self._create, self._connect = apply, create, connect
        self._beside = f"{self.database}-{_plain(name)}.rebuilding"

    def __repr__(self) -> str:
        return f"<SqliteProjection {self.name!r}, version {self.version}, in {self.database}>"

    @property
    def position(self) -> int:
        """The position that is stored in the database; 0 if none is."""
        with self._opened(self.database) as connection:
            row = self._row(connection)
        return row[2] if row else 0

    def follow(
        self,
        store: AnyStore,
        *,
        rebuild: bool = False,
        standby: bool = False,
        progress: Progress | None = None,
    ) -> Follower:
        """As `Projection.follow`."""
        return Follower(self, store, rebuild=rebuild, standby=standby, progress=progress)

    def run(self, store: AnyStore, timeout: float | None = None, **options: Any) -> None:
        """As `Projection.run`."""
        self.follow(store, **options).run(timeout)

    # What the runner needs

    def _connected(self, path: str) -> sqlite3.Connection:
        connection = self._connect(path) if self._connect else sqlite3.connect(path, timeout=_BUSY_SECONDS)
        connection.isolation_level = None  # Transactions begin and end here.
        return connection

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(self._connected(path)) as connection:
            yield connection

    def _row(self, connection: sqlite3.Connection) -> tuple[int, int, int, str] | None:
        """Return (version, generation, position, event id) as the database has them."""
        found = connection.execute(
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (_TABLE,)
        ).fetchone()
        if not found:
            return None
        columns = "version, generation, position, event_id"
        row = connection.execute(f"SELECT {columns} FROM {_TABLE} WHERE name = ?", (self.name,)).fetchone()
        return tuple(row) if row else None

    def _stored(self, store: AnyStore) -> StoredModel | None:
        with self._opened(self.database) as connection:
            row = self._row(connection)
        if row is None:
            return None
        version, generation, position, event_id = row
        return StoredModel(version, generation, position, is_of_history(store, position, event_id))

    def _open_live(self, store: AnyStore) -> Model:
        model = self._open_model(self.database, 0)
        if os.path.exists(self._beside):
            with self._opened(self._beside) as beside:
                row = self._row(beside)
            if row and row[1] <= model.generation:  # A runner was killed after it had put the tables in place.
                self._remove_beside()
        return model

    def _open_model(self, path: str, generation: int) -> Model:
        connection = self._connected(path)
        try:
            row = self._row(connection)
            if row is None:
                with _transaction(connection):
                    connection.execute(_CREATE)
                    self._create(connection)
                    self._refuse_ended(connection)
                    row = (self.version, generation, 0, "")
                    connection.execute(
                        f"INSERT INTO {_TABLE} VALUES (?, ?, ?, ?, ?, ?)", (self.name, *row, now().decode())
                    )
            return _SqliteModel(self, connection, row[1], row[2])
        except BaseException:
            connection.close()
            raise

    def _refuse_ended(self, connection: sqlite3.Connection) -> None:
        if not connection.in_transaction:
            raise ProjectionStateError(self.name, "was committed by its function; it must not end the transaction")

    def _unfinished(self) -> bool:
        if not os.path.exists(self._beside):
            return False
        with self._opened(self.database) as live, self._opened(self._beside) as beside:
            row, found = self._row(live), self._row(beside)
        return bool(row and found and found[0] == self.version and found[1] > row[1])

    def _has_unfinished(self, store: AnyStore) -> bool:
        return self._unfinished()

    def _open_rebuild(self, store: AnyStore, *, anew: bool) -> Model:
        stored = self._stored(store)
        if anew or not self._unfinished() or not self._beside_is_usable(store):
            self._remove_beside()
        return self._open_model(self._beside, stored.generation + 1 if stored else 0)

    def _beside_is_usable(self, store: AnyStore) -> bool:
        with self._opened(self._beside) as beside:
            row = self._row(beside)
        return row is not None and is_of_history(store, row[2], row[3])

    def _remove_beside(self) -> None:
        filesystem = FileSystem()
        for suffix in ("-wal", "-shm", "-journal", ""):
            filesystem.remove(self._beside + suffix)

    def _put_in_place(self, store: AnyStore, model: Model, position: int, event_id: str) -> bool:
        model.save(position, event_id, sync=True)
        with self._opened(self.database) as connection:
            connection.execute("ATTACH ? AS rebuilt", (self._beside,))
            with _transaction(connection):
                connection.execute(_CREATE)
                row = self._row(connection)
                went_on = row is not None and row[2] > position and is_of_history(store, row[2], row[3])
                if not went_on:
                    self._replace_tables(connection)
            connection.execute("DETACH rebuilt")
        if went_on:
            return False  # The live one has, since it was looked at.
        model.close()
        self._remove_beside()
        return True

    def _replace_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        _copy_tables(connection)
        connection.execute(f"DELETE FROM {_TABLE} WHERE name = ?", (self.name,))
        connection.execute(f"INSERT INTO {_TABLE} SELECT * FROM rebuilt.{_TABLE} WHERE name = ?", (self.name,))


def _copy_tables(connection: sqlite3.Connection) -> None:
    """Replace the tables of `main` by those of `rebuilt` with the same names, with what belongs to them."""
    query = (
        "SELECT type, name, sql FROM rebuilt.sqlite_master "
        "WHERE sql IS NOT NULL AND name != ? AND name NOT LIKE 'sqlite^_%' ESCAPE '^'"
    )
    made = connection.execute(query, (_TABLE,)).fetchall()
    for kind, name, _ in made:
        if kind in ("table", "view"):
            connection.execute(f"DROP {kind} IF EXISTS main.{_quoted(name)}")
    for wanted in ("table", "index", "view", "trigger"):
        for kind, name, sql in made:
            if kind == wanted:
                connection.execute(sql)
                if kind == "table":
                    _copy_rows(connection, name)


def _copy_rows(connection: sqlite3.Connection, name: str) -> None:
    table = _quoted(name)
    # Without generated columns, which `table_info` leaves out.
    columns = ", ".join(_quoted(row[1]) for row in connection.execute(f"PRAGMA rebuilt.table_info({table})"))
    connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM rebuilt.{table}")


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _plain(name: str) -> str:
    """Return a name as a part of a file name."""
    return "".join(chr(b) if chr(b).isalnum() and b < 128 else f"%{b:02X}" for b in name.encode())


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


class _SqliteModel(Model):
    """The tables in a database, and the row with their position."""

    def __init__(
        self, projection: SqliteProjection, connection: sqlite3.Connection, generation: int, position: int
    ) -> None:
        self._projection, self._connection, self._apply = projection, connection, projection._apply
        self.generation, self.position = generation, position

    @property
    def holds_lock(self) -> bool:
        return self._connection.in_transaction

    def apply(self, record: Record[Any]) -> None:
        connection = self._connection
        if not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")
        refuse_awaitable(self._apply(connection, record))
        self._projection._refuse_ended(connection)

    def is_replaced(self) -> bool:
        row = self._projection._row(self._connection)
        return row is None or row[1:3] != (self.generation, self.position)

    def save(self, position: int, event_id: str, *, sync: bool) -> None:
        connection = self._connection
        if not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            f"UPDATE {_TABLE} SET position = ?, event_id = ?, saved_at = ? WHERE name = ?",
            (position, event_id, now().decode(), self._projection.name),
        )
        connection.execute("COMMIT")
        self.position = position

    def close(self) -> None:
        self._connection.close()  # It rolls back.
