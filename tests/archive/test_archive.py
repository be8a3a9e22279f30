"""What goes into an archive, what is refused, and what comes back."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anyio
import pytest
from archived_stores import ALL, STREAMS, held, opened, positions, shown, written
from conftest import ROOT, Added
from store_files import settle

from hangarlog import (
    ANY,
    ArchiveError,
    CorruptionError,
    FileEventStore,
    HangarlogError,
    LockTimeoutError,
    MemoryEventStore,
    RetentionPolicy,
    StorageError,
)
from hangarlog.aio import AsyncEventStore
from hangarlog.filestore.erasing import Erasing
from hangarlog.filestore.recovery.beginning import remove_left_over
from hangarlog.filestore.unarchiving import Unarchiving
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.system.filesystem import FileSystem

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


def test_whole_segments_go_and_the_archive_is_a_store(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        assert store.archive(tmp_path / "a", before=30, dry_run=True).first_position == 25
        assert not (tmp_path / "a").exists()
        report = store.archive(tmp_path / "a", before=30)
        assert [(each.first, each.last) for each in report.segments] == [(1, 8), (9, 16), (17, 24)]
        assert (report.first_position, store.first_position) == (25, 25)
        assert (positions(store), shown(store)) == (ALL[24:], ALL[24:])
        assert store.append("a:0", [Added(60, "")], ANY) == 20
        assert store.archive(tmp_path / "a", before=30).segments == []
        assert store.archive(tmp_path / "a", before=50).first_position == 49
    assert held(tmp_path / "a") == ALL[:48]
    with opened(tmp_path / "a") as archive:
        assert shown(archive) == ALL[:48]
        assert archive.get_event_count() == 48
        assert archive.recovered
        assert archive.recovered.since == 48, "it is read from its beginning each time"


def test_an_archive_takes_no_appends(tmp_path: Path, hangarlog: Command) -> None:
    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=30)
    backup(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "hangarlog.json").write_text('{"archive": true, "format"')
    list(repair(tmp_path / "a"))
    for path in (tmp_path / "a", tmp_path / "b"):
        with FileEventStore(path) as archive:
            with pytest.raises(ArchiveError, match="takes no appends; append to the store whose events it has"):
                archive.append("a:0", [Added(0, "")], ANY)
            assert positions(archive) == ALL[:24]
    done = hangarlog("append", "a", "a:0", "--type", "T", "--data", "{}")
    assert (done.returncode, b"takes no appends" in done.stderr) == (1, True)


def test_a_time_and_an_age_say_what_goes(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        times = [record.recorded_at for block in store.envelopes() for record in block]
        assert store.archive(tmp_path / "a", before="1d").segments == []
        assert store.archive(tmp_path / "a", before=times[20]).first_position == 17
        later = datetime.fromisoformat(times[23]) + timedelta(microseconds=1)
        assert store.archive(tmp_path / "a", before=later).first_position == 25
        assert store.archive(tmp_path / "a", before="0s", dry_run=True).held_by == ""
        for wrong in (None, True, 1.5, "soon", datetime.now()):
            with pytest.raises((TypeError, ValueError)):
                store.archive(tmp_path / "a", before=wrong)  # type: ignore[arg-type]
        assert datetime.now(UTC) > later


def test_never_past_a_subscriber_unless_told(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        store.cursor("slow").advance(12)
        report = store.archive(tmp_path / "a", before=50)
        assert (report.first_position, report.held_by[:6]) == (9, "'slow'")
        assert store.archive(tmp_path / "a", before=50, past_subscribers=True).first_position == 49
    assert held(tmp_path / "a") == ALL[:48]


@pytest.mark.parametrize("compress", [False, True])
def test_compressed_segments_stay_as_they_are(tmp_path: Path, compress: bool) -> None:
    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=18, compress=compress)
        store.compress()
        store.archive(tmp_path / "a", before=30, compress=compress)
        names = sorted(path.name for path in (tmp_path / "a").glob("journal.0*.jsonl*"))
        assert [name.endswith(".zst") for name in names] == [compress, compress, True]
        assert held(tmp_path / "a") == ALL[:24]
        store.restore_archive(tmp_path / "a")
        assert (positions(store), shown(store)) == (ALL, ALL)
    assert held(tmp_path / "s") == ALL


def test_an_archive_may_begin_where_a_retention_ended(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        store.retain(RetentionPolicy(max_events=44))
        assert store.first_position == 17
        store.archive(tmp_path / "a", before=34)
        assert positions(store) == ALL[32:]
        assert held(tmp_path / "a") == ALL[16:32]
        store.archive(tmp_path / "a", before=50)
        assert held(tmp_path / "a") == ALL[16:48]
        with opened(tmp_path / "a") as archive:
            assert (shown(archive), archive.first_position) == (ALL[16:48], 17)
        store.restore_archive(tmp_path / "a")
        assert (positions(store), shown(store), store.first_position) == (ALL[16:], ALL[16:], 17)
    assert held(tmp_path / "s") == ALL[16:]


def test_streams_of_an_archive_are_sealed_as_they_grow(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s", segment_bytes=2000, durability="relaxed") as store:
        for number in range(80):
            store.append("a:0", [Added(number, "x" * 40)], ANY)
        store.archive(tmp_path / "a", before=70)
        assert len([*(tmp_path / "a" / "streams" / "a").glob("0.0*.jsonl")]) == 8
        with opened(tmp_path / "a") as archive:
            assert positions(archive, "a:0") == [*range(1, archive.last_position + 1)]
        store.restore_archive(tmp_path / "a")
        assert positions(store, "a:0") == [*range(1, 81)]
    assert held(tmp_path / "s") == [*range(1, 81)]


def test_what_was_deleted_before_does_not_go_into_the_archive(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        store.append("secret:1", [Added(1, "the secret")], ANY)
        for number in range(40):
            store.append("a:0", [Added(number, "x" * 40)], ANY)
        store.delete_stream("secret:1", permanent=True)
        store.archive(tmp_path / "a", before=90)
        assert store.first_position > 61
    for path in [*(tmp_path / "a").rglob("*"), *(tmp_path / "s").rglob("*")]:
        assert path.is_dir() or b"the secret" not in path.read_bytes(), path
    assert 61 not in held(tmp_path / "a")


def test_a_deletion_does_not_reach_the_archive(tmp_path: Path) -> None:
    """And what is deleted stays hidden when the archive comes back; a retention then erases it."""
    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=30)
        store.delete_stream("a:1", permanent=True)
        store.truncate_stream("a:2", 3)  # In the archive: nothing that is hidden here.
        with opened(tmp_path / "a") as archive:
            assert positions(archive, "a:1") == [*range(2, 24, 3)]
        store.restore_archive(tmp_path / "a")
        assert positions(store, "a:1") == []
        assert positions(store, "a:2") == [*range(3, 61, 3)]
        assert positions(store, "a:0") == [*range(1, 61, 3)]
        assert store.retain().erased
        assert positions(store) == [position for position in ALL[:56] if position % 3 != 2] + ALL[56:]
    assert 2 not in held(tmp_path / "s")


def test_a_stream_that_was_archived_whole_and_then_deleted_stays_deleted(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s", segment_bytes=2000, durability="relaxed") as store:
        for number in range(3):
            store.append("once:1", [Added(number, "")], ANY)
            store.append("once:2", [Added(number, "")], ANY)
    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=30)
        store.delete_stream("once:1")
        store.restore_archive(tmp_path / "a")
        assert (positions(store, "once:1"), positions(store, "once:2")) == ([], [2, 4, 6])
    assert len(held(tmp_path / "s")) == 66


def test_a_snapshot_behind_goes_and_one_ahead_stays(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        store.save_snapshot("a:0", 2, {"sum": 1})
        store.save_snapshot("a:1", 15, {"sum": 2})
        store.archive(tmp_path / "a", before=30)
        assert store.load_snapshot("a:0") is None
        assert store.load_snapshot("a:1") == {"version": 15, "state": {"sum": 2}}
        store.restore_archive(tmp_path / "a")
        assert store.load_snapshot("a:1") == {"version": 15, "state": {"sum": 2}}
    assert held(tmp_path / "s") == ALL


# Refusals


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("s/inside", "neither it nor the store may lie inside the other"),
        (".", "neither it nor the store may lie inside the other"),
        ("s", "neither it nor the store may lie inside the other"),
        ("link/inside", "neither it nor the store may lie inside the other"),
        ("file", "it is a file"),
        ("dangling", "a link to nothing"),
        ("no/parent", "there is no folder"),
        ("other", "it is of another store"),
        ("foreign", "it cannot be made an archive"),
        ("backup", "does not say that it is an archive"),
        ("rotten", "it is not an archive of this store"),
        ("linked", "it is not an archive of this store"),
        ("locks", "it cannot be made an archive"),
    ],
)
def test_a_wrong_target_is_an_error_of_its_own_and_nothing_changes(tmp_path: Path, target: str, cause: str) -> None:
    with written(tmp_path / "s") as store, written(tmp_path / "other") as other:
        settle(store, other)
        (tmp_path / "link").symlink_to(tmp_path / "s")
        (tmp_path / "file").write_text("x")
        (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
        for name in ("foreign", "rotten", "linked", "locks"):
            (tmp_path / name).mkdir()
        (tmp_path / "foreign" / "note.txt").write_text("mine")
        (tmp_path / "rotten" / "hangarlog.json").write_text("{")
        (tmp_path / "linked" / "hangarlog.json").symlink_to(tmp_path / "s" / "hangarlog.json")
        (tmp_path / "locks" / "locks").symlink_to(tmp_path / "s" / "locks")
        backup(tmp_path / "s", tmp_path / "backup")
        before = sorted(map(str, tmp_path.rglob("*")))
        with pytest.raises(ArchiveError, match=cause):
            store.archive(tmp_path / target, before=30)
        if target != "locks":
            with pytest.raises(ArchiveError):
                store.restore_archive(tmp_path / target)
        assert (shown(store), store.first_position) == (ALL, 1)
        kept = {path for path in map(str, tmp_path.rglob("*")) if not path.startswith(str(tmp_path / "s"))}
        assert kept == {path for path in before if not path.startswith(str(tmp_path / "s"))}


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    """Somebody else may own its folder."""
    for name in ("journal.00000000000000000009.jsonl", "journal.00000000000000000009.jsonl.new", "retained.json.new"):
        with written(tmp_path / "s") as store:
            store.archive(tmp_path / "a", before=9)
            victim = tmp_path / "victim"
            victim.write_text("mine")
            (tmp_path / "a" / name).symlink_to(victim)
            try:
                store.archive(tmp_path / "a", before=30)
            except HangarlogError:
                assert store.first_position == 9
            assert victim.read_text() == "mine"
            assert not victim.is_symlink()
        assert held(tmp_path / "s") in (ALL[8:], ALL[24:])
        for each in ("s", "a"):
            shutil.rmtree(tmp_path / each)


def test_an_archive_with_other_events_is_refused(tmp_path: Path) -> None:
    """The store is a copy that has gone another way."""
    with written(tmp_path / "s", 30) as store:
        pass
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    for name in ("s", "copy"):
        with FileEventStore(tmp_path / name, durability="relaxed") as store:
            for number in range(30):
                store.append("a:0", [Added(number, name[0] * 20)], ANY)
    with FileEventStore(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=50)
    with FileEventStore(tmp_path / "copy") as store:
        with pytest.raises(ArchiveError, match="it has other events than the store from position 25 on"):
            store.archive(tmp_path / "a", before=50)
        assert len(positions(store)) == 60


def test_a_damaged_segment_stays_and_is_named(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        file = tmp_path / "s" / "journal.00000000000000000009.jsonl"
        file.write_bytes(file.read_bytes().replace(b"xx", b"xy", 1))
        with pytest.raises(CorruptionError, match=r"journal\.00000000000000000009\.jsonl"):
            store.archive(tmp_path / "a", before=30)
        assert store.first_position == 1
        list(repair(tmp_path / "s"))
        assert store.archive(tmp_path / "a", before=30).first_position == 25


def test_a_damaged_archive_is_mended_before_anything_goes(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=18)
        store.restore_archive(tmp_path / "a")
        file = tmp_path / "a" / "journal.00000000000000000009.jsonl"
        file.write_bytes(file.read_bytes().replace(b"xx", b"xy", 1))
        with pytest.raises(ArchiveError, match="run `hangarlog repair` on it"):
            store.archive(tmp_path / "a", before=30)
        with pytest.raises(CorruptionError, match=r"a/journal\.00000000000000000009\.jsonl"):
            store.restore_archive(tmp_path / "a")
        assert (positions(store), shown(store)) == (ALL, ALL)
        list(repair(tmp_path / "a"))
        assert store.archive(tmp_path / "a", before=30).first_position == 25
    assert held(tmp_path / "a") == ALL[:24]


class Full(FileSystem):
    """A disk without room for what is written below a folder."""

    folder, room = "", 0

    def open_new(self, path: str) -> int:
        fd = super().open_new(path)
        if self.folder and path.startswith(self.folder):
            self.room -= 1
            if self.room < 0:
                self.close(fd)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return fd


@pytest.mark.parametrize("room", [0, 1, 2, 3, 5])
def test_a_full_disk_drops_nothing_and_another_run_goes_on(tmp_path: Path, room: int) -> None:
    written(tmp_path / "s").close()
    disk = Full()
    with opened(tmp_path / "s", disk) as store:
        disk.folder, disk.room = str(tmp_path / "a"), room
        with pytest.raises((OSError, HangarlogError), match="No space left"):
            store.archive(tmp_path / "a", before=50)
        assert (positions(store), shown(store), store.first_position) == (ALL, ALL, 1)
        disk.folder = ""
        assert store.archive(tmp_path / "a", before=50).first_position == 49
        disk.folder, disk.room = str(tmp_path / "s"), 1
        with pytest.raises((OSError, StorageError), match="No space left"):
            store.restore_archive(tmp_path / "a")
        assert positions(store) == ALL[48:]
        disk.folder = ""
        store.restore_archive(tmp_path / "a")
        assert shown(store) == ALL
    assert (held(tmp_path / "a"), held(tmp_path / "s")) == (ALL[:48], ALL)


# Others


def test_two_processes_take_turns(tmp_path: Path) -> None:
    """One is killed in the middle; the other one waits no longer than `lock_timeout`, and completes it later."""
    written(tmp_path / "s").close()
    script = (
        "import sys, time; from hangarlog import FileEventStore\n"
        "def stop(done, total):\n    print('in', flush=True); time.sleep(60)\n"
        "FileEventStore.untyped(sys.argv[1], create=False).archive(sys.argv[2], before=50, progress=stop)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "s"), str(tmp_path / "a")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as other:
        assert other.stdout
        assert other.stdout.readline() == b"in\n"
        with FileEventStore.untyped(tmp_path / "s", create=False, lock_timeout=0.2) as store:
            for call in (
                lambda: store.archive(tmp_path / "a", before=50),
                lambda: store.restore_archive(tmp_path / "a"),
            ):
                with pytest.raises((LockTimeoutError, ArchiveError)):
                    call()
            with pytest.raises(LockTimeoutError):
                store.retain(RetentionPolicy(max_events=1))
            other.send_signal(signal.SIGKILL)
            other.wait()
            assert store.archive(tmp_path / "a", before=50).first_position == 49
    assert (held(tmp_path / "a"), held(tmp_path / "s")) == (ALL[:48], ALL[48:])


def test_others_write_and_read_the_archive_meanwhile(tmp_path: Path) -> None:
    """A reader that has the archive open sees what is added; a writer of the store is not in the way."""
    ended = threading.Event()

    def write() -> None:
        with FileEventStore(tmp_path / "s", durability="relaxed") as other:
            while not ended.is_set():
                other.append("w:1", [Added(1, "x" * 40)], ANY)

    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=9)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            with opened(tmp_path / "a") as reader:
                assert positions(reader) == ALL[:8]
                for before in (20, 30, 40, 50):
                    first = store.archive(tmp_path / "a", before=before).first_position
                    assert positions(reader) == ALL[: first - 1]
                    assert positions(store)[0] == first
                store.restore_archive(tmp_path / "a")
                assert positions(store)[:60] == ALL
        finally:
            ended.set()
            writer.join()
    assert held(tmp_path / "a") == ALL[:48]
    assert held(tmp_path / "s")[:60] == ALL


def test_a_recovery_in_the_middle_of_a_restore_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes what was copied for left over from a retention. The journal does not begin there then."""
    begin = Unarchiving._begin_earlier

    def recovered(self: Any, *rest: Any) -> None:
        remove_left_over(self._folder)
        begin(self, *rest)

    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=30)
        with monkeypatch.context() as patched:
            patched.setattr(Unarchiving, "_begin_earlier", recovered)
            with pytest.raises(ArchiveError, match="run it again"):
                store.restore_archive(tmp_path / "a")
        assert (positions(store), held(tmp_path / "a")) == (ALL[24:], ALL[:24])
        store.restore_archive(tmp_path / "a")
        assert shown(store) == ALL


@pytest.mark.parametrize("compress", [False, True])
def test_a_restore_that_goes_on_puts_back_what_was_erased_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: bool
) -> None:
    """The streams did not show it yet, so a retention took it for hidden. What was deleted stays erased."""
    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=30, compress=compress)
        with monkeypatch.context() as patched:
            patched.setattr(Unarchiving, "_show", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                store.restore_archive(tmp_path / "a")
        store.delete_stream("a:0")
        assert Erasing(store._write_session).run(seconds=60.0, least=0.0).segments
        assert not set(positions(store)).intersection(ALL[:24])
        for _ in range(2):
            store.restore_archive(tmp_path / "a")
            assert shown(store) == [position for position in ALL if position % STREAMS != 1]
            assert positions(store)[:38] == shown(store)[:38]
    held(tmp_path / "s")


def test_the_archive_may_be_on_another_volume(tmp_path: Path) -> None:
    other = Path("/dev/shm") if os.stat(tmp_path).st_dev != os.stat("/dev/shm").st_dev else Path("/tmp")
    if os.stat(other).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is only one volume")
    archive = other / f"hangarlog-archive-{os.getpid()}"
    try:
        with written(tmp_path / "s") as store:
            store.archive(archive, before=30)
            assert held(archive) == ALL[:24]
            store.restore_archive(archive)
            assert shown(store) == ALL
    finally:
        shutil.rmtree(archive, ignore_errors=True)


def test_the_command(tmp_path: Path, hangarlog: Command) -> None:
    written(tmp_path / "s").close()
    done = hangarlog("archive", "s", "a", "--before", "30", "--dry-run")
    assert (done.returncode, len(done.stdout.splitlines()), (tmp_path / "a").exists()) == (0, 4, False)
    done = hangarlog("archive", "s", "a", "--before", "30", "--compress")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4), done.stderr
    assert held(tmp_path / "a") == ALL[:24]
    done = hangarlog("archive", "s", "a", "--before", "90d")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1), done.stderr
    done = hangarlog("archive", "s", "a", "--restore")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4), done.stderr
    assert held(tmp_path / "s") == ALL
    for wrong in ([], ["--before", "soon"], ["--restore", "--before", "3"]):
        assert hangarlog("archive", "s", "a", *wrong).returncode == 2
    assert b"there is no folder" in hangarlog("archive", "s", "no/a", "--before", "3").stderr


def test_tasks_archive_too(tmp_path: Path) -> None:
    async def move() -> None:
        async with AsyncEventStore(written(tmp_path / "s")) as store:
            assert (await store.archive(tmp_path / "a", before=30, compress=True)).first_position == 25
            assert (await store.restore_archive(tmp_path / "a")).first_position == 1
        async with AsyncEventStore(MemoryEventStore()) as store:
            with pytest.raises(TypeError):
                await store.archive(tmp_path / "a", before=30)
            with pytest.raises(TypeError):
                await store.restore_archive(tmp_path / "a")

    anyio.run(move)
    assert held(tmp_path / "s") == ALL


def test_callers_with_other_stores_of_one_class(tmp_path: Path) -> None:
    """A subclass of the store archives, too."""

    class Mine(FileEventStore[Any]):
        pass

    written(tmp_path / "s").close()
    with Mine.untyped(tmp_path / "s", create=False) as store:
        assert store.archive(tmp_path / "a", before=30).first_position == 25
