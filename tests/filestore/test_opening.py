"""What is no store is refused with its reason and left alone; what was half made is finished."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from conftest import Added

from hangarlog import (
    ANY,
    EVENT_VERSION_MAP,
    EncodedEvent,
    EventSerializer,
    FileEventStore,
    StoreFormatError,
    StoreOpenError,
    UntypedEvent,
    UpcastingError,
)
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.recovery.report import Recovered
from hangarlog.maintenance.repair import repair
from hangarlog.system.filesystem import FileSystem


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(StoreOpenError, match="is a file"):
        FileEventStore(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"


def test_a_folder_of_somebody_elses_is_no_store_and_nothing_is_put_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for create in (True, False):
        with pytest.raises(StoreOpenError, match=r"notes\.txt"):
            FileEventStore(tmp_path, create=create)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_without_create_a_missing_or_empty_folder_is_an_error_and_stays_so(tmp_path: Path) -> None:
    with pytest.raises(StoreOpenError, match="no such folder"):
        FileEventStore(tmp_path / "s", create=False)
    assert not (tmp_path / "s").exists()
    with pytest.raises(StoreOpenError, match="not a store"):
        FileEventStore(tmp_path, create=False)
    assert os.listdir(tmp_path) == []


def test_folders_above_are_made_too(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "a/b/c") as store:
        assert store.append("s:1", [Added(1)], -1) == 0


def test_a_newer_format_is_refused_with_the_next_step(tmp_path: Path) -> None:
    FileEventStore(tmp_path / "s").close()
    meta = tmp_path / "s/hangarlog.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": 2, "new": True}))
    before = snapshot(tmp_path)
    with pytest.raises(StoreFormatError, match="format is 2, this version knows 1; upgrade"):
        FileEventStore(tmp_path / "s")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format":1}', '{"format":"x"}', "\x00", "[" * 5000])
def test_a_damaged_meta_file_is_refused(tmp_path: Path, content: str) -> None:
    FileEventStore(tmp_path / "s").close()
    (tmp_path / "s/hangarlog.json").write_text(content)
    with pytest.raises(StoreFormatError, match=r"hangarlog\.json is damaged"):
        FileEventStore(tmp_path / "s")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "[" * 100_000,
        '{"format":"1"}',
        '{"format":"%s"}' % ("x" * 60_000),
        '{"format":1,"store_id":"","created_at":"","segment_bytes":1}',
        '{"format":1,"store_id":"a","created_at":"","segment_bytes":1%s}' % ("0" * 4000),
        '{"format":1,"store_id":"a","created_at":"","segment_bytes":1%s}' % ("0" * 60_000),
        '{"format":1,"store_id":"a","created_at":"","segment_bytes":1,"mode":"%s"}' % ("7" * 60_000),
        '{{"format":1,"{}":1,"{}":1}}'.format("k" * 30_000, "k" * 30_000),
    ],
    ids=str,
)
def test_a_damaged_meta_file_is_told_briefly_with_a_next_step_that_works(tmp_path: Path, content: str) -> None:
    path, meta = tmp_path / "s", tmp_path / "s/hangarlog.json"
    FileEventStore(path).close()
    meta.write_text(content)
    for attempt in (lambda: FileEventStore(path), lambda: list(repair(path))):  # There is nothing to repair it from.
        with pytest.raises(StoreFormatError) as caught:
            attempt()
        assert len(str(caught.value)) < 500 + len(str(path))
        assert "run `hangarlog repair`, or restore it" in str(caught.value) or "delete that file" in str(caught.value)
    meta.unlink()
    with FileEventStore(path) as store:
        store.append("s:1", [Added(1)], -1)
    meta.write_text(content)
    assert "or restore it" not in str(next(repair(path)))
    with FileEventStore(path) as store:
        assert store.read_stream("s:1") == [Added(1)]


def test_a_journal_without_its_meta_file_is_refused_and_the_message_mends_it(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s") as store:
        store.append("s:1", [Added(1)], -1)
    meta = tmp_path / "s/hangarlog.json"
    meta.unlink()
    (tmp_path / "s/checkpoint.json").unlink(missing_ok=True)
    with pytest.raises(StoreFormatError, match="restore it") as caught:
        FileEventStore(tmp_path / "s")
    meta.write_text(str(caught.value)[str(caught.value).index("{") :])
    with FileEventStore(tmp_path / "s") as store:
        assert store.read_stream("s:1") == [Added(1)]


@pytest.mark.parametrize("parts", [0, 1, 2, 3, 4])
def test_a_creation_that_was_cut_short_is_finished(tmp_path: Path, parts: int) -> None:
    (tmp_path / "s").mkdir()
    made = [tmp_path / "s/locks", tmp_path / "s/streams"][:parts]
    for folder in made:
        folder.mkdir()
    if parts > 2:
        (tmp_path / "s/journal.jsonl").touch()
    if parts > 3:
        (tmp_path / "s/hangarlog.json.new").write_text('{"for')
    with FileEventStore(tmp_path / "s") as store:
        assert store.append("s:1", [Added(1)], -1) == 0


def test_a_store_that_appears_while_it_is_opened_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may create it after we have seen that there is none."""
    path, enter, others = tmp_path / "s", Folder.enter, []

    def enter_late(folder: Folder) -> None:
        enter(folder)
        if not others:
            others.append(1)
            FileEventStore(path).close()

    monkeypatch.setattr(Folder, "enter", enter_late)
    with FileEventStore(path) as store:
        assert store.append("a:1", [Added(1)], -1) == 0


def test_many_may_create_one_store_at_once(tmp_path: Path) -> None:
    """All get the same one."""
    ids: list[str] = []

    def open_it(number: int) -> None:
        with FileEventStore(tmp_path / "s", durability="relaxed") as store:
            store.append(f"s:{number}", [Added(number)], -1)
            ids.append(store.meta.store_id)

    threads = [threading.Thread(target=open_it, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 12
    assert len(set(ids)) == 1
    with FileEventStore(tmp_path / "s") as store:
        assert store.get_event_count() == 12


def test_settings_are_fixed_when_the_store_is_created(tmp_path: Path) -> None:
    FileEventStore(tmp_path / "s", segment_bytes=1234).close()
    with FileEventStore(tmp_path / "s") as store:
        assert store.meta.segment_bytes == 1234


@pytest.mark.parametrize(
    "options",
    [
        {"segment_bytes": 0},
        {"segment_bytes": 1 << 40},
        {"durability": "sometimes"},
        {"durability": 0},
        {"durability": True},
        {"lock_timeout": -1},
        {"lock_timeout": "1"},
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        FileEventStore(tmp_path / "s", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "s").exists()


def test_a_gap_in_the_chain_is_said_before_the_folder_is_touched(tmp_path: Path) -> None:
    serializer = EventSerializer()
    EVENT_VERSION_MAP["Added"] = 2
    with pytest.raises(UpcastingError, match="Missing upcaster for 'Added' v1 -> v2"):
        FileEventStore(tmp_path / "s", serializer=serializer)
    assert not (tmp_path / "s").exists()


def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with FileEventStore(tmp_path / "s", segment_bytes=100) as store:
            for number in range(3):
                store.append("a:1", [Added(number)], ANY)
            store.save_snapshot("a:1", 0, {})
    finally:
        os.umask(before)
    for path in [tmp_path / "s", *(tmp_path / "s").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


class NoPermission(FileSystem):
    """As the system answers for a folder of another user's (tests may run as root, for whom it does not)."""

    def open_update(self, path: str, *, create: bool = False) -> int:
        raise PermissionError(13, "Permission denied", path)

    def open_append(self, path: str, *, create: bool = False) -> int:
        raise PermissionError(13, "Permission denied", path)

    def open_new(self, path: str) -> int:
        raise PermissionError(13, "Permission denied", path)


class Unreadable(NoPermission):
    def open_read(self, path: str) -> int:
        raise PermissionError(13, "Permission denied", path)


def test_a_store_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    FileEventStore(tmp_path / "s").close()
    with pytest.raises(StoreOpenError, match=r"Permission denied.*another user"):
        FileEventStore(tmp_path / "s", filesystem=Unreadable())


def test_a_store_that_may_only_be_read_is_read_and_not_written(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(1)], -1)
    with FileEventStore(tmp_path / "s", filesystem=NoPermission()) as store:
        assert store.read_stream("a:1") == [Added(1)]
        assert len(list(store.read_all())) == 1
        with pytest.raises(StoreOpenError, match="only be read"):
            store.append("a:1", [Added(2)], 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no users of this sort")
def test_a_folder_of_another_user_says_so(tmp_path: Path) -> None:
    """Opened by a child that is nobody where the tests run as root, else with the permissions taken away."""
    FileEventStore(tmp_path / "s").close()
    root = os.geteuid() == 0
    if not root:
        (tmp_path / "s").chmod(0)
    child = os.fork()
    if not child:
        status = 1
        try:
            if root:
                os.setuid(65534)
            try:
                FileEventStore(tmp_path / "s")
            except StoreOpenError as error:
                status = 0 if "Permission denied" in str(error) else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    (tmp_path / "s").chmod(0o700)
    assert status == 0


def test_a_closed_store_takes_no_append(tmp_path: Path) -> None:
    store = FileEventStore(tmp_path / "s")
    store.close()
    store.close()
    with pytest.raises(StoreOpenError, match="closed"):
        store.append("a:1", [Added(1)], -1)


def test_a_store_that_is_forgotten_gives_its_files_back(tmp_path: Path) -> None:
    fds = Path("/proc/self/fd")
    if not fds.is_dir():
        pytest.skip("this system does not list open files")
    FileEventStore(tmp_path / "s").append("a:1", [Added(1)], -1)
    before = len(os.listdir(fds))
    for _ in range(20):
        FileEventStore(tmp_path / "s").append("a:1", [Added(1)], ANY)
    assert len(os.listdir(fds)) == before


def test_caches_come_back_when_they_are_deleted(tmp_path: Path) -> None:
    """State, indexes, locks, checkpoint: all but the lines."""
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=90_000) as store:
        for number in range(1200):
            store.append("a:1", [Added(number)], ANY)
        expected = store.read_stream("a:1")
    caches = [
        p
        for p in (tmp_path / "s").rglob("*")
        if p.suffix in (".index", ".lock") or p.name in ("state", "checkpoint.json")
    ]
    assert len(caches) >= 6
    for path in caches:
        path.unlink()
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        assert store.read_stream("a:1") == expected
        assert store.read_stream("a:1", from_version=1150) == expected[1150:]
        for number in range(1200, 1800):
            store.append("a:1", [Added(number)], ANY)
        assert store.get_event_count() == 1800
    assert list((tmp_path / "s").rglob("*.index"))


def test_the_last_one_to_close_leaves_the_next_one_little_to_replay(tmp_path: Path) -> None:
    """A checkpoint is made where there is more than a few milliseconds' worth of journal since the last one."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store, FileEventStore(path, durability="relaxed"):
        store.append("a:1", [Added(1, "x" * 300_000)], ANY)
    assert json.loads((path / "checkpoint.json").read_bytes())["position"] == 1
    (path / "checkpoint.json").write_bytes(b"damaged")
    with FileEventStore(path, durability="relaxed") as store:
        assert not (path / "checkpoint.json").exists()  # It said nothing.
        assert store.recovered == Recovered(last=1)
    with FileEventStore(path, durability="relaxed") as store:
        assert store.recovered == Recovered(since=1, last=1)


def test_an_unknown_option_is_one_clear_error(tmp_path: Path) -> None:
    """It names the option, and no folder is made."""
    with pytest.raises(TypeError, match="'durabilty'"):
        FileEventStore(tmp_path / "s", durabilty="always")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'durabilty'"):
        FileEventStore.untyped(tmp_path / "s", durabilty="always")  # type: ignore[call-arg]
    assert not (tmp_path / "s").exists()


def test_an_untyped_store_needs_no_classes(tmp_path: Path) -> None:
    """It reads every event as an `UntypedEvent`, also those of registered classes and of any version."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [Added(1)], ANY)
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed", create=False) as untyped:
        untyped.append("a:1", [EncodedEvent("Other", b'{"_version":7,"x":1}')], 0)
        first, second = untyped.read_stream("a:1")
        assert (first.event_type, first.data["number"]) == ("Added", 1)
        assert second == UntypedEvent("Other", {"x": 1}, 7)
        assert repr(untyped) == f"<FileEventStore {tmp_path / 's'} (durability='relaxed')>"
    assert repr(untyped) == f"<FileEventStore {tmp_path / 's'} (closed)>"


class Refusing(FileSystem):
    """Refuses every lock as long as `refuses` is set."""

    refuses = False

    def lock(self, fd: int) -> bool:
        if self.refuses:
            raise PermissionError(13, "refused")
        return super().lock(fd)


def test_a_store_whose_state_could_not_be_made_is_written_to_once_it_can(tmp_path: Path) -> None:
    """Until then it is read, and says that it can only be read."""
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(1)], -1)
    (tmp_path / "s/state").unlink()
    filesystem = Refusing()
    filesystem.refuses = True
    with FileEventStore(tmp_path / "s", filesystem=filesystem) as store:
        assert store.read_stream("a:1") == [Added(1)]
        with pytest.raises(StoreOpenError, match="only be read"):
            store.append("a:1", [Added(2)], 0)
        filesystem.refuses = False
        assert store.append("a:1", [Added(2)], 0) == 1
        assert store.read_stream("a:1") == [Added(1), Added(2)]
