"""When an append returns, as much is on the device as its durability says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Added

from hangarlog import ANY, FileEventStore, MemoryEventStore
from hangarlog.system.filesystem import FileSystem

pytestmark = pytest.mark.usefixtures("ring_at_once")


class Watching(FileSystem):
    """Notes which files were synced, and tells who waits for it."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.happened = threading.Event()

    def sync_data(self, fd: int) -> None:
        super().sync_data(fd)
        self.synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        self.happened.set()


def test_always_syncs_the_journal_once_an_append_and_nothing_else(tmp_path: Path) -> None:
    """However many streams, through the ring; an append of nothing costs none. A large one syncs the journal itself."""
    filesystem = Watching()
    with FileEventStore(tmp_path / "s", filesystem=filesystem) as store:
        store.append("a:1", [Added(-1)], ANY)
        assert filesystem.synced[-3:] == ["journal.jsonl", "ring.new", "state"]  # Once, to make the ring.
        filesystem.synced.clear()
        for number in range(5):
            store.append_many([("a:1", [Added(number)], ANY), (f"b:{number}", [Added(number)], ANY)])
        assert filesystem.synced == ["ring"] * 5
        store.append("a:1", [], ANY)
        assert filesystem.synced == ["ring"] * 5
        store.append("a:1", [Added(5, "x" * 70_000)], ANY)
        assert filesystem.synced == ["ring"] * 5 + ["journal.jsonl"]


def test_a_full_ring_syncs_the_journal_once_and_begins_again(tmp_path: Path) -> None:
    """256 small appends fit between two syncs of the journal."""
    filesystem = Watching()
    with FileEventStore(tmp_path / "s", filesystem=filesystem) as store:
        store.append("a:1", [Added(-1)], ANY)
        filesystem.synced.clear()
        for number in range(600):
            store.append("a:1", [Added(number)], ANY)
        assert filesystem.synced == (["ring"] * 256 + ["journal.jsonl"]) * 2 + ["ring"] * 86


def test_an_append_may_have_a_durability_of_its_own(tmp_path: Path) -> None:
    filesystem = Watching()
    with FileEventStore(tmp_path / "s", filesystem=filesystem) as store:
        store.append("a:1", [Added(0)], ANY)
        filesystem.synced.clear()
        store.append("a:1", [Added(1)], ANY, durability="relaxed")
        store.append_many([("a:1", [Added(2)], ANY)], durability="relaxed")
        store.append_at_end("a:1", [Added(2)], durability="relaxed")
        assert filesystem.synced == []
    with FileEventStore(tmp_path / "s", filesystem=filesystem, durability="relaxed") as store:
        filesystem.synced.clear()  # Opened alone, it has synced what was not.
        store.append("a:1", [Added(3)], ANY, durability="always")
        assert filesystem.synced == ["ring"]
        with pytest.raises(ValueError, match="durability"):
            store.append("a:1", [Added(3)], ANY, durability="never")  # type: ignore[arg-type]
        assert store.get_event_count() == 5


def test_threads_share_syncs(tmp_path: Path) -> None:
    """One sync covers everybody whose events were written before it began."""

    class Slow(Watching):
        """Lets a sync take as long as all others need to get in line."""

        def __init__(self) -> None:
            super().__init__()
            self.store: FileEventStore | None = None

        def sync_data(self, fd: int) -> None:
            while self.store and self.store.get_event_count() < 17:
                self.happened.wait(0.001)
            super().sync_data(fd)

    filesystem = Slow()
    with FileEventStore(tmp_path / "s", filesystem=filesystem) as store:
        store.append("a:first", [Added(0)], ANY)
        filesystem.synced.clear()
        filesystem.store = store
        threads = [threading.Thread(target=store.append, args=(f"a:{n}", [Added(n)], -1)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get_event_count() == 17
        assert 1 <= len(filesystem.synced) <= 2


def test_relaxed_syncs_only_when_it_is_asked_to(tmp_path: Path) -> None:
    filesystem = Watching()
    with FileEventStore(tmp_path / "s", durability="relaxed", filesystem=filesystem) as store:
        filesystem.synced.clear()
        store.append("a:1", [Added(1)], ANY)
        assert filesystem.synced == []
        store.sync()
        store.sync()
        assert filesystem.synced == ["journal.jsonl", "ring.new", "state"]
        store.append("a:1", [Added(1)], ANY)
        store.sync()
        store.sync()
        assert filesystem.synced == ["journal.jsonl", "ring.new", "state", "ring"]


def test_an_interval_syncs_by_itself_and_at_the_end(tmp_path: Path) -> None:
    filesystem = Watching()
    with FileEventStore(tmp_path / "s", durability=0.01, filesystem=filesystem) as store:
        filesystem.happened.clear()
        store.append("a:1", [Added(1)], ANY)
        assert filesystem.happened.wait(60)
    with FileEventStore(tmp_path / "s", durability=3600.0, filesystem=filesystem) as store:
        filesystem.synced.clear()
        store.append("a:1", [Added(2)], ANY)
        assert filesystem.synced == []
    assert filesystem.synced == ["ring"]


def test_a_segment_is_sealed_only_when_it_is_on_the_device(tmp_path: Path) -> None:
    """And a stream's only after the journal, which must know all that it holds."""

    class Ordered(Watching):
        """Notes writes and syncs in their order."""

        def __init__(self) -> None:
            super().__init__()
            self.calls: list[tuple[str, str]] = []

        def write(self, fd: int, data: bytes) -> None:
            super().write(fd, data)
            self.calls.append(("write", os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))

        def sync_data(self, fd: int) -> None:
            super().sync_data(fd)
            self.calls.append(("sync", self.synced[-1]))

    filesystem = Ordered()
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=2000, filesystem=filesystem) as store:
        for number in range(40):
            store.append("a:1", [Added(number)], ANY)
            store.append("b:2", [Added(number)], ANY)
        assert len(store.folder.stream("a:1").sealed()) > 1
    sealings = [at for at, call in enumerate(filesystem.calls) if call == ("sync", "1.jsonl")]
    assert len(sealings) > 1
    for at in sealings:
        of_journal = [what for what, name in filesystem.calls[:at] if name == "journal.jsonl"]
        assert of_journal[-1] == "sync"


def test_a_store_that_is_open_at_the_end_of_the_program_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Whatever its durability; with an interval it is synced once more."""
    program = """
import os, sys
from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.system.filesystem import FileSystem
class Watching(FileSystem):
    def sync_data(self, fd):
        super().sync_data(fd)
        os.write(1, b"synced")
path, durability, exclusive = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
durability = durability if durability.isalpha() else float(durability)
store = FileEventStore(path, durability=durability, exclusive=exclusive, filesystem=Watching())
print("begun ", end="", flush=True)
store.append("a:1", [UntypedEvent("Added", {"number": 1})], ANY)
store.itself = store
"""
    for number, (durability, exclusive) in enumerate(
        [("always", False), ("3600", False), ("0.001", True), ("relaxed", True)]
    ):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, str(tmp_path / str(number)), durability, str(exclusive)],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b""), durability
        assert (b"begun synced" in done.stdout) is (durability != "relaxed"), durability


class HeldUp(FileSystem):
    """A device that takes a sync only when it is let."""

    def __init__(self) -> None:
        self.slow = False
        self.asked, self.go = threading.Event(), threading.Event()

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        if self.slow and os.readlink(f"/proc/self/fd/{fd}").endswith("/ring"):
            self.asked.set()
            self.go.wait()
        super().write_at(fd, data, offset)


def test_what_is_not_durable_yet_is_not_seen_by_who_asks_for_durable(tmp_path: Path) -> None:
    """Others see it, as soon as it is committed; it may be gone after a power cut, and its position another event's."""
    filesystem = HeldUp()
    with FileEventStore(tmp_path / "s", filesystem=filesystem) as store, FileEventStore(tmp_path / "s") as reader:
        for number in range(3):
            store.append("a:1", [Added(number)], ANY)
        assert reader.durable_position == 3
        filesystem.slow = True
        appending = threading.Thread(target=lambda: store.append("a:1", [Added(3)], ANY))
        appending.start()
        try:
            assert filesystem.asked.wait(60)
            assert [e.number for e in reader.read_stream("a:1")] == [0, 1, 2, 3]
            assert reader.durable_position == 3
            assert [e.number for e in reader.read_stream("a:1", durable=True)] == [0, 1, 2]
            assert [p for p, _, _ in reader.read_all(durable=True)] == [1, 2, 3]
            assert [r.position for r in reader.records(durable=True, reverse=True)] == [3, 2, 1]
            assert [r.position for r in reader.records("a:1", durable=True, from_version=2)] == [3]
        finally:
            filesystem.slow = False
            filesystem.go.set()
            appending.join()
        assert reader.durable_position == 4
        assert [e.number for e in reader.read_stream("a:1", durable=True)] == [0, 1, 2, 3]
        store.append("a:1", [Added(4)], ANY, durability="relaxed")
        assert len(reader.read_stream("a:1", durable=True)) == 4
        store.sync()
        assert len(reader.read_stream("a:1", durable=True)) == 5


@pytest.mark.parametrize("durability", ["always", "relaxed", 2.5])
def test_a_store_says_what_its_appends_are(tmp_path: Path, durability: Any) -> None:
    with FileEventStore(tmp_path / "store", durability=durability) as store:
        assert store.durability == durability
    assert MemoryEventStore().durability == "relaxed"
