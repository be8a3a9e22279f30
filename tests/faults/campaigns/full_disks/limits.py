"""Limits of file sizes (RLIMIT_FSIZE), which refuse at any byte, in six places of a small workload."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import hangarlog.filestore.catalog
from hangarlog import FileEventStore, StorageError, StoreOpenError
from hangarlog.system.filesystem import FileSystem

from .watched import OtherProcess, Watched, append, error_of, told


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process may be written beyond `size` bytes: the kernel takes what fits, then refuses."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


class Died(BaseException):
    """The process is gone."""


class Dying(FileSystem):
    """Does nothing any more after so many writes."""

    writes_left = 1 << 60

    def write(self, fd: int, data: bytes) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise Died
        super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        if self.writes_left < 0:
            raise Died
        super().truncate(fd, size)


class Limits:
    """One limit after the other, a byte further each, in six places of a small workload."""

    def __init__(self, folder: Path, many: Path, seed: int) -> None:
        self._folder, self._many, self._seed = folder, many, seed
        self._other = OtherProcess()
        self._stores = 0
        self._watched: Watched | None = None
        self.counted: Counter[str] = Counter()

    def run(self, size: int) -> None:
        with patch.object(
            hangarlog.filestore.catalog, "_MIN_SLOTS", 16
        ):  # Else the catalog would be the longest file, and meet it.
            self._run(size)

    def _run(self, size: int) -> None:
        # The shares are such that 1,000 limits are every byte of a batch of two in each place.
        places = [(self.journal, 37), (self.first_stream, 18), (self.last_stream, 18)]
        places += [(self.creation, 13), (self.recovery, 8), (self.ring, 6)]
        done = [0] * len(places)
        for number in range(size):
            turn = max(range(len(places)), key=lambda at: places[at][1] * (number + 1) - 100 * done[at])
            place, byte = places[turn][0], done[turn]
            done[turn] += 1
            with told(f"limit {number} of {size}, seed {self._seed}: byte {byte} of {place.__name__}"):
                place(byte, random.Random(f"{self._seed} {number}"))
            self.counted["limits"] += 1
        self._drop()

    def _path(self, folder: Path | None = None) -> str:
        self._stores += 1
        return str((folder or self._many) / str(self._stores))

    def _drop(self) -> None:
        if self._watched:
            self._watched.close()
            shutil.rmtree(self._watched.path)
            self._watched = None

    def _meet(self, watched: Watched, limit: int, streams: list[str]) -> None:
        """Append in both ways until the limit refuses; look from everywhere; go on when it is lifted."""
        with limited(limit):
            for durability in watched.stores:
                # What a limit leaves room for is written; the workload is small, so it is met soon.
                assert any(watched.refused(durability, watched.batch(streams), errno.EFBIG) for _ in range(60))
                self.counted["refused appends"] += 1
            watched.check(here_only=True)
        watched.check()
        watched.goes_on()

    def journal(self, byte: int, numbers: random.Random) -> None:
        """The journal is the longest file of lines, so it is the one that meets the limit, at any byte of a batch."""
        watched, end = self._grown(numbers)
        streams = [*numbers.sample(["a:1", "b:1", "c:1", "d"], numbers.randint(1, 3)), f"new:{byte}"]
        self._meet(watched, end + byte, streams[: numbers.randint(1, 4)] if byte % 4 else ["a:1", "b:1"])

    def _grown(self, numbers: random.Random) -> tuple[Watched, int]:
        """A store that is used until it is no longer small, and the size of its journal."""
        if self._watched is None or len(self._watched.content) > 400:
            self._drop()
            self._watched = Watched(self._path(self._folder), self._other, numbers)
            self._watched.append("relaxed", self._watched.batch(["a:1", "b:1"], 2))
        return self._watched, os.path.getsize(f"{self._watched.path}/journal.jsonl")

    def ring(self, byte: int, numbers: random.Random) -> None:
        """The journal has room, and the commit ring's next block has not: it is as if there were no ring."""
        watched, _ = self._grown(numbers)
        for _ in range(12):
            watched.append("always", watched.batch(["a:1"]))
        end = os.path.getsize(f"{watched.path}/journal.jsonl")
        with limited(end + 700 + byte):
            watched.append("always", watched.batch(["a:1", "b:1"]))
            watched.check(here_only=True)
        watched.check()
        self._meet(watched, os.path.getsize(f"{watched.path}/journal.jsonl") + byte, ["a:1", "b:1"])

    def first_stream(self, byte: int, numbers: random.Random) -> None:
        self._stream(byte, numbers, ["a:1", "b:1"])

    def last_stream(self, byte: int, numbers: random.Random) -> None:
        self._stream(byte, numbers, ["b:1", "c:1", "a:1"])

    def _stream(self, byte: int, numbers: random.Random, streams: list[str]) -> None:
        """A journal that has just begun a segment is shorter than a stream that has not, which meets the limit then."""
        watched = Watched(self._path(), self._other, numbers, segment_bytes=6000)
        try:
            watched.append("relaxed", watched.batch(["b:1"], 8))
            while os.path.getsize(f"{watched.path}/journal.jsonl") < 6000:
                watched.append("relaxed", watched.batch(["a:1"]))
            watched.append("relaxed", watched.batch(["b:1"]))
            end = os.path.getsize(f"{watched.path}/streams/a/1.jsonl")
            assert os.path.getsize(f"{watched.path}/journal.jsonl") + 700 < end < 5800
            # A batch that fits is followed by another, so the limit has to be in the first one.
            self._meet(watched, end + byte % 160, streams)
        finally:
            watched.close()
        shutil.rmtree(watched.path)

    def creation(self, byte: int, numbers: random.Random) -> None:
        """A folder that could not become a store becomes one as soon as there is room."""
        limit = byte if byte < 130 or byte % 2 else 4096 - 70 + byte // 2
        path = self._path()

        def create_and_append() -> None:
            with FileEventStore(path) as store:
                append(store, [("a:1", [("x", "y" * 5000)])])

        with limited(limit):
            error = error_of((StorageError, StoreOpenError), create_and_append)
        assert os.strerror(errno.EFBIG) in str(error), error
        self.counted["refused creations"] += isinstance(error, StoreOpenError)
        watched = Watched(path, self._other, numbers)
        try:
            watched.check()
            watched.goes_on()
        finally:
            watched.close()
        shutil.rmtree(path)

    def recovery(self, byte: int, numbers: random.Random) -> None:
        """What a dead writer left cannot be finished under a limit, and is finished when it is lifted."""
        watched = Watched(self._path(), self._other, numbers)
        try:
            watched.append("relaxed", watched.batch(["a:1", "b:1"], 4))
            dying = Dying()
            with FileEventStore(watched.path, durability="relaxed", filesystem=dying) as store:
                batch = watched.batch(["c:1", "a:1"])
                dying.writes_left = 1 + byte % 2  # The journal's; and the first stream's.
                with contextlib.suppress(Died):
                    append(store, batch)
            watched._count(batch)  # It is whole in the journal, so it counts.
            end = os.path.getsize(f"{watched.path}/streams/a/1.jsonl")
            with limited(end + byte):
                for durability in watched.stores:
                    assert watched.refused(durability, watched.batch(["b:1"]), errno.EFBIG)
                    self.counted["refused recoveries"] += 1
            watched.goes_on()
        finally:
            watched.close()
        shutil.rmtree(watched.path)
