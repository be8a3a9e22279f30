"""A check of any classes and any lock ends with findings, or with an error that names the lock."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from made_classes import Makes

from hangarlog import EventRegistry, EventSerializer, HangarlogError, SchemaLockError, UpcasterChain
from hangarlog.schema.check import check, failing
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.schema.locking import make_lock, refused

SEEDS = 60


def application(classes: dict[str, Any], version: int = 1) -> EventSerializer:
    registry, chain = EventRegistry(), UpcasterChain()
    for name, event_class in classes.items():
        try:
            registry.event(event_class, name=name, version=version)
        except (HangarlogError, TypeError, ValueError):
            continue  # The registry says so when the class is defined.
        if version > 1:
            chain.upcaster(name, 1)(dict)
    return EventSerializer(chain, registry=registry)


def lockable(classes: dict[str, Any]) -> EventSerializer:
    wrong = {finding.event_type for finding in refused(application(classes), SchemaLock())}
    return application({name: made for name, made in classes.items() if name not in wrong})


def two_releases(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    makes = Makes(seed)
    before: dict[str, Any] = {}
    fields = {}
    for number in range(makes.choose.randint(1, 6)):
        name = f"Made{seed}x{number}"
        fields[name] = makes.fields()
        before[name] = makes.make(name, fields[name])
    after = {
        name if makes.choose.random() < 0.9 else f"{name}Renamed": makes.make(f"{name}n", makes.next_fields(found))
        for name, found in fields.items()
    }
    return ({name: made for name, made in all_made.items() if made is not None} for all_made in (before, after))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_classes_can_be_locked_and_checked(seed: int, tmp_path: Path) -> None:
    """With themselves, with their next release, and with that at a higher version."""
    before, after = two_releases(seed)
    path = str(tmp_path / "event-schema.json")
    good = lockable(before)
    write_lock(path, make_lock(good, SchemaLock()))
    lock = read_lock(path)
    assert make_lock(good, lock).encode() == lock.encode() == Path(path).read_bytes()
    none = EventSerializer(registry=EventRegistry())
    for release in (application(after), application(after, 2), application(before, 2), none):
        for finding in check(release, lock):
            assert finding.message
            compile(finding.code, "draft", "exec")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_lock_is_checked_or_refused(seed: int, tmp_path: Path) -> None:
    """Locks with parts exchanged, removed, doubled and renamed."""
    before, after = two_releases(seed)
    choose = random.Random(seed)
    good = lockable(before)
    path = tmp_path / "event-schema.json"
    for _ in range(20):
        content = json.loads(make_lock(good, SchemaLock()).encode())
        for _ in range(choose.randint(1, 3)):
            spoil(content, choose)
        path.write_text(json.dumps(content))
        try:
            lock = read_lock(str(path))
        except SchemaLockError:
            continue
        for release in (application(after), application(before, 2)):
            for finding in check(release, lock):
                compile(finding.code, "draft", "exec")
        if not refused(good, lock):
            make_lock(good, lock).encode()


def spoil(content: Any, choose: random.Random) -> None:
    """Change something somewhere in a lock."""
    places: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        part = waiting.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part))
        places += [(part, key) for key in keys]
        waiting += [part[key] for key in keys if isinstance(part[key], (dict, list))]
    part, key = choose.choice(places)
    other, name = choose.choice(places)
    roll = choose.random()
    if roll < 0.4:
        part[key] = json.loads(json.dumps(other[name]))
    elif roll < 0.6:
        del part[key]
    elif roll < 0.8 and isinstance(part, dict):
        part[choose.choice(["type", "anyOf", "$ref", "enum", "x", "properties", "1"])] = part.pop(key)
    else:
        part[key] = choose.choice([None, 0, -1, "", "object", {}, [], True, {"$ref": "#/definitions/X"}, 1 << 65])


def test_failing_findings_of_an_unchanged_application_are_about_classes_that_no_one_can_decode() -> None:
    for seed in range(SEEDS):
        before, _ = two_releases(seed)
        serializer = application(before)
        for finding in failing(check(serializer, SchemaLock())):
            assert finding.kind == "unreadable"
