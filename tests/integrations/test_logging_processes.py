"""What several threads and processes log is in the store once, also at a fork, an exit or a kill."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from hangarlog import FileEventStore


def messages_of(path: Path) -> list[str]:
    with FileEventStore.untyped(path) as store:
        return [event.data["message"] for event in store.read_stream("log:x")]


BURST = """
import logging, sys, threading
from hangarlog.integrations.logging import HangarlogHandler
handler = HangarlogHandler(sys.argv[1], stream=sys.argv[3], linger=float(sys.argv[4]))
logging.basicConfig(level="INFO", handlers=[handler])
def burst(thread):
    log = logging.getLogger(f"t{thread}")
    for number in range(100):
        log.info("%s-%d-%d", sys.argv[2], thread, number)
threads = [threading.Thread(target=burst, args=(thread,)) for thread in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


@pytest.mark.parametrize(("stream", "linger"), [("log:{name}", "0"), ("log:all", "0"), ("log:{name}", "0.05")])
def test_a_burst_of_eight_threads_in_four_processes(stream: str, linger: str, tmp_path: Path) -> None:
    """Each record once, and those of a thread in their order."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", BURST, tmp_path / "s", str(number), stream, linger], env=environment)
        for number in range(4)
    ]
    assert [process.wait() for process in processes] == [0] * 4
    by_thread: dict[str, list[int]] = {}
    with FileEventStore.untyped(tmp_path / "s") as store:
        for record in store.records():
            process, thread, number = record.event.data["message"].split("-")
            by_thread.setdefault(f"{process}-{thread}", []).append(int(number))
    assert len(by_thread) == 32
    assert all(numbers == [*range(100)] for numbers in by_thread.values())


ENDS = """
import atexit, logging, multiprocessing, os, sys, threading
from hangarlog.integrations.logging import HangarlogHandler
log = logging.getLogger("x")
def child(how, stop):
    log.warning("child")
    if how == "fork":
        log.handlers[0].flush()
        os._exit(0)
if __name__ == "__main__":
    atexit.register(log.warning, "after the shutdown")
    log.addHandler(HangarlogHandler(sys.argv[1], linger=float(sys.argv[3])))
    how, stop = sys.argv[2], threading.Event()
    def busy():
        while not stop.is_set():
            log.warning("busy")
    thread = threading.Thread(target=busy)
    thread.start()
    for _ in range(20):
        if how == "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=child, args=(how, stop))
            process.start()
            process.join()
        else:
            pid = os.fork()
            pid or child(how, stop)
            os.waitpid(pid, 0)
    stop.set()
    thread.join()
    log.warning("last")
"""


@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
@pytest.mark.parametrize("linger", ["0", "1"])
def test_nothing_is_lost_at_a_fork_or_an_exit(how: str, linger: str, tmp_path: Path) -> None:
    """While another thread logs; a child has the handler, but not what waits in it."""
    (tmp_path / "program.py").write_text(ENDS)
    command = [sys.executable, "-W", "ignore", "program.py", str(tmp_path / "s"), how, linger]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=100)
    messages = Counter(messages_of(tmp_path / "s"))
    assert messages.pop("busy") > 0
    assert messages == {"child": 20, "last": 1, "after the shutdown": 1}


KILLED = """
import logging, os, sys
from hangarlog.integrations.logging import HangarlogHandler
log = logging.getLogger("x")
log.addHandler(HangarlogHandler(sys.argv[1]))
for number in range(100):
    log.warning(number)
os.kill(os.getpid(), 9)
"""


def test_a_kill_loses_no_record_whose_call_returned(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "s")]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode == -9
    assert messages_of(tmp_path / "s") == [str(number) for number in range(100)]
