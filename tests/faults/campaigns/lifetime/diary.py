"""What a writer has tried, and what was acknowledged: records that outlive its death.

A writer appends one before a call, and one after it. `number` is the number of the first event of an append; the
others follow. `version` and `position` are those of the last event. `version` may also be the one that a deletion, a
truncation or a snapshot is of.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple

_RECORD = Struct("=BBHIQQqd")
TRY, DONE = 0, 1
APPEND, DELETE, TRUNCATE, SNAPSHOT, OTHER = range(5)


class Entry(NamedTuple):
    """One record. `stream` is the number of a stream."""

    done: int
    act: int
    stream: int
    count: int
    number: int
    position: int
    version: int
    time: float


class Diary:
    """The file of one writer."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def note(
        self,
        done: int,
        act: int,
        stream: int = 0,
        count: int = 0,
        number: int = 0,
        position: int = 0,
        version: int = -1,
    ) -> None:
        os.write(self._fd, _RECORD.pack(done, act, stream, count, number, position, version, time.time()))

    def close(self) -> None:
        os.close(self._fd)


def entries(path: Path) -> Iterator[Entry]:
    """Yield the records of a file, in order."""
    return map(Entry._make, _RECORD.iter_unpack(path.read_bytes()))
