"""Giving back the space of events that a stream's snapshot covers. For the holder of the write lock only."""

from __future__ import annotations

import contextlib

from hangarlog.log import LiveEnd, Log
from hangarlog.record import decode_record
from hangarlog.segment import LIVE, Segment


def compact(log: Log, through: int) -> None:
    """Delete the records of a stream up to version `through`, but for the stream's last one, which keeps its version.

    May be cut short at any point and run again: what is left twice or too much, readers pass over.
    """
    filesystem = log.filesystem
    with contextlib.closing(LiveEnd(log)) as live:
        last = live.last()
        for first in log.sealed():
            base = log.sealed_base(first)
            with contextlib.closing(log.open_sealed(first)) as segment:
                kept = _kept(segment, first, through)
                if kept and first <= through:
                    new_first = decode_record(kept[: kept.index(b"\n")]).stream_version
                    filesystem.replace_file(log.sealed_base(new_first) + LIVE, kept)
            if first <= through:
                filesystem.remove(base + LIVE)
                filesystem.remove(f"{base}.index")
        if last and live.start() <= through:
            kept = _kept(live, live.start(), through)
            if not kept:
                lines, _ = live.lines_before(live.size)
                kept = lines[-1] + b"\n"
            filesystem.remove(live.index_path)
            filesystem.replace_file(live.path, kept)
    filesystem.sync_folder(log.folder)


def _kept(segment: Segment, first: int, through: int) -> bytes:
    """The lines of a segment after version `through`."""
    offset, number = segment.seek(max(first, through + 1), first)
    kept: list[bytes] = []
    while True:
        lines, following = segment.lines_at(offset)
        if not lines:
            return b"".join(kept)
        segment.decode(lines, offset, number)
        kept += [line + b"\n" for line in lines[max(0, through + 1 - number) :]]
        number, offset = number + len(lines), following
