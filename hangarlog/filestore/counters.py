"""What writers count in the shared state for those who watch a store. docs/format.md has the words.

How long syncs took is a histogram with two buckets to an octave. Each has a count and a sum of nanoseconds, side by
side, so one write counts a sync. An append reads and writes none of these words.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from struct import Struct
from typing import NamedTuple

from hangarlog.system.filesystem import FileSystem

BOUNDS_NS = tuple(round(1000 * 2 ** (step / 2)) for step in range(49))
"""The longest time of each bucket but the last, in nanoseconds: from 1 µs to 16.8 s."""
BUCKETS = len(BOUNDS_NS) + 1
"""The last bucket has the syncs that took longer."""

_SEALED_AT, _SYNCS_AT = 28 * 8, 32 * 8
_one, _pair, _pairs = Struct("=Q"), Struct("=2Q"), Struct(f"={2 * BUCKETS}Q")
_END = _SYNCS_AT + _pairs.size
_MASK = (1 << 64) - 1


class Counters(NamedTuple):
    """What was counted since the machine started.

    Attributes:
        sealed_bytes: The bytes of the journal segments that were sealed.
        sealed_first: The first position of the last one of these, 0 before one.
        syncs: The (number of syncs, sum of their nanoseconds) of each bucket.
    """

    sealed_bytes: int
    sealed_first: int
    syncs: tuple[tuple[int, int], ...]


def counters_in(raw: bytes) -> Counters | None:
    """Return the counters in the bytes of the shared state, None if the file was cut."""
    if len(raw) < _END:
        return None
    words = _pairs.unpack_from(raw, _SYNCS_AT)
    size, first = _pair.unpack_from(raw, _SEALED_AT)
    return Counters(size, first, tuple(zip(words[::2], words[1::2], strict=True)))


# A file that was cut, or cannot be written, is left alone: what is counted has worked.


def count_sync(filesystem: FileSystem, fd: int, nanoseconds: int) -> None:
    """Count a sync of the journal. Needs the sync lock."""
    at = _SYNCS_AT + 16 * bisect_left(BOUNDS_NS, nanoseconds)
    with contextlib.suppress(OSError):
        raw = filesystem.pread(fd, 16, at)
        if len(raw) == 16:
            count, total = _pair.unpack(raw)
            filesystem.write_at(fd, _pair.pack(count + 1 & _MASK, total + nanoseconds & _MASK), at)


def count_sealed(filesystem: FileSystem, fd: int, first: int, size: int) -> None:
    """Count the bytes of a journal segment that was sealed, which begins at position `first`. Needs the write lock."""
    with contextlib.suppress(OSError):
        raw = filesystem.pread(fd, 8, _SEALED_AT)
        if len(raw) == 8:
            filesystem.write_at(fd, _pair.pack(_one.unpack(raw)[0] + size & _MASK, first), _SEALED_AT)


def forget_counters(filesystem: FileSystem, fd: int) -> None:
    """Begin anew: the counters are from before a restart, or of another store. Raises `OSError`."""
    filesystem.write_at(fd, bytes(_END - _SEALED_AT), _SEALED_AT)
