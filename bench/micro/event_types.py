"""`python -m bench.micro.event_types`: reads of streams that mix up to 4,000 event types and three schema versions.

Without arguments it runs all cases, each in a process of its own. `--code PATH` measures another checkout's hangarlog.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from hangarlog import EventRegistry, EventSerializer, FileEventStore, UntypedEvent, UpcasterChain

_TYPES = 1, 40, 400, 4000
_VERSIONS = "one", "each its own", "mixed", "hostile"
_EVENTS = 40_000
_ROUNDS = 7


def _serializer(types: int, versions: str) -> EventSerializer:
    """Return a serializer with this many event types."""
    registry, chain = EventRegistry(), UpcasterChain()
    for n in range(types):
        current = {"one": 1, "each its own": 1 + n % 3, "mixed": 3, "hostile": 1}[versions]
        cls: Any = msgspec.defstruct(
            f"Kind{n}", [("provider_id", str), ("mode", str), ("count", int), ("at", float), ("event_id", str)]
        )
        registry.event(cls, version=current)
        for version in range(1, current):
            chain.upcaster(cls.__name__, version)(lambda data: {**data, "count": data["count"] + 1})
    return EventSerializer(chain, registry=registry, unknown="untyped")


def _events(types: int, versions: str) -> list[UntypedEvent]:
    """Return stored events: their types take turns, and mixed versions do so within each type."""
    events = []
    for n in range(_EVENTS):
        kind = n * 7 % types
        version = {"one": 1, "each its own": 1 + kind % 3, "mixed": 1 + n // types % 3, "hostile": 1}[versions]
        name = f"Unknown{n}" if versions == "hostile" else f"Kind{kind}"
        payload = {
            "provider_id": "math",
            "mode": "subprocess",
            "count": 3,
            "at": 1795404241.28,
            "event_id": f"e{n:012}",
        }
        events.append(UntypedEvent(name, payload, version))
    return events


def _measure(types: int, versions: str) -> None:
    """Print the figures of one case."""
    with tempfile.TemporaryDirectory(prefix="hangarlog-bench-") as folder:
        store = FileEventStore(folder + "/store", durability="relaxed", serializer=_serializer(types, versions))
        events = _events(types, versions)
        for at in range(0, _EVENTS, 500):
            store.append("run:1", events[at : at + 500], at - 1)
        del events
        reads = {"first": 0.0, "stream": 9e9, "records": 9e9, "all": 9e9}
        begin, size = time.process_time(), _resident()
        assert len(store.read_stream("run:1")) == _EVENTS
        reads["first"] = time.process_time() - begin
        calls: dict[str, Any] = {
            "stream": lambda: len(store.read_stream("run:1")),
            "all": lambda: sum(1 for _ in store.read_all(limit=_EVENTS)),
            "records": lambda: sum(1 for _ in store.records("run:1")),
        }
        for _ in range(_ROUNDS):
            for name, call in calls.items():
                begin = time.process_time()
                assert call() == _EVENTS
                reads[name] = min(reads[name], time.process_time() - begin)
        figures = " | ".join(f"{seconds / _EVENTS * 1e6:.2f}" for seconds in reads.values())
        print(f"| {types:,} | {versions} | {figures} | {(_resident() - size) >> 10:,} |", flush=True)


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    """Measure the case that is named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="?", type=int)
    parser.add_argument("versions", nargs="?", choices=_VERSIONS)
    parser.add_argument("--code", default=str(Path(__file__).parents[2]))
    options = parser.parse_args()
    if options.types:
        _measure(options.types, options.versions or "one")
        return
    print("| types | versions | µs an event, first read | read_stream | records | read_all | KiB more at the peak |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for versions in _VERSIONS:
        for types in _TYPES if versions != "hostile" else (1,):
            command = [sys.executable, __file__, str(types), versions]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": options.code})


if __name__ == "__main__":
    main()
