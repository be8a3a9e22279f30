"""An export comes to its name whole, private, and never in the place of something else."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command

from hangarlog import FileEventStore, UntypedEvent
from hangarlog.export import new_file
from hangarlog.filesystem import FileSystem


class WithoutLinks(FileSystem):
    """As FAT, or some mounts of the network."""

    def link(self, old: str, new: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), old)


class Raced(FileSystem):
    """Somebody makes a file at `path` just before each call that could give it the export's content."""

    path = Path()

    def link(self, old: str, new: str) -> None:
        self.path.write_text("theirs")
        super().link(old, new)


class RacedWithoutLinks(WithoutLinks):
    path = Path()

    def open_new(self, path: str) -> int:
        if path == str(self.path):
            self.path.write_text("theirs")
        return super().open_new(path)


@pytest.mark.parametrize("kind", [FileSystem, WithoutLinks])
def test_a_new_file_is_whole_and_private_whatever_the_umask(tmp_path: Path, kind: type[FileSystem]) -> None:
    before = os.umask(0)
    try:
        with new_file(kind(), str(tmp_path / "out")) as path:
            Path(path).write_text("content")
            assert not (tmp_path / "out").exists()
    finally:
        os.umask(before)
    (made,) = tmp_path.iterdir()
    assert (made.name, made.read_text(), stat.S_IMODE(made.stat().st_mode)) == ("out", "content", 0o600)


@pytest.mark.parametrize("kind", [Raced, RacedWithoutLinks])
def test_what_comes_to_the_name_at_the_last_moment_stays(
    tmp_path: Path, kind: type[Raced] | type[RacedWithoutLinks]
) -> None:
    filesystem = kind()
    filesystem.path = tmp_path / "out"
    with (
        pytest.raises(FileExistsError, match=r"it exists already; export to a new file: .*/out'"),
        new_file(filesystem, str(tmp_path / "out")) as path,
    ):
        Path(path).write_text("ours")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("out", "theirs")]


def write(target: Path, text: str, before: Callable[[Path], object] = lambda path: None) -> None:
    with new_file(FileSystem(), str(target)) as path:
        before(Path(path))
        Path(path).write_text(text)


def test_two_exports_to_one_name_do_not_meet(tmp_path: Path) -> None:
    """The first to end is there, whole; the other is refused."""
    with pytest.raises(FileExistsError):
        write(tmp_path / "out", "second", lambda path: write(tmp_path / "out", "first"))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("out", "first")]


def test_a_file_that_was_put_in_the_place_of_the_unfinished_one_is_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="it was replaced"):
        write(tmp_path / "out", "theirs", lambda path: path.rename(tmp_path / "elsewhere"))
    assert not (tmp_path / "out").exists()


def test_somebodys_file_that_is_called_as_an_unfinished_one_stays(tmp_path: Path) -> None:
    (tmp_path / "out.unfinished").write_text("mine")
    with new_file(FileSystem(), str(tmp_path / "out")):
        pass
    assert (tmp_path / "out.unfinished").read_text() == "mine"


def bind(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(name)


KINDS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text("mine"),
    "folder": lambda path: path.mkdir(),
    "FIFO": os.mkfifo,
    "socket": lambda path: bind(path.name),
    "link to a file": lambda path: path.symlink_to(path.parent / "mine"),
    "link to nowhere": lambda path: path.symlink_to(path.parent / "nowhere"),
    "link to a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("suffix", ["jsonl", "db"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_command_writes_to_a_new_file_only(
    hangarlog: Command, tmp_path: Path, kind: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Names of sockets must be short.
    (tmp_path / "mine").write_text("mine")
    with FileEventStore(tmp_path / "store", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("T", {})], -1)
    target = tmp_path / f"out.{suffix}"
    KINDS[kind](target)
    before = target.lstat()
    done = hangarlog("export", "store", target.name)
    assert done.returncode == 1
    assert done.stderr.decode() == f"hangarlog: it exists already; export to a new file: {target.name}\n"
    assert target.lstat() == before
    assert (tmp_path / "mine").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", target.name, "store"]
