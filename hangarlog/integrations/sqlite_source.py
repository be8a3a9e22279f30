"""SQLite databases to import from. They may be hostile, and are never changed.

A schema is a program: views, virtual tables and generated columns compute their values. So only ordinary tables are
read, and no more than their file can hold.
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

_STEPS_A_BYTE = 100
_MIN_STEPS = 10_000_000
"""A query may take this many steps of SQLite's machine, or `_STEPS_A_BYTE` for each byte of the file."""

_STEPS_A_LOOK = 20_000  # Steps between two checks of their number, and of interrupts.
_KINDS = {
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
        connection.set_progress_handler(self._look, _STEPS_A_LOOK)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LINE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 1 << 20)
        with self._said("it is no SQLite database that can be read: "):
            for setting in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON", "mmap_size = 0"):
                connection.execute(f"PRAGMA {setting}")
            connection.execute("BEGIN")
            connection.execute("SELECT count(1) FROM main.sqlite_master").fetchone()
        # From that query on, writes of others are not seen.
        self._size = sum(os.stat(name).st_size for name in (path, f"{path}-wal") if os.path.exists(name))

    def columns(self, table: str) -> set[str]:
        """The columns of a table; none if there is no such table. Raises `SourceError` if it is no ordinary one."""
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
        """The rows of a query of ordinary tables.

        Raises:
            SourceError: SQLite cannot read them, or they are more than the file can hold.
        """
        self._steps, room = 0, self._size
        with self._said():
            for row in self._connection.execute(query, values):
                room -= sum(len(value) for value in row if isinstance(value, (str, bytes)))
                if room < 0:
                    raise SourceError(self._path, "its rows hold more than its file: it is damaged, or made to grow")
                yield row

    def value(self, query: str) -> Any:
        """The one value of a query. Raises what `rows` raises."""
        ((value,),) = self.rows(query)
        return value

    def _look(self) -> bool:
        self._steps += _STEPS_A_LOOK
        return self._are_too_many()

    def _are_too_many(self) -> bool:
        return self._steps > max(_MIN_STEPS, _STEPS_A_BYTE * self._size)

    @contextlib.contextmanager
    def _said(self, what: str = "") -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
                raise SourceError(self._path, f"{what}{error}") from error
            if not self._are_too_many():  # A Ctrl-C arrived in `_look`, which cannot raise it.
                raise KeyboardInterrupt from None
            cause = f"to read its {self._size} bytes takes over {self._steps} steps: it is damaged, or made to grow"
            raise SourceError(self._path, cause) from None


@contextlib.contextmanager
def source(path: str) -> Iterator[Source]:
    """Open a database for reading. No file is changed or created. It and its side files must be regular files.

    Raises:
        SourceError: it is missing, refused, or cannot be read.
    """
    before = _regular(path)
    for suffix in ("-wal", "-shm", "-journal"):
        _regular(path + suffix)
    if before is None:
        raise SourceError(path, "there is no such file")
    how = _how(path)
    address = f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode=ro{how}"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            yield Source(path, connection)
    except sqlite3.Error as error:
        raise SourceError(path, f"it is no SQLite database that can be read: {error}") from error
    after = os.stat(path)
    if how == _ALONE and (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise SourceError(path, "another program has written it meanwhile; import it again")


_ALONE = "&immutable=1"


def _how(path: str) -> str:
    """The parameters with which SQLite reads a database and creates no file beside it."""
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
        return _ALONE if in_wal_mode else ""  # Whoever has it open in that mode has a log.
    if os.path.exists(index):
        return "&readonly_shm=1"
    if os.path.getsize(log):
        cause = f"{log} holds changes, and the file {index} that belongs to it is missing"
        raise SourceError(path, f"{cause}; have SQLite check them in: sqlite3 FILE 'PRAGMA wal_checkpoint'")
    return _ALONE


def _regular(path: str) -> os.stat_result | None:
    """What is known of a regular file, None if there is nothing at `path`."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise SourceError(path, f"it cannot be read: {error.strerror}") from error
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is not None:
        raise SourceError(path, f"it is {kind}; name a file" if kind != "a symbolic link" else _linked(path))
    return found


def _linked(path: str) -> str:
    return f"it is a symbolic link; name the file itself: {os.path.realpath(path)}"
