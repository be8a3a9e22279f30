"""The schema lock is input from outside: whatever is wrong with it is said with its path, and nothing else happens."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hangarlog import EventRegistry, EventSerializer, SchemaLockError, UpcasterChain
from hangarlog.schema.check import check, failing
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.schema.locking import make_lock


class Started(msgspec.Struct):
    provider_id: str


class Raised(msgspec.Struct):
    provider_id: str
    tags: list[str] = []


def serializer(event_class: type = Started, version: int = 1, **options: Any) -> EventSerializer:
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(event_class, name="Started", version=version, **options)
    for step in range(1, version):
        chain.upcaster("Started", step)(dict)
    return EventSerializer(chain, registry=registry)


def locked_with(**of_started: Any) -> dict[str, Any]:
    return {"hangarlog_schema": 1, "events": {"Started": {"version": 1, "schemas": {}, **of_started}}}


def of_schema(schema: Any) -> dict[str, Any]:
    return locked_with(schemas={"1": schema})


def of_field(schema: Any) -> dict[str, Any]:
    return of_schema({"type": "object", "properties": {"a": schema}, "required": ["a"]})


HOSTILE: list[Any] = [
    "",
    "{",
    "[]",
    "<<<<<<< HEAD",
    "\x00",
    {"events": {"Started": {"version": "1"}}},
    {"events": {"Started": {}}},
    locked_with(schemas={"x": {}}),
    locked_with(schemas={"0": {}}),
    locked_with(schemas={"-1": {}}),
    of_schema(None),
    of_schema([]),
    of_schema({"type": "object"}),
    of_schema({"type": "object", "properties": {"a": 3}, "required": []}),
    of_schema({"type": "object", "properties": {"a": {}}}),
    of_schema({"type": "object", "properties": [], "required": []}),
    of_schema({"type": "spaceship"}),
    of_schema({"type": "array"}),
    of_schema({"type": ["string"]}),
    of_schema({"anyOf": 3}),
    of_schema({"anyOf": []}),
    of_schema({"enum": []}),
    of_schema({"enum": "red"}),
    of_schema({"$ref": "#/$defs/Nobody"}),
    of_schema({"$ref": 3}),
    of_schema({"$ref": "#"}),
    of_schema({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}),
    of_schema({"minLength": 3}),
    of_schema({"type": "string", "minLength": "3"}),
    of_schema({"type": "string", "pattern": "("}),
    of_schema({"type": "integer", "multipleOf": 0}),
    of_field({"minLength": 3}),
    of_field({"type": None}),
    of_field({"type": "string", "pattern": None}),
    of_field({"anyOf": []}),
    of_field({"enum": []}),
    of_field({"const": {}}),
    of_field({"$ref": None}),
    of_field({"title": "of another format"}),
    of_field({"properties": {}, "required": []}),
    of_field({"type": "array", "items": True}),
    of_field({"type": "array", "items": False}),
    {"hangarlog_schema": 3, "events": {}},
    {"hangarlog_schema": 0, "events": {}},
    {"events": {}},
    {"hangarlog_schema": 2, "events": {}, "definitions": {"A": {"$ref": "#/definitions/A"}}},
    {"hangarlog_schema": 2, "events": {}, "definitions": {"A": {"$ref": "#/$defs/A"}}},
    {"hangarlog_schema": 2, "events": {}, "definitions": {"A": {"$ref": "#"}}},
    {"hangarlog_schema": 2, "events": {}, "definitions": {"A": {"anyOf": [{"$ref": "#/definitions/A"}]}}},
    {"hangarlog_schema": 2, "events": {}, "definitions": {"A": 3}},
    {**of_schema({"type": "object", "properties": {}, "required": [], "$defs": {"A": {}}}), "hangarlog_schema": 2},
]


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: json.dumps(content)[-60:])
def test_a_lock_that_is_none_is_refused_with_its_path(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "event-schema.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SchemaLockError, match=r"event-schema\.json") as caught:
        read_lock(str(path))
    assert caught.value.path == str(path)


def test_a_lock_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        schema = {"type": "array", "items": schema}
    path = tmp_path / "event-schema.json"
    path.write_text(json.dumps(of_schema(schema)))
    with pytest.raises(SchemaLockError):
        read_lock(str(path))


def test_the_file_is_sorted_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "event-schema.json"
    write_lock(str(path), make_lock(serializer(), SchemaLock()))
    write_lock(str(path), make_lock(serializer(), SchemaLock()))
    text = path.read_text()
    assert text.endswith("}\n")
    assert [line for line in text.splitlines() if line[0] not in " }"] == [
        "{",
        '"hangarlog_schema": 2',
        ",",
        '"events": {',
        '"Started": {',
        ",",
        '"definitions": {',
    ]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o664])
def test_a_lock_keeps_the_permissions_it_has(tmp_path: Path, mode: int) -> None:
    """It belongs into a repository, where others may read it; a link to it stays one."""
    path, link = tmp_path / "event-schema.json", tmp_path / "link.json"
    write_lock(str(path), SchemaLock())
    path.chmod(mode)
    link.symlink_to(path)
    for written in (path, link):
        write_lock(str(written), make_lock(serializer(), SchemaLock()))
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert link.is_symlink()
    assert read_lock(str(link)) == read_lock(str(path)) == make_lock(serializer(), SchemaLock())


REFUSED = r"{}: it is a symbolic link, which may lead anywhere; give the path of the file itself with --lock"


@pytest.mark.parametrize("target", ["made", "folder/made", "link.json"])
def test_no_file_is_made_through_a_link_that_leads_nowhere(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(target)
    with pytest.raises(SchemaLockError, match=REFUSED.format(link)):
        write_lock(str(link), SchemaLock())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "link.json"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make files of others")
@pytest.mark.parametrize("theirs", ["link.json", "event-schema.json"])
def test_a_link_of_another_users_or_to_another_users_file_is_not_written_through(tmp_path: Path, theirs: str) -> None:
    path, link = tmp_path / "event-schema.json", tmp_path / "link.json"
    write_lock(str(path), SchemaLock())
    before = path.read_bytes()
    link.symlink_to(path)
    os.chown(tmp_path / theirs, 12345, 12345, follow_symlinks=False)
    with pytest.raises(SchemaLockError, match=REFUSED.format(link)):
        write_lock(str(link), make_lock(serializer(), SchemaLock()))
    assert path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["event-schema.json", "link.json"]


def test_a_link_that_comes_to_the_name_meanwhile_is_replaced_and_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the lock get the permissions of a link, which are everybody's."""
    path, victim = tmp_path / "event-schema.json", tmp_path / "victim"
    victim.write_text("victim")

    def not_yet(asked: str) -> bool:
        path.symlink_to(victim)
        return False

    monkeypatch.setattr(os.path, "islink", not_yet)
    write_lock(str(path), SchemaLock())
    monkeypatch.undo()
    assert victim.read_text() == "victim"
    assert stat.S_ISREG(path.lstat().st_mode)
    assert stat.S_IMODE(path.lstat().st_mode) != 0o777


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_new_lock_has_the_permissions_of_a_source_file(tmp_path: Path, mask: int, mode: int) -> None:
    """Those that any program gives a new file here."""
    before = os.umask(mask)
    try:
        write_lock(str(tmp_path / "event-schema.json"), SchemaLock())
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "event-schema.json").stat().st_mode) == mode


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a FIFO": (os.mkfifo, "not a regular file"),
    "a folder": (lambda path: path.mkdir(), "Is a directory|not a regular file"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file|truncated"),
    "a file of 2 GiB": (lambda path: (path.touch(), os.truncate(path, 2 << 30)), "the limit is 16777216"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_or_too_long_is_not_read(tmp_path: Path, kind: str) -> None:
    make, why = KINDS[kind]
    make(tmp_path / "event-schema.json")
    with pytest.raises(SchemaLockError, match=rf"event-schema\.json: it .*({why})"):
        read_lock(str(tmp_path / "event-schema.json"))


BOUNDED: dict[str, tuple[Any, str]] = {
    "types": (of_field({"type": "array", "items": {"type": "array", "items": {}}}), ""),
    "numbers": (of_field({"type": "integer", "minimum": 10**400}), "Started v1: a number is beyond 64 bits"),
    "values": (of_field({"enum": [10**400]}), "Started v1: a number is beyond 64 bits"),
    "objects": (of_field({"enum": [{}]}), "Started v1: Expected"),
    "defaults": (of_field({"type": "object", "additionalProperties": {}, "default": {"a": [2**70]}}), "beyond 64 bits"),
    "itself": (of_field({"$ref": "#/$defs/A"}), "refers to nothing"),
    "versions": (locked_with(version=10**30), "Started has a version that is not between 1 and 2147483648"),
    "more versions": (locked_with(schemas={"9" * 5000: {}}), "Started has a version '9{20}'"),
}


@pytest.mark.parametrize("kind", BOUNDED)
def test_what_is_beyond_the_bounds_is_refused_with_its_place(tmp_path: Path, kind: str) -> None:
    content, why = BOUNDED[kind]
    path = tmp_path / "event-schema.json"
    path.write_text(json.dumps(content))
    if not why:
        read_lock(str(path))
        return
    with pytest.raises(SchemaLockError, match=why):
        read_lock(str(path))


def test_an_alternative_that_is_itself_is_refused(tmp_path: Path) -> None:
    """Nothing would end that goes through it."""
    path = tmp_path / "event-schema.json"
    schema = of_field({"$ref": "#/$defs/A"})
    schema["events"]["Started"]["schemas"]["1"]["$defs"] = {
        "A": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/B"}]},
        "B": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "string"}]},
    }
    path.write_text(json.dumps(schema))
    with pytest.raises(SchemaLockError, match="Started v1: a definition is one of its own alternatives"):
        read_lock(str(path))


def test_former_versions_and_names_stay_in_the_lock(tmp_path: Path) -> None:
    """Through any number of releases."""
    lock = make_lock(serializer(), SchemaLock())
    lock = make_lock(serializer(Raised, 2, aliases=["Began"]), lock)
    lock = make_lock(serializer(Raised, 3, aliases=["Began"]), lock)
    assert lock.events["Started"].versions() == [1, 2, 3]
    assert lock.events["Began"].alias_of == "Started"
    assert [finding.kind for finding in failing(check(serializer(Raised, 3), lock))] == ["alias lost"]
    dropping = serializer(Raised, 3, aliases=["Began"])
    dropping.registry.drop("Started", "Began", reason="gone")
    lock = make_lock(dropping, lock)
    assert lock.events["Started"].dropped == "gone"
    assert lock.events["Started"].versions() == [1, 2, 3]
    assert failing(check(dropping, lock)) == []
    assert {finding.event_type for finding in failing(check(EventSerializer(registry=EventRegistry()), lock))} == {
        "Started",
        "Began",
    }


def test_a_compatible_change_is_recorded_under_the_same_version() -> None:
    lock = make_lock(serializer(Raised), make_lock(serializer(), SchemaLock()))
    schema = lock.events["Started"].schema(1)
    assert schema is not None
    assert set(schema["properties"]) == {"provider_id", "tags"}
    assert [finding.kind for finding in failing(check(serializer(), lock))] == ["changed"]
