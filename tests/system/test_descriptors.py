"""What is kept open has one limit for the whole process; where no descriptor is left, that is said, and no damage."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Added

from hangarlog import ANY, FileEventStore, StorageError
from hangarlog.maintenance.verify import verify
from hangarlog.system import descriptors
from hangarlog.system.filesystem import FileSystem

pytest.importorskip("resource")


def run(program: str, *arguments: object, limit: int) -> str:
    """The output of a program that may open `limit` files."""
    start = f"""
import os, sys, resource, warnings
warnings.simplefilter("error")
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
from hangarlog import ANY, EventSerializer, FileEventStore, HangarlogError, StorageError, UntypedEvent
from hangarlog.testing.probe import write_session
event = UntypedEvent("Added", {{"number": 1}})
def opened(path, **options):
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), durability="relaxed", **options)
def take_all():
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return taken
"""
    done = subprocess.run(
        [sys.executable, "-c", start + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def test_four_stores_of_many_streams_leave_the_application_its_descriptors(tmp_path: Path) -> None:
    """Four times 300 streams, in turn, and all read, where 1,024 files may be open."""
    program = """
stores = [opened(f"{sys.argv[1]}/{n}", segment_bytes=70_000) for n in range(4)]
large = UntypedEvent("Added", {"text": "x" * 70_000})
for number in range(300):
    for store in stores:
        store.append(f"a:{number}", [large], ANY)
for number in range(300):
    for store in stores:
        assert len(store.read_stream(f"a:{number}")) == 1
print(1024 - len(take_all()))
"""
    assert 256 <= int(run(program, tmp_path, limit=1024)) < 256 + 60


def test_an_idle_store_gives_what_it_keeps_to_one_that_works(tmp_path: Path) -> None:
    program = """
idle, busy = opened(sys.argv[1] + "/idle"), opened(sys.argv[1] + "/busy")
for store in (idle, busy):
    for _ in range(2):
        for number in range(200):
            store.append(f"a:{number}", [event], ANY)
    print(write_session(idle).streams.held, write_session(busy).streams.held)
for number in range(200):
    idle.append(f"a:{number}", [event], 1)
"""
    assert run(program, tmp_path, limit=256) == "64 0\n32 32\n"


def test_the_limit_is_asked_for_when_it_is_needed(tmp_path: Path) -> None:
    """It was lowered meanwhile."""
    program = """
store = opened(sys.argv[1] + "/s")
for number in range(200):
    store.append(f"a:{number}", [event], ANY)
before = write_session(store).streams.held
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
store.append("b:1", [event], ANY)
print(before, write_session(store).streams.held)
"""
    assert run(program, tmp_path, limit=1024) == "200 100\n"


def test_a_store_that_is_collected_is_no_longer_counted(tmp_path: Path) -> None:
    before = len(descriptors._keepers)
    store = FileEventStore(tmp_path / "s", durability="relaxed")
    store.append("a:1", [Added(1)], ANY)
    assert store.read_stream("a:1") == [Added(1)]
    assert len(descriptors._keepers) == before + 1
    store.close()
    del store
    assert len(descriptors._keepers) == before


class TakingOut(FileSystem):
    """At the call numbered `at` everything is taken out that is kept, as another thread may at any moment."""

    at = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("read", "write", "open_read", "open_append", "open_new", "truncate"):
            self.at -= 1
            if not self.at:
                descriptors.give_back()
        return super().__getattribute__(name)


def test_what_is_taken_out_of_a_store_while_it_writes_and_reads_stays_open_until_then(tmp_path: Path) -> None:
    """At each call in turn."""
    filesystem = TakingOut()
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=150_000, filesystem=filesystem) as store:
        for at in range(1, 30):
            for stream_id in ("a:1", "b:1"):
                store.append(stream_id, [Added(at)], ANY)  # Now they are at hand.
            filesystem.at = at
            store.append_many([("a:1", [Added(at, "x" * 20_000)], ANY), ("b:1", [Added(at)], ANY)])
            assert store.read_stream("a:1")[-1] == Added(at, "x" * 20_000)
            assert len(list(store.records(reverse=True))) == 4 * at
        assert list(verify(store)) == []


def test_a_forked_child_keeps_within_the_limit_too(tmp_path: Path) -> None:
    program = """
store = opened(sys.argv[1] + "/s")
for number in range(100):
    store.append(f"a:{number}", [event], ANY)
child = os.fork()
if not child:
    for number in range(100):
        store.append(f"a:{number}", [event], ANY)
    os._exit(write_session(store).streams.held)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(program, tmp_path, limit=128) == "32\n"


# No descriptor left


def test_without_a_descriptor_what_is_kept_is_given_back(tmp_path: Path) -> None:
    """Reads of streams that are not at hand, of one that does not exist, appends, and a list of streams."""
    program = """
store = opened(sys.argv[1] + "/s")
for number in range(100):
    store.append(f"a:{number}", [event], ANY)
for call in (
    lambda: store.read_stream("a:99"),
    lambda: store.get_stream_version("no:such"),
    lambda: len(store.list_streams()),
    lambda: store.append("a:0", [event], ANY),
    lambda: store.append("b:0", [event], ANY),
):
    for number in range(50, 60):
        store.append(f"a:{number}", [event], ANY)
    taken = take_all()
    print(call())
    for fd in taken:
        os.close(fd)
"""
    found = run(program, tmp_path, limit=256).splitlines()
    assert found[1:] == ["-1", "100", "1", "0"]
    assert "Added" in found[0]


def test_without_any_left_to_give_back_it_is_a_storage_error(tmp_path: Path) -> None:
    """And no damage: nothing is served from elsewhere, and nobody is told to repair."""
    long = "b:" + "x" * 300
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=200) as store:
        for number in range(5):
            store.append_many([("a:1", [Added(number)], ANY), (long, [Added(number)], ANY)])
    program = """
store, long = opened(sys.argv[1]), sys.argv[2]
taken = take_all()
for call in (
    lambda: store.read_stream("a:1"),
    lambda: store.get_stream_version("a:1"),
    lambda: store.read_stream(long),
    lambda: store.list_streams(),
    lambda: list(store.records()),
    lambda: list(store.records(reverse=True)),
    lambda: store.append("a:1", [event], ANY),
    lambda: store.load_snapshot("a:1"),
):
    try:
        print(call())
    except StorageError as error:
        print(error.errno, "Too many open files" in str(error), "repair" in str(error))
print(store.get_stream_count())  # Of a file that is open.
for fd in taken:
    os.close(fd)
print(store.append("a:1", [event], ANY), store.get_event_count())
"""
    found = run(program, tmp_path / "s", long, limit=256).splitlines()
    refused = f"{errno.EMFILE} True False"
    assert found == [refused] * 8 + ["2", "5 11"]


class Refusing(FileSystem):
    """Refuses to open what `picks` picks."""

    def __init__(self) -> None:
        self.code = 0
        self.picks: Callable[[str], bool] = lambda path: True

    def open_read(self, path: str) -> int:
        if self.code and self.picks(path):
            raise OSError(self.code, os.strerror(self.code), path)
        return super().open_read(path)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_file_the_system_refuses_to_open_is_no_damage(tmp_path: Path, code: int) -> None:
    filesystem = Refusing()
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=200, filesystem=filesystem) as store:
        for number in range(5):
            store.append("a:1", [Added(number)], ANY)
        filesystem.code = code
        for call in (lambda: store.read_stream("a:1"), lambda: list(store.records()), store.list_streams):
            with contextlib.suppress(StorageError):
                call()
        with pytest.raises(StorageError) as caught:
            store.read_stream("a:1")
        assert caught.value.errno == code
        filesystem.code = 0
        assert len(store.read_stream("a:1")) == 5


@pytest.mark.parametrize("code", [errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EINVAL])
def test_what_is_no_file_in_the_place_of_a_segment_is_damage(tmp_path: Path, code: int) -> None:
    """Served from the other copy."""
    filesystem = Refusing()
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=200, filesystem=filesystem) as store:
        store.append("a:1", [Added(1)], ANY)
        filesystem.code, filesystem.picks = code, lambda path: "streams" in path
        with pytest.warns(UserWarning, match="served from the journal"):
            assert store.read_stream("a:1") == [Added(1)]


def test_an_index_that_cannot_be_opened_is_read_without_and_not_called_damaged(tmp_path: Path) -> None:
    filesystem = Refusing()
    filesystem.picks = lambda path: path.endswith(".index")
    with FileEventStore(tmp_path / "s", durability="relaxed", filesystem=filesystem) as store:
        store.append("a:1", [Added(number, "x" * 1000) for number in range(200)], ANY)
        assert (tmp_path / "s/streams/a/1.index").exists()
        filesystem.code = errno.EMFILE
        assert store.read_stream("a:1", 199) == [Added(199, "x" * 1000)]
        with pytest.raises((OSError, StorageError), match="Too many open files"):
            list(verify(store))


class Keeper:
    """One that only the garbage collector frees."""

    held = 0

    def __init__(self) -> None:
        self.myself = self

    def let_go(self) -> None:
        pass


def test_keepers_that_the_garbage_collector_frees_while_others_are_counted_disturb_nobody() -> None:
    before = gc.get_threshold()
    try:
        for threshold in range(1, 40):
            gc.disable()
            mine = Keeper()
            for keeper in (mine, *[Keeper() for _ in range(20)]):
                descriptors.watch(keeper)
            del keeper
            gc.set_threshold(gc.get_count()[0] + threshold)
            gc.enable()
            for _ in range(50):
                assert descriptors.excess(mine) == 0
    finally:
        gc.enable()
        gc.set_threshold(*before)
