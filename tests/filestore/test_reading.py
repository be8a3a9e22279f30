"""Reading by blocks, with files that stay open: what is seen is what is stored, and it takes few calls."""

from __future__ import annotations

import errno
import gc
import os
import threading
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from conftest import Added

from hangarlog import (
    ANY,
    EVENT_VERSION_MAP,
    CorruptionError,
    CorruptionWarning,
    EventSerializationError,
    EventSerializer,
    FileEventStore,
    StorageError,
    UnknownEventTypeError,
    UntypedEvent,
    UpcasterChain,
    UpcastingError,
)
from hangarlog.log.segment_cache import MAX_SEGMENTS
from hangarlog.record.verified_block import VerifiedBlock
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing import registered


class Counting(FileSystem):
    """Counts the calls that reading makes, in a folder that has not changed for a while."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def folder_changed_at(self, fd: int, path: str) -> int:
        return super().folder_changed_at(fd, path) - 10**9  # Of one that has just changed nobody is sure.

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self.calls["looks"] += 1
        return super().pread(fd, size, offset)

    def open_read(self, path: str) -> int:
        self.calls["open"] += 1
        return super().open_read(path)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self.calls["read"] += 1
        self.calls["bytes"] += size
        return super().read(fd, size, offset)

    def entries(self, path: str) -> Iterator[os.DirEntry[str]]:
        self.calls["entries"] += 1
        return super().entries(path)


def calls_of(filesystem: Counting, act: Callable[[], Any]) -> Counter[str]:
    filesystem.calls.clear()
    act()
    return filesystem.calls


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A store of a stream of 3,000 events, in sealed segments and a live one, all with an index."""
    path = tmp_path / "long"
    with FileEventStore(path, durability="relaxed", segment_bytes=500_000) as store:
        for start in range(0, 3000, 100):
            store.append("a:1", [Added(n, "x" * 400) for n in range(start, start + 100)], ANY)
        assert len(store.folder.stream("a:1").sealed()) == 3
    assert len(list((path / "streams/a").glob("*.index"))) == 4
    return path


def test_a_long_stream_is_read_by_blocks_and_a_short_one_by_lines(long: Path) -> None:
    with FileEventStore(long, durability="relaxed") as store:
        store.append("b:1", [Added(0)], ANY)
        blocks = list(store.envelopes("a:1"))
        assert sum(type(block) is VerifiedBlock for block in blocks) > 10
        assert [e.stream_version for block in blocks for e in block] == list(range(3000))
        assert [type(block) for block in store.envelopes("b:1")] == [list]
        assert [e.number for e in store.read_stream("a:1")] == list(range(3000))
        assert [(p, i, e.number) for p, i, e in store.read_all(limit=3000)] == [(n + 1, "a:1", n) for n in range(3000)]


@pytest.mark.parametrize("start", [0, 1, 99, 100, 101, 640, 1999, 2990, 2999, 3000])
def test_a_read_may_begin_and_end_in_the_middle_of_a_block(long: Path, start: int) -> None:
    with FileEventStore(long, durability="relaxed") as store:
        for limit in (1, 2, 63, 64, 65, 200, 1000, 5000, None):
            wanted = list(range(3000))[start:][:limit]
            assert [r.event.number for r in store.records("a:1", from_version=start, limit=limit)] == wanted
            assert [r.event.number for r in store.records(from_position=start, limit=limit)] == wanted
            assert [e.number for _, _, e in store.read_all(start, 10**9 if limit is None else limit)] == wanted
        assert [e.number for e in store.read_stream("a:1", start)] == list(range(start, 3000))


@pytest.mark.parametrize("damage", ["a flipped bit", "a line cut out", "zeros", "two lines exchanged"])
@pytest.mark.parametrize("which", [0, -1])
def test_damage_within_a_block_is_served_from_the_other_copy(long: Path, damage: str, which: int) -> None:
    path = [*sorted((long / "streams/a").glob("1.0*.jsonl")), long / "streams/a/1.jsonl"][which]
    with FileEventStore(long, durability="relaxed") as store:
        damage_lines(path, damage)
        with pytest.warns(CorruptionWarning, match="served from the journal"):
            assert [e.number for e in store.read_stream("a:1")] == list(range(3000))
        with pytest.warns(CorruptionWarning, match="served from the journal"):
            assert [r.event.number for r in store.records("a:1", from_version=50)] == list(range(50, 3000))


@pytest.mark.parametrize("damage", ["a flipped bit", "a line cut out", "two lines exchanged"])
def test_damage_of_a_store_that_was_closed_is_said_when_it_is_mended(long: Path, damage: str) -> None:
    """What stood there is kept."""
    path = long / "streams/a/1.jsonl"
    (long / "checkpoint.json").unlink(missing_ok=True)
    text = path.read_bytes()
    damage_lines(path, damage)
    damaged = path.read_bytes()
    with pytest.warns(CorruptionWarning, match="mended from the journal"):
        store = FileEventStore(long, durability="relaxed")
    with store:
        assert [e.number for e in store.read_stream("a:1")] == list(range(3000))
        assert path.read_bytes() == text
        assert path.with_name("1.jsonl.damaged").read_bytes() == damaged


def damage_lines(path: Path, damage: str) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "a flipped bit":
        lines[200] = lines[200].replace(b"xxx", b"xyx", 1)
    elif damage == "a line cut out":
        del lines[200]
    elif damage == "zeros":
        lines[200] = bytes(len(lines[200]))
    else:
        lines[200], lines[201] = lines[201], lines[200]
    path.write_bytes(b"".join(lines))


def test_damage_in_both_copies_is_named_with_its_place(long: Path) -> None:
    for path in (long / "streams/a/1.00000000000000000000.jsonl", long / "journal.00000000000000000001.jsonl"):
        text = path.read_bytes()
        path.write_bytes(text.replace(b'"number":333,', b'"number":334,'))
    offset = sum(len(line) + 1 for line in text.split(b"\n")[:333])
    with FileEventStore(long, durability="relaxed") as store, warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        with pytest.raises(CorruptionError, match="checksum") as caught:
            store.read_stream("a:1")
        assert caught.value.offset == offset
        before: list[int] = []
        with pytest.raises(CorruptionError, match="checksum"):
            read_all_into(before, store)
        assert before == list(range(1, len(before) + 1))
        assert 0 < len(before) <= 333


def read_all_into(seen: list[int], store: FileEventStore) -> None:
    for position, _, _ in store.read_all(limit=10**9):
        seen.append(position)


@pytest.mark.parametrize("change", ["noise", "zeros", "another segment's", "shifted", "short", "gone", "huge"])
def test_an_index_that_is_wrong_changes_nothing_of_what_is_read(long: Path, change: str) -> None:
    indexes = sorted(long.rglob("*.index"))
    contents = [path.read_bytes() for path in indexes]
    for at, path in enumerate(indexes):
        header, entries = contents[at][:16], contents[at][16:]
        other = contents[(at + 1) % len(contents)][16:]
        made = {
            "noise": header + os.urandom(len(entries)),
            "zeros": header + bytes(len(entries)),
            "another segment's": header + other,
            "shifted": header + entries[8:],
            "short": header + entries[:-5],
            "huge": header + entries + b"\xff" * 16,
        }.get(change)
        path.unlink() if made is None else path.write_bytes(made)
    with FileEventStore(long, durability="relaxed") as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [e.number for e in store.read_stream("a:1")] == list(range(3000))
        assert [e.number for _, _, e in store.read_all(limit=10**9)] == list(range(3000))
        for version in range(0, 3000, 61):
            (one,) = store.records("a:1", from_version=version, limit=1)
            (same,) = store.read_all(version, 1)
            assert one.event == same[2] == Added(version, "x" * 400)
            assert store.read_stream("a:1", version)[0] == one.event


def test_what_cannot_be_read_is_raised_when_it_is_its_turn(tmp_path: Path) -> None:
    """Unknown types, payloads that do not fit, newer versions, upcasters that fail: within a block as line by line."""

    def failing(data: dict[str, Any]) -> dict[str, Any]:
        if data["number"] == 7:
            raise KeyError("seven")
        return data

    chain = UpcasterChain()
    chain.upcaster("Old", 1)(failing)
    bad: list[tuple[UntypedEvent, type[Exception], str]] = [
        (UntypedEvent("Nobody", {}), UnknownEventTypeError, "Nobody"),
        (UntypedEvent("Added", {"number": "x"}), EventSerializationError, "does not fit"),
        (UntypedEvent("Added", {"number": 1}, 9), UpcastingError, "newer"),
        (UntypedEvent("Old", {"number": 7}), UpcastingError, "failed: KeyError"),
    ]
    with registered(Old=msgspec.defstruct("Old", [("number", int)])):
        EVENT_VERSION_MAP["Old"] = 2
        for event, error, message in bad:
            serializer = EventSerializer(chain, validate=False)
            with FileEventStore(tmp_path / message, durability="relaxed", serializer=serializer) as store:
                good = [UntypedEvent("Old", {"number": 1, "text": "x" * 500}), UntypedEvent("Added", {"number": 2})]
                store.append("a:1", [*good * 200, event, *good * 200], ANY)
                store.append("a:1", good * 200, ANY)
                assert type(next(store.envelopes("a:1"))) is VerifiedBlock
                seen: list[int] = []
                with pytest.raises(error, match=message):
                    read_all_into(seen, store)
                assert seen == list(range(1, 401))
                with pytest.raises(error, match=message):
                    store.read_stream("a:1")


def test_one_event_of_a_long_store_costs_two_small_reads(long: Path) -> None:
    """By version or by position, once the way there is known: no scan, no folder listed, nothing opened."""
    filesystem = Counting()
    with FileEventStore(long, durability="relaxed", filesystem=filesystem) as store:
        for number in (20, 700, 1500, 2500, 2880):
            for read in (
                lambda: list(store.records("a:1", from_version=number, limit=1)),  # noqa: B023
                lambda: list(store.read_all(number, 1)),  # noqa: B023
            ):
                read()
                calls = calls_of(filesystem, read)
                assert calls["open"] == calls["entries"] == 0
                assert calls["read"] == 2
                assert calls["looks"] <= 2  # At the shared state; of a stream, at the catalog.
                assert calls["bytes"] <= 9000


def test_whoever_closes_a_long_store_last_leaves_nothing_to_replay(long: Path) -> None:
    """So it opens at once, and its live ends keep their indexes."""
    indexes = {path: path.read_bytes() for path in long.rglob("*.index")}
    with FileEventStore(long) as store:
        assert store.recovered
        assert store.recovered.since == 3000
    assert {path: path.read_bytes() for path in long.rglob("*.index")} == indexes


def test_the_version_of_a_rolled_stream_is_asked_without_listing_its_folder(long: Path) -> None:
    filesystem = Counting()
    with FileEventStore(long, durability="relaxed", filesystem=filesystem) as store:
        assert calls_of(filesystem, lambda: store.get_stream_version("a:1"))["entries"] == 0
        last = calls_of(filesystem, lambda: list(store.records("a:1", reverse=True, limit=3)))
        assert last["entries"] == 0
        assert last["bytes"] < 20_000


def test_a_short_stream_is_one_open_and_one_read(tmp_path: Path) -> None:
    filesystem = Counting()
    with FileEventStore(tmp_path / "s", durability="relaxed", filesystem=filesystem) as store:
        for n in range(3):
            store.append(f"s:{n}", [Added(1)] * 5, -1)
        for n in range(3):
            calls = calls_of(filesystem, lambda: store.read_stream(f"s:{n}"))  # noqa: B023
            assert (calls["open"], calls["read"], calls["entries"]) == (1, 1, 0)


def test_what_is_kept_open_is_noticed_to_be_replaced(tmp_path: Path) -> None:
    """By rolls, compactions, recoveries and first appends that failed, of this store and of another."""
    with (
        FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=100_000) as writer,
        FileEventStore(tmp_path / "s", durability="relaxed") as reader,
    ):
        count = 0
        for _ in range(60):
            writer.append("a:1", [Added(n, "x" * 1000) for n in range(count, count + 20)], ANY)
            count += 20
            for store in (reader, writer):
                assert store.get_stream_version("a:1") == count - 1
                assert [r.event.number for r in store.records("a:1", from_version=count - 3)] == [
                    *range(count - 3, count)
                ]
                assert [e.number for e in store.read_stream("a:1", count - 21)][-1] == count - 1
                assert sum(1 for _ in store.read_all(limit=10**9)) == count
                (one,) = store.records("a:1", from_version=count // 2, limit=1)
                assert one.event.number == count // 2
        writer.save_snapshot("a:1", 800, {})
        writer.compact_stream("a:1")
        for store in (reader, writer):
            assert [e.number for e in store.read_stream("a:1")] == list(range(801, count))
            assert [r.event.number for r in store.records("a:1", from_version=0, limit=1)] == [801]
            assert next(store.records("a:1", from_version=900, limit=1)).event.number == 900


def test_a_stream_whose_first_append_failed_is_not_kept_as_it_was(tmp_path: Path) -> None:
    class Refusing(FileSystem):
        refuse: Callable[[], None] | None = None

        def write(self, fd: int, data: bytes) -> None:
            super().write(fd, data)
            if self.refuse and b'"stream_id":"a:2"' in data:
                self.refuse()

    filesystem = Refusing()
    with (
        FileEventStore(tmp_path / "s", durability="relaxed", filesystem=filesystem) as writer,
        FileEventStore(tmp_path / "s", durability="relaxed") as reader,
    ):
        long_events = [Added(n, "x" * 1000) for n in range(100)]

        def refuse() -> None:
            assert reader.read_stream("a:1") == []
            assert reader.read_stream("a:2") == []
            raise OSError("refused")

        filesystem.refuse = refuse
        with pytest.raises(StorageError, match="refused"):
            writer.append_many([("a:1", long_events, -1), ("a:2", long_events, -1)])
        filesystem.refuse = None
        writer.append("a:1", long_events, -1)
        assert reader.read_stream("a:1") == long_events
        assert reader.read_stream("a:2") == []


@needs_proc
def test_files_are_kept_open_within_bounds_and_closed_at_last(tmp_path: Path) -> None:
    """At `close`, and also where a store is only dropped."""
    gc.collect()  # What errors of other tests hold open.
    before = open_files()
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        for n in range(2 * MAX_SEGMENTS):
            store.append(f"s:{n}", [Added(0, "x" * 1000)] * 100, -1)
    assert open_files() == before
    for drop in (False, True):
        store = FileEventStore(tmp_path / "s", durability="relaxed")
        opened = open_files()
        for n in range(2 * MAX_SEGMENTS):
            assert len(store.read_stream(f"s:{n}")) == 100
            assert next(store.records(f"s:{n}", from_version=50, limit=1)).stream_version == 50
        assert open_files() - opened <= 2 * (MAX_SEGMENTS + 1)
        half_read = store.read_all(limit=10**9)
        next(half_read)
        if drop:
            del store, half_read
        else:
            del half_read
            store.close()
        assert open_files() == before


@needs_proc
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_reads_on_and_so_does_its_parent(long: Path) -> None:
    with FileEventStore(long, durability="relaxed") as store:
        assert next(store.records("a:1", from_version=5, limit=1)).stream_version == 5
        child = os.fork()
        if not child:
            try:
                right = [e.number for e in store.read_stream("a:1")] == list(range(3000))
                right &= next(store.records("a:1", from_version=5, limit=1)).stream_version == 5
                store._reader.close()
                os._exit(0 if right else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert next(store.records("a:1", from_version=1005, limit=1)).stream_version == 1005
        assert [e.number for e in store.read_stream("a:1")] == list(range(3000))


def test_threads_share_what_is_kept_open(long: Path) -> None:
    """While others put it out, and while the store grows and rolls."""
    failures: list[BaseException] = []
    done = threading.Event()

    def read(store: FileEventStore, seed: int) -> None:
        try:
            at = seed
            while not done.is_set():
                at = (at * 1103515245 + 12345) % 3000
                (one,) = store.records("a:1", from_version=at, limit=1)
                (same,) = store.read_all(at, 1)
                assert one.event.number == same[2].number == at
                assert [e.number for e in store.read_stream("a:1", 2900)][:100] == list(range(2900, 3000))
        except BaseException as error:
            failures.append(error)

    with FileEventStore(long, durability="relaxed") as store:
        threads = [threading.Thread(target=read, args=(store, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for n in range(40):
            store.append("a:1", [Added(n, "x" * 1000)] * 50, ANY)
            assert len(store.read_stream("a:1")) == 3050 + 50 * n
        done.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[0]


def test_the_whole_store_is_read_in_the_memory_of_a_few_blocks(long: Path) -> None:
    with FileEventStore(long, durability="relaxed") as store:
        for _ in range(8):
            store.append("a:1", [Added(n, "x" * 1000) for n in range(1000)], ANY)
        next(store.read_all())
        tracemalloc.start()
        try:
            count = sum(1 for _ in store.read_all(limit=10**9))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert count == 11_000
    assert peak < 6 << 20


def test_streams_are_counted_while_the_catalog_grows_and_when_an_append_is_taken_back(tmp_path: Path) -> None:
    """It begins with room for 512; a slot that was left by an append that failed is used again."""

    class Full(FileSystem):
        full = False

        def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
            if self.full and len(data) == 40:  # What publishes a commit.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write_at(fd, data, offset)

    filesystem = Full()
    with FileEventStore(tmp_path / "s", durability="relaxed", filesystem=filesystem) as store:
        for number in range(1100):
            store.append(f"a:{number}", [Added(number)], ANY)
        assert store.get_stream_count() == len(store.list_streams()) == 1100
        filesystem.full = True
        with pytest.raises(StorageError):
            store.append("b:1", [Added(0)], ANY)
        assert store.get_stream_version("b:1") == -1
        filesystem.full = False
        store.append("b:1", [Added(0)], ANY)
        assert store.get_stream_count() == len(store.list_streams()) == 1101
        assert store.list_streams("b:") == ["b:1"]


class Stale(FileSystem):
    """The first listings of a stream's folder have a segment that is gone."""

    def __init__(self) -> None:
        self.stale = 0

    def entries(self, path: str) -> Iterator[Any]:
        if not (self.stale and path.endswith("/a")):
            return super().entries(path)
        self.stale -= 1
        names = [entry.name for entry in super().entries(path)]
        return iter([SimpleNamespace(name=name) for name in (*names, f"1.{1:020}.jsonl")])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_listing_that_others_have_overtaken_is_made_anew(tmp_path: Path, reverse: bool) -> None:
    """Rolls and compactions of other processes come between the list of a stream's files and their opening."""
    filesystem = Stale()
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=400, filesystem=filesystem) as store:
        for number in range(9):
            store.append("a:1", [Added(number)], ANY)
        numbers = list(range(9))
    with FileEventStore(tmp_path / "s", filesystem=filesystem) as store:
        filesystem.stale = 2
        start = None if reverse else 1
        found = [record.stream_version for record in store.records("a:1", from_version=start, reverse=reverse)]
    assert found == (numbers[::-1] if reverse else numbers[1:])
    assert filesystem.stale == 0
