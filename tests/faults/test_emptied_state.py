"""The shared state is emptied at each moment at which an append reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Added

from hangarlog import ANY, FileEventStore, OutcomeUnknownError
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem


class Emptying(FileSystem):
    """Empties the shared state before the read numbered `at`, counted from `begin` on."""

    def __init__(self, state: Path, at: int) -> None:
        self.state, self.at, self.reads = state, at, -1

    def begin(self) -> None:
        self.reads = 0

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self.reads += self.reads >= 0
        if self.reads == self.at:
            os.truncate(self.state, 0)
        return super().pread(fd, size, offset)


@pytest.mark.parametrize("at", range(1, 24))
def test_no_event_is_lost_if_the_state_is_emptied_within_an_append_that_rolls(tmp_path: Path, at: int) -> None:
    """The append is acknowledged, or its outcome is unknown. Others that have the store open go on."""
    path = tmp_path / "s"
    emptying = Emptying(path / "state", at)
    with (
        FileEventStore(path, segment_bytes=1000, filesystem=emptying) as first,
        FileEventStore(path, segment_bytes=1000) as second,
    ):
        stores, acknowledged = [second, first], []
        while (path / "journal.jsonl").stat().st_size < 1000:
            number = len(acknowledged)
            stores[number % 2].append("a:1", [Added(number, "x" * 50)], ANY)
            acknowledged.append(number)
        emptying.begin()
        try:
            first.append("a:1", [Added(100)], ANY)
            acknowledged.append(100)
        except OutcomeUnknownError:
            pass
        emptying.reads = -1
        for number, store in ((200, second), (300, first)):
            store.append("a:1", [Added(number)], ANY)
            acknowledged.append(number)
        for store in stores:
            found = [event.number for event in store.read_stream("a:1")]
            assert [number for number in found if number in acknowledged] == acknowledged
            assert [position for position, _, _ in store.read_all()] == list(range(1, len(found) + 1))
    with FileEventStore(path) as store:
        assert list(verify(store)) == []


def test_the_reads_are_as_many_as_are_tried(tmp_path: Path) -> None:
    emptying = Emptying(tmp_path / "s/state", 10**9)
    with FileEventStore(tmp_path / "s", segment_bytes=1, filesystem=emptying) as store:
        store.append("a:1", [Added(0)], ANY)
        emptying.begin()
        store.append("a:1", [Added(1)], ANY)
    assert emptying.reads < 40
