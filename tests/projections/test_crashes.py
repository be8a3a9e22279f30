"""Exactly once: a runner is killed between any two steps, or the power fails. No event is missing or comes twice."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting import Sums, add, append, in_sqlite, rows, sums

from hangarlog import FileEventStore, Record
from hangarlog.maintenance.verify import verify
from hangarlog.projections.definition import Definition
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing import registered
from hangarlog.testing.crashes import Recording, crash_states
from hangarlog.testing.events import Counted

EVENTS = 70


@pytest.fixture(autouse=True)
def counted_is_registered() -> Iterator[None]:
    with registered(Counted=Counted):
        yield


class Steps:
    """Counts steps, and kills the process before the one numbered `at`."""

    def __init__(self, at: int) -> None:
        self.at, self.done = at, 0

    def step(self) -> None:
        if self.done == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.done += 1


class KilledFileSystem(FileSystem):
    """Has a step before each call that changes something, and after a half of each write."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def write(self, fd: int, data: bytes) -> None:
        self.steps.step()
        super().write(fd, data[: len(data) // 2])
        self.steps.step()
        super().write(fd, data[len(data) // 2 :])

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self.steps.step()
        if bytes(data[:13]) == b'{"projection"':
            super().write_at(fd, data[: len(data) // 2], offset)
            self.steps.step()
        super().write_at(fd, data, offset)

    def open_new(self, path: str) -> int:
        self.steps.step()
        return super().open_new(path)

    def rename(self, old: str, new: str) -> None:
        self.steps.step()
        super().rename(old, new)

    def remove(self, path: str) -> None:
        self.steps.step()
        super().remove(path)

    def hold_byte(self, fd: int, at: int, *, alone: bool = False) -> None:
        self.steps.step()
        super().hold_byte(fd, at, alone=alone)

    def sync_data(self, fd: int) -> None:
        """Need not sync: the machine goes on."""

    def sync_folder(self, path: str) -> None:
        """Need not sync."""


def in_child(work: Callable[[], None]) -> bool:
    """Run it in a child. Return True if it was killed; False if it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def run(path: Path, steps: Steps, definition: Definition) -> None:
    with FileEventStore(path / "store", filesystem=KilledFileSystem(steps), durability="relaxed") as store:
        definition.run(store, 0)  # type: ignore[attr-defined]


def filled(path: Path) -> None:
    with FileEventStore(path / "store", durability="relaxed") as store:
        for number in range(EVENTS):
            append(store, number, stream_id=f"a:{number % 3}")


def of(position: int, times: int = 1) -> dict[str, int]:
    """The sums that a state must have as of a position."""
    found: dict[str, int] = {}
    for number in range(position):
        found[f"a:{number % 3}"] = found.get(f"a:{number % 3}", 0) + times * number
    return found


def twice(state: Sums, record: Record[Counted]) -> None:
    add(state, record)
    add(state, record)


def test_no_kill_makes_a_duplicate_between_state_and_position(tmp_path: Path) -> None:
    """Killed before each step in turn, it goes on, and at each point the state is that of its position."""
    at, killed = 0, True
    while killed:
        path = tmp_path / str(at)
        filled(path)
        killed = in_child(lambda: run(path, Steps(at), sums(every_events=1)))  # noqa: B023
        with FileEventStore(path / "store", durability="relaxed") as store:
            loaded = sums().load(store)
            assert loaded.state == Sums(loaded.position, of(loaded.position))
            assert store.cursor("sums").position <= loaded.position
            sums().run(store, 0)
            assert sums().load(store) == (Sums(EVENTS, of(EVENTS)), EVENTS)
            assert store.wait("sums", EVENTS, 0)
            assert list(verify(store)) == []
        at += 1
    assert at > 20


def test_no_kill_in_a_rebuild_takes_the_old_state_away(tmp_path: Path) -> None:
    """Killed before each step in turn: either the old state is there or the new one, and the next run ends it."""
    at, killed = 0, True
    while killed:
        path = tmp_path / str(at)
        filled(path)
        with FileEventStore(path / "store", durability="relaxed") as store:
            sums().run(store, 0)
        newer = sums(version=2, apply=twice, every_seconds=1e-9)
        killed = in_child(lambda: run(path, Steps(at), newer))  # noqa: B023
        with FileEventStore(path / "store", durability="relaxed") as store:
            stored = newer._stored(store)
            assert stored
            loaded = (sums() if stored.version == 1 else newer).load(store)
            assert loaded == (Sums(EVENTS * stored.version, of(EVENTS, stored.version)), EVENTS)
            newer.run(store, 0)
            assert newer.load(store) == (Sums(2 * EVENTS, of(EVENTS, 2)), EVENTS)
            assert not newer._has_unfinished(store)
        at += 1
    assert at > 20


class KilledConnection(sqlite3.Connection):
    """Has a step before each statement."""

    steps: Steps

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self.steps.step()
        return super().execute(*arguments)


def killed_in_sqlite(path: Path, steps: Steps, **options: Any) -> Any:
    def connect(database: str) -> sqlite3.Connection:
        connection = sqlite3.connect(database, factory=KilledConnection)
        connection.steps = steps  # type: ignore[attr-defined]
        super(KilledConnection, connection).execute("PRAGMA synchronous = OFF")
        return connection

    return in_sqlite(path, connect=connect, **options)


def in_rows(position: int) -> list[tuple[str, int, int]]:
    return [(name, (position - int(name[2:]) + 2) // 3, total) for name, total in sorted(of(position).items())]


STATEMENTS = [*range(15), *range(15, 75, 15), *range(75, 105), 10_000]


@pytest.mark.parametrize("rebuild", [False, True], ids=["live", "rebuilt"])
def test_no_kill_makes_a_duplicate_in_sqlite(tmp_path: Path, rebuild: bool) -> None:
    """Rows and position are of one transaction, and so is the exchange of the tables after a rebuild."""
    outcomes = set()
    for at in STATEMENTS:
        path = tmp_path / str(at)
        filled(path)
        if rebuild:
            with FileEventStore(path / "store", durability="relaxed") as store:
                in_sqlite(path).run(store, 0)
        options: dict[str, Any] = {"version": 1 + rebuild, "every_events": 1}
        killed = in_child(lambda: run(path, Steps(at), killed_in_sqlite(path, Steps(at), **options)))  # noqa: B023
        outcomes.add(killed)
        position = in_sqlite(path).position
        if position:
            assert rows(path) == in_rows(position)
        assert position == EVENTS or not rebuild
        with FileEventStore(path / "store", durability="relaxed") as store:
            in_sqlite(path, version=1 + rebuild).run(store, 0)
            assert store.wait("sums", EVENTS, 0)
        assert rows(path) == in_rows(EVENTS)
        assert sorted(each.name for each in path.iterdir()) == ["model.db", "store"]
    assert outcomes == {True, False}


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")  # Of a cursor's line that was cut.
@pytest.mark.parametrize("durability", ["always", "relaxed"])
def test_no_power_cut_leaves_a_state_without_its_events(tmp_path: Path, durability: Any) -> None:
    """In each state that it may leave, the state that counts is that of its position, and the next run ends it."""
    path = tmp_path / "store"
    path.mkdir()
    recording = Recording(path)
    projection = sums(every_events=1)
    with FileEventStore(path, filesystem=recording, durability=durability) as store:
        for number in range(8):
            append(store, number, stream_id=f"a:{number % 3}")
            if number % 2:
                projection.run(store, 0)
            recording.note(number)
        sums(version=2, apply=twice).run(store, 0)
    newer = sums(version=2, apply=twice)
    for at, crashed in enumerate(crash_states(recording.operations, random.Random(3), 4)):
        folder = tmp_path / f"crashed-{at}"
        folder.mkdir()
        crashed.write_to(folder)
        if not (folder / "hangarlog.json").exists():
            continue
        with FileEventStore(folder, durability=durability) as store:
            count = store.get_event_count()
            stored = newer._stored(store)
            assert stored is None or stored.position <= count
            if stored:
                state, position = (sums() if stored.version == 1 else newer).load(store)
                assert state == Sums(position * stored.version, of(position, stored.version)), crashed.lost
            newer.run(store, 0)
            assert newer.load(store) == (Sums(2 * count, of(count, 2)), count)
            assert store.cursor("sums").position == count
