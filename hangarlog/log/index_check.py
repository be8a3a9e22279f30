"""Compares a segment's index with its text. Readers believe an index: a wrong one only slows them down."""

from __future__ import annotations

import contextlib

from hangarlog.log.index import STRIDE_BYTES, Index, is_harmless
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import index_path
from hangarlog.record.checksum import crc32


def index_flaw(segment: Segment, first: int) -> str:
    """Return what is wrong with the index of a segment that begins with record `first`; "" if nothing is.

    A missing index is right.
    """
    filesystem, path = segment.filesystem, index_path(segment.base)
    index = Index.open(filesystem, path, max(segment.size, STRIDE_BYTES), first)
    if index is None:
        return "" if is_harmless(filesystem, path) else "it is not an index of its segment"
    with contextlib.closing(index):
        covered = index.covered()
        with contextlib.closing(segment.again()) as grown:  # Reopened: a writer may have appended since.
            agrees = not index.is_too_long and _agrees(index, grown, covered)
    return "" if agrees else "it does not match its segment"


def _agrees(index: Index, segment: Segment, stop: int) -> bool:
    """True if up to offset `stop` every index entry is the end of a line and every block checksum matches."""
    offset = crc = 0
    number = index.first
    while offset < stop:
        lines, following = segment.lines_at(offset)
        ends, crcs = index.entries(number, min(len(lines), index.first + index.count - number))
        if not ends:
            return False
        for line, end, block_crc in zip(lines, ends, crcs, strict=False):
            crc = crc32(b"\n", crc32(line, crc))
            offset += len(line) + 1
            if end != offset or block_crc not in (0, crc):
                return False
            crc = 0 if block_crc else crc
        number, offset = number + len(ends), min(following, stop)
    return True
