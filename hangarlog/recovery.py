"""What a writer that died, or a power cut, left behind is made whole. For the holder of the write lock only.

The journal decides: a whole, valid batch in it is committed, anything less never happened. So its torn end is cut off,
and each stream is brought to exactly what the journal has for it. docs/design.md gives the reasons.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from itertools import groupby

import msgspec

from hangarlog.checkpoint import load_checkpoint
from hangarlog.errors import CorruptionError
from hangarlog.folder import Folder
from hangarlog.log import LiveEnd, Log
from hangarlog.naming import stream_path
from hangarlog.record import Envelope, LineError, decode_record
from hangarlog.snapshot import SnapshotFiles
from hangarlog.state import SharedState

# A file system may stamp a file a little before the clock that stamped the checkpoint.
_CLOCK_SLACK = 10.0

_POSITION = re.compile(rb'\{"position":(\d+),')

_Line = tuple[Envelope, bytes]
_Place = tuple[int, int]


class Recovered(msgspec.Struct):
    """What a recovery did: bytes of torn journal cut off, records written into and bytes cut off streams."""

    journal_cut: int = 0
    rolled_forward: int = 0
    streams_cut: int = 0


def recover(folder: Folder, state: SharedState) -> Recovered:
    """Make journal, streams and shared state agree.

    After the death of a writer only what was not yet published is looked at; when the machine has restarted, all from
    the last checkpoint on.

    Raises:
        CorruptionError: the journal is damaged before its end.
    """
    report = Recovered()
    restarted = not state.valid
    if restarted:
        checkpoint = load_checkpoint(folder)
        settled, since = checkpoint.position, checkpoint.began_at - _CLOCK_SLACK
    else:
        settled, since = state.committed, 0.0
    state.begin()
    folder.journal.finish_roll()
    with contextlib.closing(journal_end(folder.journal, create=not settled)) as live:
        live.forget_longer_index()
        last = _cut_torn_batch(folder.journal, live, settled, report)
        places: dict[str, _Place] = {}
        for block in folder.journal.forward_lines(settled + 1):
            pairs = sorted(zip(*block, strict=True), key=_stream_id)
            for stream_id, group in groupby(pairs, key=_stream_id):
                log = folder.stream(stream_id)
                places[stream_id] = _bring_forward(folder, log, list(group), places.get(stream_id), report)
        for stream_id, (offset, _) in places.items():
            _cut_stream(folder.stream(stream_id), offset, report)
        if restarted:
            _cut_phantoms(folder, settled, since, places, report)
        first = live.first()
        state.recovered(last, last + 1 if first is None else first, live.size)
    return report


def _stream_id(line: _Line) -> str:
    return line[0].stream_id


def journal_end(journal: Log, *, create: bool = False) -> LiveEnd:
    """The live end of the journal, which a store always has. Raises `CorruptionError` if it is gone."""
    try:
        return LiveEnd(journal, create=create)
    except FileNotFoundError as error:
        raise CorruptionError(journal.live_path, os.path.basename(journal.live_path), 0, "it is gone") from error


def _cut_torn_batch(journal: Log, live: LiveEnd, settled: int, report: Recovered) -> int:
    """Cut the journal after its last whole batch and return the position it ends with."""
    offset, last = 0, 0
    lines, _ = live.lines_at(0)
    if lines and _is_record(lines[0]):
        offset, number = live.seek(settled + 1, decode_record(lines[0]).position)
        last = number - 1
    elif sealed := journal.sealed():
        last = _last_sealed(journal, sealed[-1]).position
    whole, whole_last = offset, last
    while True:
        lines, _ = live.lines_at(offset)
        if not lines:
            break
        for line in lines:
            try:
                record = decode_record(line)
                if record.position != last + 1:
                    raise LineError(f"position {last + 1} must come here, not {record.position}")
            except LineError as error:
                _refuse_damage(live, offset, str(error), whole_last)
                return _cut_journal(live, whole, whole_last, settled, report)
            offset += len(line) + 1
            last += 1
            if record.ends_batch:
                whole, whole_last = offset, last
    return _cut_journal(live, whole, whole_last, settled, report)


def _cut_journal(live: LiveEnd, whole: int, last: int, settled: int, report: Recovered) -> int:
    if last < settled:
        # No crash takes what was settled: nothing is cut.
        raise live.damage(whole, f"it ends at position {last}, but {settled} events were committed")
    report.journal_cut = live.size - whole
    if report.journal_cut:
        live.cut(whole)
    return last


def _is_record(line: bytes) -> bool:
    try:
        decode_record(line)
    except LineError:
        return False
    return True


def _last_sealed(log: Log, first: int) -> Envelope:
    with contextlib.closing(log.open_sealed(first)) as segment:
        lines, offset = segment.lines_before(segment.end())
        if not lines:
            raise segment.damage(0, "there is no whole record")
        return segment.decode(lines, offset)[-1]


def _refuse_damage(live: LiveEnd, offset: int, cause: str, last: int) -> None:
    """Raise if whole records follow the bad line: it is damage then, not the torn end of a last write.

    Unless they are of one batch, the first after position `last`: the device may have taken its later pages first.
    """
    at = offset
    batches: set[int] = set()
    while True:
        lines, following = live.lines_at(at)
        if not lines:
            return
        for line in lines:
            if at > offset and _is_record(line):
                record = decode_record(line)
                batches.add(record.batch_end or record.position)
                if len(batches) > 1 or not last < record.position <= max(batches) or not record.batch_end:
                    raise live.damage(offset, f"{cause}, but whole records follow")
            at += len(line) + 1
        at = following


def _bring_forward(folder: Folder, log: Log, lines: list[_Line], place: _Place | None, report: Recovered) -> _Place:
    """Write what the journal has for a stream and the stream has not, after cutting off what differs.

    `lines` go on where the stream's last ones left off at `place`: (offset in the live segment, next version).
    """
    log.filesystem.make_folder(log.folder)
    log.finish_roll()
    with contextlib.closing(LiveEnd(log, create=True)) as live:
        live.forget_longer_index()
        if place is None:
            place = _place_of(log, live, lines[0][0].stream_version)
            if place is None:
                return _rebuild(folder, log, live, lines[0][0].stream_id, report)
        return _write_missing(live, lines, place, report)


def _write_missing(live: LiveEnd, lines: Iterable[_Line], place: _Place, report: Recovered) -> _Place:
    offset, version = place
    for record, line in lines:
        if record.stream_version < version:
            continue  # It is in a sealed segment, which was synced before it was sealed.
        expected = line + b"\n"
        if live.read(len(expected), offset) != expected:
            report.streams_cut += live.size - offset
            live.cut(offset)
            live.append(expected)
            report.rolled_forward += 1
        offset += len(expected)
        version = record.stream_version + 1
    return offset, version


def _place_of(log: Log, live: LiveEnd, version: int) -> _Place | None:
    """Where in the live segment the record of `version` belongs, or the first one it can hold.

    None where the segment does not say, being damaged or short of records before it.
    """
    if not live.size:
        sealed = log.sealed()
        after = _last_sealed(log, sealed[-1]).stream_version + 1 if sealed else 0
        return (0, max(version, after)) if after >= version else None
    lines, _ = live.lines_at(0)
    if not lines:
        return (0, 0) if version == 0 else None
    if not _is_record(lines[0]):
        return None
    first = decode_record(lines[0]).stream_version
    if first >= version:
        return 0, first
    offset, number = live.seek(version, first)
    while number < version:
        lines, _ = live.lines_at(offset)
        for line in lines[: version - number]:
            if not _is_record(line) or decode_record(line).stream_version != number:
                return None
            offset, number = offset + len(line) + 1, number + 1
        if not lines:
            return None
    return offset, version


def _rebuild(folder: Folder, log: Log, live: LiveEnd, stream_id: str, report: Recovered) -> _Place:
    """Put what the whole journal has of a stream in the place of its live segment, at once."""
    sealed = log.sealed()
    version = _last_sealed(log, sealed[-1]).stream_version + 1 if sealed else _first_kept(folder, stream_id)
    lines = [(record.stream_version, line + b"\n") for record, line in _lines_of(folder, stream_id)]
    text = b"".join(line for number, line in lines if number >= version)
    report.rolled_forward += sum(number >= version for number, _ in lines)
    report.streams_cut += live.size
    log.filesystem.remove(live.index_path)
    log.filesystem.replace_file(log.live_path, text)
    return len(text), lines[-1][0] + 1 if lines else version


def _first_kept(folder: Folder, stream_id: str) -> int:
    """The first version that a compaction has left to a stream."""
    snapshot = SnapshotFiles(folder.filesystem, folder.snapshots_path).load(stream_id)
    return snapshot.compacted_through + 1 if snapshot else 0


def _lines_of(folder: Folder, stream_id: str) -> Iterator[_Line]:
    for block in folder.journal.forward_lines(1):
        for record, line in zip(*block, strict=True):
            if record.stream_id == stream_id:
                yield record, line


def _cut_stream(log: Log, offset: int, report: Recovered) -> None:
    with contextlib.closing(LiveEnd(log)) as live:
        if live.size > offset:
            report.streams_cut += live.size - offset
            live.cut(offset)


def _cut_phantoms(folder: Folder, settled: int, since: float, known: Iterable[str], report: Recovered) -> None:
    """Cut records that reached their stream but not the journal before the power went, of streams not in `known`."""
    paths = {stream_path(stream_id) for stream_id in known}
    for category, name, file in folder.stream_files():
        if (category, name) in paths or file.stat(follow_symlinks=False).st_mtime < since:
            continue
        log = Log(folder.filesystem, folder.category_path(category), name, "stream_version")
        log.finish_roll()
        with contextlib.closing(LiveEnd(log)) as live:
            live.forget_longer_index()
            keep = _end_of(live, settled)
            if keep is None:
                stream_id = _id_by_path(folder, category, name)
                if stream_id is not None:
                    _rebuild(folder, log, live, stream_id, report)
                if stream_id is not None or not _begun_by_us(live):
                    continue
                keep = 0  # The journal has nothing of such a stream: nothing of it was committed.
            if keep < live.size:
                report.streams_cut += live.size - keep
                live.cut(keep)
            if not keep and not log.sealed():
                folder.filesystem.remove(log.live_path)


def _begun_by_us(live: LiveEnd) -> bool:
    """Whether a file without a whole record is what a first write may leave, and not something of somebody else's."""
    start = live.read(12, 0)
    return not start.strip(b"\0") or b'{"position":'.startswith(start)


def _id_by_path(folder: Folder, category: str, name: str) -> str | None:
    """The id of a stream of which only the file's name can be read, if the journal has it."""
    for block in folder.journal.forward(1):
        for record in block:
            if stream_path(record.stream_id) == (category, name):
                return record.stream_id
    return None


def _end_of(live: LiveEnd, settled: int) -> int | None:
    """The offset after the last record whose position is at most `settled`; None where a line cannot be read."""
    offset = live.end()
    torn = _POSITION.match(live.read(64, offset))
    if offset != live.size and (torn is None or int(torn[1]) <= settled):
        return None  # Perhaps of a record that was settled, and was damaged since.
    while offset:
        lines, _ = live.lines_before(offset)
        for line in reversed(lines):
            if not _is_record(line):
                return None
            if decode_record(line).position <= settled:
                return offset
            offset -= len(line) + 1
    return 0
