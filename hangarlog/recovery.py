"""What a writer that died, or a power cut, left behind is made whole. For the holder of the write lock only.

The journal decides: a whole, valid batch in it is committed, anything less never happened. So its torn end is cut off,
and each stream is brought to exactly what the journal has for it. docs/recovery.md gives the reasons.
"""

from __future__ import annotations

import contextlib
from itertools import groupby

import msgspec

from hangarlog.checkpoint import load_checkpoint
from hangarlog.folder import Folder
from hangarlog.log import LiveEnd, Log
from hangarlog.naming import stream_path
from hangarlog.record import Envelope, LineError, decode_record
from hangarlog.state import SharedState

# A file system may stamp a file a little before the clock that stamped the checkpoint.
_CLOCK_SLACK = 10.0


class Recovered(msgspec.Struct):
    """What a recovery did: bytes of torn journal cut off, records written into and bytes cut off streams."""

    journal_cut: int = 0
    rolled_forward: int = 0
    streams_cut: int = 0


_Line = tuple[Envelope, bytes]


def _stream_id(line: _Line) -> str:
    return line[0].stream_id


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
        checkpoint, made_at = load_checkpoint(folder)
        settled = checkpoint.position
        state.reset()
    else:
        settled, made_at = state.committed, 0.0
        state.begin()
    with contextlib.closing(LiveEnd(folder.journal, create=True)) as live:
        last = _cut_torn_batch(folder.journal, live, settled, report)
        cursors: dict[str, int] = {}
        for block in folder.journal.forward_lines(settled + 1):
            pairs = sorted(zip(*block, strict=True), key=_stream_id)
            for stream_id, group in groupby(pairs, key=_stream_id):
                _bring_forward(folder.stream(stream_id), list(group), cursors, report)
        for stream_id, offset in cursors.items():
            _cut_stream(folder.stream(stream_id), offset, report)
        if restarted:
            _cut_phantoms(folder, settled, made_at, cursors, report)
        state.change_layout()
        first = live.first()
        state.finish(last, last + 1 if first is None else first, live.size)
    return report


def _cut_torn_batch(journal: Log, live: LiveEnd, settled: int, report: Recovered) -> int:
    """Cut the journal after its last whole batch and return the position it ends with."""
    lines, _ = live.lines_at(0)
    if not lines or not _is_record(lines[0]):
        before = journal.sealed()
        last = _last_sealed(journal, before[-1]).position if before else 0
        offset = 0
    else:
        offset, number = live.seek(settled + 1, decode_record(lines[0]).position)
        last = number - 1
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
                _refuse_damage(live, offset, str(error))
                report.journal_cut = live.size - whole
                live.cut(whole)
                return whole_last
            offset += len(line) + 1
            last += 1
            if record.ends_batch:
                whole, whole_last = offset, last
    report.journal_cut = live.size - whole
    if live.size != whole:
        live.cut(whole)
    return whole_last


def _is_record(line: bytes) -> bool:
    try:
        decode_record(line)
    except LineError:
        return False
    return True


def _last_sealed(log: Log, first: int) -> Envelope:
    with contextlib.closing(log.open_sealed(first)) as segment:
        lines, offset = segment.lines_before(segment.end())
        return segment.decode(lines, offset)[-1]


def _refuse_damage(live: LiveEnd, offset: int, cause: str) -> None:
    """Raise if whole records follow the bad line: it is damage then, not the torn end of a last write."""
    at = offset
    while True:
        lines, following = live.lines_at(at)
        if not lines:
            return
        for line in lines:
            if at > offset and _is_record(line):
                raise live.damage(offset, f"{cause}, but whole records follow")
            at += len(line) + 1
        at = following


def _bring_forward(log: Log, lines: list[_Line], cursors: dict[str, int], report: Recovered) -> None:
    """Write what the journal has for a stream and the stream has not, after cutting off what differs."""
    stream_id = lines[0][0].stream_id
    log.filesystem.make_folder(log.folder)
    with contextlib.closing(LiveEnd(log, create=True)) as live:
        offset = cursors.get(stream_id)
        if offset is None:
            offset, version = _place_of(log, live, lines[0][0].stream_version)
            lines = [(record, line) for record, line in lines if record.stream_version >= version]
        for _, line in lines:
            expected = line + b"\n"
            if log.filesystem.read(live.fd, len(expected), offset) != expected:
                report.streams_cut += live.size - offset
                live.cut(offset)
                live.append(expected)
                report.rolled_forward += 1
            offset += len(expected)
        cursors[stream_id] = offset


def _place_of(log: Log, live: LiveEnd, version: int) -> tuple[int, int]:
    """(offset, version) in the live segment where the record of `version` belongs, or the first one it can hold."""
    lines, _ = live.lines_at(0)
    if not lines or not _is_record(lines[0]):
        sealed = log.sealed()
        return 0, max(version, _last_sealed(log, sealed[-1]).stream_version + 1) if sealed else version
    first = decode_record(lines[0]).stream_version
    if first >= version:
        return 0, max(version, first)
    offset, number = live.seek(version, first)
    while number < version:
        lines, following = live.lines_at(offset)
        if not lines:
            raise live.damage(
                offset, f"stream_version {number} to {version - 1} are missing here; the journal has them"
            )
        wanted = lines[: version - number]
        live.decode(wanted, offset, number)
        number += len(wanted)
        offset = following if len(wanted) == len(lines) else offset + sum(len(line) + 1 for line in wanted)
    return offset, version


def _cut_stream(log: Log, offset: int, report: Recovered) -> None:
    with contextlib.closing(LiveEnd(log)) as live:
        if live.size > offset:
            report.streams_cut += live.size - offset
            live.cut(offset)


def _cut_phantoms(folder: Folder, settled: int, since: float, cursors: dict[str, int], report: Recovered) -> None:
    """Cut records that reached their stream but not the journal before the power went, of streams not in `cursors`."""
    known = {stream_path(stream_id) for stream_id in cursors}
    for category, name, file in folder.stream_files():
        if (category, name) not in known and file.stat(follow_symlinks=False).st_mtime >= since - _CLOCK_SLACK:
            log = Log(folder.filesystem, folder.category_path(category), name, "stream_version")
            with contextlib.closing(LiveEnd(log)) as live:
                keep = _end_of(live, settled)
                if keep < live.size:
                    report.streams_cut += live.size - keep
                    live.cut(keep)
                if not keep and not log.sealed():
                    folder.filesystem.remove(log.live_path)


def _end_of(live: LiveEnd, settled: int) -> int:
    """The offset after the last record whose position is at most `settled`."""
    offset = live.end()
    while offset:
        lines, start = live.lines_before(offset)
        for line in reversed(lines):
            if _is_record(line) and decode_record(line).position <= settled:
                return offset
            offset -= len(line) + 1
        assert offset == start
    return 0
