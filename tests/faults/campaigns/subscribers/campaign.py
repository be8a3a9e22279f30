"""Row 19: subscribers in threads and processes, of a store that is written, rolled, compacted, and whose users die."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path

from hangarlog import ANY, FileEventStore
from hangarlog.maintenance.verify import verify
from hangarlog.system.futex import NUMBER, has_futex

from ..child import Child
from ..harness import Campaign, Figures
from ..jobs import die_with_parent
from .actors import QUIET, THREADS, Shared, Subscribers, event, streams, write
from .model import PAIR, Model

WRITERS, FOLLOWERS = 2, 3
ROUND = 125_000
"""Deliveries of a round, about."""
WOKEN_SECONDS = 30.0
"""A hang guard, no promise: seconds for a wake-up to arrive when nobody is killed."""


class Round:
    """One store, those who use it, and what happens to them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._rng, self._seeds = random.Random(seed), count(seed * 1000)
        self.store, self._logs = folder / "store", folder / "logs"
        self._logs.mkdir()
        segment_bytes = self._rng.choice((4_000, 20_000, 200_000))
        FileEventStore.untyped(self.store, durability="relaxed", segment_bytes=segment_bytes).close()
        self.shared, self.done = Shared(), Counter[str]()
        self._numbers = count()
        self._last_logs: dict[int, list[Path]] = {}
        self._writers = [self._writer() for _ in range(WRITERS)]
        self._followers = [self._follower(at) for at in range(FOLLOWERS)]

    def _writer(self) -> Child:
        seed = next(self._seeds)

        def work(report: int) -> None:
            die_with_parent()
            write(self.store, seed, self.shared)

        return Child(work)

    def _follower(self, at: int, *, anew: bool = True) -> Child:
        """Start a process of subscribers: new ones, or those of a killed process."""
        seed = next(self._seeds)
        if anew:
            self._last_logs[at] = [self._logs / f"log-{next(self._numbers)}" for _ in range(THREADS)]
        logs = self._last_logs[at]

        def work(report: int) -> None:
            die_with_parent()
            Subscribers(self.store, logs, seed, self.shared).run()

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # Until the child handles it.
        try:
            return Child(work)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def deliveries(self) -> int:
        return sum(log.stat().st_size for log in self._logs.iterdir()) // PAIR.size

    def trouble(self) -> None:
        """Let something happen."""
        rng = self._rng
        time.sleep(rng.random() ** 2 * 0.1)
        if rng.random() < 0.1:
            self._compress()
            return
        group = self._writers if rng.random() < 0.3 else self._followers
        at = rng.randrange(len(group))
        what = rng.choice(("kill", "kill", "pause", "stop"))
        if what == "pause":
            os.kill(group[at].pid, signal.SIGSTOP)
            time.sleep(rng.random() ** 2 * 0.1)
            os.kill(group[at].pid, signal.SIGCONT)
        elif what == "kill":
            group[at].kill()
            group[at].wait()
            group[at].rest()
            group[at].end()
            group[at] = self._writer() if group is self._writers else self._follower(at, anew=rng.random() < 0.7)
        elif group is self._followers:
            os.kill(group[at].pid, signal.SIGTERM)
        else:
            return
        self.done[f"{what} {'writer' if group is self._writers else 'follower'}"] += 1

    def _compress(self) -> None:
        """Compress in a process that may be killed at any moment."""
        seal, killed = self._rng.random() < 0.5, self._rng.random() < 0.5

        def work(report: int) -> None:
            die_with_parent()
            with FileEventStore.untyped(self.store, durability="relaxed") as store:
                store.compress(seal=seal)

        child = Child(work)
        try:
            if killed:
                time.sleep(self._rng.random() ** 2 * 0.1)
                child.kill()
            child.rest()
            assert child.wait() in (0, -signal.SIGKILL), f"a compression ended with {child.status}"
        finally:
            child.end()
        self.done["kill compression" if child.status else "compress"] += 1

    def settle(self) -> None:
        """End the writers. Then one last batch must wake all followers, and be their last."""
        self.shared.phase = QUIET
        for writer in self._writers:
            writer.rest()
            assert writer.wait() == 0, f"a writer ended with {writer.status}"
        with FileEventStore.untyped(self.store, durability="relaxed") as store:
            for at, follower in enumerate(self._followers):
                self._await_sleep(follower, self._last_logs[at])
            self.shared.goal = store.get_event_count() + 1
            last = sorted({"a:1", "b:1", *streams(self._rng)})
            parts = [(stream_id, [event(random.Random(number)) for number in range(9)], ANY) for stream_id in last]
            store.append_many(parts)
            store.sync()
            for follower in self._followers:
                woken = select.select([follower.reading], [], [], WOKEN_SECONDS)[0]
                assert woken, "a follower was not woken by what was committed while it slept"
                follower.rest()
                assert follower.wait() == 0, f"a follower ended with {follower.status}"

    def _await_sleep(self, follower: Child, logs: list[Path]) -> None:
        """Return when all threads of a follower sleep at the store's futex, and none looks by itself."""
        give_up = time.monotonic() + WOKEN_SECONDS
        while time.monotonic() < give_up:
            if select.select([follower.reading], [], [], 0.002)[0]:
                follower.rest()  # It says what is wrong.
                raise AssertionError(f"a follower ended too early, with {follower.wait()}")
            tasks = Path(f"/proc/{follower.pid}/task").iterdir()
            if self.shared.are_quiet(logs) and sum(map(_sleeps, tasks)) == THREADS:
                return
        raise AssertionError("a follower does not get to the end, or does not sleep there")

    def check(self) -> None:
        """Compare all that was given with the journal."""
        model = Model(self.store)
        current = {log for logs in self._last_logs.values() for log in logs}
        for log in self._logs.iterdir():
            if log.stat().st_size >= PAIR.size:
                self.done["deliveries"] += model.check(log, to_the_end=log in current)
        self.done["events"] += len(model.lines)
        with FileEventStore.untyped(self.store, create=False) as store:
            damage = list(verify(store))
            assert not damage, f"verify finds {damage}"

    def end(self) -> None:
        for child in [*self._writers, *self._followers]:
            child.end()


def _sleeps(task: Path) -> bool:
    try:
        words = (task / "syscall").read_text().split()
    except OSError:
        return False
    return words[:1] == [str(NUMBER)] and int(words[2], 16) == 9  # FUTEX_WAIT_BITSET, not private.


def run(folder: Path, size: int, seed: int) -> Figures:
    done: Counter[str] = Counter()
    for number in count():
        if done["deliveries"] >= size:
            break
        path = folder / "round"
        path.mkdir()
        try:
            this = Round(path, seed * 100_003 + number)
            try:
                while this.deliveries() < min(ROUND, size - done["deliveries"]):
                    this.trouble()
                this.settle()
                this.check()
            finally:
                this.end()
        except Exception as error:
            raise AssertionError(f"seed {seed}, round {number}: {error}") from error
        done += this.done
        done["stores"] += 1
        shutil.rmtree(path)
    names = ("deliveries", "events", "stores", "kill writer", "kill follower", "pause writer", "pause follower")
    return {name: done[name] for name in (*names, "stop follower", "compress", "kill compression")}


def _missing() -> str | None:
    if not (sys.platform == "linux" and has_futex()):
        return "it looks into /proc, and needs futexes"
    return None


CAMPAIGN = Campaign(
    row=19,
    fault="subscribers that are killed, stopped and started, of a store whose writers and compressions are, too",
    promise="every subscriber gets exactly the committed events after its start: no gap, no double, at a stop never "
    "half a batch, nothing that is not durable yet if it asked for that; no wake-up is lost",
    how="2 processes append single events and batches, relaxed and durable, roll and truncate; 9 subscribers in 3 "
    "processes, some with filters, are killed, paused and stopped, and go on from their positions; segments are sealed "
    "and compressed by processes that are killed, too; all that they were "
    "given is compared with the journal's lines; at the end, when none looks by itself any more, one batch must wake "
    "all",
    ci=1_000_000,
    release=100_000_000,
    unit="deliveries",
    run=run,
    missing=_missing,
)
