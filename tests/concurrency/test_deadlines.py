"""`lock_timeout` bounds every wait, whichever lock somebody else holds. Row 16 stops holders wherever they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, Added

from hangarlog import ANY, FileEventStore, HangarlogError, LockTimeoutError, OutcomeUnknownError, StoreBusyError
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing.probe import write_session

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")

GUARD = 20.0
"""Seconds after which a call hangs. Only a broken promise waits for it."""

HOLDER = """
import os, signal, sys
from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.system.filesystem import FileSystem
class Stopping(FileSystem):
    stops_in = ""
    def stop(self, name):
        if name == self.stops_in:
            self.stops_in = ""
            os.kill(os.getpid(), signal.SIGSTOP)
    def write(self, fd, data):
        super().write(fd, data)
        self.stop("write")
    def sync_data(self, fd):
        super().sync_data(fd)
        self.stop("sync")
filesystem = Stopping()
store = FileEventStore(sys.argv[1], filesystem=filesystem)
for _ in range(3):
    store.append("held:1", [UntypedEvent("Added", {"number": 1})], ANY)
filesystem.stops_in = sys.argv[2]
store.append("held:1", [UntypedEvent("Added", {"number": 2})], ANY)
"""


@contextmanager
def stopped(path: Path, stops_in: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped in the write, or in the sync, of an append; it goes on afterwards, and ends well."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), stops_in], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        yield process
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def outcomes(*calls: Callable[[], object]) -> list[object]:
    """What comes of calls that are made at once: results and errors; fails where one of them does not end."""
    found: list[object] = [None] * len(calls)

    def make(at: int) -> None:
        try:
            found[at] = calls[at]()
        except Exception as error:
            found[at] = error

    threads = [threading.Thread(target=make, args=(at,), daemon=True) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    until = time.monotonic() + GUARD
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
        assert not thread.is_alive(), "a call waits for ever"
    return found


def test_a_stopped_sync_keeps_nobody_beyond_the_deadline(tmp_path: Path) -> None:
    """A durable append says that it is written but not known to be durable; relaxed ones and closes go on."""
    path = tmp_path / "s"
    with FileEventStore(path):
        pass
    with stopped(path, "sync"):
        durable = FileEventStore(path, lock_timeout=0.2)
        relaxed = FileEventStore(path, lock_timeout=0.2, durability="relaxed")
        interval = FileEventStore(path, lock_timeout=0.2, durability=0.05)
        (unknown,) = outcomes(lambda: durable.append("a:1", [Added(1)], ANY))
        assert isinstance(unknown, (OutcomeUnknownError, LockTimeoutError))
        assert "nothing was written" not in str(unknown)
        assert outcomes(lambda: relaxed.append("b:1", [Added(1)], ANY)) == [0]
        assert outcomes(lambda: interval.append("c:1", [Added(1)], ANY)) == [0]
        assert outcomes(lambda: len(durable.read_stream("a:1"))) == [1]
        for store in (durable, relaxed, interval):
            (closed,) = outcomes(store.close)
            assert closed is None or isinstance(closed, HangarlogError)
    with FileEventStore(path) as store:
        assert [store.get_stream_version(f"{name}:1") for name in "abc"] == [0, 0, 0]
        assert list(verify(store)) == []


DIES = """
import os, sys
from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.system.filesystem import FileSystem
class Dying(FileSystem):
    def write(self, fd, data):
        super().write(fd, data[:20])
        os._exit(9)
store = FileEventStore(sys.argv[1], filesystem=Dying(), durability="relaxed")
store.append("d:1", [UntypedEvent("Added", {"number": 1})], ANY)
"""


def test_a_recovery_waits_for_a_stopped_sync_no_longer_than_the_deadline(tmp_path: Path) -> None:
    """Another writer has died meanwhile: who opens the store, or appends, would have to settle that first."""
    path = tmp_path / "s"
    with FileEventStore(path):
        pass

    def open_and_append() -> int:
        with FileEventStore(path, durability="relaxed", lock_timeout=0.2) as late:
            return late.append("b:1", [Added(1)], ANY)

    with stopped(path, "sync"), FileEventStore(path, durability="relaxed", lock_timeout=0.2) as store:
        store.append("a:1", [Added(1)], ANY)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        died = subprocess.run([sys.executable, "-c", DIES, str(path)], env=environment, check=False)
        assert died.returncode == 9
        for outcome in outcomes(lambda: store.append("a:1", [Added(2)], ANY), open_and_append):
            assert isinstance(outcome, (int, StoreBusyError)), outcome
    with FileEventStore(path) as store:
        store.append("a:1", [Added(3)], ANY)
        assert store.list_streams()[0] == "a:1"
        assert list(verify(store)) == []


def test_threads_of_one_store_wait_together(tmp_path: Path) -> None:
    """One after the other they would take six times as long: the last begins to wait when the first does."""
    path = tmp_path / "s"
    with FileEventStore(path, lock_timeout=GUARD / 5) as store:
        store.append("a:1", [Added(0)], ANY)
        with stopped(path, "write"):
            found = outcomes(*[lambda: store.append("a:1", [Added(1)], ANY)] * 6)
            assert [type(each) for each in found] == [LockTimeoutError] * 6
            assert len(store.read_stream("held:1")) == 3


def test_a_thread_that_stands_in_an_append_keeps_the_others_no_longer_than_the_deadline(tmp_path: Path) -> None:
    """Of the same store: not who appends, nor who wants to make it durable."""

    class Standing(FileSystem):
        armed = False

        def __init__(self) -> None:
            self.reached, self.go_on = threading.Event(), threading.Event()

        def write(self, fd: int, data: bytes) -> None:
            if self.armed:
                self.armed = False
                self.reached.set()
                self.go_on.wait()
            super().write(fd, data)

    standing = Standing()
    with FileEventStore(tmp_path / "s", lock_timeout=0.2, filesystem=standing) as store:
        store.append("a:1", [Added(0)], ANY)
        standing.armed = True
        thread = threading.Thread(target=store.append, args=("a:1", [Added(1)], 0), daemon=True)
        thread.start()
        standing.reached.wait()
        try:
            found = outcomes(lambda: store.append("b:1", [Added(2)], ANY), lambda: store.save_snapshot("a:1", 0, {}))
        finally:
            standing.go_on.set()
            thread.join()
        assert [type(each) for each in found] == [LockTimeoutError] * 2
        assert [event.number for event in store.read_stream("a:1")] == [0, 1]


def test_who_stands_behind_another_at_the_gate_waits_no_longer_than_the_deadline(tmp_path: Path) -> None:
    """The one at the gate has no deadline, so that it stands there as long as the holder is stopped."""
    path = tmp_path / "s"
    with FileEventStore(path, lock_timeout=None) as patient, FileEventStore(path, lock_timeout=0.2) as late:
        patient.append("a:1", [Added(0)], ANY)
        with stopped(path, "write"):
            waiting = threading.Thread(target=patient.append, args=("a:1", [Added(1)], ANY), daemon=True)
            waiting.start()
            while not write_session(late).write_lock._gate.holder():
                write_session(late).write_lock._gate.open()
            assert [type(each) for each in outcomes(lambda: late.append("a:1", [Added(2)], ANY))] == [LockTimeoutError]
        waiting.join(GUARD)
        assert [event.number for event in late.read_stream("a:1")] == [0, 1]


@pytest.mark.parametrize("stops_in", ["write", "sync"])
def test_a_store_without_its_state_is_opened_in_time_or_not_at_all(tmp_path: Path, stops_in: str) -> None:
    path = tmp_path / "s"
    with FileEventStore(path):
        pass
    with stopped(path, stops_in):
        (path / "state").unlink()

        def open_it() -> None:
            FileEventStore(path, lock_timeout=0.2).close()

        (outcome,) = outcomes(open_it)
        assert outcome is None or isinstance(outcome, StoreBusyError)
    with FileEventStore(path) as store:
        assert store.get_event_count() == 4
        assert list(verify(store)) == []


def test_the_command_line_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    """It says who has the store, and exits with 1."""
    path = tmp_path / "s"
    with FileEventStore(path):
        pass
    command = [
        sys.executable,
        "-m",
        "hangarlog",
        "--lock-timeout",
        "0.2",
        "append",
        str(path),
        "a:1",
        "--type",
        "Added",
    ]
    with stopped(path, "write") as process:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=GUARD
        )
        assert done.returncode == 1
        assert f"process {process.pid} is writing" in done.stderr
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0
