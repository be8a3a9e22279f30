"""The processes of row 19: those that append, and those that follow."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hangarlog.filestore.tail
from hangarlog import ANY, ConcurrencyError, EncodedEvent, FileEventStore

from .model import FILTERS, PAIR, STARTED, STOPPED, logged, number_of

BUSY, QUIET = 0, 1
THREADS = 3
_BEAT_SECONDS = 0.03
_FLUSH = 64 * PAIR.size


class Shared:
    """What the processes of a round share: its phase, and the position from which on nothing more will come."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16 * mmap.PAGESIZE)

    def _at(self, at: int) -> int:
        return int.from_bytes(self._memory[at : at + 8], "little")

    def _set(self, at: int, value: int) -> None:
        self._memory[at : at + 8] = value.to_bytes(8, "little")

    phase = property(lambda self: self._at(0), lambda self, value: self._set(0, value))
    goal = property(lambda self: self._at(8), lambda self, value: self._set(8, value))

    def is_quiet(self, log: str) -> None:
        """Note that the subscriber of a log knows of the last phase."""
        self._memory[16 + int(log.rpartition("-")[2])] = 1

    def are_quiet(self, logs: Iterable[Path]) -> bool:
        return all(self._memory[16 + int(log.name.rpartition("-")[2])] for log in logs)


def event(rng: random.Random) -> EncodedEvent:
    size = rng.choice((0, 10, 100, 100, 1000))
    return EncodedEvent(rng.choice(("Even", "Odd", "Third")), b'{"text":"%s"}' % (b"x" * size))


def streams(rng: random.Random) -> list[str]:
    return [f"{rng.choice('abc')}:{rng.randrange(8)}", "kept:1", "other:1"]


def write(path: Path, seed: int, shared: Shared) -> None:
    """Append single events and batches, relaxed and durable, at random moments, and truncate streams."""
    rng = random.Random(seed)
    with FileEventStore.untyped(path, durability="relaxed") as store:
        while shared.phase == BUSY:
            _append(store, rng)
            if rng.random() < 0.3:
                time.sleep(rng.random() ** 4 * 0.02)


def _append(store: FileEventStore[Any], rng: random.Random) -> None:
    kind, stream_id = rng.random(), rng.choice(streams(rng))
    durability: Any = "always" if rng.random() < 0.2 else "relaxed"
    if kind < 0.6:
        store.append(stream_id, [event(rng)], ANY, durability=durability)
    elif kind < 0.8:
        store.append(stream_id, [event(rng) for _ in range(rng.randrange(1, 60))], ANY, durability=durability)
    elif kind < 0.97:
        parts = [(each, [event(rng) for _ in range(rng.randrange(1, 4))], ANY) for each in set(streams(rng))]
        store.append_many(parts, durability=durability)
    elif stream_id != "kept:1":
        with contextlib.suppress(ConcurrencyError, LookupError):
            version = store.get_stream_version(stream_id)
            if version > 3:
                store.truncate_stream(stream_id, version - 2)


class Log:
    """What one subscriber was given; another process may go on with it after a kill."""

    def __init__(self, path: Path, begin: int, which: int) -> None:
        self.name = path.name
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        if not os.fstat(self._fd).st_size:
            os.write(self._fd, PAIR.pack(begin, which))
        self._kept = bytearray()

    def add(self, position: int, number: int) -> None:
        self._kept += PAIR.pack(position, number)
        if len(self._kept) >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        if self._kept:
            os.write(self._fd, self._kept)
            self._kept.clear()


class Subscribers:
    """The subscribers of one process, a thread each. A SIGTERM stops them, and they go on with new subscriptions."""

    def __init__(self, path: Path, logs: list[Path], seed: int, shared: Shared) -> None:
        self._shared, self._rng, self._running = shared, random.Random(seed), list[Any]()
        self.errors: list[str] = []
        self._store = FileEventStore.untyped(path, durability="always")
        signal.signal(signal.SIGTERM, lambda *_: [each.stop() for each in self._running])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self._threads = [threading.Thread(target=self._follow, args=(log,)) for log in logs]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.02)  # Signals are handled in this thread.
        self._store.close()
        assert not self.errors, self.errors[0]

    def _follow(self, path: Path) -> None:
        try:
            if path.exists() and path.stat().st_size >= PAIR.size:
                pairs = list(logged(path))
                position, which = pairs[-1][0], pairs[0][1]
            else:
                last = self._store.get_event_count()
                which = self._rng.randrange(len(FILTERS))
                position = 0 if self._rng.random() < 0.7 or which == 5 else self._rng.randrange(last + 1)
            log = Log(path, position, which)
            log.add(position, STARTED)
            while self._subscribe(position, which, log):
                (position, _) = list(logged(path))[-1]
        except BaseException as error:
            self.errors.append(f"{path.name}: {error!r}")

    def _subscribe(self, position: int, which: int, log: Log) -> bool:
        """Follow until a stop; True if that was not the end."""
        shared, phase, durable = self._shared, self._shared.phase, self._rng.random() < 0.6
        if phase == QUIET:  # From here on a lost wake-up is a hang: nobody is killed any more.
            hangarlog.filestore.tail.PATIENCE_SECONDS = 1e6
            hangarlog.filestore.tail._LOOKS_SECONDS = ()
        heartbeat: Any = None if phase == QUIET else _BEAT_SECONDS
        known, goal = 0, 0
        with self._store.subscribe(position, heartbeat=heartbeat, durable=durable, **FILTERS[which]) as subscription:
            self._running.append(subscription)
            if phase == QUIET:
                shared.is_quiet(log.name)
            for record in subscription:
                if record is None:
                    log.flush()
                    if phase != shared.phase:
                        subscription.stop()
                    continue
                log.add(record.position, number_of(record.event_id))
                if durable and record.position > known:
                    known = self._store.durable_position
                    assert record.position <= known, f"{record.position} came, but only {known} is durable"
                if phase == QUIET:
                    goal = goal or shared.goal
                    if goal and record.position >= goal:
                        subscription.stop()
            self._running.remove(subscription)
            log.add(subscription.position, STOPPED)
            log.flush()
        return not goal
