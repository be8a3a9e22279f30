"""`execute` between processes: among themselves, callers need few attempts, and a killed one stops nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Added

from hangarlog import FileEventStore, LockTimeoutError
from hangarlog.filestore.turns import Turns
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.platform import BYTE_LOCKS

WRITERS = Path(__file__).parent / "writers.py"


def start(command: str, path: Path, amount: int = 0) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(WRITERS), command, str(path), "a:1", "0", str(amount)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not BYTE_LOCKS, reason="turns need locks on bytes, which only Linux has")
def test_processes_in_contention_need_a_bounded_number_of_attempts(tmp_path: Path) -> None:
    """Two processes count in one stream: after one conflict, a caller's turn comes before the other's next call."""
    FileEventStore(tmp_path / "s").close()
    processes = [start("deciding", tmp_path / "s", 150) for _ in range(2)]
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    most = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert max(most) <= 3
    with FileEventStore(tmp_path / "s") as store:
        assert store.read_stream("a:1") == [Added(n) for n in range(300)]


@pytest.mark.skipif(not BYTE_LOCKS, reason="turns need locks on bytes, which only Linux has")
def test_a_turn_ends_with_its_process(tmp_path: Path) -> None:
    """Others wait for it no longer than the lock timeout, and not at all after it is killed."""
    path = str(tmp_path / "turns.lock")
    holder = start("holding", tmp_path / "turns.lock")
    assert holder.stdout
    assert holder.stdout.readline() == "taken\n"
    hurried = Turns(FileSystem(), path, 0.0)
    with pytest.raises(LockTimeoutError):
        hurried.wait("a:1")
    with pytest.raises(LockTimeoutError), hurried.taken("a:1"):
        pass
    hurried.wait("a:2")  # Another stream's turn.
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    hurried.wait("a:1")
    with hurried.taken("a:1"):
        pass
