"""Compressed segments: they read as before, damage stays where it is, and nothing is lost on the way."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Added, Command, tool

from hangarlog import ANY, CorruptionError, FileEventStore, LockTimeoutError, MissingExtraError
from hangarlog.log import compressed_text, compressing, zstd
from hangarlog.log.compressed_segment import CompressedSegment
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import Repaired, repair
from hangarlog.maintenance.verify import verify
from hangarlog.testing.crashes import Recording, crash_states

pytestmark = pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")

SEGMENT_BYTES = 60_000


def fill(store: FileEventStore[Any], first: int, last: int) -> None:
    """Append the numbers to three streams in turns, with a text that makes a hundred events a segment or two."""
    for number in range(first, last):
        store.append(f"a:{number % 3}", [Added(number, f"{number} " * 60)], ANY)


def numbers(store: FileEventStore[Any]) -> list[int]:
    return [event.number for *_, event in store.read_all()]


def packed(path: Path) -> list[Path]:
    return sorted(path.rglob("*.jsonl.zst"))


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let frames have few lines, and chunks of text, too, of which they are made."""
    monkeypatch.setattr(compressing, "FRAME_BYTES", 4000)
    monkeypatch.setattr(compressing, "_MUCH", 1e9)  # The text repeats itself.
    monkeypatch.setattr("hangarlog.log.segment.Segment.lines_at.__defaults__", (3000,))


@pytest.fixture
def full(tmp_path: Path, frames: None) -> Iterator[FileEventStore[Any]]:
    """A compressed store of 1,000 events."""
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=SEGMENT_BYTES) as store:
        fill(store, 0, 1000)
        assert store.compress().segments == len(packed(tmp_path / "s")) > 8
        yield store


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


def test_any_damaged_byte_is_served_from_the_other_copy(full: FileEventStore[Any], tmp_path: Path) -> None:
    """Or changes nothing. `verify` names the file, `repair` mends it, and it is compressed again."""
    full.close()
    path, rng = tmp_path / "s", random.Random(1)
    whole = {file: file.read_bytes() for file in packed(path)}
    named = 0
    for file in rng.sample(sorted(whole), 6):
        content = whole[file]
        for at in [*rng.sample(range(len(content)), 15), 0, 4, len(content) - 1, len(content) - 20]:
            changed = bytearray(content)
            changed[at] ^= 1 << rng.randrange(8)
            file.write_bytes(changed)
            with FileEventStore(path) as store:
                assert numbers(store) == [*range(1000)], (file, at)
                assert [event.number for event in store.read_stream("a:1")] == [*range(1, 1000, 3)], (file, at)
                assert [r.position for r in store.records(reverse=True)] == [*range(1000, 0, -1)]
                found = list(verify(store))
                assert {damage.path for damage in found} <= {str(file)}, (file, at)
                named += bool(found)
            file.write_bytes(content)
    assert named > 80


@pytest.mark.parametrize("kind", ["journal", "streams"])
def test_repair_mends_a_damaged_frame(full: FileEventStore[Any], tmp_path: Path, kind: str) -> None:
    full.close()
    path = tmp_path / "s"
    file = next(file for file in packed(path) if kind in str(file))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert [damage.path for damage in verify(FileEventStore(path))] == [str(file)]
    assert {type(result) for result in repair(path)} == {Repaired}
    with FileEventStore(path, durability="relaxed") as store:
        assert numbers(store) == [*range(1000)]
        assert list(verify(store)) == []
        assert store.compress().segments == 1
        assert list(verify(store)) == []


def test_an_event_that_both_copies_have_lost_hides_no_other_frame(full: FileEventStore[Any], tmp_path: Path) -> None:
    """Reads raise at its turn with the place, or pass over it."""
    full.close()
    path = tmp_path / "s"
    for file in (packed(path)[1], next(file for file in packed(path) if file.parent.name == "a")):
        segment = CompressedSegment(full.folder.filesystem, str(file)[:-10], "position")
        frame = segment.compressed.of(150) if file.parent == path else 3
        begin = segment.compressed.frames.offsets[frame]
        segment.close()
        content = bytearray(file.read_bytes())
        content[begin + 40] ^= 255
        file.write_bytes(content)
    with FileEventStore(path) as store:
        left = [record.event.number for record in store.records(on_damage="skip")]
        assert len(left) >= 980
        assert sorted(left) == left
        damaged = len(left) < 1000
        if damaged:
            with pytest.raises(CorruptionError, match="frame is damaged"):
                numbers(store)


def test_without_its_tables_it_is_read_as_a_whole(full: FileEventStore[Any], tmp_path: Path) -> None:
    """`verify` says so, and `compress` writes them anew."""
    full.close()
    path = tmp_path / "s"
    for file in packed(path):
        content = file.read_bytes()
        file.write_bytes(content[: content.rindex(b"HLFRAMES") - 8])
    with FileEventStore(path, durability="relaxed") as store:
        assert numbers(store) == [*range(1000)]
        assert [event.number for event in store.read_stream("a:2", 250, to_version=251)] == [752, 755]
        assert {damage.path for damage in verify(store)} == {*map(str, packed(path))}
        assert store.compress().segments == len(packed(path))
        assert list(verify(store)) == []
        assert numbers(store) == [*range(1000)]


def test_a_damaged_segment_is_left_as_it_is(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=SEGMENT_BYTES) as store:
        fill(store, 0, 500)
        file = sorted((tmp_path / "s").glob("journal.0*.jsonl"))[1]
        file.write_bytes(file.read_bytes().replace(b"1", b"2", 1))
        done = store.compress()
        assert done.damaged == [str(file)]
        assert file.exists()
        assert done.segments > 1
        assert numbers(store) == [*range(500)]


def test_no_power_cut_loses_an_event(tmp_path: Path, frames: None) -> None:
    """Nor a crash: both files are there, or one of them, and compressing again ends it."""
    path = tmp_path / "s"
    path.mkdir()
    recording = Recording(path)
    with FileEventStore(path, durability="relaxed", segment_bytes=20_000, filesystem=recording) as store:
        fill(store, 0, 150)
        store.sync()
        begun = len(recording.operations)
        recording.note("synced")
        store.compress(seal=True)
        fill(store, 150, 200)
    rng = random.Random(5)
    points = set(range(begun, len(recording.operations) + 1))
    both = states = 0
    for states, state in enumerate(crash_states(recording.operations, rng, 2, points), 1):
        folder = tmp_path / f"crashed-{states}"
        folder.mkdir()
        state.write_to(folder)
        both += any(file.with_suffix("").exists() for file in packed(folder))
        with FileEventStore(folder, durability="relaxed") as store:
            count = store.get_event_count()
            assert count >= 150, state.lost
            assert numbers(store) == [*range(count)], state.lost
            fill(store, count, count + 2)
            assert list(verify(store)) == [], state.lost
            store.compress()
            assert numbers(store) == [*range(count + 2)], state.lost
            assert list(verify(store)) == [], state.lost
            assert not any(file.with_suffix("").exists() for file in packed(folder))
        assert not [*folder.rglob("*.zst.new")]
        shutil.rmtree(folder)
    assert states > 60
    assert both


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


def test_a_hostile_table_is_not_believed(full: FileEventStore[Any], tmp_path: Path) -> None:
    """However right its checksum is: sizes and numbers that cannot be are as if it was missing."""
    full.close()
    path = tmp_path / "s"
    file = packed(path)[0]
    segment = CompressedSegment(full.folder.filesystem, str(file)[:-10], "position")
    frames = segment.compressed.frames
    segment.close()
    text = file.read_bytes()[: frames.offsets[-1]]
    sizes = [b - a for a, b in zip(frames.starts, frames.starts[1:], strict=False)]
    counts = [b - a for a, b in zip(frames.numbers, frames.numbers[1:], strict=False)]
    lengths = [b - a for a, b in zip(frames.offsets, frames.offsets[1:], strict=False)]
    for wrong_sizes, wrong_counts in (
        ([(1 << 32) - 1] * len(sizes), counts),
        ([*sizes[:-1], sizes[-1] + 1], counts),
        (sizes, [*counts[:-1], counts[-1] + 1]),
        (sizes, [counts[0] + 1, counts[1] - 1, *counts[2:]]),
        (sizes, [0, *counts[1:]]),
        (sizes, [1 << 31] * len(counts)),
    ):
        file.write_bytes(text + compressed_text.tables(1, lengths, wrong_sizes, wrong_counts))
        with FileEventStore(path) as store:
            assert numbers(store) == [*range(1000)]
            assert list(verify(store))


def test_a_bomb_takes_no_memory(full: FileEventStore[Any], tmp_path: Path) -> None:
    """A frame that unpacks to far more than a longest line is a damaged frame."""
    full.close()
    module = zstd.zstd("")
    file = packed(tmp_path / "s")[0]
    bomb = module.compress(bytes(200 << 20)) * 40
    file.write_bytes(bomb + compressed_text.tables(1, [len(bomb)], [4000], [2]))
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from hangarlog import FileEventStore
with FileEventStore.untyped({str(tmp_path / "s")!r}) as store:
    print(sum(1 for _ in store.read_all()))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "1000\n", done.stderr


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
            while not full._compression or not full._compression._stopped:
                pass

    full.compress(progress=close)
    with FileEventStore(tmp_path / "s") as store:
        assert numbers(store) == [*range(1500)]
        assert list(verify(store)) == []
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
        raise MissingExtraError(path, "it is compressed with zstd", "zstd")

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


Reads = Callable[[FileEventStore[Any]], object]


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
