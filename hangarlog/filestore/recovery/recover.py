"""Recovers a store after a crash or a power cut. For the holder of the write lock only.

The journal decides: an intact batch in it is committed, and anything less never happened. So its torn tail is cut off,
and each stream is made to match the journal exactly. docs/recovery.md gives the reasons.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hangarlog.errors import CorruptionError, CorruptionWarning, LinkedFileError, SyncError
from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.checkpoint import Checkpoint, drop_damaged_checkpoint, fits, load_checkpoint
from hangarlog.filestore.commit_ring import Found, read_ring, usable_ring
from hangarlog.filestore.file_names import stream_path
from hangarlog.filestore.file_owners import JournalNames
from hangarlog.filestore.folder import Folder, Meta, active_journal
from hangarlog.filestore.recovery.journal_end import recover_journal_end
from hangarlog.filestore.recovery.moved_cursors import settle_cursors
from hangarlog.filestore.recovery.replay import Replay, cut, forget_index, rebuild
from hangarlog.filestore.recovery.report import Recovered
from hangarlog.filestore.shared_state import SharedState
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.log import Log
from hangarlog.log.segment import CHUNK_BYTES
from hangarlog.record.line import StoredEnvelope, decode_record, is_record
from hangarlog.system.file_copy import replace_with
from hangarlog.system.import_lock import importing

if TYPE_CHECKING:
    from hangarlog.filestore.recovery.rebuild import VersionSpan

_CLOCK_SLACK_SECONDS = 2.0
"""Tolerance in seconds when two files' times are compared: tar keeps whole seconds, FAT every second one."""

_CANNOT_WRITE = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS])

_FEW_STREAMS = 200
"""Up to this many streams, recovery checks all of them for uncommitted records, which takes a millisecond.

In a larger store each is checked when it is used.
"""

_POSITION = re.compile(rb'\{"position":(\d+),')


def recover(folder: Folder, meta: Meta, state: SharedState, catalog: Catalog, *, begins: bool = False) -> Recovered:
    """Make journal, streams, catalog and shared state agree. The caller also holds the sync lock, for the ring.

    Within a session, recovery looks only at what was not yet published. If a session `begins`, it looks at everything
    since the last checkpoint, and believes nothing in the shared state. A copy whose files do not match is restored to
    the longest history that they prove.

    Raises:
        CorruptionError: the journal is damaged, and no other copy helps.
        LinkedFileError: a file is a hard link.
        OSError: there is no space, or no permission to write. At the beginning of a session this error and
            `LinkedFileError` make the store read-only until an append tries again.
        StoreFormatError: the commit ring is of a newer version.
    """
    try:
        if begins:
            state.distrust()
        report = _recover(folder, meta, state, catalog)
    except (LinkedFileError, OSError) as error:
        if not state.valid and (isinstance(error, LinkedFileError) or error.errno in _CANNOT_WRITE):
            state.session, state.writable = 0, False  # Read-only until an append tries again.
            catalog.let_go()
        raise
    for damage in report.damage:
        warnings.warn(CorruptionWarning(str(damage)), stacklevel=2)
    if report.put_aside:
        said = f"records that no whole history leads to: {report.put_aside}; they were put into {folder.aside_path}"
        warnings.warn(CorruptionWarning(said), stacklevel=2)
    return report


def _recover(folder: Folder, meta: Meta, state: SharedState, catalog: Catalog) -> Recovered:
    if folder.journal.left_over():
        with importing:
            from hangarlog.filestore.recovery.beginning import remove_left_over
        remove_left_over(folder)
    ring = Found() if state.valid else read_ring(folder.filesystem, folder.ring_path, meta.store_id)
    if not state.is_of_copy:
        damage = None if state.valid else _gap_filled_by_ring(folder, ring) or _overlap(folder.journal)
        if damage:
            report = _rebuild(folder, meta, state, catalog, ring, bridge=True)
            report.damage.append(damage)
            return report
        recovery = _Recovery(folder, state, catalog, ring)
        report = recovery.run()
        if recovery.older_file_found or report.put_aside:  # Sealed segments, too, may go beyond the journal.
            report.put_aside += _mend_streams(folder, meta, [], report.last)
        return report
    report = _recover_copy(folder, meta, state, catalog, ring)
    if load_checkpoint(folder).position > state.committed:
        # It was copied later, so it is no evidence of what the journal must have.
        folder.filesystem.remove(folder.checkpoint_path)
    return report


def _recover_copy(folder: Folder, meta: Meta, state: SharedState, catalog: Catalog, ring: Found) -> Recovered:
    """Recover a copy. Its files were copied at different moments, so records that do not connect are put aside."""
    with importing:
        from hangarlog.filestore.recovery.beginning import refuse_dropped
        from hangarlog.filestore.recovery.gaps import refuse_gaps
    with contextlib.suppress(CorruptionError):
        refuse_gaps(folder, folder.journal.begins())
        report = _Recovery(folder, state, catalog, ring).run()
        report.put_aside += _mend_streams(folder, meta, [], report.last)
        return report
    refuse_dropped(folder)
    return _rebuild(folder, meta, state, catalog, ring, bridge=False)


def _gap_filled_by_ring(folder: Folder, ring: Found) -> CorruptionError | None:
    """Return the damage if the journal has a gap that the ring fills, at its beginning or before its active segment.

    This happens when older streams were restored, and sealed segments are older or gone.
    """
    journal, last = folder.journal, None
    sealed = journal.sealed()
    first = None
    active = journal.open_active()
    if active:
        with contextlib.closing(active), contextlib.suppress(CorruptionError):
            first = active.first_number()
    gaps: list[tuple[StoredEnvelope | None, int]] = []
    begins = sealed[0] if sealed else first
    if begins is not None and begins > journal.begins():
        gaps.append((None, begins))
    if sealed and first is not None:
        with (
            contextlib.suppress(CorruptionError, OSError),
            contextlib.closing(journal.open_sealed(sealed[-1])) as segment,
        ):
            last = segment.last_whole()
        if last and first > last.position + 1:
            gaps.append((last, first))
    if not gaps:
        return None
    with importing:
        from hangarlog.filestore.recovery.gaps import ring_fills_gap
    for before, following in gaps:
        if ring_fills_gap(folder, ring.older + ring.frames, before, following):
            missing = f"position {before.position + 1 if before else journal.begins()} to {following - 1}"
            cause = f"{missing} were missing in the journal; restored from the ring and the streams"
            return CorruptionError(journal.active_path, os.path.basename(journal.active_path), 0, cause, mendable=False)
    return None


def _overlap(journal: Log) -> CorruptionError | None:
    """Return the damage if sealed segments go beyond the active one, because an older file has its place.

    If one begins as the active one does, finishing the roll settles it.
    """
    first, active = None, journal.open_active()
    if active:
        with contextlib.closing(active), contextlib.suppress(CorruptionError):
            first = active.first_number()
    sealed = [] if first is None else journal.sealed()
    if active is None or first is None or first in sealed or first > max(sealed, default=0):
        return None
    cause = (
        f"it begins with position {first}, and a sealed segment with {sealed[-1]}; the journal was put together anew"
    )
    return active.damage(0, cause, first)


def _rebuild(
    folder: Folder, meta: Meta, state: SharedState, catalog: Catalog, ring: Found, *, bridge: bool
) -> Recovered:
    """Rebuild the journal as the longest history that is proved, and the streams from it."""
    with importing:
        from hangarlog.filestore.recovery.rebuild import rebuild as rebuild_journal
    rebuilt = rebuild_journal(folder, ring.older + ring.frames, bridge=bridge)
    _mend_streams(folder, meta, rebuilt.lost_versions, -1)
    folder.filesystem.remove(folder.ids_path)  # It may lack events that are found again.
    if not rebuilt.ring_fits:
        folder.filesystem.remove(folder.ring_path)
    ring.frames = []  # The rebuilt journal has its frames.
    report = _Recovery(folder, state, catalog, ring, whole=True).run()
    report.put_aside += rebuilt.put_aside
    return report


def _mend_streams(folder: Folder, meta: Meta, lost: Iterable[VersionSpan], last: int) -> int:
    """Make the streams match the journal, if sealed segments go beyond its `last` position (-1: in any case).

    Unless the journal was just rebuilt, the streams stay as they are while lines of it are damaged or missing: only the
    streams may have them. What goes beyond it is put aside. Return how many records that were.
    """
    with importing:
        from hangarlog.filestore.recovery.gaps import is_whole, lines_beyond
        from hangarlog.filestore.recovery.stream_repair import Mending
    beyond = [] if last < 0 else lines_beyond(folder, last)
    if last < 0 or (beyond and is_whole(folder)):
        for _ in Mending(folder, meta.segment_bytes, lost).run():
            pass
    if beyond:
        folder.put_aside(beyond)
    return len(beyond)


class _Recovery:
    """One recovery. With `whole` it starts at the beginning of the journal."""

    def __init__(
        self, folder: Folder, state: SharedState, catalog: Catalog, ring: Found, *, whole: bool = False
    ) -> None:
        self._folder, self._state, self._catalog, self._ring, self._whole = folder, state, catalog, ring, whole
        self._restarted = not state.valid
        self._report = Recovered(since=state.committed)
        # Read before anything changes: the durable position, and the position committed in this boot.
        self._settled, self._wanted = (0, 0) if whole else state.promised
        if state.is_of_copy:  # Its files may be of different moments, so they prove no position.
            self._settled, self._wanted = 0, max(self._settled, self._wanted)
        self._same_boot = state.of_this_boot
        self.older_file_found = False
        """True if an older file was found in place of a newer one."""

    def run(self) -> Recovered:
        folder, state, report = self._folder, self._state, self._report
        checkpoint = Checkpoint()
        state.begin_recovery(os.getpid())
        if folder.journal.finish_roll() and self._restarted:
            self.older_file_found = True  # The streams may have what the newer file had.
        if self._restarted:
            checkpoint = self._checkpoint()
            report.since = max(checkpoint.position, self._folder.journal.begins() - 1)
            report.ring_lost = bool(state.ring_file) and not self._ring.whole
        else:
            self._settled = self._wanted = report.since
        if not folder.filesystem.is_there(folder.journal.active_path):
            folder.filesystem.close(folder.filesystem.open_new(folder.journal.active_path))
            self.older_file_found = True
            cause = "it was missing; it was restored from the commit ring and the streams"
            name = os.path.basename(folder.journal.active_path)
            report.damage.append(CorruptionError(folder.journal.active_path, name, 0, cause, mendable=False))
        with contextlib.closing(active_journal(folder.journal)) as active:
            self._recover_files(active, checkpoint)
        return report

    def _checkpoint(self) -> Checkpoint:
        """Return the checkpoint if journal and catalog match it; else make a new catalog, and return one at 0."""
        checkpoint = Checkpoint() if self._whole else load_checkpoint(self._folder)
        catalog = self._catalog
        fit = checkpoint.mark != 0 and fits(checkpoint, self._folder)
        if fit and catalog.open() and checkpoint.mark in catalog.marks():
            return checkpoint
        self._wanted = max(self._wanted, checkpoint.position)
        self.older_file_found |= checkpoint.mark != 0 and not fit
        if not self._state.is_of_copy:
            self._settled = max(self._settled, checkpoint.position)
        drop_damaged_checkpoint(self._folder)
        catalog.create()
        return Checkpoint()

    def _recover_files(self, active: ActiveSegment, checkpoint: Checkpoint) -> None:
        folder, state, report, restarted = self._folder, self._state, self._report, self._restarted
        start = (0, report.since)
        if restarted and checkpoint.end and active.first_number() == checkpoint.first:
            start = (checkpoint.end, checkpoint.position)
            active.trim_index(checkpoint.position)
        else:
            forget_index(active, restarted=restarted)
        settled = max(self._settled, report.since)
        wanted = max(self._wanted, settled)
        replay = Replay(folder, report.since, report, self._catalog, restarted=restarted, synced=checkpoint.end > 0)
        promised = (settled, sys.maxsize if self.older_file_found else wanted)
        end = recover_journal_end(folder, active, start, promised, self._ring.frames, replay.see, restarted=restarted)
        report.journal_cut, report.joined, report.mended = end.cut, end.joined, end.mended
        report.put_aside, report.last = end.put_aside, end.last
        report.damage += end.damage
        report.lost = max(0, wanted - end.last)
        first = active.first_number()
        clean = (end.last, first, active.size) == (checkpoint.position, checkpoint.first, checkpoint.end)
        # After a failed sync the page cache may differ from the device.
        clean = clean and restarted and not state.failures
        if (restarted and not clean) or end.cut or end.joined or end.mended:
            # A power cut must not bring back what was cut, or lose again what was restored. After this sync the
            # ring may be overwritten, because the journal has all of it.
            _sync(folder, active, state)
        known = replay.run(first or end.last + 1, end.last)
        if restarted and not checkpoint.end and folder.journal.begins() > 1:
            with importing:
                from hangarlog.filestore.recovery.beginning import note_dropped_streams
            note_dropped_streams(folder, self._catalog)
        lost_pages = end.cut or end.joined or end.mended or wanted > end.last or not self._same_boot
        few = self._catalog.used() <= _FEW_STREAMS
        if restarted and (few or (lost_pages and not clean)):
            # The checkpoint of a copy may be newer than its journal, so it tells nothing of the streams' files.
            begun = 0.0 if self._state.is_of_copy else load_checkpoint(folder).begun
            _cut_uncommitted(folder, report.since, known, report, begun)
        settle_cursors(folder, replay.moves, active, report, restarted=restarted, anew=state.failures > 0)
        journal = (end.last, end.last + 1 if first is None else first, active.size)
        if restarted:
            state.ring_file = usable_ring(folder.filesystem, folder.ring_path)
            state.made_durable(journal, (self._ring.generation + 1, 0))
            self._catalog.begin_session(state.session)
        state.recovered(*journal, replay.size if restarted else state.tail)


def _sync(folder: Folder, active: ActiveSegment, state: SharedState) -> None:
    try:
        if state.failures:
            # A later sync of the old file would prove nothing.
            replace_with(folder.filesystem, active.fd, active.size, active.path)
            state.change_layout()
        else:
            folder.filesystem.sync_data(active.fd)
    except OSError as error:
        again = "the device still refuses: " if state.failures else ""
        state.mark_sync_failed()
        raise SyncError(active.path, f"{again}{error}") from error


def _cut_uncommitted(folder: Folder, settled: int, known: Iterable[str], report: Recovered, begun: float) -> None:
    """Cut records that reached their stream but not the journal before the power cut, in streams not in `known`.

    Looks only at files that changed since a checkpoint was `begun`. If a wrong clock hides one, its use finds it.
    """
    since = begun - _CLOCK_SLACK_SECONDS
    paths = {stream_path(stream_id) for stream_id in known}
    names, empty = JournalNames(folder.journal), []
    for category, name, file in folder.stream_files():
        if (category, name) in paths or file.stat().st_mtime < since:
            continue
        named = folder.stream_id_at(category, name, file.path, names) is not None
        if not named and "~" not in category + name:
            continue  # Not a stream's file. The stream of a shortened name (`~`) is looked up in the journal below.
        log = Log(folder.filesystem, folder.category_path(category), name, "stream_version")
        log.finish_roll()
        # If it cannot be repaired here, reads use the journal instead, and `repair` restores the stream.
        with contextlib.suppress(CorruptionError), contextlib.closing(ActiveSegment(log)) as active:
            keep = _settled_end(active, settled)
            if keep != active.size:
                active.forget_index()
            else:  # The index was synced with the checkpoint, or fails its own check, or has what the device lost.
                active.forget_longer_index()
            if keep is None or not named:
                stream_id = names.get(category, name)
                if stream_id is not None:
                    rebuild(folder, log, active, stream_id, report)
                if stream_id is not None or not _may_be_first_write(active, named=named):
                    continue
                keep = 0  # The journal has no record of the stream, so nothing of it was committed.
            if keep < active.size:
                cut(folder, active, keep, report)
            if not keep:
                empty.append(log)
    names = JournalNames(folder.journal)
    for log in empty:
        if not names.sealed(log):
            folder.filesystem.remove(log.active_path)


def _may_be_first_write(active: ActiveSegment, *, named: bool) -> bool:
    """True if our first write to a stream may have left this file, which has no intact record."""
    start = active.read(12, 0)
    if not start.strip(b"\0"):
        return bool(start)
    return b'{"position":'.startswith(start) and (named or not active.end_offset())


def _settled_end(active: ActiveSegment, settled: int) -> int | None:
    """Return the offset after the last record at or before position `settled`, or None if a line is damaged."""
    offset = active.end_offset()
    torn = _POSITION.match(active.read(64, offset))
    if offset != active.size and (torn is None or int(torn[1]) <= settled):
        return None  # The rest may be a settled record that was damaged later.
    size = 2 << 10  # In nearly every stream the last record is settled.
    while offset:
        lines, _ = active.lines_before(offset, size)
        size = CHUNK_BYTES
        for line in reversed(lines):
            if not is_record(line):
                return None
            if decode_record(line).position <= settled:
                return offset
            offset -= len(line) + 1
    return 0
