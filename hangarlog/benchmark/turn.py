"""One turn of a measure: a call that is repeated for some time, each timed by itself."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

import msgspec

from hangarlog.system.filesystem import FileSystem


class Turn(msgspec.Struct):
    """What one turn has measured. Times are in nanoseconds of a clock that all processes share.

    Attributes:
        samples: How long each call took.
        waits: How much of each call was spent in syncs, 0 where that is not watched.
        events: The events of all calls.
        begin, end: When the turn began and ended.
        written: Bytes by which the files grew.
        error, errno: Why another process could not measure.
    """

    samples: list[int] = []
    waits: list[int] = []
    events: int = 0
    begin: int = 0
    end: int = 0
    written: int = 0
    error: str = ""
    errno: int = 0


class TimedFileSystem(FileSystem):
    """The real file system, which also adds up the time that is spent in syncs: `spent_ns`."""

    sees_synced_writes = True

    def __init__(self) -> None:
        self.spent_ns = 0
        self._synced: set[int] = set()  # Descriptors whose writes are on the device when they return.

    def open_synced(self, path: str) -> tuple[int, bool]:
        """As `FileSystem.open_synced`."""
        fd, synced = super().open_synced(path)
        if synced:
            self._synced.add(fd)
        return fd, synced

    def close(self, fd: int) -> None:
        """As `FileSystem.close`."""
        self._synced.discard(fd)
        super().close(fd)

    def sync_data(self, fd: int) -> None:
        """As `FileSystem.sync_data`, timed."""
        before = perf_counter_ns()
        super().sync_data(fd)
        self.spent_ns += perf_counter_ns() - before

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """As `FileSystem.write_at`, timed if it syncs."""
        if fd not in self._synced:
            super().write_at(fd, data, offset)
            return
        before = perf_counter_ns()
        super().write_at(fd, data, offset)
        self.spent_ns += perf_counter_ns() - before


def repeat(
    call: Callable[[], int], seconds: float, most_bytes: int, events: int = 1, watched: TimedFileSystem | None = None
) -> Turn:
    """Repeat a call until the time is up or it has written enough, at least once, after a call that does not count.

    `call` returns the bytes that it wrote, and handles `events` events. `watched` is the file system that it uses.
    """
    device = TimedFileSystem() if watched is None else watched
    samples: list[int] = []
    waits: list[int] = []
    written, clock = 0, perf_counter_ns
    call()
    begin = clock()
    last = begin + int(seconds * 1e9)
    while True:
        spent, before = device.spent_ns, clock()
        written += call()
        after = clock()
        samples.append(after - before)
        waits.append(device.spent_ns - spent)
        if after >= last or written >= most_bytes:
            return Turn(samples, waits, events * len(samples), begin, after, written)
