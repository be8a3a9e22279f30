"""Damaged compressed segments, and crashes: every event is read from what is left."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compressed_stores import SEGMENT_BYTES, fill, frames, full, numbers, packed

from hangarlog import CorruptionError, FileEventStore, MissingExtraError
from hangarlog.log import compressed_text, zstd
from hangarlog.log.compressed_segment import CompressedSegment
from hangarlog.maintenance.repair import Repaired, repair
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing.crashes import Recording, crash_states

pytestmark = pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")

__all__ = ["frames", "full"]


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
    middle = len(content) // 2
    content[middle : middle + 16] = bytes(16)  # A bit alone may be one that zstd does not use.
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


def test_each_byte_of_the_tables_is_checked(full: FileEventStore[Any], tmp_path: Path) -> None:
    """Those that only other tools read, too: `zstd -d` refuses the file if one is changed."""
    full.close()
    file = packed(tmp_path / "s")[1]
    content = file.read_bytes()
    begin = content.rindex(b"HLFRAMES") - 8
    for at in range(begin, len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        file.write_bytes(changed)
        with FileEventStore(tmp_path / "s") as store:
            assert {damage.path for damage in verify(store)} == {str(file)}, at - len(content)
        if (at - begin) % 15 == 0:
            repair(tmp_path / "s")
            with FileEventStore(tmp_path / "s", durability="relaxed") as store:
                store.compress()
                assert list(verify(store)) == [], at - len(content)
                assert numbers(store) == [*range(1000)]
            assert file.read_bytes() == content, at - len(content)


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
    for first in (2, 1 << 63, (1 << 64) - 1):
        file.write_bytes(text + compressed_text.tables(first, lengths, sizes, counts))
        with FileEventStore(path) as store:
            assert numbers(store) == [*range(1000)]
            assert list(verify(store))
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


@pytest.mark.parametrize(("piece", "places"), [(zstd.MAGIC, 30_000), (b"a\n", 20_000)])
def test_many_beginnings_of_frames_are_looked_at_once(tmp_path: Path, piece: bytes, places: int) -> None:
    """Without tables, the time to find the frames grows with the file, not with its square."""
    content = piece if piece == zstd.MAGIC else zstd.zstd("").compress(piece)
    (tmp_path / "x").write_bytes(content * places)
    read = 0

    class Counting(FileSystem):
        def read(self, fd: int, size: int, offset: int) -> bytes:
            nonlocal read
            data = super().read(fd, size, offset)
            read += len(data)
            return data

    filesystem = Counting()
    fd = filesystem.open_read(str(tmp_path / "x"))
    text = compressed_text.CompressedText(filesystem, fd, "x")
    filesystem.close(fd)
    assert len(text.frames) == (1 if piece == zstd.MAGIC else places)
    assert read <= (places + 10) * 2 * compressed_text._FIRST_BYTES


def test_a_compressed_file_beside_a_damaged_plain_one_is_a_copy(full: FileEventStore[Any], tmp_path: Path) -> None:
    """As when older plain files were put back, and the compressed ones left lying."""
    full.close()
    path = tmp_path / "s"
    for file in (packed(path)[0], next(file for file in packed(path) if file.name.startswith("0."))):
        plain = zstd.zstd("").decompress(file.read_bytes())
        assert b'"number":3,' in plain
        file.with_suffix("").write_bytes(plain.replace(b'"number":3,', b'"number":4,', 1))
    with FileEventStore(path, durability="relaxed") as store:
        assert numbers(store) == [*range(1000)]
        assert [event.number for event in store.read_stream("a:0")] == [*range(0, 1000, 3)]
        assert list(verify(store))
    list(repair(path))
    with FileEventStore(path, durability="relaxed") as store:
        store.compress()
        assert numbers(store) == [*range(1000)]
        assert list(verify(store)) == []


def test_a_compressed_file_that_cannot_be_read_hides_no_other_copy(
    full: FileEventStore[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without zstd, a damaged plain segment beside it is read from the streams."""
    full.close()
    path = tmp_path / "s"
    for file in packed(path):
        plain = zstd.zstd("").decompress(file.read_bytes())
        file.with_suffix("").write_bytes(
            plain.replace(b'"number":3,', b'"number":4,', 1) if file.parent == path else plain
        )

    def missing(path: str) -> Any:
        raise MissingExtraError(path, "it is compressed")

    monkeypatch.setattr(zstd, "zstd", missing)
    with FileEventStore(path) as store:
        assert numbers(store) == [*range(1000)]
