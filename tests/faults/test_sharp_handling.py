"""Small checks of what ordinary handling must not break, one promise each (campaigns/seeded_bugs says how)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from campaigns.cells import Device, power_cut
from conftest import Added

from hangarlog import ANY, CorruptionError, CorruptionWarning, FileEventStore, HangarlogError
from hangarlog.filestore import write_session
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.system import filesystem
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing import Unsynced

pytestmark = pytest.mark.usefixtures("ring_at_once")


def test_who_opens_a_store_that_is_open_takes_part_and_recovers_nothing(tmp_path: Path) -> None:
    """In whichever order they come and go; who comes when nobody is there recovers."""
    with FileEventStore(tmp_path / "s") as first:
        first.append("a:1", [Added(0)], ANY)
        with FileEventStore(tmp_path / "s") as second:
            assert second.recovered is None
            second.append("a:1", [Added(1)], 0)
            first.close()
            with FileEventStore(tmp_path / "s") as third:
                assert third.recovered is None
                assert third.append("a:1", [Added(2)], 1) == 2
    with FileEventStore(tmp_path / "s") as alone:
        assert alone.recovered is not None
        assert alone.append("a:1", [Added(3)], 2) == 3


def test_a_frame_of_another_history_is_not_joined(tmp_path: Path) -> None:
    """The event before it has the same position and is another one."""
    path = tmp_path / "s"
    with FileEventStore(path) as store:
        for number in range(3):
            store.append("a:1", [Added(number)], ANY)
        older = {name: (path / name).read_bytes() for name in ("journal.jsonl", "streams/a/1.jsonl")}
        for number in (3, 4):
            store.append("a:1", [Added(number)], ANY)
    theirs = (path / "ring").read_bytes()
    for name, text in older.items():
        (path / name).write_bytes(text)
    for name in ("state", "ring", "catalog"):
        (path / name).unlink()
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(33)], 2)
    (path / "ring").write_bytes(theirs)
    (path / "state").unlink()
    with contextlib.suppress(CorruptionError), FileEventStore(path) as store:
        assert [event.number for event in store.read_stream("a:1")] == [0, 1, 2, 33]


def long_store(path: Path, first: int = 0) -> None:
    """Enough text that the last one to close it makes a checkpoint."""
    with FileEventStore(path, durability="relaxed", filesystem=FileSystem()) as store:
        for number in range(first, first + 20):
            store.append("a:1", [Added(number, "x" * 20_000)], ANY)


def test_a_catalog_that_is_older_than_the_checkpoint_is_not_believed(tmp_path: Path) -> None:
    """Of a stream that was put back, too, it would give versions a second time."""
    path = tmp_path / "s"
    long_store(path)
    assert (path / "checkpoint.json").exists()
    older = {name: (path / name).read_bytes() for name in ("catalog", "streams/a/1.jsonl")}
    long_store(path, 20)
    long_store(path, 40)
    for name, content in older.items():
        (path / name).write_bytes(content)
    with FileEventStore(path, durability="relaxed") as store:
        assert store.append("a:1", [Added(60)], ANY) == 60
        assert len(store.read_stream("a:1")) == 61


def test_the_last_one_to_close_a_store_leaves_little_to_replay(tmp_path: Path) -> None:
    """It makes a checkpoint, with which the next one to open the store begins; whoever leaves others there does not."""
    path = tmp_path / "s"
    with FileEventStore(path):
        long_store(path)
        assert not (path / "checkpoint.json").exists()
        end = (path / "journal.jsonl").stat().st_size
    assert end > 256 << 10
    with FileEventStore(path) as store:
        assert store.recovered
        assert store.recovered.since == 20


def test_a_checkpoint_of_another_journal_is_not_believed(tmp_path: Path) -> None:
    """An older journal was put in place: what the streams have of the events since is written into it again."""
    path = tmp_path / "s"
    long_store(path)
    older = (path / "journal.jsonl").read_bytes()
    long_store(path, 20)
    (path / "journal.jsonl").write_bytes(older)
    with FileEventStore(path, durability="relaxed") as store:
        assert [event.number for _, _, event in store.read_all()] == list(range(40))
        assert store.append("a:1", [Added(40)], ANY) == 40


def test_a_record_that_only_the_stream_has_is_not_shown(tmp_path: Path) -> None:
    """A power cut may have left it there; its position is another event's meanwhile."""
    with FileEventStore(tmp_path / "s") as store:
        for number in range(3):
            store.append(f"a:{number}", [Added(number)], ANY)
        line = (tmp_path / "s/streams/a/0.jsonl").read_bytes()
        phantom = seal_again(line.replace(b'"position":1', b'"position":2').replace(b'_version":0', b'_version":1', 1))
        with (tmp_path / "s/streams/a/0.jsonl").open("ab") as file:
            file.write(phantom)
        with FileEventStore(tmp_path / "s") as other:
            assert [event.number for event in other.read_stream("a:0")] == [0]
            assert [record.stream_version for record in other.records("a:0", reverse=True)] == [0]
            assert other.get_stream_version("a:0") == 0


def test_a_checkpoint_syncs_every_volume_below_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the store may be another volume's: a sync of the store's own leaves that one out."""
    real = os.stat

    def stat(path: Any, *args: Any, **options: Any) -> Any:
        found = real(path, *args, **options)
        if str(path).endswith("streams/b"):
            return os.stat_result((*found[:2], found.st_dev + 1, *found[3:10]))
        return found

    synced: list[str] = []
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append_many([("a:1", [Added(0)], ANY), ("b:1", [Added(0)], ANY)])
        monkeypatch.setattr(os, "stat", stat)
        monkeypatch.setattr(
            filesystem, "_sync_filesystem", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")) or True
        )
        FileSystem().sync_everything(str(tmp_path / "s"), store.folder.all_folders())
        monkeypatch.undo()
    assert {path.endswith("streams/b") for path in synced} == {True, False}


def test_a_ring_for_which_there_is_no_room_costs_nothing_but_time(tmp_path: Path) -> None:
    """Each append syncs the journal itself."""

    class Full(Unsynced):
        syncs = 0

        def replace_file(self, path: str, content: bytes, *, sync: bool = True) -> None:
            if path.endswith("ring"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().replace_file(path, content, sync=sync)

        def sync_data(self, fd: int) -> None:
            self.syncs += 1

    full = Full()
    with FileEventStore(tmp_path / "s", filesystem=full) as store:
        for number in range(5):
            before = full.syncs
            assert store.append("a:1", [Added(number)], ANY) == number
            assert full.syncs > before
        assert not (tmp_path / "s/ring").exists()


def test_a_device_that_fails_in_a_write_has_the_journal_written_anew(tmp_path: Path) -> None:
    """What was written before is not to be believed, as after a failed sync."""

    class Failing(FileSystem):
        fails = False

        def write(self, fd: int, data: bytes) -> None:
            if self.fails:
                self.fails = False
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().write(fd, data)

    failing = Failing()
    with FileEventStore(tmp_path / "s", filesystem=failing) as store:
        store.append("a:1", [Added(0)], ANY)
        before = (tmp_path / "s/journal.jsonl").stat().st_ino
        failing.fails = True
        with pytest.raises(HangarlogError):
            store.append("a:1", [Added(1)], 0)
        assert store.append("a:1", [Added(2)], 0) == 1
        assert (tmp_path / "s/journal.jsonl").stat().st_ino != before


def test_a_copy_without_a_part_of_the_journal_opens_with_what_comes_before_it(tmp_path: Path) -> None:
    """What comes after it is kept where a person finds it."""
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=2_000) as store:
        for number in range(40):
            store.append(f"a:{number % 2}", [Added(number, "x" * 100)], ANY)
        sealed = store.folder.journal.sealed()
    copy = shutil.copytree(tmp_path / "s", tmp_path / "copy")
    gone = sealed[len(sealed) // 2]
    (copy / f"journal.{gone:020}.jsonl").unlink()
    shutil.rmtree(copy / "streams")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        opened = FileEventStore(copy, durability="relaxed")
    with opened as store:
        assert [event.number for _, _, event in store.read_all()] == list(range(gone - 1))
        following = sealed[sealed.index(gone) + 1]
        aside = (copy / "put-aside.jsonl").read_bytes().splitlines()
        assert [b'"position":%d,' % number in line for number, line in enumerate(aside, following)] == [True] * (
            41 - following
        )
        assert store.append("a:0", [Added(99)], ANY) == sum(n % 2 == 0 for n in range(gone - 1))


@pytest.mark.parametrize("which", ["journal.jsonl", "streams/a/1.jsonl"])
def test_nothing_is_appended_to_a_file_that_has_another_name(tmp_path: Path, which: str) -> None:
    """Whoever has the other name would find lines in it that are not his."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
        os.link(path / which, tmp_path / "theirs")
        text = (tmp_path / "theirs").read_bytes()
    with contextlib.suppress(HangarlogError), FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(1)], ANY)
    assert (tmp_path / "theirs").read_bytes() == text


def test_an_older_set_of_files_beside_the_latest_state_is_refused(tmp_path: Path) -> None:
    """The shared state proves what was acknowledged durable: less of it is not taken for all."""
    path = tmp_path / "s"
    with FileEventStore(path) as store:
        store.append("a:1", [Added(0)], ANY)
    older = {path / name: (path / name).read_bytes() for name in ("journal.jsonl", "streams/a/1.jsonl", "ring")}
    with FileEventStore(path) as store:
        for number in range(1, 4):
            store.append("a:1", [Added(number)], ANY)
    for file, content in older.items():
        file.write_bytes(content)
    with pytest.raises(CorruptionError, match="position 2 is missing; 4 events were committed"):
        FileEventStore(path)
    list(repair(path))
    with FileEventStore(path) as store:
        assert store.append("a:1", [Added(1)], ANY) == 1


@pytest.mark.parametrize("what", ["state", "catalog", "locks/write.lock", "locks"])
def test_what_is_deleted_while_a_store_is_open_comes_back_with_the_next_append(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not durable may miss it for a millisecond; here it looks every time."""
    monkeypatch.setattr(write_session, "_UNWATCHED_SECONDS", -1.0)
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
        gone = path / what
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        store.append("a:1", [Added(1)], 0)
        assert gone.exists()
        with FileEventStore(path, durability="relaxed") as other:
            assert other.append("a:1", [Added(2)], 1) == 2
        assert store.append("a:1", [Added(3)], 2) == 3
        assert list(verify(store)) == []


def test_a_journal_replaced_by_its_copy_is_on_the_device_with_the_next_durable_append(tmp_path: Path) -> None:
    """Its text, which nobody has synced, and what is appended to it."""
    path = tmp_path / "s"
    with FileEventStore(path, filesystem=Device()) as store:
        for number in range(5):
            store.append("a:1", [Added(number)], ANY)
        shutil.copy2(path / "journal.jsonl", path / "copy")
        os.replace(path / "copy", path / "journal.jsonl")
        for number in range(5, 8):
            store.append("a:1", [Added(number)], ANY)
            power_cut(path, tmp_path / f"image-{number}")
            with FileEventStore(tmp_path / f"image-{number}") as found:
                assert [event.number for _, _, event in found.read_all()] == list(range(number + 1))


def seal_again(line: bytes) -> bytes:
    """A line with the checksum that it should have."""
    body = line[: line.rindex(b',"crc"')]
    return body + b',"crc":"%08x"}\n' % crc32(body)


def test_a_journal_replaced_before_its_sync_is_not_taken_for_the_one_that_was_written(tmp_path: Path) -> None:
    """What is acknowledged durable is in the file that has the name by then."""

    class Replacing(FileSystem):
        older = b""

        def lock(self, fd: int) -> bool:
            if self.older and os.readlink(f"/proc/self/fd/{fd}").endswith("sync.lock"):
                (tmp_path / "s/older").write_bytes(self.older)
                os.replace(tmp_path / "s/older", journal)
                self.older = b""
            return super().lock(fd)

    journal, replacing = tmp_path / "s/journal.jsonl", Replacing()
    with FileEventStore(tmp_path / "s", filesystem=replacing) as store:
        for number in range(3):
            store.append("a:1", [Added(number)], ANY)
        replacing.older = journal.read_bytes()
        with contextlib.suppress(HangarlogError):
            store.append("a:1", [Added(3)], 2)
            assert b'"number":3,' in journal.read_bytes()


def test_what_sealed_segments_of_streams_have_beyond_an_older_journal_is_kept_aside(tmp_path: Path) -> None:
    """All but the streams was put back from a backup: no later append may meet a version that a sealed segment has."""
    path = tmp_path / "s"
    with FileEventStore(path, segment_bytes=500) as store:
        for number in range(5):
            store.append("a:1", [Added(number)], ANY)
    backup = tmp_path / "backup"
    shutil.copytree(path, backup)
    with FileEventStore(path) as store:
        for number in range(5, 10):
            store.append("a:1", [Added(number)], ANY)
    shutil.rmtree(backup / "streams")
    shutil.copytree(path / "streams", backup / "streams")
    for file in path.rglob("*"):
        if file.is_file():
            file.unlink()
    shutil.copytree(backup, path, dirs_exist_ok=True)
    (path / "state").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        opened = FileEventStore(path)
    with opened as store:
        assert [event.number for event in store.read_stream("a:1")] == [0, 1, 2, 3, 4]
        assert store.append("a:1", [Added(99)], 4) == 5
        assert list(verify(store)) == []
    kept = b"".join(file.read_bytes() for file in [*path.rglob("*.damaged*"), *path.rglob("put-aside.jsonl")])
    assert [number for number in range(5, 10) if b'"number":%d' % number not in kept] == []


def test_a_damaged_line_of_an_older_journal_is_kept_in_its_stream_that_goes_beyond(tmp_path: Path) -> None:
    """What is put aside then must not cost the only whole copy. `repair` mends all of it."""
    path = tmp_path / "s"
    with FileEventStore(path, segment_bytes=500) as store:
        for number in range(5):
            store.append("a:1", [Added(number)], ANY)
    earlier = {file: file.read_bytes() for file in (*path.glob("journal*.jsonl"), path / "catalog", path / "ring")}
    with FileEventStore(path) as store:
        for number in range(5, 10):
            store.append("a:1", [Added(number)], ANY)
    for file in path.glob("journal*.jsonl"):
        file.unlink()
    for file, content in earlier.items():
        file.write_bytes(content.replace(b'"number":2,', b'"number":7,') if "journal" in file.name else content)
    (path / "state").unlink()
    (path / "checkpoint.json").unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        with FileEventStore(path) as store:
            assert [event.number for event in store.read_stream("a:1")] == [0, 1, 2, 3, 4]
            with contextlib.suppress(CorruptionError):
                assert store.append("a:1", [Added(99)], 4) == 5
        list(repair(path))
    with FileEventStore(path) as store:
        assert [event.number for event in store.read_stream("a:1")][:5] == [0, 1, 2, 3, 4]
        assert list(verify(store)) == []


def test_a_sealed_segment_that_an_older_set_of_files_lacks_is_made_of_the_ring_and_the_streams(tmp_path: Path) -> None:
    """Sealed journal segments and streams were put back from a backup; the ring has what is in neither."""
    path, backup = tmp_path / "s", tmp_path / "backup"
    with FileEventStore(path, segment_bytes=500) as store:
        for number in range(5):
            store.append("a:1", [Added(number)], ANY)
    shutil.copytree(path, backup)
    with FileEventStore(path) as store:
        for number in range(5, 10):
            store.append("a:1", [Added(number)], ANY)
    for file in path.glob("journal.0*.jsonl"):
        file.unlink()
    for file in backup.glob("journal.0*.jsonl"):
        shutil.copy(file, path)
    shutil.rmtree(path / "streams")
    shutil.copytree(backup / "streams", path / "streams")
    (path / "state").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        opened = FileEventStore(path)
    with opened as store:
        assert store.recovered
        assert "position 4 to 9 were missing in the journal" in str(store.recovered.damage)
        assert [event.number for _, _, event in store.read_all()] == list(range(10))
        assert [event.number for event in store.read_stream("a:1")] == list(range(10))
        assert store.append("a:1", [Added(10)], 9) == 10
        assert list(verify(store)) == []


class AtOnce(Unsynced):
    """A checkpoint is there when the append that made it due returns."""

    def in_background(self, work: Any, name: str) -> None:
        work()


@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_a_copy_that_keeps_whole_seconds_of_the_times_of_files_hides_nothing(tmp_path: Path) -> None:
    """As tar makes it: a stream that goes beyond the journal seems to be older than the checkpoint."""
    path = tmp_path / "s"
    with FileEventStore(path, segment_bytes=600, filesystem=AtOnce()) as store:
        for number in range(5):
            store.append("a:1", [Added(number)], ANY)
    earlier = {file: file.read_bytes() for file in (*path.glob("journal*.jsonl"), path / "catalog", path / "ring")}
    with FileEventStore(path) as store:
        store.append("b:1", [Added(5)], ANY)
    for file, content in earlier.items():
        file.write_bytes(content)
    (path / "state").unlink()
    begun = json.loads((path / "checkpoint.json").read_text())["begun"]
    os.utime(path / "streams/b/1.jsonl", (begun - 0.9, begun - 0.9))
    with FileEventStore(path) as store:
        assert store.recovered
        assert store.recovered.put_aside == 1
        assert store.append("b:1", [Added(6)], -1) == 0
    assert b'"number":5' in (path / "put-aside.jsonl").read_bytes()


def test_a_stream_whose_journal_segments_are_gone_keeps_what_is_whole_before_a_damaged_end(tmp_path: Path) -> None:
    """That the journal has nothing of a stream proves nothing where the journal's beginning is missing."""
    path = tmp_path / "s"
    with FileEventStore(path, segment_bytes=600, filesystem=AtOnce()) as store:
        for number in range(2):
            store.append("b:1", [Added(number)], ANY)
        for number in range(8):
            store.append("a:1", [Added(number)], ANY)
    for file in path.glob("journal.0*"):
        file.unlink()
    stream = path / "streams/b/1.jsonl"
    stream.write_bytes(stream.read_bytes().replace(b'"number":1,', b'"number":7,'))
    (path / "state").unlink()
    (path / "ring").unlink()  # Which has the lost line, too.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        with FileEventStore(path) as store:
            assert [record.position for record in store.records("b:1", on_damage="skip")] == [1]
    assert not (path / "put-aside.jsonl").exists()
