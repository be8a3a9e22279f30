"""A store that may only be read: what a power cut has left is seen as a recovery would show it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import warnings
from pathlib import Path

import pytest
from conftest import Added
from store_files import folder_of, put

import hangarlog.filestore.checkpointing
from hangarlog import ANY, CorruptionError, CorruptionWarning, FileEventStore, StorageError, StoreOpenError
from hangarlog.record.line import decode_record
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.read_only import ReadOnly

pytestmark = pytest.mark.usefixtures("ring_at_once")

EVENTS = 20


def after_a_power_cut(path: Path, journal: int, stream: int, tail: bytes = b"") -> None:
    """A store of `EVENTS` acknowledged events; the device has some of the journal, some of the stream, and the ring."""
    with FileEventStore(path) as store:
        for n in range(EVENTS):
            store.append("a:1", [Added(n)], ANY)
    lines = (path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    put(path / "journal.jsonl", b"".join(lines[:journal]) + tail)
    put(path / "streams/a/1.jsonl", b"".join(lines[:stream]))
    state = bytearray((path / "state").read_bytes())
    state[8:16] = b"otherbot"
    put(path / "state", bytes(state))


TORN = [b"", bytes(512) + b'"}\n', b'{"position":6,"stream', bytes(300), b'{"position":6,"str' + bytes(200) + b"\n"]


@pytest.mark.parametrize("tail", TORN)
@pytest.mark.parametrize("stream", [0, 3, 5, 20])
def test_a_reader_sees_what_a_recovery_would_show(tmp_path: Path, tail: bytes, stream: int) -> None:
    """What only the ring has, and nothing of a torn end; no byte is changed."""
    path = tmp_path / "s"
    after_a_power_cut(path, 5, stream, tail)
    before = folder_of(path)
    with FileEventStore(path, filesystem=ReadOnly()) as store:
        numbers = list(range(EVENTS))
        assert store.get_event_count() == store.durable_position == EVENTS
        assert store.get_stream_version("a:1") == EVENTS - 1
        assert [e.number for e in store.read_stream("a:1")] == numbers
        assert [e.number for e in store.read_stream("a:1", 7)] == numbers[7:]
        assert [e.number for _, _, e in store.read_all()] == numbers
        assert [r.event.number for r in store.records(from_position=3, limit=9)] == numbers[3:12]
        assert [r.event.number for r in store.records(reverse=True)] == numbers[::-1]
        assert [r.event.number for r in store.records(reverse=True, from_position=18)] == numbers[:17][::-1]
        assert [r.event.number for r in store.records("a:1", reverse=True)] == numbers[::-1]
        assert [r.event.number for r in store.records("a:1", reverse=True, from_version=6)] == numbers[:7][::-1]
        with pytest.raises(StoreOpenError, match="only be read"):
            store.append("a:1", [Added(1)], ANY)
    assert folder_of(path) == before
    shutil.copytree(path, tmp_path / "writer")
    with FileEventStore(tmp_path / "writer") as store:
        assert [e.number for e in store.read_stream("a:1")] == numbers


@pytest.mark.parametrize("catalog", ["of the checkpoint", "of another one", "gone"])
@pytest.mark.parametrize("kept", [None, 0, 1, 3])
@pytest.mark.parametrize("later", [0, 1, 4])
def test_a_reader_takes_what_a_stream_lacks_from_the_journal(
    tmp_path: Path, kept: int | None, later: int, catalog: str
) -> None:
    """The file of a stream is gone, or older than the checkpoint; `later` events come after that."""
    path = tmp_path / "s"
    with FileEventStore(path, segment_bytes=3000) as store:
        for n in range(EVENTS):
            store.append("a:1", [Added(n)], ANY)
        store.append("b:1", [Added(0)], ANY)
        store.append("c:1", [Added(0)], ANY)
    with FileEventStore(path) as store:
        store._write_session.checkpointing.make()
        for n in range(EVENTS, EVENTS + later):
            store.append("a:1", [Added(n)], ANY)
    active, b = path / "streams/a/1.jsonl", path / "streams/b/1.jsonl"
    if kept is None:
        shutil.rmtree(active.parent)
    else:
        put(active, b"".join(active.read_bytes().splitlines(keepends=True)[:kept]))
    b.unlink()
    if catalog != "of the checkpoint":
        (path / "catalog").unlink()
    if catalog == "of another one":
        FileEventStore(tmp_path / "other").close()
        shutil.copy(tmp_path / "other/catalog", path)
    numbers = list(range(EVENTS + later))
    with FileEventStore(path, filesystem=ReadOnly()) as store, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [e.number for e in store.read_stream("a:1")] == numbers
        assert [r.event.number for r in store.records("a:1", reverse=True)] == numbers[::-1]
        assert store.get_stream_version("a:1") == numbers[-1]
        assert store.read_stream("b:1") == store.read_stream("c:1") == [Added(0)]
        assert store.get_stream_version("b:1") == 0
        assert store.read_stream("d:1") == []
    assert {each.category for each in said} == {CorruptionWarning}
    assert any(str(b) in str(each.message) for each in said)


def test_versions_that_both_copies_lack_are_an_error(tmp_path: Path) -> None:
    """The next version comes after the checkpoint, so nothing else tells that they were there."""
    path = tmp_path / "s"
    with FileEventStore(path, segment_bytes=3000) as store:
        for n in range(EVENTS):
            store.append("a:1", [Added(n)], ANY)
        store._write_session.checkpointing.make()
        store.append("a:1", [Added(EVENTS)], ANY)
    for lost in (*path.glob("journal.0*"), *path.glob("streams/a/1.0*"), path / "catalog"):
        lost.unlink()
    active = path / "streams/a/1.jsonl"
    put(active, active.read_bytes()[:0])
    with FileEventStore(path, filesystem=ReadOnly()) as store, warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)  # The journal still has the last of them.
        for reverse in (False, True):
            with pytest.raises(CorruptionError):
                list(store.records("a:1", reverse=reverse))
        assert store.get_stream_version("a:1") == EVENTS


def test_a_journal_that_is_missing_is_no_store_without_events(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FileEventStore(path) as store:
        store.append("a:1", [Added(1)], ANY)
    (path / "journal.jsonl").rename(tmp_path / "journal.jsonl")
    with FileEventStore(path, filesystem=ReadOnly()) as store, pytest.raises(StoreOpenError, match="is missing"):
        store.read_stream("a:1")


def test_a_reader_does_not_see_what_only_the_stream_has(tmp_path: Path) -> None:
    """Such records were lost with the journal; a batch of which the device has a part never happened."""
    path = tmp_path / "s"
    after_a_power_cut(path, EVENTS, EVENTS)
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(n) for n in range(EVENTS, EVENTS + 3)], ANY)
        store.append("b:1", [Added(n) for n in range(3)], ANY)
    lines = (path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for kept in range(EVENTS, len(lines) + 1):
        copy = shutil.copytree(path, tmp_path / f"s{kept}")
        put(copy / "journal.jsonl", b"".join(lines[:kept]))
        committed = EVENTS + (kept - EVENTS) // 3 * 3
        with FileEventStore(copy, filesystem=ReadOnly()) as store:
            assert store.get_event_count() == committed
            assert len(list(store.read_all())) == committed
            assert len(store.read_stream("a:1")) == min(committed, EVENTS + 3)
            assert len(store.read_stream("b:1")) == max(0, committed - EVENTS - 3)
            assert store.get_stream_version("b:1") == max(0, committed - EVENTS - 3) - 1


def test_a_reader_is_told_to_have_it_opened_once_where_that_takes_a_recovery(tmp_path: Path) -> None:
    """An acknowledged event that neither journal nor ring has whole: its stream may have it."""
    path = tmp_path / "s"
    after_a_power_cut(path, 5, EVENTS)
    ring = bytearray((path / "ring").read_bytes())
    ring[8 * 4096 + 300] ^= 1
    put(path / "ring", bytes(ring))
    with FileEventStore(path, filesystem=ReadOnly()) as store:
        for read in (store.get_event_count, lambda: store.read_stream("a:1"), lambda: list(store.read_all())):
            with pytest.raises(StoreOpenError, match=r"position \d+ is missing.*open it once with permission"):
                read()
    with FileEventStore(path) as store:
        assert len(store.read_stream("a:1")) == EVENTS


@pytest.mark.parametrize("replayed", [0, 1 << 30])
def test_a_copy_that_nobody_may_write_is_read_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replayed: int
) -> None:
    """Of a store that was closed, with sealed segments; damage in its middle is served from the other copy.

    All of it came before the last checkpoint, or after it.
    """
    monkeypatch.setattr(hangarlog.filestore.checkpointing, "_REPLAYED_AT_ONCE_BYTES", replayed)
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=4000) as store:
        for n in range(100):
            store.append(f"a:{n % 2}", [Added(n, "x" * 60)], ANY)
    copy = shutil.copytree(tmp_path / "s", tmp_path / "copy")
    if replayed:
        (copy / "checkpoint.json").unlink(missing_ok=True)
    with FileEventStore(copy, filesystem=ReadOnly()) as store:
        assert len(list(store.read_all())) == 100
        assert [e.number for e in store.read_stream("a:1")] == list(range(1, 100, 2))
    live = copy / "journal.jsonl"
    lines = live.read_bytes().splitlines(keepends=True)
    assert len(lines) > 1
    damaged = decode_record(lines[0][:-1])
    lines[0] = lines[0].replace(b"xxx", b"xyx", 1)
    put(live, b"".join(lines))
    with FileEventStore(copy, filesystem=ReadOnly()) as store:
        with pytest.warns(UserWarning, match="served from the streams"):
            assert len(list(store.read_all())) == 100
        served = pytest.warns(UserWarning, match="served from the streams")
        with served if replayed else contextlib.nullcontext():  # What is settled comes from the stream itself.
            assert len(store.read_stream(damaged.stream_id)) == 50


class Full(FileSystem):
    """A disk that has no room until it is told so."""

    full = True

    def __init__(self, *, in_place: bool) -> None:
        self._in_place = in_place  # Whether what is there can be written over; not so where the disk copies on write.

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        if self.full and not self._in_place:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write_at(fd, data, offset)

    def write(self, fd: int, data: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(fd, data)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_store_on_a_full_disk_is_read_and_goes_on_when_there_is_room(tmp_path: Path, in_place: bool) -> None:
    """Although opening it has to write: who cannot sees what a recovery would show."""
    path = tmp_path / "s"
    after_a_power_cut(path, 5, 3)
    disk, numbers = Full(in_place=in_place), list(range(EVENTS))
    with FileEventStore(path, filesystem=disk) as store:
        for _ in range(2):
            assert [e.number for e in store.read_stream("a:1")] == numbers
            with pytest.raises(StorageError, match="No space left") as caught:
                store.append("a:1", [Added(EVENTS)], ANY)
            assert caught.value.errno == errno.ENOSPC
        disk.full = False
        assert store.append("a:1", [Added(EVENTS)], EVENTS - 1) == EVENTS
        assert [e.number for e in store.read_stream("a:1")] == [*numbers, EVENTS]


def test_a_ring_of_another_history_is_not_joined(tmp_path: Path) -> None:
    """A frame that follows another line than the journal's: who may only read shows no more of it than a recovery."""
    path, other = tmp_path / "s", tmp_path / "other"
    with FileEventStore(path) as store:
        store.append("a:1", [Added(0)], ANY)
    shutil.copytree(path, other)
    for folder, numbers in ((path, [1]), (other, [2, 3])):
        with FileEventStore(folder) as store:
            for number in numbers:
                store.append("a:1", [Added(number)], ANY)
    put(path / "ring", (other / "ring").read_bytes())
    with FileEventStore(path, filesystem=ReadOnly()) as store:
        assert [event.number for event in store.read_stream("a:1")] == [0, 1]
    with FileEventStore(path) as store:
        assert [event.number for event in store.read_stream("a:1")] == [0, 1]
