"""Row 20: the lives of stores, in phases. Between two phases nobody has the store, and all of it is checked."""

from __future__ import annotations

import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

from hangarlog import FileEventStore

from ..child import Child
from ..harness import Campaign, Figures
from ..jobs import die_with_parent
from .actors import Shared, Writer, follow
from .keepers import KEEPERS, back_up
from .model import Model
from .streams import Rules

WRITERS, FOLLOWERS = 2, 2
PHASE = 20_000
"""Calls of the writers in a phase, about."""
PHASES = 4
CALLS_PER_KILL = 200
"""At least, in a phase: on a slow machine, too, the processes get further than to their start."""


class Life:
    """One store, those who use it, and what happens to them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._rng, self._processes = random.Random(seed), count(1)
        self._folder, self._store = folder, folder / "store"
        for name in ("diaries", "logs"):
            (folder / name).mkdir()
        segment_bytes = self._rng.choice((10_000, 50_000, 400_000))
        FileEventStore.untyped(self._store, durability="relaxed", segment_bytes=segment_bytes).close()
        self._rules = Rules.made(self._rng)
        self.model, self.done = Model(self._rules), Counter[str]()
        self._children: list[Child] = []

    def _diaries(self) -> list[Path]:
        return sorted((self._folder / "diaries").iterdir())

    def _logs(self) -> list[Path]:
        return [self._folder / "logs" / str(at) for at in range(FOLLOWERS)]

    def _child(self, work: Callable[[], None]) -> Child:
        def run(report: int) -> None:
            die_with_parent()
            work()

        child = Child(run)
        self._children.append(child)
        return child

    def _writer(self, at: int) -> Child:
        process = next(self._processes)
        diary = self._folder / "diaries" / f"{process:06}"
        return self._child(lambda: Writer(self._store, diary, at, process, self._shared, self._rules).run())

    def _follower(self, at: int) -> Child:
        log, seed = self._logs()[at], self._rng.random()
        return self._child(lambda: follow(self._store, log, seed, self._shared))

    def phase(self, size: int) -> None:
        """Let all of them work, and die, until the writers have made `size` calls."""
        self._shared = Shared()
        self._writers = [self._writer(at) for at in range(WRITERS)]
        self._followers = [self._follower(at) for at in range(FOLLOWERS)]
        self._noted_before, self._replaced = self._noted(), 0
        while self._calls() < size:
            self._happen()
        self._shared.ending = 1
        for writer in self._writers:
            self._join(writer)
        self._settle()

    def _noted(self) -> int:
        return sum(diary.stat().st_size for diary in self._diaries())

    def _calls(self) -> int:
        """Those of the writers in this phase, about."""
        return (self._noted() - self._noted_before) // 80

    def _happen(self) -> None:
        rng = self._rng
        time.sleep(rng.random() ** 2 * 0.05)
        kind = rng.random()
        if kind < 0.4:
            self._replace_one()
        else:
            self._keep(rng.choice([*KEEPERS]), killed=rng.random() < 0.4)

    def _replace_one(self) -> None:
        if self._calls() < self._replaced * CALLS_PER_KILL:
            return
        self._replaced += 1
        if self._rng.random() < 0.5:
            self._replace(self._writers, self._writer, "writer")
        else:
            self._replace(self._followers, self._follower, "follower")

    def _replace(self, group: list[Child], start: Callable[[int], Child], name: str) -> None:
        at = self._rng.randrange(len(group))
        group[at].kill()
        self._join(group[at])
        group[at] = start(at)
        self.done[f"kill {name}"] += 1

    def _keep(self, name: str, *, killed: bool) -> None:
        rng = random.Random(self._rng.random())
        child = self._child(lambda: KEEPERS[name](self._store, self._rules, rng))
        if killed:
            time.sleep(self._rng.random() ** 3 * 0.3)
            child.kill()
        while not (self._shared.ending or select.select([child.reading], [], [], self._rng.random() * 0.4)[0]):
            self._replace_one()  # Others die beside it.
        self._join(child)
        self.done[f"kill: {name}" if child.status else name] += 1

    def _join(self, child: Child) -> None:
        child.rest()
        assert child.wait() in (0, -signal.SIGKILL), f"a process ended with {child.status}"
        child.end()
        self._children.remove(child)

    def _settle(self) -> None:
        """Apply the policies once more; then nobody has the store, and all of it is checked."""
        began = time.time()
        self._keep("retain", killed=False)
        with FileEventStore.untyped(self._store, create=False) as store:
            last = next(record.position for record in store.records(reverse=True, limit=1))
        self._shared.goal = last
        for follower in self._followers:
            self._join(follower)
        self.model.learn(self._diaries())
        self.model.learn_deliveries(self._logs())
        self.model.check(self._store, settled_at=began)
        self.done["deliveries"] += self.model.check_followers(self._logs(), last)

    def move(self) -> None:
        """Go on with the store, with its backup, or with a copy of it."""
        old, kind = self._folder / "old", self._rng.choice(("stay", "stay", "restore", "copy"))
        if kind == "stay":
            return
        if kind == "restore":
            back_up(self._store, self._rules, self._rng)
        self._store.rename(old)
        source = self._folder / "backup" if kind == "restore" else old
        subprocess.run(["cp", "-a" if self._rng.random() < 0.5 else "-r", source, self._store], check=True)
        shutil.rmtree(old)
        self.model.check(self._store)
        self.done[kind] += 1

    def end(self) -> None:
        for child in self._children:
            child.end()


def run(folder: Path, size: int, seed: int) -> Figures:
    done: Counter[str] = Counter()
    for number in count():
        if done["operations"] >= size:
            break
        path = folder / "life"
        path.mkdir()
        try:
            life = Life(path, seed * 100_003 + number)
            try:
                for _ in range(PHASES):
                    life.phase(min(PHASE, size - done["operations"] + 100))
                    life.move()
            finally:
                life.end()
        except Exception as error:
            raise AssertionError(f"seed {seed}, store {number}: {error}") from error
        done += life.done
        done["operations"] += life.model.operations + sum(life.done[each] for each in life.done if each != "deliveries")
        done["events"] += life.model.last
        done["stores"] += 1
        shutil.rmtree(path)
    first = ("operations", "events", "deliveries", "stores", "kill writer", "kill follower")
    return {name: done[name] for name in (*first, *sorted(done.keys() - set(first)))}


def _missing() -> str | None:
    return None if sys.platform == "linux" else "its processes end with their parent, by a call of Linux"


CAMPAIGN = Campaign(
    row=20,
    fault="stores that live long: written, followed, compressed, retained, archived, backed up, restored, by processes "
    "that are killed at any moment",
    promise="nothing that the policies keep is ever lost; what they have dropped never comes back; the store stays "
    "within their bounds; every follower gets what is there, in order; `verify` finds nothing",
    how="2 processes append, read, delete, truncate and save snapshots, 2 follow, and others compress, retain, "
    "archive, back up and restore, each killed at random moments; then the policies are applied once more, and every "
    "event that a writer has noted is looked for in the journal, in its stream and in the archives; the next phase "
    "goes on with the store, its backup, or a copy of it",
    ci=100_000,
    release=10_000_000,
    unit="operations",
    run=run,
    missing=_missing,
    in_memory=True,
)
