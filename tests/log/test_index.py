"""The index sidecar: it grows with the text, survives its own torn end, and says nothing that the text does not."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from pathlib import Path
from zlib import crc32

import pytest
from conftest import Added

from hangarlog import ANY, ConcurrencyError, EncodedEvent, FileEventStore
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.index import Index, covered, extend
from hangarlog.log.log import Log
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem

LINES = [b"%d" % number * (number % 40 + 1) + b"\n" for number in range(30_000)]


def named(event_id: str) -> EncodedEvent:
    return EncodedEvent("Named", b"{}", event_id)


def entries(path: Path) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("<II", path.read_bytes()[16:]))


def agrees(path: Path, lines: list[bytes]) -> None:
    """Each entry is the end of its line, each block's checksum that of its text."""
    text, end, start = b"".join(lines), 0, 0
    found = entries(path)
    assert len(found) == len(lines)
    for line, (at, crc) in zip(lines, found, strict=True):
        end += len(line)
        assert at == end
        if crc:
            assert crc == crc32(text[start:end])
            assert end - start <= 1 << 20
            start = end
    assert start == end


def grow(path: Path, first: int, lines: list[bytes]) -> None:
    before = covered(FileSystem(), str(path), sys.maxsize, first)
    extend(FileSystem(), str(path), first, b"".join(lines), list(map(len, lines)), before)


@pytest.mark.parametrize("steps", [[30_000], [1, 29_999], [512, 511, 1, 20_000]])
def test_an_index_made_in_any_steps_has_every_end_and_every_block(tmp_path: Path, steps: list[int]) -> None:
    path, done = tmp_path / "i", 0
    for step in steps:
        grow(path, 7, LINES[done : done + step])
        done += step
        agrees(path, LINES[:done])
        index = Index.open(FileSystem(), str(path), sys.maxsize, 7)
        assert index
        assert (index.count, index.covered()) == (done, sum(map(len, LINES[:done])))
        assert (index.end(6), index.end(7)) == (0, len(LINES[0]))
        index.close()


@pytest.mark.parametrize("kept", [0, 1, 8, 8 * 511, 8 * 512, 8 * 2999])
def test_entries_after_the_last_whole_block_are_passed_over_and_written_anew(tmp_path: Path, kept: int) -> None:
    """A writer died in the middle of them."""
    path = tmp_path / "i"
    grow(path, 0, LINES[:1000])
    whole = path.read_bytes()
    grow(path, 0, LINES[1000:4000])
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    index = Index.open(FileSystem(), str(path), sys.maxsize, 0)
    assert index
    assert index.count == 1000
    index.close()
    grow(path, 0, LINES[1000:2000])
    agrees(path, LINES[:2000])


def test_an_index_of_another_segment_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "i"
    grow(path, 0, LINES[:1000])
    assert Index.open(FileSystem(), str(path), sys.maxsize, 5) is None
    grow(path, 5, LINES[:10])
    agrees(path, LINES[:10])


def test_an_index_of_the_segment_before_a_roll_is_not_trimmed_but_deleted(tmp_path: Path) -> None:
    """A power cut may keep the roll of the text, and undo the renaming of the index."""
    log = Log(FileSystem(), str(tmp_path), "journal", "position")
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [named(f"e-{n}") for n in range(1000)], ANY)
        text = (tmp_path / "s/journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(text[500:]))
    grow(tmp_path / "journal.index", 1, text[:500])
    with contextlib.closing(ActiveSegment(log)) as active:
        active.trim_index(900)
    assert not (tmp_path / "journal.index").exists()
    grow(tmp_path / "journal.index", 501, text[500:])
    with contextlib.closing(ActiveSegment(log)) as active:
        active.trim_index(1000)
    assert (tmp_path / "journal.index").exists()


def test_what_several_writers_append_in_turn_is_indexed_whole(tmp_path: Path) -> None:
    """One alone, in batches, and two whose lines the other has to read again."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as one, FileEventStore(path, durability="relaxed") as other:
        for number in range(600):
            (one if number % 3 else other).append("a:1", [Added(number)], number - 1)
        one.append("a:1", [Added(number) for number in range(3000)], ANY)
        other.append("a:1", [Added(number) for number in range(3000)], ANY)
        for _ in range(600):
            one.append("a:1", [Added(0)], ANY)
        assert list(verify(one)) == []
    for log in ("journal", "streams/a/1"):
        text = (path / f"{log}.jsonl").read_bytes()
        there = entries(path / f"{log}.index")
        assert len(text) - there[-1][0] < 64 << 10
        agrees(path / f"{log}.index", text.splitlines(keepends=True)[: len(there)])


@pytest.mark.parametrize("change", ["gone", "cut", "grown", "emptied"])
def test_an_index_that_somebody_changed_under_a_writer_is_whole_again(tmp_path: Path, change: str) -> None:
    """It is a cache: the writer that remembers how far it came looks whether that is still so."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(number) for number in range(3000)], -1)
        index = path / "streams/a/1.index"
        if change == "gone":
            index.unlink()
        elif change == "grown":
            index.write_bytes(index.read_bytes() + b"\1" * 24)
        else:
            os.truncate(index, {"cut": 16 + 8 * 1000, "emptied": 0}[change])
        store.append("a:1", [Added(number) for number in range(3000)], ANY)
        agrees(index, (path / "streams/a/1.jsonl").read_bytes().splitlines(keepends=True))
        assert list(verify(store)) == []


def test_an_index_of_zeros_is_no_damage_and_is_replaced(tmp_path: Path) -> None:
    """A power cut may leave one: its file has its length, and nothing of its text."""
    index = tmp_path / "s/streams/a/1.index"
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        for number in range(20):
            store.append("a:1", [Added(number, "x" * 8000)], ANY)
        size = index.stat().st_size
        assert size > 16
        index.write_bytes(bytes(size))
        assert list(verify(store)) == []
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        for number in range(20):
            store.append("a:1", [Added(number, "x" * 8000)], ANY)
        assert index.read_bytes().startswith(b"HLINDEX2")
        assert len(store.read_stream("a:1")) == 40
        assert list(verify(store)) == []


def test_an_index_that_has_another_name_is_deleted_and_not_cut(tmp_path: Path) -> None:
    """What the other name is of is somebody's file."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(number) for number in range(3000)], -1)
    index, theirs = path / "journal.index", tmp_path / "theirs"
    theirs.hardlink_to(index)
    before = theirs.read_bytes()
    with contextlib.closing(ActiveSegment(Log(FileSystem(), str(path), "journal", "position"))) as live:
        live.trim_index(1)
    assert theirs.read_bytes() == before
    assert not index.exists()


def test_a_damaged_line_is_not_indexed(tmp_path: Path) -> None:
    """An index would say that it is whole."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as one, FileEventStore(path, durability="relaxed") as other:
        for number in range(100):
            one.append("a:1", [Added(number)], number - 1)
        stream = path / "streams/a/1.jsonl"
        with stream.open("r+b") as file:
            file.seek(50)
            file.write(b"X")
        for number in range(100, 600):
            other.append("a:1", [Added(number)], number - 1)
        assert not (path / "streams/a/1.index").exists()
        assert [damage.path for damage in verify(other)] == [str(stream)]


def test_a_retry_is_known_wherever_its_events_are(tmp_path: Path) -> None:
    """At the end, a few records and many before it, and in a sealed segment; a conflict is one everywhere."""
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=400_000) as store:
        store.append("a:1", [named(f"{number}") for number in range(3000)], -1)
        for number in range(3000, 3010):
            store.append("a:1", [named(f"{number}")], number - 1)
        for number in (3009, 3008, 3001, 2999, 2000, 17, 0):
            if number:
                assert store.append("a:1", [named(f"{number}")], number - 1) == number
            with pytest.raises(ConcurrencyError):
                store.append("a:1", [named("new")], number - 1)
        assert store.append("a:1", [named(f"{number}") for number in range(2990, 3005)], 2989) == 3004
        assert store.get_event_count() == 3010
