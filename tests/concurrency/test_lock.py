"""Waiting for a store: with a limit, in turn, and whatever becomes of who holds it or waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT, Added

import hangarlog.system.futex
from hangarlog import ANY, ConcurrencyError, FileEventStore, LockTimeoutError, StoreBusyError, UntypedEvent
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing.probe import write_session

STUCK = """
import os, signal, sys
from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.system.filesystem import FileSystem
class Stopping(FileSystem):
    def write(self, fd, data):
        super().write(fd, data)
        if b',"stream_id":' in data:
            print("stopped", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
store = FileEventStore(sys.argv[1], durability="relaxed", filesystem=Stopping())
store.append("a:1", [UntypedEvent("Added", {"number": 1})], ANY)
"""


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,  # One that waits for a line is to wait.
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout
    process.stdout.readline()
    return process


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")
def test_a_process_that_hangs_in_an_append_is_named_when_time_is_up(tmp_path: Path) -> None:
    """Nothing was written meanwhile; reading goes on; when it goes on, so do all; when it is killed, too."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed"):
        pass
    for last in (signal.SIGCONT, signal.SIGKILL):
        process = started(STUCK, path)
        try:
            with FileEventStore(path, durability="relaxed", lock_timeout=0.05) as store:
                before = store.get_event_count()
                for _ in range(2):
                    with pytest.raises(LockTimeoutError, match=f"process {process.pid} is writing") as caught:
                        store.append("a:1", [Added(2)], ANY)
                assert isinstance(caught.value, StoreBusyError)
                assert (caught.value.pid, caught.value.seconds) == (process.pid, 0.05)
                assert len(store.read_stream("a:1")) == store.get_event_count() == before
                while last == signal.SIGCONT and process.poll() is None:  # It stops at each of its two writes.
                    process.send_signal(signal.SIGCONT)
                process.send_signal(last)
                assert process.wait() == (0 if last == signal.SIGCONT else -signal.SIGKILL)
                assert store.append("a:1", [Added(2)], ANY) == before + 1
                assert list(verify(store)) == []
        finally:
            process.kill()
            process.communicate()


def test_no_time_at_all_takes_only_what_is_free(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s", durability="relaxed", lock_timeout=0) as store:
        assert store.append("a:1", [Added(1)], ANY) == 0
        holder = started(
            "import signal, sys; from hangarlog.system.file_lock import *; "
            "from hangarlog.filestore.folder import Folder; "
            "from hangarlog.system.filesystem import FileSystem; "
            "lock = Folder(FileSystem(), sys.argv[1]).write_lock(); "
            "lock.acquire(); print('held', flush=True); signal.pause()",
            tmp_path / "s",
        )
        try:
            with pytest.raises(LockTimeoutError, match=rf"process {holder.pid} is writing"):
                store.append("a:1", [Added(2)], ANY)
        finally:
            holder.kill()
            holder.communicate()
        assert holder.returncode == -signal.SIGKILL
        assert store.append("a:1", [Added(2)], ANY) == 1
    with pytest.raises(ValueError, match="lock_timeout"):
        FileEventStore(tmp_path / "s", lock_timeout=-1)


def test_a_waiter_that_dies_keeps_nobody_waiting(tmp_path: Path) -> None:
    """It stood at the gate, alone; the next one takes its place."""
    with FileEventStore(tmp_path / "s", durability="relaxed", lock_timeout=None) as store:
        store.append("a:1", [Added(1)], ANY)
        with write_session(store).lock():
            waiter = started(
                "import sys; from hangarlog import *; print('waits', flush=True); "
                "FileEventStore(sys.argv[1]).append('a:1', [UntypedEvent('Added', {'number': 2})], ANY)",
                tmp_path / "s",
            )
            gate = tmp_path / "s/locks/write-gate.lock"
            import fcntl

            with gate.open("a") as file:  # The first who has to wait makes it.
                while True:  # Until it stands there.
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        break
                    fcntl.flock(file, fcntl.LOCK_UN)
            waiter.kill()
            waiter.communicate()
            assert waiter.returncode == -signal.SIGKILL
        assert store.append("a:1", [Added(3)], 0) == 1


@pytest.mark.parametrize("futex", [True, False])
@pytest.mark.parametrize("durability", ["always", "relaxed"])
def test_threads_and_stores_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, futex: bool, durability: str
) -> None:
    """Also where the system has no futex, and a waiter looks again every millisecond."""
    if not futex:
        monkeypatch.setattr(hangarlog.system.futex, "has_futex", lambda: False)
    path = tmp_path / "s"
    stores = [FileEventStore(path, durability=durability) for _ in range(3)]  # type: ignore[arg-type]

    def work(own: int) -> None:
        for number in range(40):
            stores[own % 3].append(f"a:{own}", [Added(number)], number - 1)

    threads = [threading.Thread(target=work, args=(own,)) for own in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].get_event_count() == 240
    assert list(verify(stores[0])) == []
    for store in stores:
        store.close()


def test_an_append_from_within_an_append_is_refused(tmp_path: Path) -> None:
    """As a signal handler or a finalizer may try: the one that is going on comes to its end."""

    class Nesting(FileSystem):
        nests = False

        def write(self, fd: int, data: bytes) -> None:
            super().write(fd, data)
            if self.nests:
                Nesting.nests = False
                with pytest.raises(RuntimeError, match="from within"):
                    store.append("b:1", [Added(2)], ANY)

    with FileEventStore(tmp_path / "s", durability="relaxed", filesystem=Nesting()) as store:
        Nesting.nests = True
        assert store.append("a:1", [Added(1)], ANY) == 0
        assert not Nesting.nests
        assert store.append("b:1", [Added(2)], ANY) == 0
        assert list(verify(store)) == []


def test_a_conflict_that_can_be_seen_waits_for_nobody(tmp_path: Path) -> None:
    """Somebody has the lock; a retry, and what is in doubt, has to wait for it all the same."""
    with (
        FileEventStore(tmp_path / "s", durability="relaxed", lock_timeout=0) as store,
        FileEventStore(tmp_path / "s", durability="relaxed") as other,
    ):
        mine = UntypedEvent("Added", {"number": 1}, event_id="mine")
        assert store.append("a:1", [mine], ANY) == 0
        for number in range(3):
            other.append("a:1", [Added(number)], number)
        with write_session(other).lock():
            with pytest.raises(ConcurrencyError) as conflict:
                store.append("a:1", [Added(9)], 0)
            assert (conflict.value.expected, conflict.value.actual) == (0, 3)
            for expected, event in ((3, Added(9)), (-1, mine), (ANY, Added(9)), (7, Added(9))):
                with pytest.raises(LockTimeoutError):
                    store.append("a:1", [event], expected)
        assert store.append("a:1", [mine], -1) == 0
        with pytest.raises(ConcurrencyError):
            store.append("a:1", [Added(9)], 7)
        assert store.append("a:1", [Added(9)], 3) == 4
        assert list(verify(store)) == []
