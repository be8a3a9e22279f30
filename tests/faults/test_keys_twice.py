"""No object with a key twice comes into a store: by an event, the command line, a database, or a schema lock."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Command, named

from hangarlog import (
    ANY,
    EventSerializationError,
    EventSerializer,
    FileEventStore,
    SchemaLockError,
    SourceError,
    UntypedEvent,
)
from hangarlog.integrations.mcp_hangar_sqlite import import_database
from hangarlog.maintenance.verify import verify
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.testing import registered


class Loose(msgspec.Struct):
    value: Any = None


class Keyed(msgspec.Struct):
    by_key: dict[int | str, int] = {}


class Tagged(msgspec.Struct, tag_field="_version", tag=5):
    x: int = 0


TWICE = msgspec.Raw(b'{"a":1,"a":2}')


@pytest.mark.parametrize(
    "event",
    [
        UntypedEvent("T", {"x": TWICE}),
        UntypedEvent("T", {"x": [{"y": TWICE}]}),
        UntypedEvent("T", {1: 1, "1": 2}),  # type: ignore[dict-item]
        UntypedEvent("T", {"x": {None: 1, "null": 2}}),
        Loose(TWICE),
        Loose({"x": [TWICE]}),
        Loose({1: 1, "1": 2}),
        Keyed({1: 1, "1": 2}),
    ],
    ids=named,
)
def test_no_event_with_a_key_twice_is_appended(store: FileEventStore, event: Any) -> None:
    """Not as raw JSON, nor by keys that become the same text."""
    with registered(Loose=Loose, Keyed=Keyed):
        for events in ([event], [UntypedEvent("T", {}), event], [event, event]):
            with pytest.raises(EventSerializationError):
                store.append("a:1", events, ANY)
    assert store.get_event_count() == 0
    with pytest.raises(EventSerializationError, match="comes twice"):
        store.append("a:1", [UntypedEvent("T", {})], ANY, metadata={"x": TWICE})
    with pytest.raises(EventSerializationError, match="comes twice"):
        store.save_snapshot("a:1", 0, {"x": TWICE})


def test_a_tag_by_the_name_of_the_schema_version_is_refused() -> None:
    with pytest.raises(EventSerializationError, match="has a field _version"), registered(Tagged=Tagged):
        pass


def test_keys_of_other_kinds_are_stored_where_each_stands_once(tmp_path: Path) -> None:
    """Without the proof: they come back as text."""
    with (
        registered(Loose=Loose, Keyed=Keyed),
        FileEventStore(tmp_path / "s", serializer=EventSerializer(validate=False), durability="relaxed") as store,
    ):
        store.append("a:1", [Loose({1: 1, "2": 2}), Keyed({1: 1, "2": 2}), Loose(msgspec.Raw(b'{"a":[{"a":1}]}'))], ANY)
        assert [type(event) for event in store.read_stream("a:1")] == [Loose, Keyed, Loose]
        assert list(verify(store)) == []


@pytest.mark.parametrize("option", ["--data", "--metadata"])
def test_the_command_line_takes_no_object_with_a_key_twice(hangarlog: Command, option: str) -> None:
    for text in ('{"a":1,"a":2}', '{"x":[{"b":1, "\\u0062":2}]}', '{"_version":1,"_version":2}'):
        done = hangarlog("append", "s", "a:1", "--type", "T", option, text)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"comes twice in one object" in done.stderr
    done = hangarlog("append", "s", "a:1", "--type", "T", "--data", "-", stdin=b'{"a":1}\n{"a":1,"a":2}\n')
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("column", ["data", "metadata", "state_data"])
def test_no_source_brings_an_object_with_a_key_twice(store: FileEventStore, tmp_path: Path, column: str) -> None:
    good = {"data": "{}", "metadata": "{}", "state_data": "{}"} | {column: '{"x": {"a": 1, "a": 2}}'}
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        database.executescript(
            "CREATE TABLE events (global_position INTEGER PRIMARY KEY, stream_id, stream_version, event_type, data,"
            "metadata, created_at); CREATE TABLE streams (stream_id, version, created_at, updated_at);"
            "CREATE TABLE snapshots (stream_id, version, state_data, created_at)"
        )
        row = ("a:1", 0, "T", good["data"], good["metadata"], "2026-01-01T00:00:00")
        database.execute("INSERT INTO events VALUES (1, ?, ?, ?, ?, ?, ?)", row)
        database.execute("INSERT INTO streams VALUES ('a:1', 0, '', '')")
        database.execute("INSERT INTO snapshots VALUES ('a:1', 0, ?, '')", (good["state_data"],))
        database.commit()
    with pytest.raises(SourceError, match="'a' comes twice"):
        import_database(store, str(tmp_path / "x.db"))
    assert list(verify(store)) == []


def test_no_schema_lock_has_a_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    write_lock(str(path), SchemaLock())
    path.write_text(path.read_text().replace("{", '{"events": {},', 1))
    with pytest.raises(SchemaLockError, match="'events' comes twice"):
        read_lock(str(path))
