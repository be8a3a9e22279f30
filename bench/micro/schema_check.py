"""Time of `schema check` and `schema lock`: `python -m bench.micro.schema_check [TYPES]`.

Two applications: 500 small event types, and 17 large ones like Stripe's, whose classes refer to each other thousands of
times through optional fields, lists, mappings and unions by tag.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Union

import msgspec

from hangarlog import EventRegistry, EventSerializer
from hangarlog.schema.check import check, failing
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.schema.locking import make_lock

_SCALARS: list[Any] = [str, int, bool, str | None, int | None, list[str], dict[str, str]]


def many_types(count: int = 500) -> EventSerializer:
    """Return a serializer of event types with ten fields and a nested class each."""
    registry, choose = EventRegistry(), random.Random(1)
    for number in range(count):
        inner = msgspec.defstruct(f"Part{number}", [(f"f{at}", choose.choice(_SCALARS)) for at in range(5)])
        fields = [(f"f{at}", choose.choice(_SCALARS)) for at in range(9)]
        registry.event(msgspec.defstruct(f"Event{number}", [*fields, ("part", list[inner])]))  # type: ignore[valid-type]
    return EventSerializer(registry=registry)


def stripe_like(types: int = 17, classes: int = 400) -> EventSerializer:
    """Return a serializer of a few event types that reach `classes` classes, which refer to each other."""
    registry, choose = EventRegistry(), random.Random(2)
    names = [f"Object{at}" for at in range(classes)]
    namespace: dict[str, Any] = {}
    for at, name in enumerate(names):
        fields: list[Any] = [(f"f{field}", choose.choice(_SCALARS)) for field in range(12)]
        near = [names[(at + 1) % classes], *choose.sample(names, 7)]
        fields += [
            ("expanded", f"Union[str, {near[0]}, None]"),
            ("listed", f"list[{near[1]}]"),
            ("mapped", f"dict[str, {near[2]}]"),
            ("either", f"Union[{near[3]}, {near[4]}, {near[5]}, None]"),
            ("many", f"list[Union[{near[6]}, {near[7]}]]"),
        ]
        namespace[name] = msgspec.defstruct(name, fields, tag_field="object", tag=name.lower(), module=__name__)
    globals().update(namespace, Union=Union)  # Where `msgspec` resolves the names.
    for number in range(types):
        registry.event(msgspec.defstruct(f"Stripe{number}", [("id", str), ("object", namespace[names[number]])]))
    return EventSerializer(registry=registry)


def _timed(what: str, run: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = run()
    print(f"  {what:<32} {time.perf_counter() - started:8.3f} s", flush=True)
    return result


def measure(title: str, make: Callable[[], EventSerializer]) -> None:
    """Print how long a lock and a check of an application take."""
    print(title, flush=True)
    serializer = make()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "event-schema.json")
        lock = _timed("make the lock", lambda: make_lock(serializer, SchemaLock()))
        _timed("write it", lambda: write_lock(path, lock))
        print(f"  {'its size':<32} {os.path.getsize(path) / 1e6:8.2f} MB", flush=True)
        lock = _timed("read it", lambda: read_lock(path))
        findings = _timed("check", lambda: check(serializer, lock))
        assert not failing(findings), failing(findings)[0]


if __name__ == "__main__":
    sizes = [int(word) for word in sys.argv[1:]] or [17, 400]
    measure("500 event types", many_types)
    measure(f"{sizes[0]} event types that reach {sizes[1]} classes", lambda: stripe_like(*sizes))
