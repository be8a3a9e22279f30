"""Stores with an archive, and what must be in both together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import Added

from hangarlog import ANY, FileEventStore
from hangarlog.maintenance.verify import verify

EVENTS, STREAMS = 60, 3
ALL = [*range(1, EVENTS + 1)]


def written(path: Path, events: int = EVENTS, filesystem: Any = None) -> FileEventStore[Any]:
    """Return a store whose segments have 8 events: event `n` is in stream `a:(n % 3)`, at position n + 1."""
    store = FileEventStore(path, segment_bytes=2000, durability="relaxed", filesystem=filesystem)
    for number in range(events):
        store.append(f"a:{number % STREAMS}", [Added(number, "x" * 40)], ANY)
    return store


def opened(path: Path, filesystem: Any = None) -> FileEventStore[Any]:
    return FileEventStore.untyped(path, create=False, durability="relaxed", filesystem=filesystem)


def positions(store: FileEventStore[Any], stream_id: str | None = None) -> list[int]:
    return [record.position for block in store.envelopes(stream_id) for record in block]


def held(path: Path, filesystem: Any = None) -> list[int]:
    """The positions in a store, which must be whole; none if there is no store yet."""
    if not (path / "hangarlog.json").exists():
        return []
    with opened(path, filesystem) as store:
        damages = list(verify(store))
        assert not damages, f"verify finds {damages[0]}"
        return positions(store)


def shown(store: FileEventStore[Any], streams: int = STREAMS) -> list[int]:
    """The positions of all events that the streams show."""
    return sorted(position for n in range(streams) for position in positions(store, f"a:{n}"))
