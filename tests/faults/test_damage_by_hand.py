"""Damage that a crash cannot cause, and crashes that look like it: each is told from the other."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Added

from hangarlog import (
    ANY,
    CorruptionError,
    CorruptionWarning,
    FileEventStore,
    HangarlogError,
    StorageError,
    StoreFormatError,
)
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.system.filesystem import FileSystem

LONG = "long:" + "n" * 400


def open_store(path: Path, **options: object) -> FileEventStore:
    return FileEventStore(path, durability="relaxed", **options)  # type: ignore[arg-type]


def fill(path: Path) -> None:
    """A compacted stream that is settled by a checkpoint, one with sealed segments, one with a long name."""
    with open_store(path, segment_bytes=3000) as store:
        store.append("a:1", [Added(n) for n in range(6)], ANY)
        store.save_snapshot("a:1", 3, {"n": 3})
        store.compact_stream("a:1")
        store.append(LONG, [Added(0)], ANY)
        for n in range(40):
            store.append("b:1", [Added(n)], ANY)


class DyingAt(FileSystem):
    """Dies in the write, the cut or the rename numbered `at`."""

    def __init__(self, at: int) -> None:
        self.left = at

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise SystemExit

    def write(self, fd: int, data: bytes) -> None:
        self._step()
        super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        self._step()
        super().truncate(fd, size)


def test_a_recovery_that_dies_while_it_mends_a_settled_stream_costs_nothing(tmp_path: Path) -> None:
    """It puts the whole file in place at once, and does not bring compacted events back."""
    fill(tmp_path / "s")
    for at in range(12):
        path = shutil.copytree(tmp_path / "s", tmp_path / f"s{at}")
        with (path / "streams/a/1.jsonl").open("ab") as file:
            file.write(b'{"position":')
        (path / "state").unlink(missing_ok=True)
        with contextlib.suppress(SystemExit, HangarlogError):
            open_store(path, filesystem=DyingAt(at)).close()
        with open_store(path) as store:
            assert store.get_stream_version("a:1") == 5
            assert [e.number for e in store.read_stream("a:1")] == [4, 5]
            assert (path / "streams/a/1.jsonl").read_bytes().count(b"\n") == 2
            assert store.append("a:1", [Added(6)], 5) == 6
            assert list(verify(store)) == []


@pytest.mark.parametrize("keep", [0, 1, 5])
def test_a_journal_that_is_shorter_than_was_committed_is_mended_or_refused(tmp_path: Path, keep: int) -> None:
    """From the streams, or, where they do not have it either, with an error; no position is given twice."""
    with open_store(tmp_path / "s") as store:
        for n in range(10):
            store.append("a:1", [Added(n)], ANY)
        store.sync()  # So that nobody can take the loss for that of a power cut.
    journal, stream = tmp_path / "s/journal.jsonl", tmp_path / "s/streams/a/1.jsonl"
    text = stream.read_bytes()
    shorter = b"".join(journal.read_bytes().splitlines(keepends=True)[:keep])
    journal.write_bytes(shorter)
    stream.write_bytes(text[:-1])
    for _ in range(2):
        with pytest.raises(CorruptionError, match="10 events were committed") as caught:
            open_store(tmp_path / "s")
        assert caught.value.path == str(journal)
        assert journal.read_bytes() == shorter
    stream.write_bytes(text)
    with open_store(tmp_path / "s") as store:
        assert store.append("a:1", [Added(10)], 9) == 10
        assert list(verify(store)) == []
        assert store.recovered
        assert store.recovered.mended == 10 - keep
    journal.unlink()
    with pytest.warns(CorruptionWarning, match="it was missing; it was restored"):
        opened = open_store(tmp_path / "s")
    with opened as store:
        assert store.append("a:1", [Added(11)], 10) == 11
        assert list(verify(store)) == []


@pytest.mark.parametrize("word", [0, 1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("change", [1, 1 << 20, 1 << 63])
def test_a_shared_state_that_was_changed_is_not_believed(tmp_path: Path, word: int, change: int) -> None:
    """It is a cache: the journal says how it was."""
    with open_store(tmp_path / "s") as store:
        for n in range(10):
            store.append("a:1", [Added(n)], ANY)
    state = tmp_path / "s/state"
    words = memoryview(bytearray(state.read_bytes())).cast("Q")
    words[word] ^= change
    with state.open("r+b") as file:
        file.write(words.tobytes())
    with open_store(tmp_path / "s") as store:
        assert store.append("a:1", [Added(10)], 9) == 10
        assert [position for position, _, _ in store.read_all()] == list(range(1, 12))
        assert list(verify(store)) == []


def test_a_stream_whose_live_file_is_gone_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    fill(tmp_path / "s")
    with open_store(tmp_path / "s") as store:
        version = store.get_stream_version("b:1")
        (tmp_path / "s/streams/b/1.jsonl").unlink()
        with open_store(tmp_path / "s") as other:
            assert [d.path for d in verify(other)] == [str(tmp_path / "s/streams/b/1.jsonl")]
            with pytest.warns(CorruptionWarning, match="the missing events were written again"):
                assert other.append("b:1", [Added(1)], version) == version + 1
        assert store.append("b:1", [Added(2)], version + 1) == version + 2
        assert list(verify(store)) == []
    with open_store(tmp_path / "s") as store:
        assert store.append("b:1", [Added(1)], version + 2) == version + 3
        assert list(verify(store)) == []


@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_a_torn_batch_may_have_its_later_pages_on_the_device_first(tmp_path: Path) -> None:
    """Its first line zeros, its last ones whole: it never happened, or its stream has it. Two batches: damage."""
    with open_store(tmp_path / "s") as store:
        store.append("a:1", [Added(0)], ANY)
        store.append("a:1", [Added(n, "x" * 500) for n in range(1, 6)], ANY)
    lines = (tmp_path / "s/journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "s/state").unlink()
    zeroed = [lines[0], bytes(len(lines[1])), *lines[2:]]
    for stream, events in ((None, 6), (lines[0], 1)):
        for text in (b"".join(zeroed), b"".join(zeroed[:-1]) + zeroed[-1][:50]):
            path = shutil.copytree(tmp_path / "s", tmp_path / "torn", dirs_exist_ok=True)
            (path / "journal.jsonl").write_bytes(text)
            if stream:
                (path / "streams/a/1.jsonl").write_bytes(stream)
            torn = events if text.endswith(b"\n") else 1  # Nobody can know that a torn line was the last one.
            with open_store(path) as store:
                assert store.get_event_count() == torn
                assert store.append("a:1", [Added(1)], torn - 1) == torn
                assert list(verify(store)) == []
            shutil.rmtree(path)
    with open_store(tmp_path / "s") as store:
        store.append("a:1", [Added(6)], ANY)
    (tmp_path / "s/state").unlink()
    (tmp_path / "s/streams/a/1.jsonl").write_bytes(lines[0])
    last = (tmp_path / "s/journal.jsonl").read_bytes().splitlines(keepends=True)[-1]
    (tmp_path / "s/journal.jsonl").write_bytes(b"".join(zeroed).replace(b"\0", b"\1") + last)
    with pytest.raises(CorruptionError, match="intact records follow"):
        open_store(tmp_path / "s")


@pytest.mark.parametrize("field", [b'"version":3', b'"compacted_through":3', b'"n":3', b'"stream_id":"a:1"'])
def test_a_snapshot_that_was_changed_is_damage(tmp_path: Path, field: bytes) -> None:
    fill(tmp_path / "s")
    snapshot = tmp_path / "s/snapshots/a/1.json"
    text = snapshot.read_bytes()
    assert field in text
    snapshot.write_bytes(text.replace(field, field.replace(b"3", b"1").replace(b"a:1", b"a:2")))
    with open_store(tmp_path / "s") as store:
        for read in (store.load_snapshot, store.read_stream):
            with pytest.raises(CorruptionError, match="snapshot") as caught:
                read("a:1")
            assert caught.value.path == str(snapshot)
        assert str(snapshot) in {damage.path for damage in verify(store)}


@pytest.mark.parametrize("content", [b"", b"{", b'{"position":40,"began_at":0.0}\n', b"\0" * 50])
def test_a_checkpoint_that_was_changed_is_passed_over(tmp_path: Path, content: bytes) -> None:
    """Recovery reads more then, and deletes it; `verify` names it, `repair` puts it away."""
    fill(tmp_path / "s")
    checkpoint = tmp_path / "s/checkpoint.json"
    checkpoint.write_bytes(content)
    (tmp_path / "s/state").unlink()
    assert [damage.path for damage in verify_folder(tmp_path / "s")] == [str(checkpoint)]
    copy = shutil.copytree(tmp_path / "s", tmp_path / "copy")
    with open_store(tmp_path / "s") as store:
        assert store.get_event_count() == 47
        assert list(verify(store)) == []
    repaired = [str(result).partition(" from ")[0] for result in repair(copy)]
    assert repaired == [str(copy / "checkpoint.json")]
    with open_store(copy) as store:
        assert store.get_event_count() == 47
        assert list(verify(store)) == []


@pytest.mark.parametrize("content", [b"", b'{"position":48,"str', b'{"pos', bytes(4096)])
def test_a_new_stream_with_a_long_name_that_was_torn_can_be_begun_again(tmp_path: Path, content: bytes) -> None:
    """Nothing of it was committed; a file of somebody else's is left alone."""
    fill(tmp_path / "s")
    stream = (
        tmp_path
        / "s/streams/long"
        / Path(open_store(tmp_path / "s").folder.stream("long:" + "m" * 400).active_path).name
    )
    stream.write_bytes(content)
    notes = stream.parent / "notes.jsonl"
    notes.write_bytes(b"mine\n")
    (tmp_path / "s/state").unlink()
    with open_store(tmp_path / "s") as store:
        assert store.read_stream("long:" + "m" * 400) == []
        assert store.append("long:" + "m" * 400, [Added(1)], -1) == 0
        assert store.read_stream(LONG) == [Added(0)]
        assert notes.read_bytes() == b"mine\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
@pytest.mark.parametrize("name", ["journal.jsonl", "streams/a/1.jsonl"])
@pytest.mark.parametrize("swap", ["symlink", "fifo", "folder"])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_what_is_no_file_in_a_files_place_is_damage_and_hangs_nobody(
    tmp_path: Path, name: str, swap: str, checkpoint: bool
) -> None:
    """And nothing is written through it."""
    fill(tmp_path / "s")
    if not checkpoint:
        (tmp_path / "s/checkpoint.json").unlink()
    target = tmp_path / "victim"
    target.write_bytes(b"mine")
    file = tmp_path / "s" / name
    file.unlink()
    make: dict[str, Callable[[], None]] = {
        "symlink": lambda: file.symlink_to(target),
        "fifo": lambda: os.mkfifo(file),
        "folder": lambda: file.mkdir(),
    }
    make[swap]()
    if name.startswith("journal"):
        with pytest.raises(CorruptionError, match="opened as a file"):
            open_store(tmp_path / "s")
        assert target.read_bytes() == b"mine"
        return
    with open_store(tmp_path / "s") as store:
        with pytest.warns(CorruptionWarning, match="opened as a file"):
            assert len(store.read_stream("a:1")) == 2  # The others are compacted away.
        with pytest.raises((CorruptionError, StorageError)):
            store.append("a:1", [Added(1)], ANY)
    assert target.read_bytes() == b"mine"


def test_a_power_cut_at_the_end_of_a_line_leaves_no_index_that_covers_more(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        for n in range(400):
            store.append("a:1", [Added(n, "x" * 100)], ANY)
    for name in ("journal.jsonl", "streams/a/1.jsonl"):
        file = tmp_path / "s" / name
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:100]))
    (tmp_path / "s/state").unlink()
    with open_store(tmp_path / "s") as store:
        assert store.get_event_count() == 100
        assert list(verify(store)) == []
        for n in range(100, 400):
            store.append("a:1", [Added(n, "x" * 100)], ANY)
        assert list(verify(store)) == []


def test_a_power_cut_leaves_no_index_of_what_it_took_from_a_stream_behind_the_checkpoint(tmp_path: Path) -> None:
    """The device has the index, which was not synced, but neither copy of the event: the stream itself is whole."""
    path = tmp_path / "s"
    files = [path / "journal.jsonl", path / "streams/a/1.jsonl"]
    with open_store(path, segment_bytes=80_000) as store:
        store.append("a:1", [Added(0, "x" * 50_000)], ANY)
        store.append("b:1", [Added(1, "x" * 40_000)], ANY)
        store.append("b:1", [Added(2)], ANY)  # Rolls the journal, which makes a checkpoint.
    kept = [file.read_bytes() for file in files]
    with open_store(path) as store:
        store.append("a:1", [Added(3, "x" * 20_000)], ANY)
    index = path / "streams/a/1.index"
    longer = index.read_bytes()
    for file, text in zip(files, kept, strict=True):
        file.write_bytes(text)
    index.write_bytes(longer)
    (path / "state").unlink()
    with open_store(path) as store:
        assert store.get_event_count() == 3
        assert list(verify(store)) == []
        store.append("a:1", [Added(4, "y" * 25_000)], ANY)
        assert list(verify(store)) == []


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("copied", [True, False])
def test_a_folder_in_the_middle_of_a_roll_opens(tmp_path: Path, fresh: bool, copied: bool) -> None:
    """In a copy the segment's two names are two files. The fresh file may be missing. The next roll goes well."""
    path = tmp_path / "s"
    with open_store(path, segment_bytes=10_000) as store:
        store.append("a:1", [Added(0)], ANY)
    second = shutil.copy if copied else os.link
    second(path / "journal.jsonl", path / "journal.00000000000000000001.jsonl")
    if fresh:
        (path / "journal.jsonl.new").touch()
    (path / "state").unlink()
    with open_store(path) as store:
        assert store.append("a:1", [Added(1, "x" * 12_000)], 0) == 1
        assert store.append("a:1", [Added(2)], 1) == 2
        assert len(list(store.read_all())) == 3
        assert list(verify(store)) == []


@pytest.mark.parametrize("size", ["0", "-1", str(1 << 40)])
def test_a_segment_size_that_makes_no_sense_is_refused(tmp_path: Path, size: str) -> None:
    fill(tmp_path / "s")
    meta = tmp_path / "s/hangarlog.json"
    meta.write_text(meta.read_text().replace("3000", size))
    with pytest.raises(StoreFormatError, match="segment_bytes"):
        open_store(tmp_path / "s")


@pytest.mark.parametrize("whole", [0, 3])
def test_a_copy_whose_last_lines_were_changed_in_both_copies_does_not_open_without_them(
    tmp_path: Path, whole: int
) -> None:
    """As by `sed -i` on every file, or git with other ends of lines. A copy that is cut opens; this one is refused."""
    with open_store(tmp_path / "s") as store:
        for number in range(5):
            store.append(f"a:{number % 2}", [Added(number)], ANY)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "s", copy)
    for file in copy.rglob("*.jsonl"):
        lines = file.read_bytes().splitlines()
        kept = [line if int(line[12:].partition(b",")[0]) <= whole else line + b"\r" for line in lines]
        file.write_bytes(b"".join(line + b"\n" for line in kept))
    before = {file: file.read_bytes() for file in copy.rglob("*.jsonl*")}
    with pytest.raises(CorruptionError, match="its bytes were changed") as refused:
        open_store(copy)
    assert refused.value.position == whole + 1
    assert {file: file.read_bytes() for file in copy.rglob("*.jsonl*")} == before
    lost = [result for result in repair(copy) if isinstance(result, Lost)]
    assert [(span.first, span.last) for span in lost if not span.stream_id] == [(whole + 1, 5)]
    with open_store(copy) as store:
        assert store.get_event_count() == whole
        store.append("a:1", [Added(9)], ANY)
        assert list(verify(store)) == []
