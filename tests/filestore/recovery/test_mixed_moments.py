"""Recovery of a store whose files are of different moments, such as an older backup that was put back in part."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from campaigns.proofs import write_in_place
from conftest import Added

from hangarlog import ANY, CorruptionWarning, FileEventStore
from hangarlog.filestore.commit_ring import read_ring
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.recovery.recover import _mend_streams
from hangarlog.filestore.recovery.stream_repair import Mending
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify
from hangarlog.record.line import decode_record, encode_records
from hangarlog.testing import Unsynced

pytestmark = pytest.mark.usefixtures("ring_at_once")


@pytest.fixture(autouse=True)
def damage_is_expected() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        yield


def numbers(store: FileEventStore) -> list[int]:
    return [event.number for _, _, event in store.read_all()]


@pytest.mark.parametrize("kept", ["none", "the last"])
def test_a_journal_without_its_beginning_takes_from_the_ring_what_older_streams_lack(tmp_path: Path, kept: str) -> None:
    """Streams were put back from a backup, and sealed segments of the journal are gone."""
    path, backup = tmp_path / "s", tmp_path / "backup"
    with FileEventStore(path, segment_bytes=500) as store:
        for number in range(3):
            store.append("a:1", [Added(number)], ANY)
    shutil.copytree(path, backup)
    with FileEventStore(path) as store:
        for number in range(3, 12):
            store.append("a:1", [Added(number)], ANY)
    sealed = sorted(path.glob("journal.0*.jsonl"))
    for file in sealed if kept == "none" else sealed[:-1]:
        file.unlink()
    shutil.rmtree(path / "streams")
    shutil.copytree(backup / "streams", path / "streams")
    (path / "state").unlink()
    with FileEventStore(path) as store:
        assert store.recovered
        assert "position 1 to" in str(store.recovered.damage)
        assert numbers(store) == list(range(12))
        assert store.append("a:1", [Added(12)], 11) == 12
        assert list(verify(store)) == []


class AtOnce(Unsynced):
    """A checkpoint is there when the append that made it due returns."""

    def in_background(self, work: Any, name: str) -> None:
        work()


def test_streams_are_not_made_what_a_journal_without_its_beginning_says(tmp_path: Path) -> None:
    """They are all there is of the events before it, also where their sealed segments go beyond it."""
    path = tmp_path / "s"
    with FileEventStore(path, segment_bytes=500, filesystem=AtOnce()) as store:
        for number in range(20):
            store.append(f"{'ab'[number % 2]}:1", [Added(number)], ANY)
            if number == 6:  # The journal was rolled, and the checkpoint covers the record after that.
                older = {name: (path / name).read_bytes() for name in ("journal.jsonl", "checkpoint.json", "catalog")}
    assert older["journal.jsonl"].count(b"\n") == 1
    for file in path.glob("journal.0*"):
        file.unlink()
    for name, content in older.items():
        write_in_place(path / name, content)
    for name in ("state", "ring"):
        (path / name).unlink()
    with FileEventStore(path) as store:
        assert store.recovered
        assert store.recovered.put_aside
        assert store.get_event_count() == 7
        assert [record.position for record in store.records(on_damage="skip")] == list(range(1, 8))


def left_behind(path: Path) -> bytes:
    """Make a store of two events, and the last record of a batch that was taken back. Return its former state."""
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
        first = (path / "journal.jsonl").read_bytes()
        store.append_many([("c", [Added(1)], ANY), ("b:1", [Added(2)], ANY)])
        phantom = (path / "streams/b/1.jsonl").read_bytes()
        state = (path / "state").read_bytes()
    event = ("Added", None, b'{"_version":1,"number":5}', None, None)
    (other,), _ = encode_records(2, "a:1", 1, [event], b"2026-11-26T00:00:00.000000Z")
    write_in_place(path / "journal.jsonl", first + other)
    write_in_place(path / "streams/a/1.jsonl", first + other)
    write_in_place(path / "streams/b/1.jsonl", phantom)
    (path / "streams/c.jsonl").unlink()
    for name in ("ring", "checkpoint.json", "catalog"):
        (path / name).unlink(missing_ok=True)
    return state


def test_the_end_of_a_batch_that_only_a_stream_has_is_no_batch(tmp_path: Path) -> None:
    """Its positions were given to others. An older shared state calls it committed."""
    path = tmp_path / "s"
    write_in_place(path / "state", left_behind(path))
    with FileEventStore(path) as store:
        assert numbers(store) == [0, 5]
        assert store.append("b:1", [Added(6)], -1) == 0
        assert numbers(store) == [0, 5, 6]
        assert list(verify(store)) == []


def test_a_repair_takes_no_end_of_a_batch_from_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left_behind(path)
    (path / "state").unlink()
    assert [str(result) for result in repair(path)]
    with FileEventStore(path) as store:
        assert numbers(store) == [0, 5]
        assert list(verify(store)) == []
    assert b'"number":2' in (path / "put-aside.jsonl").read_bytes()


def test_a_sealed_segment_that_was_cut_within_a_batch_is_read_from_the_streams(tmp_path: Path) -> None:
    """The rest of the batch is in the streams."""
    path = tmp_path / "s"
    with FileEventStore(path, segment_bytes=700) as store:
        store.append("a:1", [Added(0)], ANY)
        store.append_many([("a:1", [Added(1)], ANY), ("b:1", [Added(2), Added(3)], ANY)])
        store.append("a:1", [Added(4)], ANY)
    (sealed,) = path.glob("journal.0*.jsonl")
    lines = sealed.read_bytes().splitlines(keepends=True)
    sealed.write_bytes(b"".join(lines[:3]))
    for name in ("state", "ring", "checkpoint.json", "catalog"):
        (path / name).unlink(missing_ok=True)
    with FileEventStore(path) as store:
        assert numbers(store) == [0, 1, 2, 3, 4]


def test_what_only_a_sealed_segment_of_a_stream_has_is_put_aside(tmp_path: Path) -> None:
    """The journal lacks its beginning, so the streams are not made to match it."""
    path = tmp_path / "s"
    with FileEventStore(path, segment_bytes=500) as store:
        for n in range(20):
            store.append("a:1", [Added(n)], ANY)
    min(path.glob("journal.0*.jsonl")).unlink()
    segments = {file: file.read_bytes() for file in (path / "streams/a").glob("1.0*.jsonl")}
    beyond = {line for text in segments.values() for line in text.splitlines() if decode_record(line).position > 5}
    folder = Folder(Unsynced(), str(path))
    assert _mend_streams(folder, folder.open(1, create=False), [], 5) == len(beyond) > 5
    assert set((path / "put-aside.jsonl").read_bytes().splitlines()) == beyond
    assert {file: file.read_bytes() for file in (path / "streams/a").glob("1.0*.jsonl")} == segments


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("merged", [False, True])
def test_an_older_active_segment_hides_nothing_that_is_sealed(tmp_path: Path, compressed: bool, merged: bool) -> None:
    """The journal goes on where its sealed segments end, also if none of them begins as the older one does."""
    path = tmp_path / "s"
    older: dict[Path, bytes] = {}
    for n in range(40):
        with FileEventStore(path, segment_bytes=1000) as store:
            store.append(f"a:{n % 3}", [Added(n)], ANY)
            rolls = len(store.folder.journal.sealed())
        if rolls == 2 and not older:
            FileEventStore(path, exclusive=True).close()
            older = {
                path / name: (path / name).read_bytes() for name in ("journal.jsonl", "checkpoint.json", "catalog")
            }
    sealed = sorted(path.glob("journal.0*.jsonl"))
    assert 0 < older[path / "journal.jsonl"].count(b"\n") < sealed[2].read_bytes().count(b"\n")
    if merged:  # As a repair may have written them.
        sealed[1].write_bytes(sealed[1].read_bytes() + sealed[2].read_bytes())
        sealed[1].with_suffix(".index").unlink(missing_ok=True)
        sealed[2].unlink()
    if compressed:
        with FileEventStore(path) as store:
            store.compress()
    for file, content in older.items():
        write_in_place(file, content)
    for name in ("state", "ring"):
        (path / name).unlink(missing_ok=True)
    with FileEventStore(path) as store:
        held = numbers(store)
        assert held == [*range(40)]
        assert store.append("a:0", [Added(40)], 13) == 14
        assert numbers(store) == [*range(41)]
        assert list(verify(store)) == []


def test_a_stream_of_another_history_is_put_aside(tmp_path: Path) -> None:
    """Two histories went on from older files, and a stream of the one lies beside the journal of the other."""
    path, other = tmp_path / "s", tmp_path / "other"
    with FileEventStore(path) as store:
        for number in range(3):
            store.append("a:1", [Added(number)], ANY)
    shutil.copytree(path, other)
    with FileEventStore(other) as store:
        store.append("a:1", [Added(100)], ANY)
    with FileEventStore(path) as store:
        for number in range(3, 6):
            store.append("a:1", [Added(number)], ANY)
        store._write_session.checkpointing.make(60)
        store.append("a:1", [Added(6)], ANY)
    shutil.copy(other / "streams/a/1.jsonl", path / "streams/a/1.jsonl")
    (path / "state").unlink()
    with FileEventStore(path) as store:
        assert numbers(store) == [event.number for event in store.read_stream("a:1")] == list(range(7))
    assert '"number":100' in (path / "put-aside.jsonl").read_text()


def two_histories(path: Path, text: str, other_text: str) -> Path:
    """Append event 0, then 1 to 5 with `text` here, and 101 to 105 with `other_text` in a copy. Return the copy."""
    other = path.with_name("other")
    with FileEventStore(path, segment_bytes=1_000) as store:
        store.append("a:1", [Added(0)], ANY)
    shutil.copytree(path, other)
    for folder, first, each in ((path, 1, text), (other, 101, other_text)):
        with FileEventStore(folder) as store:
            for number in range(first, first + 5):
                store.append("a:1", [Added(number, each)], ANY)
    return other


def first_in(file: Path) -> int:
    return decode_record(file.read_bytes().split(b"\n")[0]).position


def test_what_repeats_positions_with_other_events_is_put_aside(tmp_path: Path) -> None:
    """The active segment is of another history, in which the journal rolled earlier."""
    path = tmp_path / "s"
    other = two_histories(path, "x" * 60, "x" * 250)
    assert first_in(other / "journal.jsonl") == 4
    assert first_in(path / "journal.jsonl") == 5
    shutil.copy(other / "journal.jsonl", path / "journal.jsonl")
    for name in ("ring", "state", "checkpoint.json"):
        (path / name).unlink()
    FileEventStore(path).close()
    list(repair(path))
    held = b"".join(file.read_bytes() for file in [*path.glob("journal*.jsonl"), path / "put-aside.jsonl"])
    for line in (other / "journal.jsonl").read_bytes().splitlines():
        assert line in held


def test_a_frame_after_another_sealed_segment_is_not_joined(tmp_path: Path) -> None:
    """The journal's active segment is gone, and the ring is of another history, which had not rolled there."""
    path = tmp_path / "s"
    other = two_histories(path, "x" * 120, "")
    assert first_in(path / "journal.jsonl") == first_in(path / "streams/a/1.jsonl") == 5
    ring = read_ring(Unsynced(), str(other / "ring"), Folder(Unsynced(), str(other)).open(1, create=False).store_id)
    assert 5 in [frame.first for frame in ring.frames]
    (path / "streams/a/1.jsonl").write_bytes(b"")
    for name in ("journal.jsonl", "state", "checkpoint.json"):
        (path / name).unlink()
    shutil.copy(other / "ring", path / "ring")
    with FileEventStore(path) as store:
        assert not [number for number in numbers(store) if number > 100]


def test_half_a_batch_that_only_a_stream_has_is_not_taken_for_the_lost_event(tmp_path: Path) -> None:
    """The journal lost the line at position 3; an older stream has half of a batch of another history there."""
    path, other = tmp_path / "s", tmp_path / "other"
    with FileEventStore(path) as store:
        store.append_many([("a:1", [Added(0)], ANY), ("b:1", [Added(1)], ANY)])
    shutil.copytree(path, other)
    with FileEventStore(other) as store:
        store.append_many([("a:1", [Added(100)], ANY), ("b:1", [Added(101)], ANY)])
    with FileEventStore(path) as store:
        for number in (2, 3, 4):
            store.append("c:1", [Added(number)], ANY)
    shutil.copy(other / "streams/a/1.jsonl", path / "streams/a/1.jsonl")
    (path / "streams/c/1.jsonl").unlink()
    lines = (path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (path / "journal.jsonl").write_bytes(b"".join(lines[:2] + lines[3:]))
    for name in ("state", "ring", "checkpoint.json", "catalog"):
        (path / name).unlink(missing_ok=True)
    assert [result for result in repair(path) if isinstance(result, Lost)] == [Lost(3, 3), Lost(0, 0, "c:1")]
    assert '"number":100' in (path / "put-aside.jsonl").read_text()
    with FileEventStore(path) as store:
        assert [record.event.number for record in store.records(on_damage="skip")] == [0, 1, 3, 4]
        assert not [damage for damage in verify(store) if "batch" in damage.cause]


def test_a_hidden_event_of_another_history_is_taken_out_of_its_stream(tmp_path: Path) -> None:
    """What a mark hides is not compared line by line, but the stream's last position is the journal's."""
    for name, count in (("s", 3), ("other", 9)):
        with FileEventStore(tmp_path / name) as store:
            store.append("b:1", [Added(number) for number in range(count)], ANY)
            store.append("a:1", [Added(0), Added(1)], ANY)
    with FileEventStore(tmp_path / "s") as store:
        store.truncate_stream("a:1", 2)
    stream = tmp_path / "s/streams/a/1.jsonl"
    hidden = stream.read_bytes()
    other = (tmp_path / "other/streams/a/1.jsonl").read_bytes()
    stream.write_bytes(other)
    with contextlib.closing(Folder(Unsynced(), str(tmp_path / "s"))) as folder:
        folder.enter()
        meta = folder.open(1, create=False)
        (replaced,) = Mending(folder, meta.segment_bytes, []).run()
    assert Path(replaced.kept).read_bytes() == other
    assert stream.read_bytes() == hidden
    with FileEventStore(tmp_path / "s") as store:
        assert list(verify(store)) == []


def test_a_stream_takes_appends_after_the_repair_that_found_its_only_event_lost(tmp_path: Path) -> None:
    """The recovery before that had read the damaged line, and noted its version."""
    path = tmp_path / "s"
    with FileEventStore(path) as store:
        store.append_many([("a:1", [Added(0)], ANY), ("b:1", [Added(1)], ANY), ("a:1", [Added(2)], ANY)])
    journal = path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"number":1', b'"number":7'))
    for name in ("streams/b/1.jsonl", "state", "ring"):
        (path / name).unlink()
    with FileEventStore(path) as store:
        assert store.recovered
        assert store.recovered.damage
    assert any(isinstance(each, Lost) for each in repair(path))
    with FileEventStore(path) as store:
        assert store.get_stream_version("b:1") == -1
        assert store.append("b:1", [Added(3)], -1) == 0


def test_half_a_batch_whose_rest_is_lost_is_put_aside(tmp_path: Path) -> None:
    """It was committed. What a crash leaves of a batch that was not is cut off."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
        older = (path / "streams/a/1.jsonl").read_bytes()
        store.append("a:1", [Added(1), Added(2)], ANY)
        state = (path / "state").read_bytes()
    lines = (path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    write_in_place(path / "journal.jsonl", b"".join(lines[:2]))
    write_in_place(path / "streams/a/1.jsonl", older)
    write_in_place(path / "state", state)  # As nobody had closed it.
    with FileEventStore(path) as store:
        assert numbers(store) == [0]
    assert (path / "put-aside.jsonl").read_bytes() == lines[1]
