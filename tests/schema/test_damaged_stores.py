"""The check of a store goes on beyond what is damaged in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Added, Command
from store_files import change, flip

from hangarlog import ANY, CorruptionWarning, EventRegistry, EventSerializer, FileEventStore
from hangarlog.schema import history
from hangarlog.schema.history import check_history, check_store

EVENTS = 60
LOST = (7, 29, 30, 44)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A store with four events damaged in both copies, two of them at the end of a share."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        for number in range(EVENTS):
            store.append("a:1", [Added(number, "x" * 60)], ANY)
        store.sync()
    for number in LOST:
        for log in ("journal.jsonl", "streams/a/1.jsonl"):
            change(path / log, number, flip)
    (tmp_path / "damaged_app.py").write_text(
        "import msgspec\nfrom hangarlog import EventRegistry, EventSerializer\nregistry = EventRegistry()\n"
        "@registry.event\nclass Added(msgspec.Struct):\n    number: int\n    text: str\n"
        "serializer = EventSerializer(registry=registry)\n"
    )
    return path


def test_an_event_damaged_in_both_copies_does_not_end_the_check(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is any other counted twice, where shares end."""
    monkeypatch.setattr(history, "_EVENTS_PER_SHARE", 15)
    monkeypatch.setattr(history, "_processors", lambda: 1)
    with pytest.warns(CorruptionWarning):
        (found,) = history.show_history(str(damaged))
    assert (found.count, found.first_position, found.last_position) == (EVENTS - len(LOST), 1, EVENTS)


def test_worker_processes_go_on_too(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_EVENTS_PER_SHARE", 15)
    monkeypatch.setattr(history, "_processors", lambda: 2)
    with pytest.warns(CorruptionWarning):
        (found,) = check_history(str(damaged), "damaged_app", folder=str(damaged.parent))
    assert (found.count, found.failed) == (EVENTS - len(LOST), 0)


def test_an_open_store_is_checked_beyond_it(damaged: Path) -> None:
    registry = EventRegistry()
    registry.event(Added)
    serializer = EventSerializer(registry=registry)
    with pytest.warns(CorruptionWarning), FileEventStore(damaged, serializer=serializer) as store:
        (found,) = check_store(store, serializer)
    assert (found.count, found.failed) == (EVENTS - len(LOST), 0)


def test_the_command_says_how_many_were_not_checked(hangarlog: Command, damaged: Path) -> None:
    """That is no history that breaks: it exits with 3."""
    done = hangarlog("schema", "check", "--events", "damaged_app", "s")
    assert done.returncode == 3, done.stderr
    assert b"4 events are damaged in both copies, so they were not checked" in done.stderr
    assert json.loads(done.stdout)["count"] == EVENTS - len(LOST)
