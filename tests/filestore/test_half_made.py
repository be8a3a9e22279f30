"""A store that could not be opened leaves nothing behind, and one that is open is neither copied nor pickled."""

from __future__ import annotations

import builtins
import contextlib
import copy
import errno
import gc
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Added, named

from hangarlog import ANY, FileEventStore, HangarlogError, MemoryEventStore
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.platform import boot_id

FDS = "/proc/self/fd"


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing is printed by what is deleted, and no descriptor stays open."""
    heard: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda given: heard.append(repr(given.exc_value))
    gc.collect()
    before = _open()
    try:
        yield
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert heard == []
    assert _open() == before


def _open() -> list[str]:
    found = []
    if os.path.isdir(FDS):
        for fd in os.listdir(FDS):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"{FDS}/{fd}"))
    return sorted(each for each in found if not each.startswith("/proc/"))


@pytest.mark.parametrize(
    "options",
    [
        {"unknown": 1},
        {"serializer": "none"},
        {"durability": "sometimes"},
        {"durability": object()},
        {"lock_timeout": -1},
        {"lock_timeout": "soon"},
        {"segment_bytes": 0},
        {"segment_bytes": "many"},
        {"mode": 0o666},
        {"filesystem": 3},
    ],
    ids=named,
)
def test_bad_arguments_leave_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        FileEventStore(tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("path", [None, 3, b"\xff", "a\0b"])
def test_bad_paths_leave_nothing(path: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        FileEventStore(path)
    with pytest.raises(TypeError):
        FileEventStore()  # type: ignore[call-arg]


class FailingAt(FileSystem):
    """Every public method fails when it is the one numbered `at`."""

    def __init__(self, at: int, code: int) -> None:
        self.left, self.code = at, code

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name in ("left", "code", "close", "leave") or not callable(found):
            return found

        def failing(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if not self.left:
                raise OSError(self.code, os.strerror(self.code))
            return found(*args, **options)

        return failing


def _made(path: Path) -> None:
    with FileEventStore(path, durability="relaxed", segment_bytes=300) as store:
        for number in range(4):
            store.append("a:1", [Added(number)], ANY)


def _torn(path: Path) -> None:
    _made(path)
    with open(path / "journal.jsonl", "ab") as journal:
        journal.write(b'{"position":5,"str')
    (path / "state").unlink()


@pytest.mark.parametrize(
    "code", [errno.EACCES, errno.ENOSPC, errno.EMFILE, errno.EIO, errno.ENOMEM], ids=errno.errorcode.get
)
@pytest.mark.parametrize("before", [lambda path: None, _made, _torn], ids=["new", "made", "torn"])
def test_a_call_that_fails_while_a_store_is_opened_leaves_nothing(
    tmp_path: Path, before: Callable[[Path], None], code: int
) -> None:
    """At each call in turn; the next try opens it."""
    said: list[str] = []
    for at in range(1, 1000):
        path = tmp_path / str(at)
        before(path)
        filesystem = FailingAt(at, code)
        try:
            FileEventStore(path, filesystem=filesystem).close()
        except HangarlogError as error:
            said.append(str(error))
        with FileEventStore(path) as store:
            store.append("b:1", [Added(1)], ANY)
            assert list(verify(store)) == []
        if filesystem.left > 0:
            break
    assert at > 10
    assert said
    assert [each for each in said if os.strerror(code) not in each] == []


def test_a_store_that_is_opened_with_too_few_descriptors_leaves_nothing(tmp_path: Path) -> None:
    """With none left, with one, and so on, until it opens; each of the others says so."""
    program = """
import contextlib, os, resource, sys
from hangarlog import ANY, EventSerializer, FileEventStore, HangarlogError, UntypedEvent
heard = []
sys.unraisablehook = lambda given: heard.append(repr(given.exc_value))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
event = UntypedEvent("Added", {"number": 1})
def take(left):
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    for _ in range(left):
        os.close(taken.pop())
    return taken
refused = opened = 0
for left in range(16):
    path = f"{sys.argv[1]}/{left}"
    for again in range(2):
        count = len(os.listdir("/proc/self/fd"))
        taken = take(left)
        try:
            store = FileEventStore(path, serializer=EventSerializer(unknown="untyped"))
            try:
                store.append("a:1", [event], ANY)
                opened += 1
            finally:
                store.close()
            del store
        except HangarlogError as error:
            refused += 1
            assert "Too many open files" in str(error), repr(error)
        finally:
            for fd in taken:
                os.close(fd)
        assert len(os.listdir("/proc/self/fd")) == count, (left, os.listdir("/proc/self/fd"))
        with FileEventStore(path, serializer=EventSerializer(unknown="untyped")) as store:
            store.append("a:1", [event], ANY)
assert refused and opened and not heard, (refused, opened, heard)
"""
    if not os.path.isdir(FDS):
        pytest.skip("this system does not list open files")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_on_a_disk_that_died_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of it."""
    filesystem = FileSystem()
    fd = filesystem.open_folder(str(tmp_path))
    filesystem.enter(str(tmp_path), fd)

    def dead(*args: Any, **options: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        for name in ("fstat", "stat", "open"):
            patched.setattr(os, name, dead)
        filesystem.leave(fd)
    filesystem.close(fd)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
def test_a_store_is_not_copied_and_says_what_to_do(tmp_path: Path, copied: Callable[[object], object]) -> None:
    with FileEventStore(tmp_path / "s") as store:
        with pytest.raises(TypeError, match="cannot be copied or pickled; open it there") as caught:
            copied(store)
        assert f"FileEventStore({str(tmp_path / 's')!r})" in str(caught.value)
        store.append("a:1", [Added(1)], ANY)
        assert store.read_stream("a:1") == [Added(1)]
    memory = MemoryEventStore()
    with pytest.raises(TypeError, match="append its events to another"):
        copied(memory)
    assert memory.append("a:1", [Added(1)], -1) == 0


# What the machine says of itself


@pytest.mark.parametrize("content", ["", "\n", "no number", "00000000-0000-0000-0000-000000000000\n", None])
def test_a_boot_id_that_cannot_be_read_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """Sandboxes mask it with an empty file; other systems have none. A clock would say something else after a step."""
    real = builtins.open

    def masked(path: Any, *args: Any, **options: Any) -> Any:
        if path != "/proc/sys/kernel/random/boot_id":
            return real(path, *args, **options)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return io.StringIO(content)

    monkeypatch.setattr(builtins, "open", masked)
    assert boot_id() == 0
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(1)], ANY)
        with FileEventStore(tmp_path / "s") as other:
            assert other.read_stream("a:1") == [Added(1)]


@pytest.mark.parametrize("lock_timeout", [float("inf"), 1e300, 10**400])
def test_a_wait_longer_than_the_system_can_wait_has_no_end(tmp_path: Path, lock_timeout: float) -> None:
    store = FileEventStore(tmp_path / "s", lock_timeout=lock_timeout)
    store.append("a:1", [Added(0)], ANY)
    store.close()
