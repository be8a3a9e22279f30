"""Small checks of single promises that only a bug of one sort breaks (campaigns/seeded_bugs says which)."""

from __future__ import annotations

import errno
import os
import random
from collections import defaultdict
from pathlib import Path

import pytest
from campaigns.crash_states import place, small_ring
from conftest import Added

from hangarlog import ANY, FileEventStore, StorageError, StoreOpenError
from hangarlog.filestore import shared_state
from hangarlog.maintenance.verify import verify
from hangarlog.record.batch import Pending
from hangarlog.system import platform
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing import CrashState, Recording, Unsynced, crash_states, probe


def test_what_is_written_during_a_sync_is_not_covered_by_it(tmp_path: Path) -> None:
    """Its own sync must bring it to the device: the first may have looked before it was there."""

    class Interposing(Unsynced):
        """Has another store append while a sync is going on."""

        syncs = 0
        appends = False

        def sync_data(self, fd: int) -> None:
            self.syncs += 1
            if self.appends:
                self.appends = False
                other.append("a:1", [Added(9)], ANY, durability="relaxed")

    watched = Interposing()
    with (
        FileEventStore(tmp_path / "s", filesystem=watched) as store,
        FileEventStore(tmp_path / "s", durability="relaxed", filesystem=watched) as other,
    ):
        store.append("a:1", [Added(0)], ANY)
        for text in ("", "x" * 70_000):  # Through the ring, and of the journal itself.
            watched.appends = True
            store.append("a:1", [Added(1, text)], ANY)
            before = watched.syncs
            store.sync()
            assert watched.syncs == before + 1


@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_what_was_taken_back_does_not_come_back_in_a_power_cut(tmp_path: Path) -> None:
    """The caller was told that nothing was written."""

    class Filling(Recording):
        """Has no room for the second write of lines after `full` is set: the journal has the batch by then."""

        full = -1

        def write(self, fd: int, data: bytes) -> None:
            self.full -= self.full > 0
            if not self.full:
                self.full = -1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write(fd, data)

    (tmp_path / "s").mkdir(mode=0o700)
    recording = Filling(tmp_path / "s")
    with small_ring(), FileEventStore(tmp_path / "s", filesystem=recording) as store:
        store.append("a:1", [Added(0)], ANY)
        recording.full = 2
        with pytest.raises(StorageError, match="nothing was written"):
            store.append("a:1", [Added(1)], ANY)
        told = len(recording.operations)
        recording.note("told")
        assert store.append("a:1", [Added(2)], ANY) == 1
    cuts, tried = range(told, len(recording.operations)), 0
    for found in crash_states(recording.operations, random.Random(1), 400, cuts):
        tried += 1
        place(found, tmp_path / "found")
        with small_ring(), FileEventStore(tmp_path / "found", filesystem=Unsynced()) as store:
            numbers = [event.number for event in store.read_stream("a:1")]
            assert numbers in ([0], [0, 2]), f"{numbers} after operation {found.at}, without {found.lost}"
    assert tried > 100


def test_a_state_of_before_a_restart_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file may have reached the device, and the journal that it speaks of not."""
    with FileEventStore(tmp_path / "s") as store:
        for number in range(3):
            store.append("a:1", [Added(number)], ANY)
    journal = tmp_path / "s/journal.jsonl"
    journal.write_bytes(bytes(journal.stat().st_size))  # Only its size reached the device; the ring has the rest.
    booted = platform.boot_id() + 1
    monkeypatch.setattr(shared_state, "boot_id", lambda: booted)
    with FileEventStore(tmp_path / "s") as store:
        assert store.recovered
        assert [event.number for event in store.read_stream("a:1")] == [0, 1, 2]


def cut_everywhere(recording: Recording, first: int, path: Path) -> int:
    """Cut the power in every way after each operation from `first` on: what was noted is there, and verify is content.

    A note is the number of the last event that was acknowledged durable.
    """
    tried = 0
    cuts = range(first, len(recording.operations) + 1)
    for found in crash_states(recording.operations, random.Random(1), 60, cuts):
        place(found, path)
        lost = f"after operation {found.at} of {len(recording.operations)}, without {found.lost}"
        with small_ring(), FileEventStore(path, filesystem=Unsynced()) as store:
            numbers = [event.number for event in store.read_stream("a:1")]
            assert numbers == list(range(len(numbers))), f"{numbers} {lost}"
            assert len(numbers) > max(found.notes, default=-1), f"{numbers}, {found.notes[-1]} acknowledged, {lost}"
            assert list(verify(store)) == [], lost
        tried += 1
    return tried


@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_a_power_cut_in_a_roll_costs_nothing(tmp_path: Path) -> None:
    """Of the segment that is sealed: neither its text nor its only name. The ring has no more than its end."""
    (tmp_path / "s").mkdir(mode=0o700)
    recording = Recording(tmp_path / "s")
    with small_ring(), FileEventStore(tmp_path / "s", segment_bytes=2_600, filesystem=recording) as store:
        for number in range(11):
            if number == 6:
                first = len(recording.operations)
            store.append("a:1", [Added(number, "x" * 200)], ANY)
            recording.note(number)
        assert store.folder.journal.sealed()
        assert store.folder.stream("a:1").sealed()
    assert cut_everywhere(recording, first, tmp_path / "found") > 100


@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_what_a_recovery_took_from_the_ring_stays_when_the_ring_is_written_over(tmp_path: Path) -> None:
    """In a second power cut, after the next append."""
    with small_ring(), FileEventStore(tmp_path / "s") as store:
        for number in range(4):
            store.append("a:1", [Added(number)], ANY)
    (tmp_path / "s/state").unlink()
    journal = tmp_path / "s/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for file in (journal, tmp_path / "s/streams/a/1.jsonl"):
        file.write_bytes(lines[0])  # The others were synced in the ring only.
    recording = Recording(tmp_path / "s")
    recording.note(3)
    with small_ring(), FileEventStore(tmp_path / "s", filesystem=recording) as store:
        assert store.recovered
        assert store.recovered.joined == 3
        store.append("a:1", [Added(4)], ANY)
        recording.note(4)
        store.append("a:1", [Added(5)], ANY)
        recording.note(5)
    assert cut_everywhere(recording, 1, tmp_path / "found") > 20


def test_a_sync_that_fails_while_somebody_commits_is_healed_by_the_next_append(tmp_path: Path) -> None:
    """Its mark comes after the writer has looked, and before it notes how it leaves the shared state."""

    class Meanwhile(FileSystem):
        def write(self, fd: int, data: bytes) -> None:
            super().write(fd, data)
            if failing:
                failing.pop()._state.mark_sync_failed()

    failing: list[FileEventStore] = []
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as other:
        with FileEventStore(path, durability="relaxed", filesystem=Meanwhile()) as store:
            store.append("a:1", [Added(0)], -1)
            before = (path / "journal.jsonl").stat().st_ino
            failing.append(other)
            store.append("a:1", [Added(1)], 0)
            assert probe.shared_state(store).sync_failed
            store.append("a:1", [Added(2)], 1)
            assert not probe.shared_state(store).sync_failed
            assert (path / "journal.jsonl").stat().st_ino != before
        assert other.read_stream("a:1") == [Added(number) for number in range(3)]


def test_a_file_that_somebody_else_puts_where_a_stream_is_to_be_is_left_to_them(tmp_path: Path) -> None:
    """Even between the look that found none and the making of it."""

    class Overtaken(FileSystem):
        def open_new(self, path: str) -> int:
            if path.endswith("theirs.jsonl"):
                Path(path).write_text("theirs\n")
            return super().open_new(path)

    with FileEventStore(tmp_path / "s", durability="relaxed", filesystem=Overtaken()) as store:
        store.append("a:1", [Added(0)], -1)
        with pytest.raises(StorageError, match="theirs"):
            store.append_many([("a:1", [Added(1)], 0), ("a:theirs", [Added(0)], -1)])
        assert (tmp_path / "s/streams/a/theirs.jsonl").read_text() == "theirs\n"
        assert store.append("a:1", [Added(1)], 0) == 1
        assert store.get_event_count() == 2


def test_a_closed_store_takes_nothing_encoded_either(tmp_path: Path) -> None:
    store = FileEventStore(tmp_path / "s", durability="relaxed")
    store.append("a:1", [Added(0)], -1)
    store.close()
    with pytest.raises(StoreOpenError, match="closed"):
        store.append_encoded([Pending("a:1", [("Added", None, b'{"_version":1,"number":1}', None, None)], 0)])


def test_a_power_cut_between_the_names_of_a_roll_costs_nothing(tmp_path: Path) -> None:
    """Some names have reached the device, others not; the streams' text has not."""
    (tmp_path / "s").mkdir(mode=0o700)
    recording = Recording(tmp_path / "s")
    with small_ring(), FileEventStore(tmp_path / "s", segment_bytes=2_600, filesystem=recording) as store:
        for number in range(11):
            store.append(f"a:{number % 3}", [Added(number, "x" * 200)], ANY)
            recording.note(number)
        assert store.folder.journal.sealed()
    linked = next(at for at, each in enumerate(recording.operations, 1) if each.path.startswith("journal.0"))
    tried = 0
    for at in range(linked, linked + 3):  # Its second name, the one that the fresh file gets, and a sync.
        by_names: defaultdict[tuple[str, ...], list[CrashState]] = defaultdict(list)
        for found in crash_states(recording.operations, random.Random(1), points=[at]):
            by_names[tuple(sorted(path for path in [*found.files, *found.links] if "journal" in path))].append(found)
        for states in by_names.values():
            for found in sorted(states, key=text_of_streams)[:20]:
                opens_whole(found, tmp_path / "found")
                tried += 1
    assert tried > 100


def text_of_streams(found: CrashState) -> int:
    return sum(len(content) for path, content in found.files.items() if path.startswith("streams"))


def opens_whole(found: CrashState, path: Path) -> None:
    place(found, path)
    with small_ring(), FileEventStore(path, filesystem=Unsynced()) as store:
        count = store.get_event_count()
        assert count > max(found.notes, default=-1), f"without {found.lost}"
        store.append("b:1", [Added(99)], ANY)
        assert [event.number for _, _, event in store.read_all()] == [*range(count), 99]
        assert list(verify(store)) == [], f"without {found.lost}"
