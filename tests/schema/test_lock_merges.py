"""The schema lock in a repository: git merges it, and what it cannot merge is said."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hangarlog import EventRegistry, EventSerializer, SchemaLockError
from hangarlog.schema.check import check
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.schema.locking import make_lock, not_locked


class Money(msgspec.Struct):
    amount: int
    currency: str


class Address(msgspec.Struct):
    street: str
    zip_code: str


class Zone(msgspec.Struct):
    name: str


def application(*names: str, **kinds: Any) -> EventSerializer:
    """Event types with two fields, one of them of a kind of its own for those in `kinds`."""
    registry = EventRegistry()
    for name in {*names, *kinds}:
        event_class = msgspec.defstruct(name, [("id", str), ("part", kinds.get(name, int))])
        registry.event(event_class)
    return EventSerializer(registry=registry)


class Repository:
    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "event-schema.json"
        self.git("init", "-q", "-b", "main")
        for name, value in (("user.name", "a"), ("user.email", "a@b.example"), ("commit.gpgsign", "false")):
            self.git("config", name, value)

    def git(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=self.folder, capture_output=True, text=True, check=False)

    def lock(self, serializer: EventSerializer) -> None:
        write_lock(
            str(self.path), make_lock(serializer, read_lock(str(self.path)) if self.path.exists() else SchemaLock())
        )
        self.git("add", "-A")
        self.git("commit", "-qm", "lock")

    def merged(self, base: EventSerializer, ours: EventSerializer, theirs: EventSerializer) -> bool:
        """Make a branch of each from `base`, merge them, and return whether git could."""
        self.lock(base)
        self.git("checkout", "-qb", "theirs")
        self.lock(theirs)
        self.git("checkout", "-q", "main")
        self.lock(ours)
        return self.git("merge", "-q", "theirs").returncode == 0


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


BASE = ("Created", "Moved", "Paid")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"Added": int}, {"Zoned": int}),
        ({"Listed": int}, {"Named": int}),
        ({"Added": int}, {"Listed": int}),
        ({"Packed": int}, {"Zoned": int}),
        ({"Added": Address}, {"Zoned": Zone}),
        ({"Added": Money}, {"Zoned": Money}),
        ({"Created": int, "Zoned": int}, {"Paid": int | None}),
        ({"Moved": int | None}, {"Zoned": int}),
    ],
    ids=str,
)
def test_branches_that_add_types_beside_each_other_merge(
    repository: Repository, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """At the start, at the end, around one that is there, beside a changed one, with definitions of their own."""
    base = {"Created": Money}
    serializers = [application(*BASE, **{**base, **more}) for more in ({}, ours, theirs)]
    assert repository.merged(serializers[0], serializers[1], serializers[2]), repository.path.read_text()
    both = application(*BASE, **{**base, **ours, **theirs})
    if ours.get("Added") is not Money:  # Both have added the same definition otherwise.
        assert repository.path.read_bytes() == make_lock(both, SchemaLock()).encode()
    assert check(both, read_lock(str(repository.path))) == []


def test_one_place_of_the_order_is_a_conflict_which_is_said_with_its_way_out(repository: Repository) -> None:
    base, ours, theirs = application(*BASE), application(*BASE, "Xa"), application(*BASE, "Xb")
    assert not repository.merged(base, ours, theirs)
    with pytest.raises(
        SchemaLockError, match=r"conflict markers of a merge; take either side .* run `hangarlog schema"
    ):
        read_lock(str(repository.path))
    repository.git("checkout", "--ours", "event-schema.json")
    repository.lock(application(*BASE, "Xa", "Xb"))
    assert check(application(*BASE, "Xa", "Xb"), read_lock(str(repository.path))) == []


def test_a_definition_that_types_share_is_there_once(tmp_path: Path) -> None:
    """Also where one of them has former versions with a former shape of it."""
    path = str(tmp_path / "event-schema.json")
    write_lock(path, make_lock(application(Paid=Money, Refunded=list[Money], Priced=Money | None), SchemaLock()))
    assert Path(path).read_text().count('"currency": {') == 1
    lock = read_lock(path)
    parts = {id(locked.schemas["1"]["$defs"]["Money"]) for locked in lock.events.values()}
    assert len(parts) == 1, "and shared in memory"
    assert lock.encode() == Path(path).read_bytes()


def test_a_lock_of_equal_classes_under_two_names_is_up_to_date(tmp_path: Path) -> None:
    """The file has them as one definition. A class that differs from the other one later is a change."""
    path = str(tmp_path / "event-schema.json")
    other = msgspec.defstruct("Cost", [("amount", int), ("currency", str)])
    write_lock(path, make_lock(application(Paid=Money, Refunded=list[other], Zoned=Zone), SchemaLock()))
    assert not_locked(application(Paid=Money, Refunded=list[other], Zoned=Zone), read_lock(path)) == []
    other = msgspec.defstruct("Cost", [("amount", int), ("currency", str | None)])
    outdated = not_locked(application(Paid=Money, Refunded=list[other], Zoned=Zone), read_lock(path))
    assert [finding.event_type for finding in outdated] == ["Refunded"]


def test_former_shapes_of_a_definition_have_names_of_their_own(tmp_path: Path) -> None:
    path = str(tmp_path / "event-schema.json")
    old = msgspec.defstruct("Money", [("cents", int)])
    serializer = application(Paid=old)
    write_lock(path, make_lock(serializer, SchemaLock()))
    raised, registry = application(Refunded=Money), EventRegistry()
    registry.event(msgspec.defstruct("Paid", [("id", str), ("part", Money)]), version=2)
    registry.event(raised.registry.types["Refunded"])
    serializer.chain.upcaster("Paid", 1)(dict)
    write_lock(path, make_lock(EventSerializer(serializer.chain, registry=registry), read_lock(path)))
    lock = read_lock(path)
    first, second = (lock.events["Paid"].schemas[version] for version in "12")
    assert second["properties"]["part"] == lock.events["Refunded"].schemas["1"]["properties"]["part"]
    assert first["properties"]["part"] == {"$ref": "#/$defs/Money~2"}
    assert list(first["$defs"]["Money~2"]["properties"]) == ["cents"]
    assert lock.encode() == Path(path).read_bytes()


OLD_FORMAT = """{
  "hangarlog_schema": 1,
  "events": {
    "Paid": {"version": 1, "schemas": {"1": {
      "type": "object",
      "properties": {"id": {"type": "string"}, "part": {"$ref": "#/$defs/Money"}},
      "required": ["id", "part"],
      "$defs": {"Money": {"type": "object", "required": ["amount", "currency"],
        "properties": {"amount": {"type": "integer"}, "currency": {"type": "string"}}}}
    }}},
    "Linked": {"version": 1, "schemas": {"1": {
      "type": "object",
      "properties": {"id": {"type": "string"}, "part": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
      "required": ["id", "part"]
    }}}
  }
}"""


class Linked(msgspec.Struct):
    id: str
    part: Linked | None


def test_a_lock_of_the_first_format_is_read_and_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "event-schema.json"
    path.write_text(OLD_FORMAT)
    serializer = application(Paid=Money)
    serializer.registry.event(Linked)
    assert check(serializer, read_lock(str(path))) == []
    write_lock(str(path), make_lock(serializer, read_lock(str(path))))
    assert path.read_bytes() == make_lock(serializer, SchemaLock()).encode()
    path.write_bytes(SchemaLock(read_lock(str(path)).events).encode())
    assert check(serializer, read_lock(str(path))) == []


def test_what_an_old_lock_shares_with_itself_is_written_as_one(tmp_path: Path) -> None:
    path = tmp_path / "event-schema.json"
    path.write_text(OLD_FORMAT)
    path.write_bytes(read_lock(str(path)).encode())
    serializer = application(Paid=Money)
    serializer.registry.event(Linked)
    assert check(serializer, read_lock(str(path))) == []
