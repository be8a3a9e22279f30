"""Waiting for a cursor, across processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from conftest import Added

from hangarlog import FileEventStore
from hangarlog.filestore import cursor_waiting
from hangarlog.system.waking import Waking

LONG = 60.0


def child(work: Callable[[], bool]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return pid


def ended_well(pid: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_move_in_another_process_wakes_a_wait(tmp_path: Path) -> None:
    """Each of many, and at once: with a patience of minutes, none looks by itself."""
    cursor_waiting._PATIENCE_SECONDS, before = 600.0, cursor_waiting._PATIENCE_SECONDS
    try:
        path = tmp_path / "store"
        with FileEventStore(path, durability="relaxed") as store:
            store.append_at_end("a:1", [Added(number) for number in range(50)])

        def follows(mine: str, other: str, ahead: int) -> bool:
            with FileEventStore(path, durability="relaxed") as store:
                for position in range(1, 51):
                    store.cursor(mine).advance(position)
                    if not store.wait(other, position - ahead, LONG):
                        return False
                return True

        def looks_on() -> bool:
            with FileEventStore(path, durability="relaxed") as store:
                return all(store.wait(name, position, LONG) for position in range(0, 51, 10) for name in ("a", "b"))

        pids = [child(lambda: follows("a", "b", 1)), child(lambda: follows("b", "a", 0)), child(looks_on)]
        assert [ended_well(pid) for pid in pids] == [True] * 3
    finally:
        cursor_waiting._PATIENCE_SECONDS = before


def test_a_mover_that_dies_before_it_wakes_anybody_is_found_out(tmp_path: Path) -> None:
    """The sleeper looks by itself after a while."""
    path = tmp_path / "store"
    with FileEventStore(path, durability="relaxed") as store:
        store.append_at_end("a:1", [Added(1)])

        def dies() -> bool:
            Waking.wake_everybody = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
            with FileEventStore(path, durability="relaxed") as mine:
                while True:  # Until somebody waits.
                    mine.cursor("a").advance(1)
                    mine.append_at_end("a:1", [Added(2)], cursor=mine.cursor("a").at(1))

        pid = child(dies)
        assert store.wait("a", 1, LONG)
        assert store.wait("b", 0, LONG)
        store.wait("b", 1, 0.2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_who_may_only_read_can_wait(tmp_path: Path) -> None:
    """It polls."""
    path = tmp_path / "store"
    with FileEventStore(path, durability="relaxed") as store:
        store.append_at_end("a:1", [Added(1)])
        store.cursor("a").advance(0)
        store._state.writable = False
        pid = child(lambda: bool(FileEventStore(path, durability="relaxed").cursor("a").advance(1)) or True)
        assert store.wait("a", 1, LONG)
        store._state.writable = True
        assert ended_well(pid)
