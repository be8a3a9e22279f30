"""A database to import may be anybody's: it runs nothing, nothing hangs or grows by it, and it stays as it is."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Command

from hangarlog import EventSerializer, FileEventStore, SourceError, sqlite_source
from hangarlog.mcp_hangar import count_events, import_database
from hangarlog.sqlite_source import source

TIME = "2026-01-01T00:00:00+00:00"
EVENTS = (
    "CREATE TABLE events (global_position INTEGER PRIMARY KEY, stream_id TEXT, stream_version INTEGER, "
    "event_type TEXT, data TEXT, metadata TEXT, created_at TEXT);"
)
STREAMS = "CREATE TABLE streams (stream_id TEXT PRIMARY KEY, version INTEGER);"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
AN_EVENT = f"INSERT INTO events VALUES (1, 'a:1', 0, 'T', '{{}}', NULL, '{TIME}');"
COLUMNS = "global_position, stream_id, stream_version, event_type, data, metadata, created_at"


def made(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.executescript(statement)
    return path


def taken(path: Path) -> int:
    serializer = EventSerializer(unknown="untyped")
    with FileEventStore(path.parent / "store", serializer=serializer, durability="relaxed") as store:
        return import_database(store, str(path)).taken


def test_what_an_ordinary_database_has_besides_is_not_run(tmp_path: Path) -> None:
    """Triggers, indexes of expressions, views and tables of others."""
    path = made(
        tmp_path / "x.db",
        EVENTS + STREAMS,
        "CREATE TRIGGER t AFTER INSERT ON events BEGIN SELECT 1; END;",
        "CREATE INDEX i ON events(upper(data), stream_id);",
        f"CREATE VIEW other AS {ENDLESS} SELECT i FROM n;",
        AN_EVENT,
    )
    assert (count_events(str(path)), taken(path)) == (1, 1)


COMPUTED = {
    "an endless view": [
        f"CREATE VIEW events AS {ENDLESS} SELECT i, 'a:1', i, 'T', '{{}}', NULL, '{TIME}' FROM n",
        STREAMS,
    ],
    "an endless view of streams": [EVENTS, f"CREATE VIEW streams AS {ENDLESS} SELECT 's' || i, i FROM n"],
    "an endless view of snapshots": [EVENTS, STREAMS, f"CREATE VIEW snapshots AS {ENDLESS} SELECT i, i, i, i FROM n"],
    "a virtual table": [f"CREATE VIRTUAL TABLE events USING fts4({COLUMNS})", STREAMS],
    "a view in capitals": [f"CREATE VIEW EVENTS AS {ENDLESS} SELECT i AS stream_id FROM n", STREAMS],
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_only_tables_are_read(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path / "x.db", *COMPUTED[kind])
    with pytest.raises(SourceError, match="is a view or a virtual table, whose rows are computed"):
        taken(path)


@pytest.mark.parametrize("how", ["VIRTUAL", "STORED"])
def test_columns_that_are_computed_are_refused(tmp_path: Path, how: str) -> None:
    events = EVENTS.replace("data TEXT", f"data TEXT AS (hex(zeroblob(100000000))) {how}")
    with pytest.raises(SourceError, match="the column 'data' of 'events' is computed, not stored"):
        count_events(str(made(tmp_path / "x.db", events, STREAMS)))


def test_rows_that_are_more_than_the_file_are_refused(tmp_path: Path) -> None:
    """A column that was added has its default in every row, and in the file once."""
    path = made(
        tmp_path / "x.db",
        EVENTS.replace(" data TEXT,", "") + STREAMS,
        *(f"INSERT INTO events VALUES ({n}, 'a:1', {n - 1}, 'T', NULL, '{TIME}');" for n in range(1, 100)),
        f'ALTER TABLE events ADD COLUMN data TEXT DEFAULT \'{{"x":"{"x" * 500_000}"}}\'',
    )
    with pytest.raises(SourceError, match="its rows hold more than its file"):
        taken(path)


PAGE = 4096


def page(path: Path, number: int) -> bytes:
    return path.read_bytes()[PAGE * (number - 1) : PAGE * number]


def put(path: Path, number: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(PAGE * (number - 1))
        file.write(content)


def root(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        (number,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return int(number)


def grow(path: Path, table: str, levels: int) -> None:
    """Put `levels` pages above a table's, each of which names the one below it 300 times."""
    top = root(path, table)
    leaf = page(path, top)
    numbers = [path.stat().st_size // PAGE + 1 + level for level in range(levels)]
    put(path, numbers[0], leaf)
    for above, below in zip([*numbers[1:], top], numbers, strict=True):
        count = 300
        content = PAGE - 5 * count
        header = struct.pack(">BHHHBI", 5, 0, count, content, 0, below)
        pointers = b"".join(struct.pack(">H", content + 5 * at) for at in range(count))
        cells = (struct.pack(">I", below) + b"\x01") * count
        put(path, above, (header + pointers).ljust(content, b"\0") + cells)
    put(path, 1, page(path, 1)[:28] + struct.pack(">I", path.stat().st_size // PAGE) + page(path, 1)[32:])


@pytest.mark.parametrize("table", ["events", "streams", "snapshots"])
def test_pages_that_are_named_many_times_end(tmp_path: Path, table: str) -> None:
    """300 ** 6 rows in some 50 KB."""
    snapshots = f"CREATE TABLE snapshots (stream_id, version, state_data, created_at);{AN_EVENT}"
    path = made(tmp_path / "x.db", EVENTS, STREAMS, snapshots, "INSERT INTO streams VALUES ('a:1', 0);")
    made(path, f"INSERT INTO snapshots VALUES ('a:1', 0, '{{}}', '{TIME}');")
    grow(path, table, 6)
    assert path.stat().st_size < 60_000
    with pytest.raises(SourceError, match="it is damaged, or made to grow"):
        taken(path)
    if table == "events":
        with pytest.raises(SourceError, match="it is damaged, or made to grow"):
            count_events(str(path))


def test_events_that_come_twice_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "x.db", EVENTS, STREAMS, AN_EVENT)
    grow(path, "events", 1)
    with pytest.raises(SourceError, match="global_position 1 comes after 1"):
        taken(path)


KINDS: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
    "a socket": lambda path: bind(path),
    "a symbolic link": lambda path: path.symlink_to(path.parent / "somebody's"),
}


def bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # Names of sockets must be short.
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str, suffix: str) -> None:
    """In the place of the database, or of a file beside it."""
    path = made(tmp_path / "x.db", EVENTS, STREAMS, AN_EVENT)
    path.rename(tmp_path / "somebody's") if not suffix else None
    KINDS[kind](tmp_path / f"x.db{suffix}")
    with pytest.raises(SourceError, match=f"x.db{suffix}: it is {kind}; name "):
        count_events(str(path))


def test_devices_are_not_opened(tmp_path: Path, hangarlog: Command) -> None:
    done = hangarlog("import", "store", "/dev/zero")
    assert (done.returncode, done.stderr) == (1, b"hangarlog: cannot import /dev/zero: it is a device; name a file\n")


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Path]:
    """A database in WAL mode, whose only event is in the log, while another program has it open."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(EVENTS + STREAMS + AN_EVENT)
        yield path


def test_a_log_that_is_in_use_is_read_and_left_alone(logged: Path, hangarlog: Command) -> None:
    """By another process: within one, SQLite shares what it has open."""
    before = {path: path.read_bytes() for path in logged.parent.iterdir()}
    assert json.loads(hangarlog("import", "store", logged).stdout)["taken"] == 1
    assert {path: path.read_bytes() for path in before} == before


def test_a_database_in_wal_mode_that_nobody_has_open_gets_no_files_beside_it(tmp_path: Path) -> None:
    """Which would be the reader's, and lock its writers out."""
    path = made(tmp_path / "x.db", "PRAGMA journal_mode = WAL", EVENTS + STREAMS + AN_EVENT)
    assert (count_events(str(path)), taken(path)) == (1, 1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["store", "x.db"]


def test_a_database_that_is_written_meanwhile_is_imported_again(tmp_path: Path) -> None:
    path = made(tmp_path / "x.db", "PRAGMA journal_mode = WAL", EVENTS + STREAMS + AN_EVENT)
    with pytest.raises(SourceError, match="another program has written it meanwhile"), source(str(path)):
        made(path, AN_EVENT.replace("(1,", "(2,").replace("0,", "1,", 1))


def test_a_log_without_its_index_is_refused_and_what_to_do_works(logged: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for suffix in ("", "-wal"):
        (tmp_path / f"copy/x.db{suffix}").write_bytes(Path(f"{logged}{suffix}").read_bytes())
    with pytest.raises(SourceError, match="sqlite3 FILE 'PRAGMA wal_checkpoint'"):
        count_events(str(tmp_path / "copy/x.db"))
    assert len([*(tmp_path / "copy").iterdir()]) == 2
    made(tmp_path / "copy/x.db", "PRAGMA wal_checkpoint")
    assert count_events(str(tmp_path / "copy/x.db")) == 1


def test_an_interrupt_ends_a_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while SQLite runs, which tells nobody but the progress handler."""
    path = made(tmp_path / "x.db", EVENTS, STREAMS)
    look = sqlite_source.Source._look

    def interrupted(self: sqlite_source.Source) -> bool:
        signal.raise_signal(signal.SIGINT)
        return look(self)

    monkeypatch.setattr(sqlite_source.Source, "_look", interrupted)
    with pytest.raises(KeyboardInterrupt), source(str(path)) as database:
        database.value(f"{ENDLESS} SELECT count(*) FROM n")


def test_values_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_source, "MOST", 10_000)
    path = made(tmp_path / "x.db", EVENTS, STREAMS, AN_EVENT.replace("{}", json.dumps({"x": "x" * 10_000})))
    with pytest.raises(SourceError, match="string or blob too big"):
        taken(path)


def test_the_command_says_each_in_a_line(tmp_path: Path, hangarlog: Command) -> None:
    for name, statements in COMPUTED.items():
        made(tmp_path / f"{name}.db", *statements)
        done = hangarlog("import", "store", f"{name}.db")
        assert done.returncode == 1
        assert done.stderr.decode().startswith(f"hangarlog: cannot import {name}.db: ")
        assert done.stderr.count(b"\n") == 1
