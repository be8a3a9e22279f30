"""Stores whose journal begins later, for the tests of retention."""

from __future__ import annotations

from pathlib import Path

from conftest import Added

from hangarlog import ANY, FileEventStore
from hangarlog.filestore.dropping import drop_before, most_to_drop

SEGMENT = 2000


def written(path: Path, events: int = 60, streams: int = 3) -> FileEventStore:
    """Return a store of small segments: event `n` is in stream `a:(n % streams)`."""
    store = FileEventStore(path, segment_bytes=SEGMENT, durability="relaxed")
    for number in range(events):
        store.append(f"a:{number % streams}", [Added(number, "x" * 40)], ANY)
    return store


def hide_before(store: FileEventStore, position: int) -> None:
    """Hide every event before a position from its stream."""
    for record in reversed([*store.records(to_position=position - 1)]):
        store.truncate_stream(record.stream_id, record.stream_version + 1)


def segment_firsts(store: FileEventStore) -> list[int]:
    return store.folder.journal.sealed()


def dropped(path: Path, segments: int = 3, events: int = 60) -> FileEventStore:
    """Return such a store without its first segments."""
    store = written(path, events)
    first = segment_firsts(store)[segments]
    drop(store, first)
    return store


def drop(store: FileEventStore, first: int) -> None:
    """Hide every event before position `first`, and drop it from the journal."""
    hide_before(store, first)
    session = store._write_session
    assert most_to_drop(session) >= first
    drop_before(session, first)
