"""MCP Hangar's database, a real one, goes in and comes out the same; what is none is refused."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import DATABASE

from hangarlog import EventSerializer, FileEventStore, SourceError
from hangarlog.integrations.mcp_hangar_sqlite import count_events, export_database, import_database
from hangarlog.maintenance.verify import verify


def open_store(path: Path, **options: Any) -> FileEventStore:
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), **options)


def rows(path: Path, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def events(path: Path) -> list[tuple[Any, ...]]:
    """The rows of `events`, payloads decoded, so that blanks do not matter."""
    return [(*row[:4], json.loads(row[4]), row[5] and json.loads(row[5]), row[6]) for row in rows(path, "events")]


@pytest.mark.parametrize("segment_bytes", [64 << 20, 20_000])
def test_the_real_events_come_in_whole_and_go_out_the_same(tmp_path: Path, segment_bytes: int) -> None:
    """Order, versions, event ids, times; twice in is once in."""
    with open_store(tmp_path / "s", segment_bytes=segment_bytes) as store:
        report = import_database(store, str(DATABASE))
        assert (report.taken, report.already, report.streams, report.snapshots, report.not_taken) == (758, 0, 4, 0, {})
        for row, record in zip(events(DATABASE), store.records(), strict=True):
            position, stream_id, version, event_type, data, _, created_at = row
            assert (record.position, record.stream_id, record.stream_version) == (position, stream_id, version)
            assert (record.event_type, record.event_id) == (event_type, data["event_id"])
            assert record.recorded_at.isoformat() == created_at
            assert {"_version": record.event.schema_version, **record.event.data} == data
        again = import_database(store, str(DATABASE))
        assert (again.taken, again.already) == (0, 758)
        assert store.get_event_count() == 758
        assert list(verify(store)) == []
        out = tmp_path / "out.db"
        assert export_database(store, str(out)) == 758
        assert events(out) == events(DATABASE)
        assert rows(out, "streams") == rows(DATABASE, "streams")


def test_numbers_come_in_as_they_were_written(tmp_path: Path) -> None:
    """Digit for digit."""
    text = '{"_version":1,"a":1.10,"b":123456789012345678901234567890,"c":1e5,"d":"\\u00e9"}'
    source = tmp_path / "n.db"
    make(source, [("s:1", 0, "T", text, None)])
    with open_store(tmp_path / "s") as store:
        import_database(store, str(source))
    assert text in (tmp_path / "s/journal.jsonl").read_text()


def make(path: Path, events: list[tuple[str, int, str, str, str | None]], snapshots: bool = False) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE events (global_position INTEGER PRIMARY KEY AUTOINCREMENT, stream_id TEXT, "
            "stream_version INTEGER, event_type TEXT, data TEXT, metadata TEXT, created_at TEXT);"
            "CREATE TABLE streams (stream_id TEXT PRIMARY KEY, version INTEGER, created_at TEXT, updated_at TEXT);"
        )
        if snapshots:
            database.execute(
                "CREATE TABLE snapshots (stream_id TEXT, version INTEGER, state_data TEXT, created_at TEXT)"
            )
        columns = "stream_id, stream_version, event_type, data, metadata, created_at"
        insert = f"INSERT INTO events ({columns}) VALUES (?, ?, ?, ?, ?, ?)"
        for event in events:
            database.execute(insert, (*event, "2026-01-02T03:04:05+02:00"))
            database.execute("INSERT OR REPLACE INTO streams VALUES (?, ?, '', '')", event[:2])
        database.commit()


def test_an_interrupted_import_is_gone_on_with(tmp_path: Path) -> None:
    """A source that grew since is taken up where it was left."""
    part = tmp_path / "part.db"
    shutil.copy(DATABASE, part)
    with closing(sqlite3.connect(part)) as database:
        database.execute("DELETE FROM events WHERE global_position > 300")
        database.commit()
    with open_store(tmp_path / "s") as store:
        assert import_database(store, str(part)).taken == 300
        report = import_database(store, str(DATABASE))
        assert (report.taken, report.already) == (458, 300)
        assert [r.event_id for r in store.records()] == [row[4]["event_id"] for row in events(DATABASE)]


def test_times_of_other_zones_and_metadata_are_kept(tmp_path: Path) -> None:
    make(tmp_path / "x.db", [("s:1", 0, "T", "{ }", '{ "correlation_id" : "c" }')])
    with open_store(tmp_path / "s") as store:
        import_database(store, str(tmp_path / "x.db"))
        (record,) = store.records()
        assert record.recorded_at.isoformat() == "2026-01-02T01:04:05+00:00"
        assert record.metadata == {"correlation_id": "c"}


def test_a_time_of_the_first_centuries_is_imported_as_a_time(store: FileEventStore, tmp_path: Path) -> None:
    """`strftime` writes the year 1 with one digit."""
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        database.executescript(
            "CREATE TABLE events (global_position INTEGER PRIMARY KEY, stream_id, stream_version, event_type, data,"
            "metadata, created_at); CREATE TABLE streams (stream_id, version, created_at, updated_at);"
        )
        database.execute("INSERT INTO events VALUES (1, 'a:1', 0, 'T', '{}', NULL, '0001-02-03T04:05:06')")
        database.commit()
    import_database(store, str(tmp_path / "x.db"))
    ((envelope,),) = store.envelopes()
    assert envelope.recorded_at == "0001-02-03T04:05:06.000000Z"
    assert list(verify(store)) == []


def test_the_time_of_a_snapshot_is_one_as_those_of_events_are(tmp_path: Path) -> None:
    """Without an offset it is in UTC. What is no time is refused with its stream."""
    source = tmp_path / "x.db"
    make(source, [("s:1", 0, "T", '{"n":5}', None)], snapshots=True)
    with closing(sqlite3.connect(source)) as database, open_store(tmp_path / "s") as store:
        database.execute("INSERT INTO snapshots VALUES ('s:1', 0, '{}', 'yesterday')")
        database.commit()
        with pytest.raises(SourceError, match=r"snapshot of stream 's:1'.*yesterday"):
            import_database(store, str(source))
        database.execute("UPDATE snapshots SET created_at = '2026-01-01 00:00:00'")
        database.commit()
        assert import_database(store, str(source)).snapshots == 1
        assert store.snapshot_time("s:1") == "2026-01-01T00:00:00.000000Z"


def test_a_compacted_stream_goes_on_where_it_begins(tmp_path: Path) -> None:
    """Its first version is not 0; its snapshot comes along, and goes out again."""
    source = tmp_path / "x.db"
    make(source, [("s:1", 5, "T", '{"n":5}', None), ("s:1", 6, "T", '{"n":6}', None)], snapshots=True)
    with closing(sqlite3.connect(source)) as database:
        database.execute("""INSERT INTO snapshots VALUES ('s:1', 4, '{"sum": 10}', '2026-01-01T00:00:00+00:00')""")
        database.execute("INSERT INTO streams VALUES ('s:gone', 9, '', '')")
        database.commit()
    with open_store(tmp_path / "s") as store:
        report = import_database(store, str(source))
        assert (report.taken, report.snapshots) == (2, 1)
        assert list(report.not_taken) == ["s:gone"]
        assert [r.stream_version for r in store.records("s:1")] == [5, 6]
        assert store.load_snapshot("s:1") == {"version": 4, "state": {"sum": 10}}
        assert import_database(store, str(source)).already == 2
        assert store.append_at_end("s:1", []) == 6
        assert list(verify(store)) == []
        export_database(store, str(tmp_path / "out.db"))
        assert rows(tmp_path / "out.db", "snapshots") == rows(source, "snapshots")


def test_a_snapshot_ahead_of_its_stream_is_reported(tmp_path: Path) -> None:
    """MCP Hangar takes it, also for a stream without events. That of a stream deleted here is not reported."""
    source = tmp_path / "x.db"
    make(source, [("s:1", 0, "T", "{}", None), ("s:2", 0, "T", "{}", None)], snapshots=True)
    with closing(sqlite3.connect(source)) as database:
        for stream_id, version in (("s:1", 7), ("s:2", 0), ("s:none", 3)):
            database.execute(
                "INSERT INTO snapshots VALUES (?, ?, '{}', '2026-01-01T00:00:00+00:00')", (stream_id, version)
            )
        database.commit()
    ahead = {
        "s:1": "it is of version 7, but the stream is at 0",
        "s:none": "it is of version 3, but the stream has no events",
    }
    with open_store(tmp_path / "s") as store:
        report = import_database(store, str(source))
        assert (report.taken, report.snapshots, report.not_taken) == (2, 1, {})
        assert report.snapshots_not_taken == ahead
        store.delete_stream("s:2")
        report = import_database(store, str(source))
        assert (report.already, report.snapshots, report.snapshots_not_taken) == (2, 0, ahead)


def test_what_contradicts_the_store_is_refused(tmp_path: Path) -> None:
    """Another event at the same place, or a gap."""
    with open_store(tmp_path / "s") as store:
        import_database(store, str(DATABASE))
        make(tmp_path / "other.db", [("provider:math", 0, "T", '{"event_id":"other"}', None)])
        with pytest.raises(SourceError, match="'provider:math' version 0 is T other in the database"):
            import_database(store, str(tmp_path / "other.db"))
        make(tmp_path / "gap.db", [("new:1", 0, "T", "{}", None), ("new:1", 2, "T", "{}", None)])
        with pytest.raises(SourceError, match="does not continue without a gap from version 0"):
            import_database(store, str(tmp_path / "gap.db"))


@pytest.mark.parametrize(
    ("data", "metadata"),
    [
        ("[1]", None),
        ("{", None),
        ('{"a":NaN}', None),
        ("", None),
        ("{}", "[]"),
        ("{}", "x"),
        ('{"a":' + "[" * 900, None),
    ],
)
def test_payloads_that_cannot_be_stored_are_named_by_their_position(
    tmp_path: Path, data: str, metadata: str | None
) -> None:
    make(tmp_path / "x.db", [("s:1", 0, "T", "{}", None), ("s:1", 1, "T", data, metadata)])
    with open_store(tmp_path / "s") as store, pytest.raises(SourceError, match="global_position 2"):
        import_database(store, str(tmp_path / "x.db"))


def test_ids_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "x.db", [("../x", 0, "T", "{}", None)])
    with open_store(tmp_path / "s") as store, pytest.raises(SourceError, match="bad stream id"):
        import_database(store, str(tmp_path / "x.db"))


def test_what_is_no_database_of_mcp_hangar_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder, text, an empty file, another database."""
    (tmp_path / "text.db").write_text("not a database, but long enough to have a header, if it had one" * 20)
    (tmp_path / "empty.db").touch()
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE events (id INTEGER)")
    for name, why in (
        ("none", "no such file"),
        ("", "it is a folder"),
        ("text.db", "not a SQLite"),
        ("empty.db", "not an MCP Hangar"),
        ("other.db", "not an MCP Hangar"),
    ):
        with pytest.raises(SourceError, match=why):
            count_events(str(tmp_path / name))
        with open_store(tmp_path / "s", durability="relaxed") as store, pytest.raises(SourceError, match=why):
            import_database(store, str(tmp_path / name))
    assert not (tmp_path / "none").exists()


def test_an_export_overwrites_nothing_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    (tmp_path / "out.db").write_text("mine")
    with open_store(tmp_path / "s") as store:
        import_database(store, str(DATABASE))
        with pytest.raises(FileExistsError):
            export_database(store, str(tmp_path / "out.db"))
    assert (tmp_path / "out.db").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.db", "s"]


def test_the_source_is_left_as_it_was(tmp_path: Path) -> None:
    """No lock file, no journal, not a byte changed."""
    shutil.copy(DATABASE, tmp_path / "x.db")
    before = (tmp_path / "x.db").read_bytes()
    (tmp_path / "t").mkdir()
    with open_store(tmp_path / "t/s") as store:
        import_database(store, str(tmp_path / "x.db"))
    assert (tmp_path / "x.db").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "x.db"]
