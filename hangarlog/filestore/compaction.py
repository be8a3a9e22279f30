"""Frees the space of events that a stream no longer shows. For the holder of the write lock only.

Damage of events that are hidden does not keep them: nothing is read of them but, at the end, the place of the last one.
"""

from __future__ import annotations

import contextlib
from time import monotonic

import msgspec

from hangarlog.errors import CorruptionError, LinkedFileError, StreamDeletedError
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.catalog import Known
from hangarlog.filestore.stream_ends import journal_line
from hangarlog.filestore.write_session import WriteSession
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import text_path
from hangarlog.record.envelope import Envelope
from hangarlog.record.line import decode_record, erased_line


def end_of(session: WriteSession, stream_id: str) -> Known | None:
    """Return where a stream ends, by the catalog if its file is damaged there; None if it never had an event."""
    try:
        session.streams.get(stream_id, monotonic(), session.committed)  # Brings the file and the catalog in line.
    except LinkedFileError:
        raise
    except (StreamDeletedError, CorruptionError):
        pass
    return session.catalog.get(stream_id)


def compact(session: WriteSession, mark: Snapshot, end: Known) -> None:
    """Delete a stream's records that its mark hides. If it `end`s there, an erased line keeps its version.

    You may interrupt this at any point and run it again: readers skip what is left.

    Raises:
        CorruptionError: a record that is not hidden is damaged.
    """
    filesystem, log, through = session.filesystem, session.folder.stream(mark.stream_id), mark.compacted_through
    log.finish_roll()
    if not filesystem.is_there(log.active_path):
        return
    shows = through < end.version
    if not shows:
        with contextlib.closing(ActiveSegment(log)) as active:
            _replace(active, erased_line(_last_record(session, active, mark, end)))
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


def _last_record(session: WriteSession, active: ActiveSegment, mark: Snapshot, end: Known) -> Envelope:
    """Return the last record of a stream; of one that is damaged in both copies, what is known of it."""
    with contextlib.suppress(CorruptionError):
        last = active.last_record() or active.log.last_record()
        if last and last.stream_version == end.version:
            return last
    position = end.position_before(session.committed)
    line = journal_line(session.folder, position)
    record = decode_record(line) if line else None
    if record and (record.stream_id, record.stream_version) == (mark.stream_id, end.version):
        return record
    return Envelope(position, mark.stream_id, end.version, "", "damaged", mark.saved_at, msgspec.Raw(b"{}"))


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
        hidden = lines[: max(0, keep_from - number)]
        shown = lines[len(hidden) :]
        segment.decode(shown, offset + sum(len(line) + 1 for line in hidden), number + len(hidden))
        kept += [line + b"\n" for line in shown]
        number, offset = number + len(lines), following
