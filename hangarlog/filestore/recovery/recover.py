"""What a writer that died, or a power cut, left behind is made whole. For the holder of the write lock only.

The journal decides: a whole, valid batch in it is committed, anything less never happened. So its torn end is cut off,
and each stream is brought to exactly what the journal has for it. docs/recovery.md gives the reasons.
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
from hangarlog.filestore.folder import Folder, Meta, journal_end
from hangarlog.filestore.owners import JournalNames
from hangarlog.filestore.recovery.journal_end import make_end_whole
from hangarlog.filestore.recovery.replay import Replay, cut, forget_index, rebuild
from hangarlog.filestore.recovery.report import Recovered
from hangarlog.filestore.shared_state import SharedState
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.log import Log
from hangarlog.log.segment import CHUNK_BYTES
from hangarlog.record.line import decode_record, is_record
from hangarlog.system.file_copy import replace_with
from hangarlog.system.import_lock import importing

if TYPE_CHECKING:
    from hangarlog.filestore.recovery.rebuild import VersionSpan

_CLOCK_SLACK_SECONDS = 2.0
"""Seconds that the times of two files may be off: tar keeps whole seconds of them, and FAT every other one."""

_CANNOT_WRITE = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS])

_FEW_STREAMS = 200
"""So many files are looked at in a millisecond, for what a power cut has left in them; of more when they are used."""

_POSITION = re.compile(rb'\{"position":(\d+),')


def recover(folder: Folder, meta: Meta, state: SharedState, catalog: Catalog, *, begins: bool = False) -> Recovered:
    """Make journal, streams, catalog and shared state agree. Under the sync lock, too: nobody else may use the ring.

    Within a session only what was not yet published is looked at; at the beginning of one, all from the last checkpoint
    on. A copy whose files do not fit each other is brought to the longest history that they prove. `begins` is whether
    a session does, of which nothing that stands in the shared state is.

    Raises:
        CorruptionError: the journal is damaged, and no other copy helps.
        LinkedFileError: a file has another name, too. At a session's beginning the store is read from here on as one
            that only may be read; also where there is no room or no permission to write (OSError).
        StoreFormatError: the commit ring is of a newer version.
    """
    try:
        if begins:
            state.distrust()
        report = _recover(folder, meta, state, catalog)
    except (LinkedFileError, OSError) as error:
        if not state.valid and (isinstance(error, LinkedFileError) or error.errno in _CANNOT_WRITE):
            state.session, state.writable = 0, False  # It can only be read here, until an append asks again.
            catalog.let_go()
        raise
    for damage in report.damage:
        warnings.warn(CorruptionWarning(str(damage)), stacklevel=2)
    return report


def _recover(folder: Folder, meta: Meta, state: SharedState, catalog: Catalog) -> Recovered:
    ring = Found() if state.valid else read_ring(folder.filesystem, folder.ring_path, meta.store_id)
    if not state.of_a_copy:
        gap = None if state.valid else _filled_gap(folder, ring)
        if gap:
            report = _rebuilt(folder, meta, state, catalog, ring, bridge=True)
            report.damage.append(gap)
            return report
        recovery = _Recovery(folder, state, catalog, ring)
        report = recovery.run()
        if recovery.put_back or report.put_aside:  # Then sealed segments, too, may have more than the journal.
            _mend_streams(folder, meta, [], report.last)
        return report
    report = _recover_copy(folder, meta, state, catalog, ring)
    if load_checkpoint(folder).position > state.committed:
        folder.filesystem.remove(folder.checkpoint_path)  # It was copied later, and is not to be asked for again.
    return report


def _recover_copy(folder: Folder, meta: Meta, state: SharedState, catalog: Catalog, ring: Found) -> Recovered:
    """Its files were copied one by one, at different moments: what does not connect is put aside."""
    with importing:
        from hangarlog.filestore.recovery.gaps import refuse_gaps
    with contextlib.suppress(CorruptionError):
        refuse_gaps(folder)
        report = _Recovery(folder, state, catalog, ring).run()
        _mend_streams(folder, meta, [], report.last)
        return report
    return _rebuilt(folder, meta, state, catalog, ring, bridge=False)


def _filled_gap(folder: Folder, ring: Found) -> CorruptionError | None:
    """What is wrong where the journal's live segment does not follow on the last sealed one, but the ring has the rest.

    As where older sealed segments and streams were put back. Else None.
    """
    journal = folder.journal
    sealed = journal.sealed()
    if not sealed:
        return None
    first = last = None
    live = journal.open_live()
    if live:
        with contextlib.closing(live), contextlib.suppress(CorruptionError):
            first = live.first_number()
    with (
        contextlib.suppress(CorruptionError, OSError),
        contextlib.closing(journal.open_sealed(sealed[-1])) as segment,
    ):
        last = segment.last_whole()
    if first is None or last is None or first <= last.position + 1:
        return None
    with importing:
        from hangarlog.filestore.recovery.gaps import only_the_ring_fills
    if not only_the_ring_fills(folder, ring.older + ring.frames, last, first):
        return None
    cause = (
        f"position {last.position + 1} to {first - 1} did not come before it; restored from the ring and the streams"
    )
    return CorruptionError(journal.live_path, os.path.basename(journal.live_path), 0, cause, mendable=False)


def _rebuilt(
    folder: Folder, meta: Meta, state: SharedState, catalog: Catalog, ring: Found, *, bridge: bool
) -> Recovered:
    """The journal made the longest history that is proved, the streams what it says."""
    with importing:
        from hangarlog.filestore.recovery.rebuild import rebuild as rebuild_journal
    rebuilt = rebuild_journal(folder, ring.older + ring.frames, bridge=bridge)
    _mend_streams(folder, meta, rebuilt.lost_versions, -1)
    if not rebuilt.ring_fits:
        folder.filesystem.remove(folder.ring_path)
    ring.frames = []  # What fits is in the journal now.
    report = _Recovery(folder, state, catalog, ring, whole=True).run()
    report.put_aside += rebuilt.put_aside
    return report


def _mend_streams(folder: Folder, meta: Meta, lost: Iterable[VersionSpan], last: int) -> None:
    """Make the streams what the journal says, if sealed segments go beyond its `last` position; -1: anyway.

    Not where lines of the journal are damaged, but for a journal that was just rebuilt: only the streams may have them.
    """
    with importing:
        from hangarlog.filestore.recovery.gaps import is_whole, streams_go_beyond
        from hangarlog.filestore.recovery.mending import Mending
    if last < 0 or (streams_go_beyond(folder, last) and is_whole(folder)):
        for _ in Mending(folder, meta.segment_bytes, lost).run():
            pass


class _Recovery:
    """One recovery; with `whole` it begins at the journal's beginning."""

    def __init__(
        self, folder: Folder, state: SharedState, catalog: Catalog, ring: Found, *, whole: bool = False
    ) -> None:
        self._folder, self._state, self._catalog, self._ring, self._whole = folder, state, catalog, ring, whole
        self._restarted = not state.valid
        self._report = Recovered(since=state.committed)
        # Before anything is changed: what is known to have been committed, or was, unless the power went.
        self._settled, self._wanted = (0, 0) if whole else state.promised
        if state.of_a_copy:  # Its files may be of different moments: nothing is to be asked for.
            self._settled, self._wanted = 0, max(self._settled, self._wanted)
        self._same_boot = state.of_this_boot
        self.put_back = False
        """Whether an older file was found in place of a newer one."""

    def run(self) -> Recovered:
        folder, state, report = self._folder, self._state, self._report
        checkpoint = Checkpoint()
        state.begin_recovery(os.getpid())
        if folder.journal.finish_roll() and self._restarted:
            self.put_back = True  # Perhaps the streams have what the newer file had.
        if self._restarted:
            checkpoint = self._checkpoint()
            report.since = checkpoint.position
            report.ring_lost = bool(state.ring_file) and not self._ring.whole
        else:
            self._settled = self._wanted = report.since
        if not folder.filesystem.is_there(folder.journal.live_path):
            folder.filesystem.close(folder.filesystem.open_new(folder.journal.live_path))
            self.put_back = True
            cause = "it was gone; it was made anew from the commit ring and the streams"
            name = os.path.basename(folder.journal.live_path)
            report.damage.append(CorruptionError(folder.journal.live_path, name, 0, cause, mendable=False))
        with contextlib.closing(journal_end(folder.journal)) as live:
            self._make_whole(live, checkpoint)
        return report

    def _checkpoint(self) -> Checkpoint:
        """The checkpoint, where it belongs to this journal and this catalog; else all is replayed."""
        checkpoint = Checkpoint() if self._whole else load_checkpoint(self._folder)
        catalog = self._catalog
        fit = checkpoint.mark != 0 and fits(checkpoint, self._folder)
        if fit and catalog.open() and checkpoint.mark in catalog.marks():
            return checkpoint
        self._wanted = max(self._wanted, checkpoint.position)
        self.put_back |= checkpoint.mark != 0 and not fit
        if not self._state.of_a_copy:
            self._settled = max(self._settled, checkpoint.position)
        drop_damaged_checkpoint(self._folder)
        catalog.create()
        return Checkpoint()

    def _make_whole(self, live: ActiveSegment, checkpoint: Checkpoint) -> None:
        folder, state, report, restarted = self._folder, self._state, self._report, self._restarted
        start = (0, report.since)
        if restarted and checkpoint.end and live.first_number() == checkpoint.first:
            start = (checkpoint.end, checkpoint.position)
            live.trim_index(checkpoint.position)
        else:
            forget_index(live, restarted=restarted)
        settled = max(self._settled, report.since)
        wanted = max(self._wanted, settled)
        replay = Replay(folder, report.since, report, self._catalog, restarted=restarted)
        promised = (settled, sys.maxsize if self.put_back else wanted)
        end = make_end_whole(folder, live, start, promised, self._ring.frames, replay.see, restarted=restarted)
        report.journal_cut, report.joined, report.mended = end.cut, end.joined, end.mended
        report.put_aside, report.last = end.put_aside, end.last
        report.damage += end.damage
        report.lost = max(0, wanted - end.last)
        first = live.first_number()
        clean = (end.last, first, live.size) == (checkpoint.position, checkpoint.first, checkpoint.end)
        clean = clean and restarted and not state.failures  # Then the file is not what the device has.
        if (restarted and not clean) or end.cut or end.joined or end.mended:
            # What was cut must not come back in a power cut, and the ring be written over only when all is here; what
            # is written again may have been durable.
            _sync(folder, live, state)
        known = replay.run(first or end.last + 1, end.last)
        lost_pages = end.cut or end.joined or end.mended or wanted > end.last or not self._same_boot
        few = self._catalog.used() <= _FEW_STREAMS
        if restarted and (few or (lost_pages and not clean)):
            _cut_phantoms(folder, report.since, known, report)
        journal = (end.last, end.last + 1 if first is None else first, live.size)
        if restarted:
            state.ring_file = usable_ring(folder.filesystem, folder.ring_path)
            state.made_durable(journal, (self._ring.generation + 1, 0))
            self._catalog.begin_session(state.session)
        state.recovered(*journal, replay.size if restarted else state.tail)


def _sync(folder: Folder, live: ActiveSegment, state: SharedState) -> None:
    try:
        if state.failures:
            replace_with(folder.filesystem, live.fd, live.size, live.path)  # A later sync would prove nothing.
            state.change_layout()
        else:
            folder.filesystem.sync_data(live.fd)
    except OSError as error:
        again = "the device still refuses: " if state.failures else ""
        state.mark_sync_failed()
        raise SyncError(live.path, f"{again}{error}") from error


def _cut_phantoms(folder: Folder, settled: int, known: Iterable[str], report: Recovered) -> None:
    """Cut records that reached their stream but not the journal before the power went, of streams not in `known`.

    Only files that changed since the checkpoint are looked at. What a wrong clock hides is found when it is used.
    """
    since = load_checkpoint(folder).begun - _CLOCK_SLACK_SECONDS
    paths = {stream_path(stream_id) for stream_id in known}
    names, empty = JournalNames(folder.journal), []
    for category, name, file in folder.stream_files():
        if (category, name) in paths or file.stat().st_mtime < since:
            continue
        named = folder.stream_id_at(category, name, file.path, names) is not None
        if not named and "~" not in category + name:
            continue  # It is somebody else's. Of a name that was cut, the journal may know more.
        log = Log(folder.filesystem, folder.category_path(category), name, "stream_version")
        log.finish_roll()
        # What cannot be mended here is served from the journal, and for `repair` to mend.
        with contextlib.suppress(CorruptionError), contextlib.closing(ActiveSegment(log)) as live:
            keep = _end_of(live, settled)
            if keep != live.size:
                live.forget_index()  # Else it is all of the checkpoint's time, or does not prove itself.
            if keep is None or not named:
                stream_id = names.get(category, name)
                if stream_id is not None:
                    rebuild(folder, log, live, stream_id, report)
                if stream_id is not None or not _begun_by_us(live, named=named):
                    continue
                keep = 0  # The journal has nothing of such a stream: nothing of it was committed.
            if keep < live.size:
                cut(folder, live, keep, report)
            if not keep:
                empty.append(log)
    names = JournalNames(folder.journal)
    for log in empty:
        if not names.sealed(log):
            folder.filesystem.remove(log.live_path)


def _begun_by_us(live: ActiveSegment, *, named: bool) -> bool:
    """Whether a file without a whole record is what a first write may leave, and not something of somebody else's."""
    start = live.read(12, 0)
    if not start.strip(b"\0"):
        return bool(start)
    return b'{"position":'.startswith(start) and (named or not live.end_offset())


def _end_of(live: ActiveSegment, settled: int) -> int | None:
    """The offset after the last record whose position is at most `settled`; None where a line cannot be read."""
    offset = live.end_offset()
    torn = _POSITION.match(live.read(64, offset))
    if offset != live.size and (torn is None or int(torn[1]) <= settled):
        return None  # Perhaps of a record that was settled, and was damaged since.
    size = 2 << 10  # The last record is settled in nearly every stream.
    while offset:
        lines, _ = live.lines_before(offset, size)
        size = CHUNK_BYTES
        for line in reversed(lines):
            if not is_record(line):
                return None
            if decode_record(line).position <= settled:
                return offset
            offset -= len(line) + 1
    return 0
