"""Checkpoints are made as often as it takes to open a store quickly, whoever closed it, or died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT, Added

from hangarlog import ANY, FileEventStore
from hangarlog.filestore.checkpoint import load_checkpoint, make_checkpoint
from hangarlog.filestore.open_streams import COLD_BYTES
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing.probe import shared_state

STREAMS = 60
PAYLOAD = "x" * 6000


def fill(path: Path) -> None:
    with FileEventStore(path, durability="relaxed") as store:
        for number in range(STREAMS):
            store.append(f"a:{number}", [Added(number, PAYLOAD)], ANY)


class Opened(FileSystem):
    """Remembers which streams' files were opened."""

    def __init__(self) -> None:
        self.streams: list[str] = []

    def _open(self, path: str, flags: int, *, create: bool = False) -> int:
        if os.sep + "streams" + os.sep in path:
            self.streams.append(os.path.basename(path))
        return super()._open(path, flags, create=create)


def test_the_last_one_to_close_leaves_nothing_to_replay(tmp_path: Path) -> None:
    """And no stream is looked at that was written to before; one that was written to since is."""
    path = tmp_path / "s"
    fill(path)
    for file in (path / "streams").rglob("*.jsonl"):
        os.utime(file, (1, file.stat().st_mtime - 3))  # Beyond what file systems and copies take from times.
    filesystem = Opened()
    with FileEventStore(path, durability="relaxed", filesystem=filesystem) as store:
        assert store.recovered
        assert (store.recovered.since, filesystem.streams) == (STREAMS, [])
    os.utime(path / "streams/a/7.jsonl")
    with FileEventStore(path, durability="relaxed", filesystem=filesystem):
        assert "7.jsonl" in filesystem.streams


def test_one_who_closes_while_others_have_the_store_open_makes_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as other:
        fill(path)
        assert load_checkpoint(other.folder).position == 0
    assert load_checkpoint(other.folder).position == STREAMS


class GrowingMeanwhile(FileSystem):
    """Streams are made while a checkpoint is synced, until the catalog is another file."""

    store: FileEventStore | None = None

    def sync_everything(self, folder: str, folders: Iterator[str]) -> None:
        super().sync_everything(folder, folders)
        if self.store:
            catalog = self.store.folder.catalog_path
            before, number = self.identity_at(catalog), 0
            while self.identity_at(catalog) == before:
                self.store.append(f"new:{number}", [Added(number)], -1)
                number += 1


def test_a_checkpoint_counts_although_the_catalog_grew_meanwhile(tmp_path: Path) -> None:
    """It was marked before, and the new file was synced."""
    filesystem: Any = GrowingMeanwhile()
    with FileEventStore(tmp_path / "s", durability="relaxed", filesystem=filesystem) as store:
        store.append("a:1", [Added(1)], ANY)
        filesystem.store = store
        make_checkpoint(filesystem, store.folder, shared_state(store))
        filesystem.store = None
        assert load_checkpoint(store.folder).position == 1
        count = store.get_event_count()
        assert count > 1
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        assert store.recovered
        assert store.recovered.since in (1, count)
        assert store.get_stream_count() == count


KILLED = """
import os, signal, sys
from conftest import Added
from hangarlog import FileEventStore, register_event_type
register_event_type(Added)
store = FileEventStore(sys.argv[1], durability="relaxed")
for number in range(60):
    store.append(f"a:{number}", [Added(number)], -1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_streams_that_a_recovery_had_to_open_count_for_the_next_checkpoint(tmp_path: Path) -> None:
    """Processes that die one after the other leave no more and more to be replayed."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    died = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "s"], env={**os.environ, "PYTHONPATH": paths})
    assert died.returncode == -signal.SIGKILL
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        assert store.recovered
        assert store.recovered.since == 0
        assert shared_state(store).tail > STREAMS * COLD_BYTES
