"""The recorded times of a log's sealed segments, in one file: a read opens only those that its time is in. A cache.

A segment is known by a mark of its file, which changes whenever the file is changed, replaced or copied. One with
another mark is opened, and its own times are used.
"""

from __future__ import annotations

import contextlib
from time import time_ns
from typing import NamedTuple

import msgspec

from hangarlog.log.segment_name import sealed_times_path
from hangarlog.log.times import FORMAT, Times
from hangarlog.record.checked_json import with_crc, without_crc
from hangarlog.system.filesystem import FileSystem

_MAX_FILE_BYTES = 64 << 20
_RACY_NS = 2_500_000_000
"""Nanoseconds: two changes within this time may leave the same mark, as times of files may have a coarse grain."""

_SHARE = 64
"""The file is written anew when one in so many of its spans is new, so that many short segments do not cost much."""

Mark = tuple[int, int, int, int]
"""(Size, inode, time of the last change of the text, time of the last change of the file), in nanoseconds."""


class Span(NamedTuple):
    """What is known of a sealed segment: the number after its last record, and its earliest and latest time."""

    first: int
    following: int
    earliest: str
    latest: str
    mark: Mark

    def times(self, before: int) -> Times:
        """Return the times of the segment as those of a single block. `before` is the first number of the next one."""
        block = (min(self.following, before), self.earliest, self.latest)
        return Times(self.first, 0, "", self.earliest, self.latest, [block])

    def is_outside(self, since: str, until: str) -> bool:
        """True if the segment has no time from `since` to before `until`."""
        return self.latest < since or self.earliest >= until


class _File(msgspec.Struct, frozen=True):
    sealed: list[Span]
    format: int = FORMAT


class SealedTimes:
    """The spans of a log's sealed segments, valid for one layout of the store. `base` is that of the log."""

    def __init__(self, filesystem: FileSystem, base: str) -> None:
        self._filesystem, self._path = filesystem, sealed_times_path(base)
        self.spans = {span.first: span for span in load_spans(filesystem, base)}
        self.proved: dict[int, Span] = {}
        """The spans whose segments were looked at."""
        self.new = 0
        """The number of spans that are not in the file."""

    def find(self, first: int, mark: Mark | None) -> Span | None:
        """Return the span of the segment that begins with `first` and whose file has this mark, None if unknown."""
        span = self.spans.get(first)
        if span is None or span.mark != mark:
            return None
        self.proved[first] = span
        return span

    def add(self, times: Times, mark: Mark | None) -> None:
        """Add what was read of a segment. `mark` is that of its file before it was read."""
        if mark is not None and time_ns() - max(mark[2:]) >= _RACY_NS:
            self.spans[times.first] = Span(times.first, times.blocks[-1][0], times.earliest, times.latest, mark)
            self.new += 1

    def forget_before(self, first: int) -> None:
        """Forget the segments before the one that begins with `first`: they are gone."""
        for each in [*self.spans]:  # A copy: other threads may add to it.
            if each < first and self.spans.pop(each, None) is not None:
                self.new += 1

    def save(self) -> None:
        """Write the file if enough is new. Errors are ignored: it is a cache."""
        if self.new * _SHARE > len(self.spans):
            self.new = 0
            content = with_crc(_File(sorted([*self.spans.values()])))
            with contextlib.suppress(OSError):
                if len(content) <= _MAX_FILE_BYTES:
                    self._filesystem.replace_file(self._path, content, sync=False)


def load_spans(filesystem: FileSystem, base: str) -> list[Span]:
    """Return what the file of a log says, nothing if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError, RecursionError):
        content = filesystem.read_file(sealed_times_path(base), _MAX_FILE_BYTES)
        found = msgspec.json.decode(without_crc(content), type=_File)
        return found.sealed if found.format == FORMAT else []
    return []


class KeptTimes(NamedTuple):
    """The times that were found before: by the base of the segment, and by that of the log."""

    segments: dict[str, Times]
    logs: dict[str, SealedTimes]
