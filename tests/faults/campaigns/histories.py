"""Row 8: what processes and threads were told, with the times between which they were told it, has an order.

Versions name the order: the append of version 4 comes after everything that saw version 3, and before everything that
saw 4. So there is an order that explains a history exactly if no operation in that of the versions ended before an
earlier one began, and one sweep shows that. A version that was read and a conflict's `actual` are the same to it.

Every worker writes its history into memory that it shares with this process, so that SIGKILL leaves it readable. An
append of a killed worker that has a beginning and no end has an unknown outcome: it may be in the store, once, or not.
"""

from __future__ import annotations

import mmap
import os
import random
import select
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from hangarlog import ANY, ConcurrencyError, FileEventStore, RetentionPolicy, UntypedEvent
from hangarlog.maintenance.verify import verify

from .child import Child
from .harness import Campaign, Figures

PROCESSES = 8
THREADS = 2
ROUND = 20_000  # Operations on one store, more or less: it is checked, dropped, and the next one is made.
STREAMS = (1, 1, 4, 16)  # One hot stream, or some; by turns.
NEVER = 1 << 62
KEPT = 6  # Every so many stores is compressed all the while.

BEGUN, APPENDED, CONFLICT, READ = range(4)
FIELDS = 7


class Operation(NamedTuple):
    """One line of a history. `told` is the version it was told, where `kind` says that it was told one."""

    kind: int
    start: int
    end: int
    stream: int
    expected: int
    count: int
    told: int


History = list[list[Operation]]  # By thread.
Stored = list[list[tuple[int, int, int]]]  # By stream: (thread, number of the operation, part) of every event.


class Impossible(AssertionError):
    """A history that no order explains."""


def check(history: History, stored: Stored) -> tuple[int, int]:
    """How many unknown outcomes were found in the store, and how many not. Raises `Impossible`."""
    seen: list[list[tuple[int, int, int, int]]] = [[] for _ in stored]  # By stream: (version, 0 or 1, start, end).
    ends: list[dict[int, Operation]] = [{} for _ in stored]  # By stream: what made each version that a batch ends with.
    placed: set[tuple[int, int]] = set()
    for stream, events in enumerate(stored):
        for thread, number, version in batches_of(stream, events, history):
            operation = history[thread][number]
            if (thread, number) in placed:
                raise Impossible(f"{operation} is there twice")
            placed.add((thread, number))
            ends[stream][version] = operation
            end = operation.end if operation.kind == APPENDED else NEVER
            seen[stream].append((version, 0, operation.start, end))
    unknown: set[tuple[int, int]] = set()
    for thread, operations in enumerate(history):
        for number, operation in enumerate(operations):
            if operation.kind == BEGUN:
                unknown.add((thread, number))
                continue
            look_at(operation, ends[operation.stream])
            if operation.kind != APPENDED:
                seen[operation.stream].append((operation.told, 1, operation.start, operation.end))
    for stream, all_that_saw in enumerate(seen):
        sweep(stream, all_that_saw)
    return len(unknown & placed), len(unknown - placed)


def look_at(operation: Operation, ends: dict[int, Operation]) -> None:
    """Whether what it was told can be at all, at any time."""
    kind, _, _, _, expected, count, told = operation
    if kind == APPENDED and told != expected + count:
        raise Impossible(f"{operation} was told another version than it asked for")
    if kind == APPENDED and ends.get(told) is not operation:
        raise Impossible(f"{operation} was acknowledged and is not there")
    if kind == CONFLICT and told <= expected:
        raise Impossible(f"{operation} is a conflict with what was expected, or with the past")
    if told not in ends and told != -1:
        raise Impossible(f"{operation} saw a version that no append ended with")


def batches_of(stream: int, events: list[tuple[int, int, int]], history: History) -> Iterator[tuple[int, int, int]]:
    """(thread, number, its last version) of the appends that a stream is made of; they must be whole."""
    version = -1
    while version + 1 < len(events):
        thread, number, _ = events[version + 1]
        if number >= len(history[thread]):
            raise Impossible(f"nobody began what is version {version + 1} of stream {stream}")
        operation = history[thread][number]
        there = events[version + 1 : version + 1 + operation.count]
        if there != [(thread, number, part) for part in range(operation.count)]:
            raise Impossible(f"{operation} is not whole: {there}")
        if (operation.stream, operation.expected) != (stream, version) or operation.kind not in (APPENDED, BEGUN):
            raise Impossible(f"{operation} has no business at version {version + 1} of stream {stream}")
        version += operation.count
        yield thread, number, version


def sweep(stream: int, seen: list[tuple[int, int, int, int]]) -> None:
    """Go through all that saw a version in the order of versions: none may have ended before an earlier one began."""
    latest = at = -NEVER  # The latest start of all that come before; that of those that saw this version.
    previous = (-1, 1)
    for version, reading, start, end in sorted(seen):
        if (version, reading) != previous:
            latest, previous = max(latest, at), (version, reading)
        if end < latest:
            what = "saw" if reading else "made"
            raise Impossible(f"who {what} version {version} of stream {stream} had ended {latest - end} ns too early")
        at = max(at, start)


def check_the_checker() -> None:
    """A history that is fine passes, and each thing that may be wrong with it is found."""

    def operation(kind: int, start: int, end: int, expected: int, count: int, told: int) -> Operation:
        return Operation(kind, start, end, 0, expected, count, told)

    fine: History = [
        [
            operation(READ, 0, 1, 0, 0, -1),
            operation(APPENDED, 10, 20, -1, 1, 0),
            operation(READ, 30, 40, 0, 0, 2),
            operation(APPENDED, 50, 60, 2, 1, 3),
        ],
        [operation(APPENDED, 15, 35, 0, 2, 2), operation(CONFLICT, 55, 70, 2, 1, 3), operation(BEGUN, 80, 0, 3, 1, 0)],
    ]
    stored: Stored = [[(0, 1, 0), (1, 0, 0), (1, 0, 1), (0, 3, 0)]]
    assert check(fine, stored) == (0, 1)
    assert check(fine, [[*stored[0], (1, 2, 0)]]) == (1, 0)
    wrong_answers = {
        "two were told the same version": (1, 0, operation(APPENDED, 15, 35, -1, 1, 0)),
        "a version that was no more when it was read": (0, 2, operation(READ, 36, 40, 0, 0, 0)),
        "a version that was not yet when it was read": (0, 2, operation(READ, 30, 40, 0, 0, 3)),
        "half a batch was read": (0, 2, operation(READ, 30, 40, 0, 0, 1)),
        "a version out of nowhere": (0, 2, operation(READ, 30, 40, 0, 0, 9)),
        "an append before the one that it follows": (1, 0, operation(APPENDED, 1, 9, 0, 2, 2)),
        "an append told a wrong version": (1, 0, operation(APPENDED, 15, 35, 0, 2, 1)),
        "a conflict with what was expected": (1, 1, operation(CONFLICT, 55, 70, 3, 1, 3)),
        "a conflict with what comes later": (1, 1, operation(CONFLICT, 41, 49, 2, 1, 3)),
        "an append that nobody began": (1, 0, operation(READ, 15, 35, 0, 0, 0)),
        "a conflict that is in the store": (0, 3, operation(CONFLICT, 50, 60, 2, 1, 3)),
    }
    for what, (thread, number, wrong) in wrong_answers.items():
        history = [list(operations) for operations in fine]
        history[thread][number] = wrong
        assert is_impossible(history, stored), f"the checker is blind: {what}"
    (events,) = stored
    wrong_stores = {
        "an acknowledged one is lost": events[:3],
        "half of one is lost": [*events[:2], events[3]],
        "one is there twice": [*events, events[3]],
        "an unknown one is there twice": [*events, (1, 2, 0), (1, 2, 0)],
        "one is where it does not belong": [events[0], events[3], *events[1:3]],
    }
    for what, wrong in wrong_stores.items():
        assert is_impossible(fine, [wrong]), f"the checker is blind: {what}"


def is_impossible(history: History, stored: Stored) -> bool:
    try:
        check(history, stored)
    except Impossible:
        return True
    return False


class Shared:
    """The history of one thread of a worker, in memory that the checking process has too."""

    def __init__(self, operations: int) -> None:
        self.map = mmap.mmap(-1, operations * FIELDS * 8)
        self.words = memoryview(self.map).cast("q")

    def operations(self) -> list[Operation]:
        words = self.words.tolist()
        lines = (Operation(*words[at : at + FIELDS]) for at in range(0, len(words), FIELDS))
        return [line for line in lines if line.kind or (line.start and line.count)]  # Of a killed one, appends at most.

    def close(self) -> None:
        self.words.release()
        self.map.close()


def work(store: FileEventStore, thread: int, seed: int, streams: int, words: memoryview, report: int) -> None:
    """Read a version and append with it, or with what is known to be old, until the memory is full."""
    rng = random.Random(f"{seed} {thread}")
    clock, names = time.perf_counter_ns, [f"s:{stream}" for stream in range(streams)]
    known = [-1] * streams
    stream, half = 0, len(words) // FIELDS // 2
    for number, at in enumerate(range(0, len(words), FIELDS)):
        if number % 2 == 0:
            stream = rng.randrange(streams)
        words[at + 3] = stream
        if number % 2 == 0 and rng.random() < 0.85:
            words[at + 1] = clock()
            version = store.get_stream_version(names[stream])
            words[at + 2] = clock()
            words[at + 6] = known[stream] = version
            words[at] = READ
        else:
            expected, count = known[stream], rng.choice((1, 1, 1, 3))
            events = [UntypedEvent("Moved", {}, event_id=f"{thread}-{number}-{part}") for part in range(count)]
            words[at + 4], words[at + 5] = expected, count
            if rng.random() < 0.15:
                os.sched_yield()  # So that others come between, and there is a conflict.
            words[at + 1] = clock()
            try:
                version = store.append(names[stream], events, expected)
                kind = APPENDED
            except ConcurrencyError as conflict:
                if conflict.expected != expected:
                    raise
                version, kind = conflict.actual, CONFLICT
            words[at + 2] = clock()
            words[at + 6] = known[stream] = version
            words[at] = kind  # Last: without it the outcome is unknown.
        if number == half:
            os.write(report, b".")


def work_in_threads(path: Path, first: int, seed: int, streams: int, histories: list[Shared], report: int) -> None:
    """The threads of one worker, on one store that they share."""
    failures: list[BaseException] = []

    def guarded(thread: int) -> None:
        try:
            work(store, thread, seed, streams, histories[thread].words, report)
        except BaseException as error:
            failures.append(error)

    with FileEventStore(path, durability="relaxed") as store:
        threads = [threading.Thread(target=guarded, args=(first + number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for failure in failures:
        raise failure


def keep_small(path: Path, report: int) -> None:
    """Compress and retain, again and again, until killed."""
    with FileEventStore(path, durability="relaxed") as store:
        while True:
            store.compress(seal=True)
            store.retain(RetentionPolicy(max_events=1 << 40))


class Round:
    """One store, and all that was done to it."""

    def __init__(self, path: Path, seed: int, streams: int, operations: int) -> None:
        self.path, self.seed, self.streams = path, seed, streams
        each = operations // (PROCESSES * THREADS) + 2
        self.histories = [Shared(each) for _ in range(PROCESSES * THREADS)]
        self.rng = random.Random(seed)
        with FileEventStore(path, segment_bytes=self.rng.choice([500_000, 64 << 20])):
            pass

    def run(self) -> None:
        """Let all workers work, and kill some in the midst of it."""
        children: list[Child] = []
        keeper = Child(lambda report: keep_small(self.path, report)) if self.seed % KEPT == 0 else None
        try:
            for first in range(0, len(self.histories), THREADS):

                def begin(report: int, first: int = first) -> None:
                    work_in_threads(self.path, first, self.seed, self.streams, self.histories, report)

                children.append(Child(begin))
            doomed = self.rng.sample(children, self.rng.randrange(5))
            for child in doomed:
                child.reported()  # One of its threads has done half of its work.
                select.select([], [], [], self.rng.random() * 0.002)
                child.kill()
            for child in children:
                child.rest()
                status = child.wait()
                assert status == 0 or (child in doomed and status == -signal.SIGKILL), f"a worker ended with {status}"
        finally:
            for child in [*children, *filter(None, [keeper])]:
                child.end()

    def check(self) -> tuple[History, int, int]:
        """The history, and what became of unknown outcomes: (there, not there)."""
        history = [shared.operations() for shared in self.histories]
        stored: Stored = [[] for _ in range(self.streams)]
        with FileEventStore(self.path, durability="relaxed") as store:
            store.append("end:1", [UntypedEvent("Ended", {}, event_id="end")], ANY)  # Settles what dead ones left.
            for envelope in chain.from_iterable(store.envelopes()):
                if envelope.event_id != "end":
                    thread, number, part = envelope.event_id.split("-")
                    events = stored[int(envelope.stream_id[2:])]
                    assert envelope.stream_version == len(events), f"{envelope} is not version {len(events)}"
                    events.append((int(thread), int(number), int(part)))
            for stream, events in enumerate(stored):
                version = store.get_stream_version(f"s:{stream}")
                assert version == len(events) - 1, f"stream {stream} is at {version}, and has {len(events)} events"
            damage = list(verify(store))
            assert not damage, f"verify finds {damage}"
        return history, *check(history, stored)

    def close(self) -> None:
        for shared in self.histories:
            shared.close()
        shutil.rmtree(self.path, ignore_errors=True)


def run(folder: Path, size: int, seed: int) -> Figures:
    check_the_checker()
    operations = appended = conflicts = whole = absent = number = 0
    while operations < size:
        streams = STREAMS[number % len(STREAMS)]
        left = max(1_000, min(ROUND, size - operations))
        turn = Round(folder / f"store-{number}", seed * 1_000 + number, streams, left)
        try:
            turn.run()
            history, found, missing = turn.check()
        except Exception as error:
            raise AssertionError(f"seed {seed}, size {size}, store {number} of {streams} streams: {error!r}") from error
        finally:
            turn.close()
        for line in chain.from_iterable(history):
            operations += line.kind != BEGUN
            appended += line.kind == APPENDED
            conflicts += line.kind == CONFLICT
        whole, absent, number = whole + found, absent + missing, number + 1
    assert size < 100_000 or (conflicts and whole + absent), f"seed {seed}: no conflict or no unknown outcome was seen"
    return {
        "operations": operations,
        "appends acknowledged": appended,
        "conflicts": conflicts,
        "unknown, found once": whole,
        "unknown, found absent": absent,
        "impossible": 0,
    }


CAMPAIGN = Campaign(
    row=8,
    fault="processes and threads with expected versions, some killed",
    promise="one order explains all versions that were given, read and named in conflicts; unknown ones are there once"
    " or not",
    how="8 processes of 2 threads read versions and append with them, some beside a ninth that compresses and retains; "
    "every history is swept by version",
    ci=1_000_000,
    release=10_000_000,
    unit="operations",
    run=run,
    missing=lambda: None if hasattr(os, "fork") else "this system has no fork",
)
