"""Compressed segments: they read as before, and others go on meanwhile."""

from __future__ import annotations

import random
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from compressed_stores import SEGMENT_BYTES, fill, frames, full, numbers, packed
from conftest import Added, Command, tool

from hangarlog import ANY, FileEventStore, LockTimeoutError, MissingExtraError
from hangarlog.log import compressing, zstd
from hangarlog.log.compressed_segment import CompressedSegment
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")

__all__ = ["frames", "full"]


def test_every_read_gives_what_it_gave_before(full: FileEventStore[Any], tmp_path: Path) -> None:
    """By position, version and time, in both directions, by the store that wrote and by one that opens anew."""
    with FileEventStore(tmp_path / "s") as again:
        for store in (full, again):
            assert numbers(store) == [*range(1000)]
            records = [*store.records()]
            assert [record.position for record in records] == [*range(1, 1001)]
            assert [record.position for record in store.records(reverse=True)] == [*range(1000, 0, -1)]
            for position in range(0, 1000, 7):
                (record,) = store.records(from_position=position, limit=1)
                assert record.position == position + 1
            for version in range(0, 333, 5):
                assert [e.number for e in store.read_stream("a:1", version, to_version=version)] == [3 * version + 1]
            half = records[500].recorded_at
            assert next(iter(store.records(since=half))).position <= 501
            assert len([*store.records(since=half)]) + len([*store.records(until=half)]) == 1000
            assert list(verify(store)) == []
    assert (
        len(
            CompressedSegment(
                full.folder.filesystem, str(packed(tmp_path / "s")[0])[:-10], "position"
            ).compressed.frames
        )
        > 8
    )


def test_small_streams_are_sealed_first_if_asked(tmp_path: Path) -> None:
    """And the journal. Writers, readers and followers in other stores go on."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store, FileEventStore(path, durability="relaxed") as other:
        fill(store, 0, 300)
        store.append("tiny:1", [Added(300)], -1)
        with other.subscribe(timeout=0) as subscription:
            assert len([*subscription]) == 301
            assert store.compress().segments == 0
            assert store.compress(seal=True, older_than=3600).segments == 0
            assert store.compress(seal=True).segments == 4
            assert store.compress(seal=True).segments == 0
            assert {file.stat().st_size > 0 for file in path.rglob("*.jsonl") if "tiny" not in str(file.parent)} == {
                False
            }
            assert numbers(other) == numbers(store) == [*range(301)]
            fill(other, 301, 310)
            fill(store, 310, 320)
            assert [record.event.number for record in subscription] == [*range(301, 320)]
        assert list(verify(store)) == []
        assert store.get_stream_version("a:1") == 106
    with FileEventStore(path) as again:
        assert numbers(again) == [*range(320)]
        assert list(verify(again)) == []
        again.append("a:1", [Added(320)], 106)
        again.compress(seal=True)
    (path / "state").unlink()
    with FileEventStore(path) as again:
        assert numbers(again) == [*range(321)]
        assert list(verify(again)) == []


def test_standard_tools_read_it(full: FileEventStore[Any], tmp_path: Path) -> None:
    """The text that zstdcat shows is that of the plain file."""
    path = tmp_path / "s"
    lines = subprocess.run([tool("zstdcat"), *packed(path)], capture_output=True, check=True).stdout.splitlines()
    plain = [
        line
        for file in path.rglob("*.jsonl")
        if file.name != "cursors.jsonl"
        for line in file.read_bytes().splitlines()
    ]
    assert len(lines) + len(plain) == 2000
    found = subprocess.run(
        [tool("zstdgrep"), "-hc", '"number":17,', *path.glob("journal.0*")], capture_output=True, check=False
    )
    assert sum(map(int, found.stdout.split())) == 1


def test_appends_and_compressions_go_on(full: FileEventStore[Any], tmp_path: Path) -> None:
    """Only what is new is compressed; nobody needs to open the store anew."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as other:
        assert numbers(other) == [*range(1000)]
        with full.subscribe(timeout=0) as subscription:
            assert len([*subscription]) == 1000
            before = set(packed(tmp_path / "s"))
            fill(other, 1000, 1500)
            done = full.compress()
            assert done.segments == len(set(packed(tmp_path / "s")) - before) > 0
            assert full.compress().segments == 0
            assert [record.event.number for record in subscription] == [*range(1000, 1500)]
        assert numbers(other) == numbers(full) == [*range(1500)]
        assert list(verify(other)) == []


def test_a_stream_is_compacted_truncated_and_deleted(full: FileEventStore[Any], tmp_path: Path) -> None:
    full.truncate_stream("a:0", 100)
    full.save_snapshot("a:1", 150, {"x": 1})
    full.compact_stream("a:1")
    full.delete_stream("a:2")
    with FileEventStore(tmp_path / "s") as again:
        for store in (full, again):
            assert [event.number for event in store.read_stream("a:0")] == [*range(300, 1000, 3)]
            assert [event.number for event in store.read_stream("a:1", 151)] == [*range(454, 1000, 3)]
            assert [*store.read_stream("a:2")] == []
            assert list(verify(store)) == []
    assert not [*(tmp_path / "s/streams/a").glob("2.0*")]


def test_a_backup_follows_a_compression(full: FileEventStore[Any], tmp_path: Path) -> None:
    """A file is copied once in either form, and the other form goes."""
    for number in range(3):
        done = backup(tmp_path / "s", tmp_path / "copy")
        assert (done.copied > 5) == (number != 1)
        assert {p.name for p in packed(tmp_path / "copy")} == {p.name for p in packed(tmp_path / "s")}
        with FileEventStore(tmp_path / "copy") as copy:
            assert numbers(copy) == numbers(full)
            assert list(verify(copy)) == []
        if number == 1:
            fill(full, 1000, 1400)
            backup(tmp_path / "s", tmp_path / "copy")
            full.compress()


def test_a_backup_of_sealed_streams_stays_compressed(full: FileEventStore[Any], tmp_path: Path) -> None:
    """Also if nothing was appended since, and if an earlier backup has the same events in active segments."""
    path, copy = tmp_path / "s", tmp_path / "copy"
    backup(path, copy)
    full.compress(seal=True)
    for number in range(2):
        done = backup(path, copy)
        assert {file.relative_to(copy) for file in packed(copy)} == {file.relative_to(path) for file in packed(path)}
        assert [file for file in copy.rglob("*.jsonl") if file.stat().st_size] == []
        assert (done.copied == 0) == (number == 1)
    with FileEventStore(copy, durability="relaxed") as store:
        assert numbers(store) == [*range(1000)]
        fill(store, 1000, 1010)
        assert list(verify(store)) == []


def test_a_segment_unpacked_by_hand_counts(full: FileEventStore[Any], tmp_path: Path) -> None:
    """As `zstd -d --rm` leaves it, or `zstd -d`."""
    for number, file in enumerate(packed(tmp_path / "s")):
        subprocess.run([tool("zstd"), "-dq", *(["--rm"] if number % 2 else []), file], check=True)
    assert numbers(full) == [*range(1000)]
    with FileEventStore(tmp_path / "s") as again:
        assert numbers(again) == [*range(1000)]
        assert list(verify(again)) == []
    full.compress()
    assert not [file for file in packed(tmp_path / "s") if file.with_suffix("").exists()]


def test_two_compressions_do_not_meet(
    full: FileEventStore[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits, and finds nothing left; or it gives up after its time."""
    fill(full, 1000, 1500)
    within, go_on = threading.Event(), threading.Event()
    write = compressing.write_compressed

    def stopped(*arguments: Any) -> str:
        within.set()
        assert go_on.wait(30)
        return write(*arguments)

    monkeypatch.setattr("hangarlog.filestore.compression.write_compressed", stopped)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(full.compress().segments)) for _ in range(2)]
    threads[0].start()
    assert within.wait(30)
    with FileEventStore(tmp_path / "s", lock_timeout=0.01) as other, pytest.raises(LockTimeoutError):
        other.compress()
    threads[1].start()
    fill(full, 1500, 1550)
    go_on.set()
    for thread in threads:
        thread.join()
    assert 0 in found
    assert max(found) > 0
    assert numbers(full) == [*range(1550)]


def test_closing_stops_a_compression(full: FileEventStore[Any], tmp_path: Path) -> None:
    """What it had not done is as it was."""
    fill(full, 1000, 1500)

    def close(done: int, total: int) -> None:
        if done:
            threading.Thread(target=full.close).start()
            while not any(compression._stopped for compression in full._running):
                pass

    full.compress(progress=close)
    assert [*(tmp_path / "s").glob("journal.0*.jsonl")]
    with FileEventStore(tmp_path / "s") as store:
        assert numbers(store) == [*range(1500)]
        assert list(verify(store)) == []
    assert not [*(tmp_path / "s").rglob("*.new")]


def test_closing_stops_each_compression(full: FileEventStore[Any], tmp_path: Path) -> None:
    """The one that runs, and the one that waits for it."""
    fill(full, 1000, 1500)
    found: list[int] = []
    threads: list[threading.Thread] = []

    def close(done: int, total: int) -> None:
        if done and not threads:
            threads.extend(threading.Thread(target=target) for target in (lambda: full.compress(), full.close))
            threads[0].start()
            while len(full._running) < 2:
                pass
            threads[1].start()
            while not all(compression._stopped for compression in full._running):
                pass
        found.append(done)

    full.compress(progress=close)
    for thread in threads:
        thread.join()
    assert len(found) == 1
    assert not [*(tmp_path / "s").rglob("*.new")]


@pytest.mark.parametrize("age", ["after 0s", "after 1d"])
def test_it_compresses_behind_the_roll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: str) -> None:
    """In a thread, what is old enough."""
    monkeypatch.setattr("hangarlog.filestore.checkpointing._REPLAYED_IN_TIME_BYTES", 1000)
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=SEGMENT_BYTES, compress=age) as store:
        for number in range(0, 3000, 100):
            fill(store, number, number + 100)
            store._write_session.checkpointing.wait(None)
            if store._behind:
                store._behind.join()
        assert bool(packed(tmp_path / "s")) == (age == "after 0s")
        assert numbers(store) == [*range(3000)]
    with FileEventStore(tmp_path / "s") as again:
        assert list(verify(again)) == []


@pytest.mark.parametrize("wrong", ["1d", "after", "after 1", "after -1d", "after 1 d", 7, ""])
def test_a_wrong_age_is_refused(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match="'after 1d'"):
        FileEventStore(tmp_path / "s", compress=wrong)
    assert not (tmp_path / "s").exists()


def test_without_zstd_it_says_what_to_install(
    full: FileEventStore[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it reads, when it should compress, and when it is opened with `compress`; plain segments are read."""
    fill(full, 1000, 1400)
    full.close()

    def missing(path: str) -> Any:
        raise MissingExtraError(path, "it is compressed; run: pip install 'hangarlog[zstd]'")

    monkeypatch.setattr(zstd, "zstd", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'hangarlog\[zstd\]'"):
        FileEventStore(tmp_path / "s", compress="after 1d")
    with FileEventStore(tmp_path / "s") as store:
        assert [record.event.number for record in store.records(reverse=True, limit=50)] == [*range(1399, 1349, -1)]
        store.append("new:1", [Added(1)], -1)
        for call in (lambda: numbers(store), store.compress):
            with pytest.raises(MissingExtraError, match="zstd"):
                call()


def test_the_command_compresses(tmp_path: Path, hangarlog: Command) -> None:
    """And says what it did; a damaged segment is its failure."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed", segment_bytes=SEGMENT_BYTES) as store:
        fill(store, 0, 500)
    done = hangarlog("compress", path, "--older-than", "1h")
    assert (done.returncode, b'"segments":0' in done.stdout) == (0, True), done
    file = min(path.glob("journal.0*.jsonl"))
    content = file.read_bytes()
    file.write_bytes(content.replace(b"a:1", b"a:2", 1))
    done = hangarlog("compress", path)
    assert done.returncode == 1
    assert str(file).encode() in done.stderr
    assert b"hangarlog repair" in done.stderr
    file.write_bytes(content)
    done = hangarlog("compress", path)
    assert (done.returncode, b'"segments":1' in done.stdout) == (0, True), done
    assert hangarlog("verify", path).returncode == 0
    assert hangarlog("read", path).stdout.count(b"\n") == 500
    assert hangarlog("compress", path, "--older-than", "soon").returncode == 2
    streams = hangarlog("streams", path, "--path").stdout
    assert b".jsonl.zst" in streams


def test_long_repetitions_make_long_frames(tmp_path: Path) -> None:
    """A transcript that repeats itself after megabytes takes a fifth of what short frames would take."""
    rng = random.Random(3)
    history = [rng.randbytes(3000).hex() for _ in range(200)]
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=8 << 20) as store:
        for number in range(30):
            store.append("session:1", [Added(number * 300 + at, text) for at, text in enumerate(history)], ANY)
            history[rng.randrange(200)] = rng.randbytes(3000).hex()
        before = sum(file.stat().st_size for file in (tmp_path / "s").rglob("*.0*.jsonl"))
        done = store.compress()
        assert done.text_bytes == before > 50 << 20
        assert done.file_bytes * 10 < before
        assert len(numbers(store)) == 6000
        assert [e.number for e in store.read_stream("session:1", 777, to_version=777)] == [3 * 300 + 177]
        assert list(verify(store)) == []


def test_the_pages_of_one_frame_unpack_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also pages that are read as blocks, not event by event."""
    unpacked: list[int] = []
    unpack = zstd.Unpacker.unpack

    def counting(self: Any, frame: bytes, size: int) -> bytes | None:
        unpacked.append(size)
        return unpack(self, frame, size)

    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        for number in range(160):
            store.append("a:1", [Added(number, "x" * 150)], ANY)
        assert store.compress(seal=True).segments == 2
    monkeypatch.setattr("hangarlog.filestore.session._RACY_NS", 0)  # Else it opens the files again just after a change.
    with FileEventStore(tmp_path / "s") as store:  # Anew: nothing of it runs in the background.
        monkeypatch.setattr(zstd.Unpacker, "unpack", counting)
        for start in (0, 70):
            assert len([*store.records(from_position=start, limit=70)]) == 70
        assert len(unpacked) == 1


def test_readers_do_not_notice_a_compression(tmp_path: Path) -> None:
    """Neither those that have plain segments open, nor those that open them at this moment."""
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=SEGMENT_BYTES) as store:
        fill(store, 0, 2000)
        stopped, found = threading.Event(), []

        def read() -> None:
            with FileEventStore(tmp_path / "s") as reader:
                while not stopped.is_set():
                    found.append(numbers(reader) == [*range(2000)])
                    found.append([r.position for r in reader.records(from_position=700, limit=3)] == [701, 702, 703])

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(found) < 6:
            with suppress(LockTimeoutError):
                store.compress()
        stopped.set()
        for thread in threads:
            thread.join()
        assert all(found)
        assert len(found) >= 6
