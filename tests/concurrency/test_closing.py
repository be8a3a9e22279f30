"""Closing a store while it is used, and at the end of the process: it touches nothing but its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT, Added

from hangarlog import ANY, FileEventStore, HangarlogError, StoreOpenError
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem


def sync_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hangarlog-sync"]


class Appending(threading.Thread):
    """Appends until the store is closed."""

    def __init__(self, store: FileEventStore) -> None:
        super().__init__()
        self._store = store
        self.told: list[int] = []
        self.error: BaseException | None = None
        self.writes = threading.Event()

    def run(self) -> None:
        try:
            while True:
                self.told.append(self._store.append_at_end("a:1", [Added(1, "y" * 100)]))
                self.writes.set()
        except StoreOpenError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.writes.set()


def test_close_under_threads_that_append_changes_no_file_of_the_callers(tmp_path: Path) -> None:
    """Their descriptor numbers are the caller's again right after; what they were told is there."""
    for attempt in range(40):
        path = tmp_path / f"s-{attempt}"
        store = FileEventStore(path)
        threads = [Appending(store) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.writes.wait()
        store.close()
        with contextlib.ExitStack() as open_files:
            mine = [
                open_files.enter_context((tmp_path / f"mine-{attempt}-{number}").open("w+b")) for number in range(12)
            ]
            for thread in threads:
                thread.join()
            assert [os.fstat(file.fileno()).st_size for file in mine] == [0] * 12
            assert [file.tell() for file in mine] == [0] * 12
        assert [thread.error for thread in threads] == [None] * 3
        with FileEventStore(path, durability="relaxed") as again:
            assert sorted(version for thread in threads for version in thread.told) == list(
                range(again.get_event_count())
            )
            assert list(verify(again)) == []


CALLS = {
    "append": lambda store: store.append("a:1", [Added(1)], ANY),
    "append_many": lambda store: store.append_many([("a:1", [Added(1)], ANY)]),
    "sync": lambda store: store.sync(),
    "read_stream": lambda store: store.read_stream("a:1"),
    "read_all": lambda store: list(store.read_all()),
    "records": lambda store: list(store.records("a:1", reverse=True)),
    "get_stream_version": lambda store: store.get_stream_version("a:1"),
    "list_streams": lambda store: store.list_streams(),
    "get_event_count": lambda store: store.get_event_count(),
    "get_stream_count": lambda store: store.get_stream_count(),
    "save_snapshot": lambda store: store.save_snapshot("a:1", 0, {}),
    "load_snapshot": lambda store: store.load_snapshot("a:1"),
    "snapshot_time": lambda store: store.snapshot_time("a:1"),
    "compact_stream": lambda store: store.compact_stream("a:1"),
    "list_snapshots": lambda store: store.list_snapshots(),
    "delete_snapshot": lambda store: store.delete_snapshot("a:1"),
    "truncate_stream": lambda store: store.truncate_stream("a:1", 1),
    "delete_stream": lambda store: store.delete_stream("a:1"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("used", [True, False])
def test_a_closed_store_refuses_every_call(tmp_path: Path, call: str, used: bool) -> None:
    """With one error, whether it was used before or not; closing it again is fine."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [Added(0), Added(1)], ANY)
        store.save_snapshot("a:1", 0, {"n": 1})
        if used:
            CALLS[call](store)
    with pytest.raises(StoreOpenError, match="closed"):
        CALLS[call](store)
    store.close()


class Standing(FileSystem):
    """A write to the journal stands still until it is told to go on."""

    def __init__(self) -> None:
        self.stands, self.goes_on = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None

    def write(self, fd: int, data: bytes) -> None:
        if threading.current_thread() is self.thread:
            self.stands.set()
            self.goes_on.wait()
        super().write(fd, data)


def test_a_call_that_a_close_did_not_wait_for_keeps_its_files_while_other_calls_are_refused(tmp_path: Path) -> None:
    """The end of a refused call is not that of the last one."""
    filesystem = Standing()
    store = FileEventStore(tmp_path / "s", lock_timeout=0, durability="relaxed", filesystem=filesystem)
    thread = Appending(store)
    filesystem.thread = thread
    thread.start()
    filesystem.stands.wait()
    store.close()
    for _ in range(3):
        with pytest.raises(StoreOpenError):
            store.append("a:1", [Added(1)], ANY)
    filesystem.goes_on.set()
    thread.join()
    assert (thread.told, thread.error) == ([0], None)
    with FileEventStore(tmp_path / "s") as again:
        assert again.get_event_count() == 1


def test_threads_that_append_for_the_first_time_at_once_share_one_sync_thread(tmp_path: Path) -> None:
    """And it is gone with the store."""
    before = len(sync_threads())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for attempt in range(20):
            store = FileEventStore(tmp_path / f"s-{attempt}", durability=30.0)
            barrier = threading.Barrier(8)

            def work(own: int, store: FileEventStore = store, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                store.append(f"a:{own}", [Added(own)], ANY)

            threads = [threading.Thread(target=work, args=(own,)) for own in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(sync_threads()) - before == 1
            store.close()
            assert len(sync_threads()) == before
    finally:
        sys.setswitchinterval(interval)


def test_a_close_from_within_a_call_comes_to_its_end(tmp_path: Path) -> None:
    """As a signal handler or a finalizer may try it: it cannot wait for the call that it interrupts."""

    class Closing(FileSystem):
        closes = False

        def write(self, fd: int, data: bytes) -> None:
            super().write(fd, data)
            if self.closes:
                self.closes = False
                with contextlib.suppress(HangarlogError, RuntimeError):
                    store.close()

    filesystem = Closing()
    store = FileEventStore(tmp_path / "s", durability="relaxed", filesystem=filesystem)
    store.append("a:1", [Added(0)], ANY)
    filesystem.closes = True
    try:
        store.append("a:1", [Added(1)], ANY)
        count = 2
    except HangarlogError:
        count = 1
    store.close()
    with FileEventStore(tmp_path / "s", durability="relaxed") as again:
        assert again.get_event_count() in (count, 2)
        assert list(verify(again)) == []


AT_EXIT = """
import atexit, os, sys, threading
path, mine = sys.argv[1:]
files = []
def shut_down():  # Registered first, so it is done last: a program's own log, say.
    files.extend(open(f"{mine}-{number}", "a+") for number in range(12))
    go_on.set()
    thread.join(5)
    print("thread", *outcome, *(file.name for file in files if os.fstat(file.fileno()).st_size))
atexit.register(shut_down)
from hangarlog import ANY, FileEventStore, HangarlogError, UntypedEvent
from hangarlog.system.filesystem import FileSystem
inside, go_on, outcome = threading.Event(), threading.Event(), []
class Slow(FileSystem):  # A stream write that takes a moment, as on a busy disk.
    def write(self, fd, data):
        if b"slow" in data and "/streams/" in os.readlink(f"/proc/self/fd/{fd}"):
            inside.set()
            go_on.wait()
        super().write(fd, data)
store = FileEventStore(path, durability=0.05, filesystem=Slow(), lock_timeout=0.2)
store.append("a:1", [UntypedEvent("Added", {"number": 0})], ANY)
def work():
    try:
        store.append_many([(f"{name}:1", [UntypedEvent("Added", {"number": 1, "text": "slow"})], ANY) for name in "ab"])
        outcome.append("done")
    except HangarlogError as error:
        outcome.append("refused")
    except BaseException as error:
        outcome.append(repr(error))
thread = threading.Thread(target=work, daemon=True)
thread.start()
inside.wait()
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list open files")
@pytest.mark.parametrize("flags", [[], ["-O"]])
def test_the_end_of_a_process_closes_nothing_under_a_daemon_thread(tmp_path: Path, flags: list[str]) -> None:
    """The thread is in the middle of a batch when the interpreter ends; files that are opened then stay empty."""
    path = tmp_path / "s"
    done = subprocess.run(
        [sys.executable, *flags, "-c", AT_EXIT, path, tmp_path / "mine"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() in ("thread done", "thread refused", "thread")
    with FileEventStore(path, durability="relaxed") as store:
        assert store.append("a:1", [Added(2)], ANY) == 1 + ("done" in done.stdout) or "done" not in done.stdout
        assert list(verify(store)) == []


FORGOTTEN = """
import sys
from hangarlog import ANY, FileEventStore, UntypedEvent
class Application:
    def __init__(self):
        self.store = FileEventStore.untyped(sys.argv[1], durability=sys.argv[2])
    def __del__(self):
        self.store.close()
application = Application()
for number in range(2_000):  # Enough that the last one to close it makes a checkpoint.
    application.store.append("a:1", [UntypedEvent("Added", {"number": number, "text": "x" * 900})], ANY)
"""


@pytest.mark.parametrize("durability", ["relaxed", "always"])
def test_a_store_that_is_closed_while_the_interpreter_ends_says_nothing(tmp_path: Path, durability: str) -> None:
    """Its owner's finalizer closes it, when nothing can be imported any more."""
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN, tmp_path / "s", durability],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with FileEventStore.untyped(tmp_path / "s") as store:
        assert store.get_event_count() == 2_000
        assert list(verify(store)) == []


UNDER_LOAD = """
import random, sys, threading
from hangarlog import ANY, FileEventStore, UntypedEvent
store = FileEventStore(sys.argv[1], durability=0.02)
began = threading.Event()
def work(own):
    while True:
        events = [UntypedEvent("Added", {"number": own})]
        store.append_many([(f"s:{at}", events, ANY) for at in random.sample(range(8), 4)])
        began.set()
for own in range(3):
    threading.Thread(target=work, args=(own,), daemon=True).start()
began.wait()
"""


def test_processes_that_end_under_load_leave_the_store_whole(tmp_path: Path) -> None:
    """Beside them another one appends, and each of its events stays where it was said to be."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        for turn in range(8):
            process = subprocess.Popen(
                [sys.executable, "-c", UNDER_LOAD, path], env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
            told = {}
            while process.poll() is None:
                told[store.append("s:0", [Added(1000 + turn)], ANY)] = 1000 + turn
            assert process.returncode == 0
            events = store.read_stream("s:0")
            assert all(events[version].number == number for version, number in told.items())
        assert list(verify(store)) == []
