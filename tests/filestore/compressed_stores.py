"""Stores with compressed segments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Added

from hangarlog import ANY, FileEventStore
from hangarlog.log import compressing

SEGMENT_BYTES = 60_000


def fill(store: FileEventStore[Any], first: int, last: int) -> None:
    """Append the numbers to three streams in turns, with a text that makes a hundred events a segment or two."""
    for number in range(first, last):
        store.append(f"a:{number % 3}", [Added(number, f"{number} " * 60)], ANY)


def numbers(store: FileEventStore[Any]) -> list[int]:
    return [event.number for *_, event in store.read_all()]


def packed(path: Path) -> list[Path]:
    return sorted(path.rglob("*.jsonl.zst"))


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let frames have few lines, and chunks of text, too, of which they are made."""
    monkeypatch.setattr(compressing, "FRAME_BYTES", 4000)
    monkeypatch.setattr(compressing, "_MUCH", 1e9)  # The text repeats itself.
    monkeypatch.setattr("hangarlog.log.segment.Segment.lines_at.__defaults__", (3000,))


@pytest.fixture
def full(tmp_path: Path, frames: None) -> Iterator[FileEventStore[Any]]:
    """A compressed store of 1,000 events."""
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=SEGMENT_BYTES) as store:
        fill(store, 0, 1000)
        assert store.compress().segments == len(packed(tmp_path / "s")) > 8
        yield store
