"""A backup is a store with everything up to one position, made while others write; it can be made again and again."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Added, Command
from dying import Died, DyingFileSystem

from hangarlog import ANY, BackupError, FileEventStore, LockTimeoutError, StoreOpenError
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem


def fill(path: Path, count: int = 60) -> None:
    """Streams with sealed segments, one of them compacted."""
    with FileEventStore(path, durability="relaxed", segment_bytes=2000) as store:
        for number in range(count):
            store.append_many([(f"a:{number % 3}", [Added(number)], ANY), ("b", [Added(number)], ANY)])
        store.save_snapshot("b", store.get_stream_version("b") - 5, {"n": 1})
        store.compact_stream("b")


def events(path: Path) -> list[tuple[int, str, int, str]]:
    with FileEventStore(path, create=False) as store:
        assert list(verify(store)) == []
        return [(r.position, r.stream_id, r.stream_version, r.event_id) for r in store.records()]


def own(path: Path) -> dict[Path, bytes]:
    """The files of a store that are no caches."""
    files = [*path.rglob("*.jsonl"), *path.rglob("*.json")]
    return {file.relative_to(path): file.read_bytes() for file in files if file.name != "checkpoint.json"}


def test_a_backup_is_the_same_store(tmp_path: Path) -> None:
    """Its files are the same, private, and the snapshots too."""
    path, target = tmp_path / "s", tmp_path / "deep" / "backup"
    target.parent.mkdir()
    fill(path)
    report = backup(path, target)
    assert report.position == 120
    assert own(target) == own(path)
    assert all(stat.S_IMODE(file.stat().st_mode) in (0o600, 0o700) for file in target.rglob("*"))
    assert events(target) == events(path)
    with FileEventStore(target) as store:
        assert store.load_snapshot("b") == {"version": 54, "state": {"n": 1}}
        assert len(store.read_stream("b")) == 5


def test_the_next_backup_copies_what_is_new(tmp_path: Path) -> None:
    path, target = tmp_path / "s", tmp_path / "backup"
    fill(path)
    first = backup(path, target)
    assert backup(path, target).copied == 0
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
    again = backup(path, target)
    assert again.position == 121
    assert again.copied <= 4  # Two live segments; perhaps one was rolled.
    assert again.kept >= first.copied - 2
    assert events(target) == events(path)


def test_what_compaction_has_deleted_is_deleted_from_the_backup(tmp_path: Path) -> None:
    path, target = tmp_path / "s", tmp_path / "backup"
    fill(path)
    backup(path, target)
    with FileEventStore(path, durability="relaxed") as store:
        store.save_snapshot("a:1", 15, {})
        store.compact_stream("a:1")
    backup(path, target)
    assert own(target) == own(path)


def test_a_backup_holds_up_to_one_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed, rolled, saved and compacted after that is not in it; a compacted stream is as it was."""
    path, target = tmp_path / "s", tmp_path / "backup"
    fill(path)
    before = events(path)
    with FileEventStore(path, durability="relaxed") as store:
        asked = FileEventStore.get_event_count

        def then(reading: FileEventStore) -> int:
            count = asked(reading)
            monkeypatch.undo()
            for number in range(60):
                store.append_many([("a:1", [Added(number)], ANY), (f"new:{number}", [Added(number)], ANY)])
            store.save_snapshot("a:1", 70, {})
            store.compact_stream("a:1")
            return count

        monkeypatch.setattr(FileEventStore, "get_event_count", then)
        report = backup(path, target)
    assert report.position == len(before)
    assert events(target) == before
    with FileEventStore(target) as copy:
        assert copy.load_snapshot("a:1") is None
        assert len(copy.read_stream("a:1")) == 20
    assert not [file for file in target.rglob("*") if file.suffix not in (".json", ".jsonl", ".lock", ".index", "")]


WRITER = """
import random, sys
from hangarlog import ANY, CompactionError, EventSerializer, FileEventStore, UntypedEvent
chance = random.Random(int(sys.argv[2]))
with FileEventStore(sys.argv[1], serializer=EventSerializer(unknown="untyped"), durability="relaxed") as store:
    print(flush=True)
    while True:
        stream_id = f"s:{chance.randrange(6)}"
        events = [UntypedEvent("Added", {"number": 1, "text": "x" * chance.randrange(200)})]
        store.append_many([(stream_id, events, ANY), (f"t:{chance.randrange(40)}", events, ANY)])
        if chance.random() < 0.02:
            try:
                store.save_snapshot(stream_id, max(0, store.get_stream_version(stream_id) - 2), {})
                store.compact_stream(stream_id)
            except (ValueError, CompactionError):
                pass  # The other writer was quicker.
"""


def test_a_backup_of_a_store_at_work_has_all_that_was_committed_before(tmp_path: Path) -> None:
    """Two processes append, roll and compact; every one of many backups opens, and nothing in it is damaged."""
    path, target = tmp_path / "s", tmp_path / "backup"
    FileEventStore(path, segment_bytes=1500).close()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(seed)], stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}
        )
        for seed in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout
            writer.stdout.readline()
        for turn in range(8):
            if turn % 3 == 2:
                shutil.rmtree(target)
            with FileEventStore(path) as store:
                before = store.get_event_count()
            report = backup(path, target)
            assert report.position >= before
            assert len(events(target)) == report.position
        assert [writer.poll() for writer in writers] == [None, None]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_a_backup_that_died_anywhere_is_gone_on_with_and_the_earlier_one_never_lost(tmp_path: Path) -> None:
    """The new one is finished by the next run; without the store, what is there becomes a whole store by a repair."""
    path, earlier = tmp_path / "s", tmp_path / "earlier"
    fill(path, 8)
    backup(path, earlier)
    old = events(path)
    with FileEventStore(path, durability="relaxed") as store:
        for number in range(12):
            store.append_many([(f"a:{number % 3}", [Added(number)], ANY), ("new", [Added(number)], ANY)])
    new = events(path)
    for at in range(0, 2000, 3):
        target = shutil.copytree(earlier, tmp_path / "target")
        try:
            backup(path, target, filesystem=DyingFileSystem(at, 0.5))
        except Died:
            alone = shutil.copytree(target, tmp_path / "alone")
            lost = [result for result in repair(alone) if isinstance(result, Lost)]
            found = events(alone)
            assert all(result.first > len(old) for result in lost)
            assert old == found[: len(old)]
            assert found == new[: len(found)]
            backup(path, target)
            assert events(target) == new
            shutil.rmtree(alone)
        else:
            assert at > 50
            return
        shutil.rmtree(target)


@pytest.mark.parametrize("which", ["s", "backup"])
def test_a_backup_and_a_repair_wait_no_longer_than_they_are_told(tmp_path: Path, which: str) -> None:
    fill(tmp_path / "s")
    backup(tmp_path / "s", tmp_path / "backup")
    calls = {
        "s": lambda: list(repair(tmp_path / "s", lock_timeout=0)),
        "backup": lambda: backup(tmp_path / "s", tmp_path / "backup", lock_timeout=0),
    }
    with FileEventStore(tmp_path / which, exclusive=True), pytest.raises(LockTimeoutError):
        calls[which]()


def test_a_mark_of_a_backup_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "s")
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup/backup.json").write_text('{"x":' + "[" * 30_000 + "]" * 30_000 + "}")
    with pytest.raises(BackupError, match="it is not empty and not a backup"):
        backup(tmp_path / "s", tmp_path / "backup")


@pytest.mark.parametrize("folder", [True, False])
def test_something_else_in_the_place_of_an_index_is_passed_over(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "s"
    fill(path)
    index = path / "journal.00000000000000000001.index"
    if folder:
        index.mkdir()
    else:
        index.symlink_to(tmp_path / "nowhere")
    backup(path, tmp_path / "backup")
    assert len(events(tmp_path / "backup")) == 120


def test_other_folders_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    """A file, somebody's folder, another store, the store itself and its parts; a backup that was appended to."""
    path, other, notes = tmp_path / "s", tmp_path / "other", tmp_path / "notes"
    fill(path, 8)
    FileEventStore(other).close()
    notes.mkdir()
    (notes / "notes.txt").write_text("notes")
    (tmp_path / "file").write_text("")
    for target in (path, path / "below", tmp_path, tmp_path / "file", other, notes):
        with pytest.raises(BackupError):
            backup(path, target)
    assert [file.name for file in notes.iterdir()] == ["notes.txt"]
    assert not (path / "below").exists()
    used = tmp_path / "used"
    backup(path, used)
    with FileEventStore(used) as store:
        store.append("a:1", [Added(0)], ANY)
    with FileEventStore(path) as store:
        store.append("a:2", [Added(0)], ANY)
    with pytest.raises(BackupError, match="somebody has appended"):
        backup(path, used)
    with pytest.raises(StoreOpenError):
        backup(tmp_path / "none", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_somebody_puts_into_the_target_before_it_is_locked_stays(tmp_path: Path) -> None:
    """The look at an empty target is made again once it is."""

    class Raced(FileSystem):
        def make_folder(self, path: str) -> None:
            super().make_folder(path)
            if path == str(tmp_path / "backup"):
                (tmp_path / "backup/journal.jsonl").write_text("theirs")

    fill(tmp_path / "s")
    with pytest.raises(BackupError, match="it is not empty"):
        backup(tmp_path / "s", tmp_path / "backup", filesystem=Raced())
    assert (tmp_path / "backup/journal.jsonl").read_text() == "theirs"


def test_a_backup_that_has_rotted_is_made_whole_by_the_next(tmp_path: Path) -> None:
    path, target = tmp_path / "s", tmp_path / "backup"
    fill(path)
    backup(path, target)
    for name in ("journal.00000000000000000001.jsonl", "streams/b.jsonl"):
        text = (target / name).read_bytes()
        (target / name).write_bytes(text[: len(text) // 2] + b"#" + text[len(text) // 2 + 1 :])
    backup(path, target)
    assert own(target) == own(path)


def test_damage_in_the_store_is_said_and_the_earlier_backup_left(tmp_path: Path, hangarlog: Command) -> None:
    path, target = tmp_path / "s", tmp_path / "backup"
    fill(path)
    assert hangarlog("backup", path, target).returncode == 0
    for name in ("journal.00000000000000000001.jsonl", "streams/a/1.00000000000000000000.jsonl"):
        text = (path / name).read_bytes()
        (path / name).write_bytes(text.replace(b'"number":1,', b'"number":2,'))
    done = hangarlog("backup", path, tmp_path / "second")
    assert done.returncode == 1
    assert b"the copy is not whole" in done.stderr


def test_the_command_says_what_it_did_and_what_it_refuses(tmp_path: Path, hangarlog: Command) -> None:
    fill(tmp_path / "s")
    done = hangarlog("backup", tmp_path / "s", tmp_path / "backup")
    assert done.returncode == 0
    assert done.stdout.startswith(b'{"target":')
    assert b'"position":120,' in done.stdout
    assert done.stderr == b""
    done = hangarlog("backup", tmp_path / "s", tmp_path / "s")
    assert done.returncode == 1
    assert b"cannot back up to" in done.stderr


def test_a_backup_that_died_before_it_was_marked_as_one_is_made_again(tmp_path: Path) -> None:
    path, target = tmp_path / "s", tmp_path / "backup"
    fill(path)

    class Dying(FileSystem):
        def rename(self, old: str, new: str) -> None:
            if new.endswith("backup.json"):
                raise Died
            super().rename(old, new)

    with pytest.raises(Died):
        backup(path, target, filesystem=Dying())
    assert {file.name for file in target.iterdir()} == {"locks", "backup.json.new"}
    backup(path, target)
    assert events(target) == events(path)
