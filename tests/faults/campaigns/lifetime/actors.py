"""The processes of row 20: those that write and read, and those that follow."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import time
from pathlib import Path
from struct import Struct
from typing import Any

from hangarlog import ANY, EventsDroppedError, FileEventStore

from .diary import APPEND, DELETE, DONE, OTHER, SNAPSHOT, TRUNCATE, TRY, Diary
from .streams import PER_WRITER, Rules, category, event, stream_id

PAIR = Struct("=QQ")
"""A position, and the number of the event that a follower was given there."""

NUMBERS = 1 << 40
"""The numbers of a process's events begin at a multiple of this."""

_BEAT_SECONDS = 0.03


class Shared:
    """What the processes of a round share: whether the writers are to end, and the last position there will be."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def _at(self, at: int) -> int:
        return int.from_bytes(self._memory[at : at + 8], "little")

    def _set(self, at: int, value: int) -> None:
        self._memory[at : at + 8] = value.to_bytes(8, "little")

    ending = property(lambda self: self._at(0), lambda self, value: self._set(0, value))
    goal = property(lambda self: self._at(8), lambda self, value: self._set(8, value))


def number_of(event_id: str) -> int:
    return int(event_id[1:])


class Writer:
    """Appends to its own streams, reads them, deletes, truncates, and saves snapshots."""

    def __init__(self, path: Path, diary: Path, writer: int, process: int, shared: Shared, rules: Rules) -> None:
        self._rng, self._shared, self._rules = random.Random(process), shared, rules
        self._streams = range(writer * PER_WRITER, (writer + 1) * PER_WRITER)
        self._next = process * NUMBERS
        self._diary = Diary(diary)
        retain = rules.policies() if self._rng.random() < 0.3 else []
        compress: Any = self._rng.choice((None, "after 0s"))
        self._store = FileEventStore.untyped(path, durability="relaxed", retain=retain, compress=compress)
        with self._store.changing_files():
            pass  # The batch that the killed writer had begun is settled now.
        self._positions: dict[tuple[int, int], int] = {}
        self._versions = {each: self._store.get_stream_version(stream_id(each)) for each in self._streams}

    def run(self) -> None:
        acts = (self._append,) * 14 + (self._append_many, self._read, self._read, self._read, self._read, self._change)
        while not self._shared.ending:
            for act in self._rng.choices(acts, k=20):
                act()
        self._store.close()
        self._diary.close()

    def _append(self) -> None:
        rng, each = self._rng, self._rng.choice(self._streams)
        count = 1 if rng.random() < 0.9 else rng.randrange(2, 10)
        durability: Any = "always" if rng.random() < 0.02 else "relaxed"
        number, version = self._next, self._versions[each]
        self._next += count
        events = [event(number + at) for at in range(count)]
        self._diary.note(TRY, APPEND, each, count, number, 0, version + count)
        result = self._store.append(stream_id(each), events, version, durability=durability)
        assert int(result) == version + count, f"{stream_id(each)}: {result} instead of {version + count}"
        self._took(each, count, result.last_position)
        self._diary.note(DONE, APPEND, each, count, number, result.last_position, int(result))

    def _took(self, each: int, count: int, last_position: int) -> None:
        self._versions[each] += count
        for back in range(count):
            self._positions[each, self._versions[each] - back] = last_position - back

    def _append_many(self) -> None:
        chosen = self._rng.sample(self._streams, 3)
        numbers = range(self._next, self._next + len(chosen))
        self._next += len(chosen)
        for each, number in zip(chosen, numbers, strict=True):
            self._diary.note(TRY, APPEND, each, 1, number, 0, self._versions[each] + 1)
        parts = [(stream_id(each), [event(number)], ANY) for each, number in zip(chosen, numbers, strict=True)]
        results = self._store.append_many(parts)
        for each, number in zip(chosen, numbers, strict=True):
            result = results[stream_id(each)]
            self._took(each, 1, result.last_position)
            assert int(result) == self._versions[each], f"{stream_id(each)}: {result} at {self._versions[each]}"
            self._diary.note(DONE, APPEND, each, 1, number, result.last_position, int(result))

    def _read(self) -> None:
        each = self._rng.choice(self._streams)
        versions = [one.stream_version for one in self._store.records(stream_id(each), reverse=True, limit=5)]
        last = self._versions[each]
        assert versions == list(range(last, last - len(versions), -1)), f"{stream_id(each)} at {last} reads {versions}"
        if category(each) == "keep" and self._rules.keeps_all:
            first = self._store.first_position
            for version in range(max(0, last - 4), last + 1 - len(versions)):
                archived = self._positions.get((each, version), 1) < first
                assert archived, f"{stream_id(each)} at {last} reads {versions} of a journal that begins at {first}"
        self._diary.note(DONE, OTHER)

    def _change(self) -> None:
        each = self._rng.choice([one for one in self._streams if category(one) in ("saved", "gone")])
        name, last = stream_id(each), self._versions[each]
        if last < 0:
            return
        if category(each) == "saved":
            self._diary.note(TRY, SNAPSHOT, each, version=last)
            self._store.save_snapshot(name, last, {"version": last})
            self._diary.note(DONE, SNAPSHOT, each, version=last)
        elif self._rng.random() < 0.3:
            self._diary.note(TRY, DELETE, each, version=last)
            self._store.delete_stream(name)
            self._diary.note(DONE, DELETE, each, version=last)
        else:
            before = self._rng.randrange(last + 1)
            self._diary.note(TRY, TRUNCATE, each, version=before - 1)
            self._store.truncate_stream(name, before)
            self._diary.note(DONE, TRUNCATE, each, version=before - 1)


def follow(path: Path, log: Path, seed: int, shared: Shared) -> None:
    """Note all that a subscription gives, from where the log ends on."""
    rng = random.Random(seed)
    fd = os.open(log, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
    size = os.fstat(fd).st_size // PAIR.size * PAIR.size
    os.ftruncate(fd, size)
    position = PAIR.unpack(os.pread(fd, PAIR.size, size - PAIR.size))[0] if size else 0
    with FileEventStore.untyped(path, durability="relaxed") as store:
        while not shared.goal or position < shared.goal:
            with contextlib.suppress(EventsDroppedError):
                position = _follow(store, position, fd, rng, shared)
                continue
            position = next(record.position for record in store.records(limit=1)) - 1


def _follow(store: FileEventStore[Any], position: int, fd: int, rng: random.Random, shared: Shared) -> int:
    until = time.monotonic() + rng.random() * 2
    with store.subscribe(position, heartbeat=_BEAT_SECONDS) as subscription:
        for record in subscription:
            if record is not None:
                os.write(fd, PAIR.pack(record.position, number_of(record.event_id)))
            elif time.monotonic() > until or shared.goal:
                subscription.stop()
        return subscription.position
