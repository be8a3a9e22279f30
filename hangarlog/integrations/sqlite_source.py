"""SQLite databases to import from.

They are never changed, and may be hostile. A schema is a program: views, virtual tables and generated columns compute
their values. So only ordinary tables are read, and no more rows than the file can hold.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from hangarlog.errors import SourceError
from hangarlog.record.line import MAX_LINE_BYTES
from hangarlog.system.filesystem import FileSystem

_STEPS_PER_BYTE = 100
_MIN_STEPS = 10_000_000
"""A query may take this many steps of SQLite's virtual machine, or `_STEPS_PER_BYTE` per byte of the file if more."""

_STEPS_PER_CALL = 20_000  # Steps between two calls of the progress handler, which checks the limit and interrupts.
_FILE_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Source:
    """A database that is open for reading, as it was at its first query."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self._path, self._connection = path, connection
        self._steps = self._size = 0
        connection.set_progress_handler(self._on_progress, _STEPS_PER_CALL)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LINE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 1 << 20)
        with self._source_errors("it is not a SQLite database, or cannot be read: "):
            for setting in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON", "mmap_size = 0"):
                connection.execute(f"PRAGMA {setting}")
            connection.execute("BEGIN")
            connection.execute("SELECT count(1) FROM main.sqlite_master").fetchone()
        # From that query on, the transaction hides the writes of other programs.
        self._size = sum(os.stat(name).st_size for name in (path, f"{path}-wal") if os.path.exists(name))

    def columns(self, table: str) -> set[str]:
        """Return the columns of a table, an empty set if there is no such table.

        Raises:
            SourceError: it is not an ordinary table, or it cannot be read.
        """
        query = "SELECT type, sql FROM main.sqlite_master WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')"
        for kind, sql in self.rows(query, (table,)):
            if kind != "table" or not str(sql).startswith("CREATE TABLE "):
                raise SourceError(self._path, f"{table!r} is a view or a virtual table, whose rows are computed")
        found = list(self.rows(f"PRAGMA main.table_xinfo({table})"))
        for _, name, *_, hidden in found:
            if hidden:
                raise SourceError(self._path, f"the column {name!r} of {table!r} is computed, not stored")
        return {str(name) for _, name, *_ in found}

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query of ordinary tables.

        Raises:
            SourceError: SQLite cannot read the rows, or they hold more bytes than the file.
        """
        self._steps, bytes_left = 0, self._size
        with self._source_errors():
            for row in self._connection.execute(query, values):
                bytes_left -= sum(len(value) for value in row if isinstance(value, (str, bytes)))
                if bytes_left < 0:
                    raise SourceError(self._path, "its rows hold more bytes than its file: it is damaged or malicious")
                yield row

    def value(self, query: str) -> Any:
        """Return the only value of a query. Raises what `rows` raises."""
        ((value,),) = self.rows(query)
        return value

    def _on_progress(self) -> bool:
        """Count steps; returning true interrupts the query."""
        self._steps += _STEPS_PER_CALL
        return self._takes_too_long()

    def _takes_too_long(self) -> bool:
        return self._steps > max(_MIN_STEPS, _STEPS_PER_BYTE * self._size)

    @contextlib.contextmanager
    def _source_errors(self, what: str = "") -> Iterator[None]:
        """Turn SQLite's errors into `SourceError`, with `what` before their message."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
                raise SourceError(self._path, f"{what}{error}") from error
            if not self._takes_too_long():  # Ctrl-C arrived in `_on_progress`, which cannot raise KeyboardInterrupt.
                raise KeyboardInterrupt from None
            cause = f"reading its {self._size} bytes takes over {self._steps} steps: it is damaged or malicious"
            raise SourceError(self._path, cause) from None


@contextlib.contextmanager
def source(path: str) -> Iterator[Source]:
    """Open a database for reading.

    No file is changed or created. The database and its `-wal`, `-shm` and `-journal` files must be regular files.

    Raises:
        SourceError: the database is missing, one of the files is not a regular file, or it cannot be read.
    """
    before = _regular_file(path)
    for suffix in ("-wal", "-shm", "-journal"):
        _regular_file(path + suffix)
    if before is None:
        raise SourceError(path, "there is no such file")
    parameters = _read_parameters(path)
    address = f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode=ro{parameters}"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            yield Source(path, connection)
    except sqlite3.Error as error:
        raise SourceError(path, f"it is not a SQLite database, or cannot be read: {error}") from error
    after = os.stat(path)
    if parameters == _IMMUTABLE and (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise SourceError(path, "another program has changed it meanwhile; import it again")


_IMMUTABLE = "&immutable=1"


def _read_parameters(path: str) -> str:
    """Return the URI parameters with which SQLite reads a database without creating a file beside it."""
    filesystem = FileSystem()
    try:
        fd = filesystem.open_read(path)
        try:
            in_wal_mode = filesystem.read(fd, 2, 18) == b"\2\2"
        finally:
            filesystem.close(fd)
    except OSError as error:
        raise SourceError(path, f"it cannot be read: {error.strerror}") from error
    log, index = f"{path}-wal", f"{path}-shm"
    if not os.path.exists(log):
        return _IMMUTABLE if in_wal_mode else ""  # A program that had it open would have a log.
    if os.path.exists(index):
        return "&readonly_shm=1"
    if os.path.getsize(log):
        cause = f"{log} holds changes, but its index {index} is missing"
        raise SourceError(path, f"{cause}; let SQLite write them to the database: sqlite3 FILE 'PRAGMA wal_checkpoint'")
    return _IMMUTABLE


def _regular_file(path: str) -> os.stat_result | None:
    """Return the status of a regular file, None if nothing is at `path`. Raises `SourceError` for other kinds."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise SourceError(path, f"it cannot be read: {error.strerror}") from error
    kind = _FILE_KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is not None:
        raise SourceError(path, f"it is {kind}; name a file" if kind != "a symbolic link" else _link_cause(path))
    return found


def _link_cause(path: str) -> str:
    return f"it is a symbolic link; name the file itself: {os.path.realpath(path)}"
