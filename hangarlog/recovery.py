"""What a writer that died, or a power cut, left behind is made whole. For the holder of the write lock only.

The journal decides: a whole, valid batch in it is committed, anything less never happened. So its torn end is cut off,
and each stream is brought to exactly what the journal has for it. docs/design.md gives the reasons.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable

import msgspec

from hangarlog.checkpoint import load_checkpoint
from hangarlog.errors import SyncError
from hangarlog.folder import Folder, journal_end
from hangarlog.journal_end import make_end_whole
from hangarlog.live_end import LiveEnd
from hangarlog.log import Log
from hangarlog.naming import stream_path
from hangarlog.record import decode_record, is_record
from hangarlog.replay import Replay, cut, forget_index, rebuild
from hangarlog.ring import Found, read_ring, usable_ring
from hangarlog.segment import CHUNK
from hangarlog.state import SharedState

# A file system may stamp a file a little before the clock that stamped the checkpoint.
_CLOCK_SLACK = 10.0

_POSITION = re.compile(rb'\{"position":(\d+),')


class Recovered(msgspec.Struct):
    """What a recovery did.

    `since`: the position it began to compare at. `journal_cut`: bytes of torn journal cut off. `joined`: events that
    the journal had lost and the commit ring had. `mended`: events of the journal restored from their streams.
    `rolled_forward`: events written into streams, and `streams_cut` bytes cut off streams, to agree with the journal.
    `put_aside`: whole records that no whole history leads to, kept in `put-aside.jsonl`. `ring_lost`: the commit ring
    is gone, and what was acknowledged last before the machine stopped may have gone with it.
    """

    since: int = 0
    journal_cut: int = 0
    joined: int = 0
    mended: int = 0
    rolled_forward: int = 0
    streams_cut: int = 0
    put_aside: int = 0
    ring_lost: bool = False


def recover(folder: Folder, store_id: str, state: SharedState) -> Recovered:
    """Make journal, streams and shared state agree. Under the sync lock, too: nobody else may use the ring meanwhile.

    After the death of a writer only what was not yet published is looked at; when the machine has restarted, all from
    the last checkpoint on.

    Raises:
        CorruptionError: the journal is damaged, and no other copy helps.
        StoreFormatError: the commit ring is of a newer version.
    """
    restarted = not state.valid
    report = Recovered(since=state.committed)
    ring, since = Found(), 0.0
    if restarted:
        checkpoint = load_checkpoint(folder)
        report.since, since = checkpoint.position, checkpoint.began_at - _CLOCK_SLACK
        ring = read_ring(folder.filesystem, folder.ring_path, store_id)
        report.ring_lost = bool(state.ring_file) and not ring.whole
    state.begin_recovery(os.getpid())
    folder.journal.finish_roll()
    with contextlib.closing(journal_end(folder.journal)) as live:
        forget_index(live, restarted=restarted)
        replay = Replay(folder, report.since, report, restarted=restarted)
        end = make_end_whole(folder, live, report.since, ring.frames, replay.see, restarted=restarted)
        report.journal_cut, report.joined, report.mended = end.cut, end.joined, end.mended
        report.put_aside = end.put_aside
        if restarted or end.cut:
            # What was cut must not come back in a power cut, and the ring be written over only when all is here.
            _sync(folder, live, state)
        first = live.first()
        known = replay.run(first or end.last + 1, end.last)
        if restarted:
            _cut_phantoms(folder, report.since, since, known, report)
        journal = (end.last, end.last + 1 if first is None else first, live.size)
        if restarted:
            state.ring_file = usable_ring(folder.filesystem, folder.ring_path)
            state.ring_next = (ring.generation + 1, 0)
            state.made_durable(*journal)
        state.recovered(*journal)
    return report


def _sync(folder: Folder, live: LiveEnd, state: SharedState) -> None:
    try:
        if state.failures:
            folder.filesystem.replace_file(live.path, live.read(live.size, 0))  # A later sync would prove nothing.
            state.change_layout()
        else:
            folder.filesystem.sync_data(live.fd)
    except OSError as error:
        again = "the device still refuses: " if state.failures else ""
        state.mark_sync_failed()
        raise SyncError(live.path, f"{again}{error}") from error


def _cut_phantoms(folder: Folder, settled: int, since: float, known: Iterable[str], report: Recovered) -> None:
    """Cut records that reached their stream but not the journal before the power went, of streams not in `known`."""
    paths = {stream_path(stream_id) for stream_id in known}
    for category, name, file in folder.stream_files():
        if (category, name) in paths or file.stat(follow_symlinks=False).st_mtime < since:
            continue
        named = folder.stream_id_at(category, name, file.path) is not None
        if not named and "~" not in category + name:
            continue  # It is somebody else's. Of a name that was cut, the journal may know more.
        log = Log(folder.filesystem, folder.category_path(category), name, "stream_version")
        log.finish_roll()
        with contextlib.closing(LiveEnd(log)) as live:
            live.forget_index()
            keep = _end_of(live, settled)
            if keep is None or not named:
                stream_id = folder.id_in_journal(category, name)
                if stream_id is not None:
                    rebuild(folder, log, live, stream_id, report)
                if stream_id is not None or not _begun_by_us(live, named=named):
                    continue
                keep = 0  # The journal has nothing of such a stream: nothing of it was committed.
            if keep < live.size:
                cut(folder, live, keep, report)
            if not keep and not log.sealed():
                folder.filesystem.remove(log.live_path)


def _begun_by_us(live: LiveEnd, *, named: bool) -> bool:
    """Whether a file without a whole record is what a first write may leave, and not something of somebody else's."""
    start = live.read(12, 0)
    if not start.strip(b"\0"):
        return bool(start)
    return b'{"position":'.startswith(start) and (named or not live.end())


def _end_of(live: LiveEnd, settled: int) -> int | None:
    """The offset after the last record whose position is at most `settled`; None where a line cannot be read."""
    offset = live.end()
    torn = _POSITION.match(live.read(64, offset))
    if offset != live.size and (torn is None or int(torn[1]) <= settled):
        return None  # Perhaps of a record that was settled, and was damaged since.
    size = 2 << 10  # The last record is settled in nearly every stream.
    while offset:
        lines, _ = live.lines_before(offset, size)
        size = CHUNK
        for line in reversed(lines):
            if not is_record(line):
                return None
            if decode_record(line).position <= settled:
                return offset
            offset -= len(line) + 1
    return 0
