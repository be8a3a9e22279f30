"""Frees the space of events that a stream no longer shows. For the holder of the write lock only."""

from __future__ import annotations

import contextlib

from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import text_path
from hangarlog.record.line import erased_line


def compact(log: Log, through: int) -> None:
    """Delete a stream's records up to version `through`. If it ends there, an erased line keeps its version.

    You may interrupt this at any point and run it again: readers skip what is left.
    """
    filesystem = log.filesystem
    log.finish_roll()
    last = log.last_record()
    if last is None:
        return
    shows = through < last.stream_version
    if not shows:
        with contextlib.closing(ActiveSegment(log)) as active:
            _replace(active, erased_line(last))
    keep_from = through + 1
    for first in log.sealed():
        if first < keep_from:
            if shows:
                with contextlib.closing(log.open_sealed(first)) as segment:
                    kept = _kept(segment, first, keep_from)
                if kept:
                    filesystem.replace_file(text_path(log.sealed_base(keep_from)), kept)
            log.remove_sealed(first)
    with contextlib.closing(ActiveSegment(log)) as active:
        if shows and active.size and active.first_number_or_raise() < keep_from:
            _replace(active, _kept(active, active.first_number_or_raise(), keep_from))
    filesystem.sync_folder(log.folder)


def _replace(active: ActiveSegment, text: bytes) -> None:
    filesystem = active.log.filesystem
    if active.size != len(text) or active.read(len(text), 0) != text:
        if filesystem.is_there(active.index_path):
            filesystem.remove(active.index_path)
            filesystem.sync_folder(active.log.folder)  # First: a power cut must not leave it beside the new text.
        filesystem.replace_file(active.path, text)


def _kept(segment: Segment, first: int, keep_from: int) -> bytes:
    """Return the lines of a segment from version `keep_from` on."""
    offset, number = segment.seek(keep_from, first)
    kept: list[bytes] = []
    while True:
        lines, following = segment.lines_at(offset)
        if not lines:
            return b"".join(kept)
        segment.decode(lines, offset, number)
        kept += [line + b"\n" for line in lines[max(0, keep_from - number) :]]
        number, offset = number + len(lines), following
