"""A database to import may be anybody's: it runs nothing, nothing hangs or grows by it, and it stays as it is."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from campaigns.hostile_input.database_cases import AN_EVENT, COMPUTED, ENDLESS, EVENTS, KINDS, STREAMS, TIME, grow, made
from conftest import Command

from hangarlog import EventSerializer, FileEventStore, SourceError
from hangarlog.integrations import sqlite_source
from hangarlog.integrations.mcp_hangar_sqlite import count_events, import_database
from hangarlog.integrations.sqlite_source import source


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
    with pytest.raises(SourceError, match="its rows hold more bytes than its file"):
        taken(path)


@pytest.mark.parametrize("table", ["events", "streams", "snapshots"])
def test_pages_that_are_named_many_times_end(tmp_path: Path, table: str) -> None:
    """300 ** 6 rows in some 50 KB."""
    snapshots = f"CREATE TABLE snapshots (stream_id, version, state_data, created_at);{AN_EVENT}"
    path = made(tmp_path / "x.db", EVENTS, STREAMS, snapshots, "INSERT INTO streams VALUES ('a:1', 0);")
    made(path, f"INSERT INTO snapshots VALUES ('a:1', 0, '{{}}', '{TIME}');")
    grow(path, table, 6)
    assert path.stat().st_size < 60_000
    with pytest.raises(SourceError, match="it is damaged or malicious"):
        taken(path)
    if table == "events":
        with pytest.raises(SourceError, match="it is damaged or malicious"):
            count_events(str(path))


def test_events_that_come_twice_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "x.db", EVENTS, STREAMS, AN_EVENT)
    grow(path, "events", 1)
    with pytest.raises(SourceError, match="global_position 1 comes after 1"):
        taken(path)


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
    with pytest.raises(SourceError, match="another program has changed it meanwhile"), source(str(path)):
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
    look = sqlite_source.Source._on_progress

    def interrupted(self: sqlite_source.Source) -> bool:
        signal.raise_signal(signal.SIGINT)
        return look(self)

    monkeypatch.setattr(sqlite_source.Source, "_on_progress", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background job ignores it.
    try:
        with pytest.raises(KeyboardInterrupt), source(str(path)) as database:
            database.value(f"{ENDLESS} SELECT count(*) FROM n")
    finally:
        signal.signal(signal.SIGINT, before)


def test_values_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_source, "MAX_LINE_BYTES", 10_000)
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
