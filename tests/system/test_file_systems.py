"""A store is not opened on a file system where its locks or shared memory may not hold, unless that one is named."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Added, Command, tool

from hangarlog import ANY, FileEventStore, StoreOpenError, UnsafeFileSystemError
from hangarlog.maintenance.repair import repair
from hangarlog.system.filesystem import FileSystem

ROOT_LINE = "1 0 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"


class Mounted(FileSystem):
    """A system with these mounts; what is asked for is on the one with this number."""

    def __init__(self, table: str, number: int) -> None:
        self.table, self.number = ROOT_LINE + table, number

    def mount_table(self) -> bytes:
        return self.table.encode()

    def mount(self, folder: str) -> tuple[int, str]:
        assert os.path.isdir(folder)
        return self.number, os.path.realpath(folder)


def on(kind: str, path: object = "/mnt/x", options: str = "rw") -> Mounted:
    return Mounted(f"7 1 0:50 / {path} {options} shared:9 master:2 - {kind} host:/x rw\n", 7)


UNSAFE = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "virtiofs",
    "fuse",
    "fuse.sshfs",
    "fuse.bindfs",
    "fuse.glusterfs",
    "ceph",
]
UNSAFE += ["lustre", "gfs2", "afs", "vboxsf", "vmhgfs", "prl_fs", "drvfs", "fakeowner", "fuse.grpcfuse"]
SAFE = [
    "ext4",
    "xfs",
    "btrfs",
    "zfs",
    "tmpfs",
    "overlay",
    "fuseblk",
    "f2fs",
    "bcachefs",
    "ntfs3",
    "exfat",
    "nfsd",
    "fusectl",
]


@pytest.mark.parametrize("kind", UNSAFE)
def test_an_unsafe_file_system_is_refused_with_its_type_the_danger_and_the_ways_out(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnsafeFileSystemError) as caught:
        FileEventStore(tmp_path / "s", filesystem=on(kind))
    error = caught.value
    assert isinstance(error, StoreOpenError)
    assert (error.path, error.kind) == (str(tmp_path / "s"), kind)
    for part in (f"of type {kind}", "lost", "local disk", "a volume", f"unsafe_file_system={kind!r}"):
        assert part in str(error)
    assert f"HANGARLOG_UNSAFE_FILE_SYSTEM={kind}" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - of our own
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", SAFE)
def test_a_local_file_system_is_not_refused(tmp_path: Path, kind: str) -> None:
    """Nor is an overlay, where containers have their files."""
    FileEventStore(tmp_path / "s", filesystem=on(kind)).close()


def test_unsafe_file_systems_elsewhere_are_no_matter(tmp_path: Path) -> None:
    """Not beside it, nor one of whose name the store's is the beginning, nor one that was mounted over."""
    filesystem = on("nfs4", tmp_path / "store2/x")
    filesystem.number = 1
    FileEventStore(tmp_path / "store", filesystem=filesystem).close()
    over = Mounted(f"7 1 0:50 / {tmp_path} rw - nfs4 h:/ rw\n8 7 0:51 / {tmp_path} rw - tmpfs tmpfs rw\n", 8)
    FileEventStore(tmp_path / "store", filesystem=over).close()


@pytest.mark.parametrize("part", ["streams", "streams/a b", "snapshots"])
def test_a_part_of_the_store_on_an_unsafe_file_system_is_refused_too(tmp_path: Path, part: str) -> None:
    """Also where blanks in its name are escaped."""
    FileEventStore(tmp_path / "s").close()
    place = str(tmp_path / "s" / part)
    filesystem = on("cifs", place.replace(" ", "\\040"))
    filesystem.number = 1
    with pytest.raises(UnsafeFileSystemError, match="of type cifs") as caught:
        FileEventStore(tmp_path / "s", filesystem=filesystem)
    assert caught.value.path == place


def test_a_link_to_an_unsafe_file_system_is_seen(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    filesystem = on("nfs4", tmp_path / "far/s/streams")
    filesystem.number = 1
    FileEventStore(tmp_path / "far/s").close()
    with pytest.raises(UnsafeFileSystemError):
        FileEventStore(tmp_path / "link/s", filesystem=filesystem)


def test_the_type_that_is_named_is_used_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even "any": who names a type has thought of that one, and the folder may be mounted otherwise tomorrow."""
    path = tmp_path / "s"
    FileEventStore(path, filesystem=on("9p"), unsafe_file_system="9p").close()
    FileEventStore(path, filesystem=on("nfs4"), unsafe_file_system="9p, nfs4").close()
    for other in ("any", "nfs", "", "*"):
        with pytest.raises(UnsafeFileSystemError):
            FileEventStore(path, filesystem=on("nfs4"), unsafe_file_system=other)
    monkeypatch.setenv("HANGARLOG_UNSAFE_FILE_SYSTEM", "fuse.bindfs,nfs4")
    FileEventStore(path, filesystem=on("nfs4")).close()
    with pytest.raises(UnsafeFileSystemError):
        FileEventStore(path, filesystem=on("9p"))
    with pytest.raises(UnsafeFileSystemError):
        FileEventStore(path, filesystem=on("nfs4"), unsafe_file_system="")  # What the program says comes first.


def test_repair_refuses_an_unsafe_file_system_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FileEventStore(tmp_path / "s").close()
    with pytest.raises(UnsafeFileSystemError):
        list(repair(tmp_path / "s", filesystem=on("fuse.sshfs")))
    monkeypatch.setenv("HANGARLOG_UNSAFE_FILE_SYSTEM", "fuse.sshfs")
    assert list(repair(tmp_path / "s", filesystem=on("fuse.sshfs"))) == []


def test_where_the_system_does_not_say_what_is_mounted_nothing_is_refused(tmp_path: Path) -> None:
    class Silent(FileSystem):
        def mount_table(self) -> bytes:
            return b""

        def mount(self, folder: str) -> tuple[int, str]:
            raise AssertionError("there is nothing to look for")

    FileEventStore(tmp_path / "s", filesystem=Silent()).close()


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="this system has no table of mounts")
def test_the_mount_a_folder_is_on_is_in_the_table(tmp_path: Path) -> None:
    filesystem = FileSystem()
    number, real = filesystem.mount(str(tmp_path))
    assert real == os.path.realpath(tmp_path)
    assert number in [int(line.split()[0]) for line in filesystem.mount_table().splitlines()]


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Path]:
    """A FUSE mount of `tmp_path / "source"`."""
    command = tool("bindfs")
    source, path = tmp_path / "source", tmp_path / "mirror"
    source.mkdir()
    path.mkdir()
    done = subprocess.run([command, str(source), str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"bindfs cannot mount here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_real_fuse_mount_is_refused_and_can_be_named(mirror: Path, hangarlog: Command) -> None:
    """The library and the command line; the store itself, and one whose streams alone are there."""
    with pytest.raises(UnsafeFileSystemError) as caught:
        FileEventStore(mirror / "s")
    kind = caught.value.kind
    assert kind.startswith("fuse")
    with FileEventStore(mirror / "s", unsafe_file_system=kind) as store:
        store.append("a:1", [Added(1)], ANY)
    assert hangarlog("stats", mirror / "s").returncode == 1
    assert hangarlog("stats", mirror / "s", HANGARLOG_UNSAFE_FILE_SYSTEM=kind).returncode == 0
    with FileEventStore(mirror.parent / "source/s") as store:
        assert store.get_event_count() == 1
    with pytest.raises(UnsafeFileSystemError, match=str(mirror)):  # A part of the folder is.
        FileEventStore(mirror.parent)
