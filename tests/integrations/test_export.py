"""An export comes to its name whole, private, and never in the place of something else."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Command

from hangarlog import FileEventStore, UntypedEvent
from hangarlog.cli.app import hangarlog as command_group
from hangarlog.integrations import export
from hangarlog.integrations.export import UNFINISHED, new_file
from hangarlog.integrations.mcp_hangar_sqlite import export_database
from hangarlog.system.filesystem import FileSystem


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
        with new_file(str(tmp_path / "out"), kind()) as file:
            file.write(b"content")
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
        new_file(str(tmp_path / "out"), filesystem) as file,
    ):
        file.write(b"ours")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("out", "theirs")]


def write(target: Path, text: str, before: Callable[[Path], object] = lambda path: None) -> None:
    with new_file(str(target)) as file:
        before(unfinished(target))
        file.write(text.encode())


def unfinished(target: Path) -> Path:
    return next(target.parent.glob(f"{target.name}.*{UNFINISHED}"))


def test_two_exports_to_one_name_do_not_meet(tmp_path: Path) -> None:
    """The first to end is there, whole; the other is refused."""
    with pytest.raises(FileExistsError):
        write(tmp_path / "out", "second", lambda path: write(tmp_path / "out", "first"))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("out", "first")]


def other_file(path: Path) -> None:
    path.unlink()
    path.write_text("theirs")


def link_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("victim")


def link_to_itself(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("swap", [other_file, link_elsewhere, link_to_itself, Path.unlink])
def test_what_was_put_in_the_place_of_the_unfinished_file_is_not_taken_for_it(
    tmp_path: Path, swap: Callable[[Path], None]
) -> None:
    (tmp_path / "victim").write_text("victim")
    with pytest.raises(OSError, match="it was replaced while it was written; export to a folder of your own"):
        write(tmp_path / "out", "ours", swap)
    assert not os.path.lexists(tmp_path / "out")
    assert (tmp_path / "victim").read_text() == "victim"


class Swapped(FileSystem):
    """Somebody who owns the folder puts a link to a file in the place of the new one as soon as it is there."""

    def open_new(self, path: str) -> int:
        fd = super().open_new(path)
        if path.endswith(UNFINISHED):
            link_elsewhere(Path(path))
        return fd


class SwappedLast(FileSystem):
    """The same, between the last look and the call that gives it its name."""

    def link(self, old: str, new: str) -> None:
        if old.endswith(UNFINISHED):
            link_elsewhere(Path(old))
        super().link(old, new)


@pytest.mark.parametrize("kind", [Swapped, SwappedLast])
@pytest.mark.parametrize("form", ["jsonl", "db"])
def test_no_export_writes_through_a_link_that_comes_to_its_name(
    tmp_path: Path, form: str, kind: type[FileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    victim = tmp_path / "out/victim"
    victim.touch()  # Empty: SQLite makes a database of such a file.
    with FileEventStore(tmp_path / "store", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("T", {})], -1)
    monkeypatch.setattr(export, "FileSystem", kind)
    done = CliRunner().invoke(command_group, ["export", str(tmp_path / "store"), str(tmp_path / f"out/out.{form}")])
    assert isinstance(done.exception, OSError)
    assert "it was replaced while it was written" in str(done.exception)
    assert victim.read_bytes() == b""


def test_a_database_is_made_where_nobody_else_writes_and_nothing_of_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    modes = []

    def connect(path: str) -> sqlite3.Connection:
        modes.append(stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode))
        assert Path(path).parent.parent == tmp_path / "temporary"
        return real(path)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)
    with FileEventStore(tmp_path / "store", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("T", {})], -1)
        assert export_database(store, str(tmp_path / "out.db")) == 1
    assert modes == [0o700]
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make files of others")
@pytest.mark.parametrize("form", ["jsonl", "db"])
def test_root_exports_from_another_users_store(hangarlog: Command, tmp_path: Path, form: str) -> None:
    """There it only reads; the new file is root's own."""
    with FileEventStore(tmp_path / "store", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("T", {})], -1)
    for path in (tmp_path / "store", *(tmp_path / "store").rglob("*")):
        os.chown(path, 12345, 12345)
    done = hangarlog("export", str(tmp_path / "store"), str(tmp_path / f"out.{form}"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / f"out.{form}").stat().st_uid == 0


def test_no_room_for_a_database_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(path: str) -> sqlite3.Connection:
        connection = real(path)
        connection.execute("PRAGMA max_page_count = 2")
        return connection

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)
    with FileEventStore(tmp_path / "store", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("T", {})], -1)
        with pytest.raises(OSError, match=r"database or disk is full\); set TMPDIR to a folder with room for it"):
            export_database(store, str(tmp_path / "out.db"))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_somebodys_file_that_is_called_as_an_unfinished_one_stays(tmp_path: Path) -> None:
    (tmp_path / "out.unfinished").write_text("mine")
    with new_file(str(tmp_path / "out")):
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


def test_a_folder_that_is_missing_is_said_of_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, new_file(str(tmp_path / "gone/x.jsonl")):
        pass
    assert caught.value.filename == str(tmp_path / "gone/x.jsonl")
