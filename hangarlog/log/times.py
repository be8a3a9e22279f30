"""The recorded times of a segment: the earliest and the latest of each block. A cache beside the segment.

It is made of verified blocks only, by the first read that asks for a time. Times need not rise: a clock may be set
back, and imported events bring their own. So a read skips blocks that lie outside its time, and filters all others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import times_path
from hangarlog.record.checked_json import with_crc, without_crc
from hangarlog.record.timestamp import in_form

FORMAT = 1
"""The format of the files of recorded times. One of another format is not used."""
_MAX_FILE_BYTES = 8 << 20
_STEP_BYTES = 4 << 20  # The file of an active segment is written when as much text has gathered.
_ANY_TIME = ("", "~")  # Of a block with times in another form.

Block = tuple[int, str, str]
"""(The number after the last record, the earliest time, the latest time)."""


class Times(msgspec.Struct, frozen=True):
    """The times in a segment's blocks from its first record, number `first`, up to offset `end`.

    `tail` is the checksum in the line that ends there. `earliest` and `latest` are those of all blocks.
    """

    first: int
    end: int
    tail: str
    earliest: str
    latest: str
    blocks: list[Block]
    format: int = FORMAT

    def is_outside(self, since: str, until: str) -> bool:
        """True if no block has a time from `since` to before `until`."""
        return self.latest < since or self.earliest >= until

    def outside(self, since: str, until: str) -> Iterator[tuple[int, int]]:
        """Yield the (first, last) record of the ranges without a time from `since` to before `until`."""
        if self.is_outside(since, until):
            yield self.first, self.blocks[-1][0] - 1
            return
        begin = self.first
        for following, earliest, latest in self.blocks:
            if latest < since or earliest >= until:
                yield begin, following - 1
            begin = following

    def is_of(self, segment: Segment, first: int) -> bool:
        """True if the segment begins with record `first`, and has these lines."""
        numbers = [self.first, *(following for following, _, _ in self.blocks)]
        rising = len(numbers) > 1 and all(before < after for before, after in pairwise(numbers))
        ours = rising and self.format == FORMAT and self.first == first
        return ours and self.tail != "" and segment.crc_before(self.end) == self.tail


def load_times(segment: Segment, first: int, active_base: str) -> Times | None:
    """Return what the file beside a segment says, None if there is none that fits.

    When the segment was active, the file had the name of `active_base`.
    """
    for base in dict.fromkeys((segment.base, active_base)):
        with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError, RecursionError):
            content = segment.filesystem.read_file(times_path(base), _MAX_FILE_BYTES)
            times = msgspec.json.decode(without_crc(content), type=Times)
            if times.is_of(segment, first):
                return times
    return None


def grown(segment: Segment, first: int, known: Times | None) -> Times | None:
    """Return the times up to the end of the segment's verified blocks, None if there are none."""
    if known and known.end == segment.size:
        return known
    blocks = [*known.blocks] if known else []
    end = known.end if known else 0
    with contextlib.suppress(CorruptionError):
        for block in segment.verified_blocks(blocks[-1][0] if blocks else first, first):
            times = [record.recorded_at for record in block.records]
            earliest, latest = (min(times), max(times)) if in_form(times) else _ANY_TIME
            blocks.append((segment.number_of(block.last) + 1, earliest, latest))
            end = block.offset + len(block.text)
    if not blocks or (known and len(blocks) == len(known.blocks)):
        return known
    earliest, latest = min(block[1] for block in blocks), max(block[2] for block in blocks)
    return Times(first, end, segment.crc_before(end), earliest, latest, blocks)


def save_times(segment: Segment, times: Times, known: Times | None, *, sealed: bool) -> None:
    """Write the file beside a segment if `times` has enough more than `known`. Errors are ignored: it is a cache."""
    if times is not known and (sealed or times.end // _STEP_BYTES > (known.end if known else 0) // _STEP_BYTES):
        with contextlib.suppress(OSError):
            segment.filesystem.replace_file(times_path(segment.base), with_crc(times), sync=False)
