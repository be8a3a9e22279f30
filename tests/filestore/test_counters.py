"""What writers count in the shared state: each sync once, and the bytes of sealed segments; appends count nothing."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest
from conftest import Added

from hangarlog import ANY, FileEventStore
from hangarlog.filestore.counters import BOUNDS_NS, BUCKETS, Counters, counters_in
from hangarlog.system.filesystem import FileSystem


def counters(path: Path) -> Counters:
    found = counters_in((path / "state").read_bytes())
    assert found
    return found


class Counting(FileSystem):
    """Counts the calls that write to the shared state, and those that bring the journal to the device."""

    sees_synced_writes = True

    def __init__(self, path: Path) -> None:
        self._state, self._ring, self._journal = (str(path / name) for name in ("state", "ring", "journal.jsonl"))
        self.state_writes = self.syncs = 0

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        inode = os.fstat(fd).st_ino
        self.state_writes += inode == self.identity_at(self._state)
        self.syncs += inode == self.identity_at(self._ring)
        super().write_at(fd, data, offset)

    def sync_data(self, fd: int) -> None:
        self.syncs += os.fstat(fd).st_ino == self.identity_at(self._journal)
        super().sync_data(fd)


@pytest.mark.parametrize("ring", [True, False])
def test_a_sync_is_counted_once_with_its_time_and_one_write(
    tmp_path: Path, ring: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hangarlog.filestore.group_sync.SYNCS_BEFORE_RING", 0 if ring else 1 << 30)
    counting = Counting(tmp_path / "s")
    with FileEventStore(tmp_path / "s", filesystem=counting) as store:
        store.append("a:1", [Added(0)], ANY)
        before, writes, syncs = counters(tmp_path / "s"), counting.state_writes, counting.syncs
        for number in range(10):
            store.append("a:1", [Added(number)], ANY)
        after = counters(tmp_path / "s")
        assert counting.syncs - syncs == 10
        assert counting.state_writes - writes == 30, "a commit, a durable position and a count for each append"
        store.sync()  # There is nothing to sync.
        assert counters(tmp_path / "s") == after
    count = sum(now[0] - then[0] for now, then in zip(after.syncs, before.syncs, strict=True))
    total = sum(now[1] - then[1] for now, then in zip(after.syncs, before.syncs, strict=True))
    assert count == 10
    assert total > 0


def test_relaxed_appends_write_no_more_than_their_commit(tmp_path: Path) -> None:
    counting = Counting(tmp_path / "s")
    with FileEventStore(tmp_path / "s", filesystem=counting, durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
        writes = counting.state_writes
        for number in range(10):
            store.append("a:1", [Added(number)], ANY)
        assert counting.state_writes - writes == 10


def test_the_time_of_a_sync_is_in_its_bucket(tmp_path: Path) -> None:
    """At both ends of every bucket."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        for number, bound in enumerate(BOUNDS_NS):
            for took, bucket in ((bound, number), (bound + 1, number + 1)):
                before = counters(tmp_path / "s").syncs
                store._state.count_sync(took)
                after = counters(tmp_path / "s").syncs
                changed = {at for at in range(BUCKETS) if after[at] != before[at]}
                assert changed == {bucket}
                assert (after[bucket][0] - before[bucket][0], after[bucket][1] - before[bucket][1]) == (1, took)


def test_all_that_was_written_to_the_journal_is_counted(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=2000) as store:
        for number in range(50):
            store.append("a:1", [Added(number)], ANY)
    sealed = sum(path.stat().st_size for path in (tmp_path / "s").glob("journal.0*.jsonl"))
    assert sealed > 4000
    assert counters(tmp_path / "s").sealed_bytes == sealed
    last = max(int(path.name.split(".")[1]) for path in (tmp_path / "s").glob("journal.0*.jsonl"))
    assert counters(tmp_path / "s").sealed_first == last


@pytest.mark.parametrize("size", [0, 100, 224, 300, 1055])
def test_a_cut_state_is_not_made_longer_by_a_count(tmp_path: Path, size: int) -> None:
    """Zeros in place of the words that were cut off would be believed."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
        os.truncate(tmp_path / "s/state", size)
        for took in (1, 100_000, 1 << 40):
            store._state.count_sync(took)
        assert (tmp_path / "s/state").stat().st_size == size
        store.append("a:1", [Added(1)], ANY)
        assert store.read_stream("a:1") == [Added(0), Added(1)]


def test_a_count_that_cannot_be_written_fails_no_sync(tmp_path: Path) -> None:
    class Failing(FileSystem):
        def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
            if os.fstat(fd).st_ino == self.identity_at(str(tmp_path / "s/state")) and offset >= 224:
                raise OSError(5, "it fails")
            super().write_at(fd, data, offset)

    with FileEventStore(tmp_path / "s", filesystem=Failing()) as store:
        assert store.append("a:1", [Added(1)], ANY) == 0
        assert store.durable_position == 1


def test_counters_begin_anew_in_a_copy_and_after_a_restart(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(1)], ANY)
    with FileEventStore(tmp_path / "s") as store:
        pass
    assert counters(tmp_path / "s").syncs != ((0, 0),) * BUCKETS
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    with FileEventStore(tmp_path / "copy", durability="relaxed"):
        assert counters(tmp_path / "copy") == Counters(0, 0, ((0, 0),) * BUCKETS)
    raw = bytearray((tmp_path / "s/state").read_bytes())
    raw[17 * 8 : 18 * 8] = struct.pack("=Q", 1)  # Another boot.
    (tmp_path / "s/state").write_bytes(raw)
    with FileEventStore(tmp_path / "s", durability="relaxed"):
        assert counters(tmp_path / "s") == Counters(0, 0, ((0, 0),) * BUCKETS)
