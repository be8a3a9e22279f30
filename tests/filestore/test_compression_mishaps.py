"""Compression of what people, other tools and killed processes leave behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from compressed_stores import frames, full, numbers, packed
from conftest import Added, tool

from hangarlog import ANY, FileEventStore, StoreOpenError
from hangarlog.log import compressing
from hangarlog.log.zstd import Packer
from hangarlog.maintenance.repair import Repaired, repair
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.read_only import ReadOnly

pytestmark = pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")

__all__ = ["frames", "full"]


@pytest.mark.parametrize("lines", [0, 1, 20])
def test_a_plain_file_that_was_cut_short_replaces_no_compressed_one(
    full: FileEventStore[Any], tmp_path: Path, lines: int
) -> None:
    """As a `zstd -d` leaves it that was killed, or that has not ended yet: it may have whole lines only."""
    file = packed(tmp_path / "s")[1]
    content, plain = file.read_bytes(), file.with_suffix("")
    subprocess.run([tool("zstd"), "-dq", file], check=True)
    text = plain.read_bytes()
    plain.write_bytes(b"".join(text.splitlines(keepends=True)[:lines]))
    for _ in range(2):
        done = full.compress()
        assert (done.segments, done.damaged) == (0, [str(plain)])
        assert file.read_bytes() == content
    assert numbers(full) == [*range(1000)]
    plain.write_bytes(text)
    assert full.compress().segments == 1
    assert not plain.exists()
    assert numbers(full) == [*range(1000)]
    assert list(verify(full)) == []


def test_a_repair_takes_the_whole_form_of_two(full: FileEventStore[Any], tmp_path: Path) -> None:
    """And the next compression ends it."""
    full.close()
    file = packed(tmp_path / "s")[1]
    subprocess.run([tool("zstd"), "-dq", file], check=True)
    plain = file.with_suffix("")
    plain.write_bytes(b"".join(plain.read_bytes().splitlines(keepends=True)[:20]))
    assert {type(result) for result in repair(tmp_path / "s")} == {Repaired}
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        assert list(verify(store)) == []
        assert store.compress().damaged == []
        assert numbers(store) == [*range(1000)]
        assert list(verify(store)) == []


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_an_empty_segment_is_damaged(full: FileEventStore[Any], tmp_path: Path, suffix: str) -> None:
    """It stays as it is, and is named, each time."""
    file = packed(tmp_path / "s")[1]
    file.unlink()
    empty = Path(str(file.with_suffix("")) + suffix)
    empty.touch()
    for _ in range(2):
        done = full.compress()
        assert (done.segments, done.damaged) == (0, [str(empty)])
        assert empty.read_bytes() == b""
    assert numbers(full) == [*range(1000)]


def test_an_interrupt_while_it_is_read_back_leaves_no_file(
    full: FileEventStore[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([tool("zstd"), "-dq", "--rm", packed(tmp_path / "s")[1]], check=True)

    def interrupted(*arguments: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(compressing, "holds", interrupted)
        with pytest.raises(KeyboardInterrupt):
            full.compress()
    assert not [*(tmp_path / "s").rglob("*.new")]
    assert full.compress().segments == 1


def test_a_deleted_stream_leaves_nothing_of_a_compression_that_was_killed(
    full: FileEventStore[Any], tmp_path: Path
) -> None:
    """Nor do compacted events."""
    path = tmp_path / "s/streams/a"
    for file in packed(path):
        shutil.copy(file, f"{file}.new")
    full.delete_stream("a:0")
    full.save_snapshot("a:1", 332, {"x": 1})
    full.compact_stream("a:1")
    assert {file.name[0] for file in path.glob("*.new")} == {"2"}


def test_a_store_that_may_only_be_read_says_so(full: FileEventStore[Any], tmp_path: Path) -> None:
    """As an append does, whether anything is to be done or not."""
    full.close()
    with FileEventStore(tmp_path / "s", filesystem=ReadOnly()) as store:
        for seal in (False, True):
            with pytest.raises(StoreOpenError, match="can only be read"):
                store.compress(seal=seal)


def test_long_lines_do_not_make_the_sample_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides about long frames is as much text as such a frame has, whatever the lines."""
    packed_sizes: list[int] = []

    class Noting(Packer):
        def pack(self, text: bytes) -> bytes:
            packed_sizes.append(len(text))
            return super().pack(text)

    monkeypatch.setattr(compressing, "Packer", Noting)
    monkeypatch.setattr(compressing, "FRAME_BYTES", 4000)
    monkeypatch.setattr(compressing, "LONG_FRAME_BYTES", 40_000)
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=300_000) as store:
        for number in range(40):
            store.append("a:1", [Added(number, f"{number} " * 5000)], ANY)
        assert store.compress().segments > 0
        assert max(packed_sizes) < 80_000


def test_the_plain_file_stays_if_the_compressed_one_goes(
    full: FileEventStore[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the `--rm` of a `zstd -d` that ends at that moment, or by a repair, which needs one form only."""
    file = packed(tmp_path / "s")[1]
    subprocess.run([tool("zstd"), "-dq", "--rm", file], check=True)
    sync = full.folder.filesystem.sync_folder

    def remove(path: str) -> None:
        file.unlink(missing_ok=True)
        sync(path)

    with monkeypatch.context() as patched:
        patched.setattr(full.folder.filesystem, "sync_folder", remove)
        full.compress()
    assert file.with_suffix("").exists()
    assert full.compress().segments == 1
    assert list(verify(full)) == []


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_what_is_no_file_stops_no_other_compression(full: FileEventStore[Any], tmp_path: Path, suffix: str) -> None:
    """It is named once, as a damaged segment is."""
    first, second = packed(tmp_path / "s")[1:3]
    subprocess.run([tool("zstd"), "-dq", "--rm", second], check=True)
    folder = Path(str(first.with_suffix("")) + suffix)
    folder.unlink(missing_ok=True)
    folder.mkdir()
    done = full.compress()
    assert (done.segments, done.damaged) == (1, [str(folder)])
    assert numbers(full) == [*range(1000)]


def test_a_full_disk_is_named(full: FileEventStore[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the file that could not be written. Nothing is left of it."""
    file = packed(tmp_path / "s")[1]
    subprocess.run([tool("zstd"), "-dq", "--rm", file], check=True)

    def no_space(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(full.folder.filesystem, "write", no_space)
        with pytest.raises(OSError, match="No space left") as raised:
            full.compress()
    assert raised.value.filename == f"{file}.new"
    assert not [*(tmp_path / "s").rglob("*.new")]
    assert full.compress().segments == 1


def test_an_interrupt_in_a_close_is_not_lost_in_another_one(tmp_path: Path) -> None:
    """A close that is interrupted has closed: the number may be that of another file by now."""

    class Interrupted(FileSystem):
        def close(self, fd: int) -> None:
            path = os.readlink(f"/proc/self/fd/{fd}")
            super().close(fd)
            if path.endswith(".zst.new"):
                raise KeyboardInterrupt

    with FileEventStore(tmp_path / "s", segment_bytes=2000, filesystem=Interrupted()) as store:
        for number in range(20):
            store.append("a:1", [Added(number, "x" * 60)], ANY)
        with pytest.raises(KeyboardInterrupt):
            store.compress()
