"""What a class runs on values that are read may refuse stored ones: the check says when a class has more of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import attrs
import msgspec
import pytest

from hangarlog import EventRegistry, EventSerializer
from hangarlog.schema.check import check, failing
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.schema.locking import make_lock, not_locked


def serializer(event_class: type) -> EventSerializer:
    registry = EventRegistry()
    registry.event(event_class, name="Started")
    return EventSerializer(registry=registry)


@attrs.define
class OfAttrs:
    mode: str = "local"


@attrs.define
class CheckedOfAttrs:
    mode: str = attrs.field(default="local", validator=attrs.validators.in_(["local"]))


@dataclasses.dataclass
class OfDataclass:
    ids: list[str]
    codes: list[str]


@dataclasses.dataclass
class CheckedOfDataclass(OfDataclass):
    def __post_init__(self) -> None:
        if len(self.ids) != len(self.codes):
            raise ValueError("mismatched")


class OfStruct(msgspec.Struct):
    inner: OfDataclass | None


class CheckedOfStruct(msgspec.Struct):
    inner: CheckedOfDataclass | None


@pytest.mark.parametrize(
    ("before", "after", "detail"),
    [
        (OfAttrs, CheckedOfAttrs, "payload: its class checks more when it is read: mode"),
        (OfDataclass, CheckedOfDataclass, "payload: its class checks more when it is read: __post_init__"),
        (OfStruct, CheckedOfStruct, "inner: its class checks more when it is read: __post_init__"),
    ],
)
def test_a_class_that_gains_a_check_leaves_the_verdict_open(
    before: type, after: type, detail: str, tmp_path: Path
) -> None:
    """It does not fail, because no shape says what the check refuses. Once it is locked, nothing is said."""
    path = str(tmp_path / "event-schema.json")
    write_lock(path, make_lock(serializer(before), SchemaLock()))
    found = check(serializer(after), read_lock(path))
    assert failing(found) == []
    assert [finding.kind for finding in found] == ["compatible", "untried"]
    assert [each.strip() for each in found[0].details] == [detail]
    write_lock(path, make_lock(serializer(after), read_lock(path)))
    assert check(serializer(after), read_lock(path)) == not_locked(serializer(after), read_lock(path)) == []
    assert check(serializer(before), read_lock(path)) == [], "and a check that goes refuses nothing"
