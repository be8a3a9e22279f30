"""Defaults by where they come from: what the lock says of them, and which changes of them count."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import random
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import attrs
import msgspec
import pytest
from msgspec import UNSET, UnsetType

from hangarlog import EventRegistry, EventSerializer, UpcasterChain
from hangarlog.schema.check import Finding, check, failing
from hangarlog.schema.defaults import set_varying
from hangarlog.schema.describe import describe
from hangarlog.schema.lockfile import SchemaLock
from hangarlog.schema.locking import make_lock, not_locked
from hangarlog.schema.skeleton import skeleton


def struct(kind: Any, factory: Callable[[], Any], *, omit: bool = True) -> type:
    return msgspec.defstruct("Event", [("x", kind, msgspec.field(default_factory=factory))], omit_defaults=omit)


def dataclass(kind: Any, factory: Callable[[], Any]) -> type:
    return dataclasses.make_dataclass("Event", [("x", kind, dataclasses.field(default_factory=factory))])


def attrs_class(kind: Any, factory: Callable[[], Any]) -> type:
    return attrs.make_class("Event", {"x": attrs.field(type=kind, factory=factory)})


def serializer(event_class: type, version: int = 1, step: Callable[..., Any] = dict) -> EventSerializer:
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(event_class, name="Event", version=version)
    for at in range(1, version):
        chain.upcaster("Event", at)(step)
    return EventSerializer(chain, registry=registry)


def locked(*classes: type) -> SchemaLock:
    """A lock that was written for each of the classes in turn."""
    lock = SchemaLock()
    for event_class in classes:
        lock = make_lock(serializer(event_class), lock)
    return lock


def found(event_class: type, lock: SchemaLock) -> list[Finding]:
    return failing(check(serializer(event_class), lock))


_COUNTER = iter(range(1_000_000))

IMPURE: list[tuple[Any, Callable[[], Any]]] = [
    (float, time.time),
    (int, time.time_ns),
    (int, lambda: int(time.time()) // 1_000_000),
    (datetime.datetime, datetime.datetime.now),
    (datetime.datetime, functools.partial(datetime.datetime.now, datetime.UTC)),
    (datetime.date, datetime.date.today),
    (uuid.UUID, uuid.uuid4),
    (str, lambda: uuid.uuid1().hex),
    (int, os.getpid),
    (str, socket.gethostname),
    (str, os.getcwd),
    (str, lambda: os.environ.get("HOME", "")),
    (float, random.random),
    (int, lambda: random.randint(0, 1) * 0),
    (int, lambda: hash("a")),
    (int, lambda: next(_COUNTER)),
    (list[float], lambda: [time.time()]),
]


@pytest.mark.parametrize("make", [struct, dataclass, attrs_class], ids=lambda make: make.__name__)
@pytest.mark.parametrize(("kind", "factory"), IMPURE)
def test_an_impure_factory_is_locked_without_a_value(
    make: Callable[[Any, Callable[[], Any]], type], kind: Any, factory: Callable[[], Any]
) -> None:
    """So that a class that has not changed passes, and its lock is not written again."""
    field = describe("Event", make(kind, factory))["properties"]["x"]
    assert "default" not in field
    assert field["x-default"] == "computed"
    lock = locked(make(kind, factory))
    assert check(serializer(make(kind, factory)), lock) == not_locked(serializer(make(kind, factory)), lock) == []


@pytest.mark.parametrize("make", [struct, dataclass, attrs_class], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    ("kind", "factory", "value"),
    [
        (list[int], list, []),
        (dict[str, int], lambda: {"a": 1}, {"a": 1}),
        (set[str], lambda: {"c", "a", "b"}, ["a", "b", "c"]),
        (datetime.date, lambda: datetime.date(2026, 1, 2), "2026-01-02"),
        (str, "text".upper, "TEXT"),
        (uuid.UUID, lambda: uuid.uuid5(uuid.NAMESPACE_URL, "a"), "fc8ce4ad-4f4f-5dba-9eab-a44ab2b6ae2c"),
    ],
)
def test_a_pure_factory_is_locked_with_its_value(
    make: Callable[[Any, Callable[[], Any]], type], kind: Any, factory: Callable[[], Any], value: Any
) -> None:
    field = describe("Event", make(kind, factory))["properties"]["x"]
    if kind is uuid.UUID:
        value = str(factory())
    assert field["default"] == value


class Nested(msgspec.Struct):
    process: int = msgspec.field(default_factory=os.getpid)


class Holder(msgspec.Struct):
    nested: Nested


def test_a_class_as_a_factory_is_impure_if_one_of_its_defaults_is() -> None:
    """msgspec calls it where no watch sees it."""
    assert describe("Event", struct(Nested, Nested))["properties"]["x"]["x-default"] == "computed"


class Keys(TypedDict, total=False):
    a: int


class Row(NamedTuple):
    a: int = 0
    b: tuple[int, ...] = ()


def test_what_a_class_leaves_out_is_not_called_always_written() -> None:
    class Event(msgspec.Struct):
        plain: int = 0
        unset: int | UnsetType = UNSET
        may_be_unset: int | UnsetType = 3
        keys: Keys = msgspec.field(default_factory=lambda: Keys(a=1))
        row: Row = Row()

    shape = describe("Event", Event)
    written = {name for name, field in shape["properties"].items() if field.get("x-written")}
    assert written == {"plain", "keys", "row"}
    assert shape["properties"]["unset"]["x-default"] == "unset"
    assert "x-written" not in shape["$defs"]["Keys"]["properties"]["a"]
    omitting = msgspec.defstruct(
        "Event", [("a", int, 0), ("b", list[int], []), ("c", list[int], msgspec.field(default_factory=lambda: [1]))]
    )
    assert omitting().c == [1]
    shape = describe("Event", msgspec.defstruct("Event", [("a", int, 0), ("b", list[int], [])], omit_defaults=True))
    assert not any("x-written" in field for field in shape["properties"].values())


def test_a_field_is_written_by_all_events_only_if_every_lock_of_its_version_had_it() -> None:
    """A lock without the field stays in memory: the next ones do not forget that events may lack it."""
    without = msgspec.defstruct("Event", [("y", int)])
    before = msgspec.defstruct("Event", [("y", int), ("x", int, 0)])
    after = msgspec.defstruct("Event", [("y", int), ("x", int, 1)])
    required = msgspec.defstruct("Event", [("y", int), ("x", int)])
    assert found(after, locked(before)) == found(required, locked(before)) == []
    assert [finding.kind for finding in found(after, locked(without, before))] == ["changed"]
    assert [finding.kind for finding in found(after, locked(without, before, before))] == ["changed"]
    assert [finding.kind for finding in found(required, locked(without, before))] == ["changed"]
    assert found(after, locked(required, before)) == []


def test_a_lock_of_an_earlier_version_is_believed_as_far_as_it_goes() -> None:
    """It does not say what is always written, nor where a default comes from."""
    before = msgspec.defstruct("Event", [("x", int, 0), ("at", float, msgspec.field(default_factory=time.time))])
    lock = locked(before)
    for field in lock.events["Event"].schemas["1"]["properties"].values():
        field.pop("x-written")
        field.pop("x-default", None)
    assert found(before, lock) == []
    after = msgspec.defstruct("Event", [("x", int, 1), ("at", float, msgspec.field(default_factory=time.time))])
    assert [finding.kind for finding in found(after, lock)] == ["changed"]


def test_a_first_lock_above_version_1_does_not_say_what_is_always_written() -> None:
    """Events of the versions before it may lack anything."""
    before = msgspec.defstruct("Event", [("x", int, 0)])
    lock = make_lock(serializer(before, 2), SchemaLock())
    after = msgspec.defstruct("Event", [("x", int, 1)])
    assert [finding.kind for finding in failing(check(serializer(after, 2), lock))] == ["changed"]


def test_a_default_that_differs_between_processes_is_computed() -> None:
    event_class = msgspec.defstruct("Event", [("x", str, "host-a")], omit_defaults=True)
    set_varying({event_class: {"x"}})
    assert describe("Event", event_class)["properties"]["x"] == {"type": "string", "x-default": "computed"}


def test_a_skeleton_writes_no_moment_down() -> None:
    """What was computed for each event is for a person to fill in."""
    before = msgspec.defstruct(
        "Event",
        [("old", str), ("at", float, msgspec.field(default_factory=time.time)), ("n", int, 0)],
        omit_defaults=True,
    )
    after = msgspec.defstruct("Event", [("at", float), ("n", int, 0)])
    code = skeleton("Event", 1, describe("", before), describe("", after))
    assert not any(character.isdigit() for character in code.partition("->")[2])


def test_a_three_state_field_that_loses_a_state_is_said_so() -> None:
    """Left out, null, or a value: null stands for both afterwards."""
    before = msgspec.defstruct("Event", [("x", int | None | UnsetType, UNSET)])
    (finding,) = found(msgspec.defstruct("Event", [("x", int | None, None)]), locked(before))
    assert "its default was UNSET, is null: events stored without it would be read like those with null" in str(
        finding.details
    )
