"""Rebuilds the journal from everything in the folder: the longest history that its files prove.

Every event is in the journal, in its stream, and perhaps in the commit ring. All intact lines are merged by position.
docs/recovery.md says which are kept. For the holder of the write lock and the sync lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore.checkpoint import load_checkpoint
from hangarlog.filestore.commit_ring import Frame
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.line_scan import Stretch
from hangarlog.filestore.recovery.merge import Candidate, Merge
from hangarlog.filestore.recovery.rewriting import Replaced, Rewriting
from hangarlog.record.envelope import MAX_NUMBER
from hangarlog.record.line import StoredEnvelope, decode_record, encode_envelope, erased_in_journal
from hangarlog.record.strict import record_or_cause

_MIN_LINE_BYTES = 100
_MAX_ASIDE_BYTES = 1 << 20
_MAX_DELETED_LINES = 1000
"""The most lines that a person may have deleted from one place of a file. A larger gap has another cause."""

_MAX_LOST = 1 << 22
"""The most consecutive lost positions: each takes a line, and a forged record may claim any position."""

UNFINISHED = "its batch is incomplete"
"""The cause given for records that were never committed."""

SETTLED = "its version was taken; it is kept with another one"
"""The cause given for records that were kept with another version."""

_WITHOUT_REST = "the other records of its batch are not there"

_LOST = b'{"position":%d,"lost":"no whole copy of this event is left"}'


class VersionSpan(msgspec.Struct, frozen=True):
    """Positions, or versions of a stream, from `first` to `last`."""

    first: int
    last: int
    stream_id: str = ""


class Aside(msgspec.Struct):
    """Intact records that were put aside: their number, first and last position, and the cause."""

    first: int
    last: int
    cause: str
    count: int = 1


class Settled(msgspec.Struct, frozen=True):
    """A record whose version was taken, or could not come next. It has the version `now` instead."""

    position: int
    stream_id: str
    version: int
    now: int


class Rebuilt(msgspec.Struct):
    """The result of rebuilding the journal.

    Attributes:
        last: The journal's last position.
        replaced: The files that were replaced.
        lost: The positions that no intact line is left of.
        lost_versions: The versions that no intact line is left of.
        aside: The records written to `put-aside.jsonl`.
        settled: The records that have another version now.
        ring_fits: True if the journal has everything that the commit ring has.
    """

    last: int = 0
    replaced: list[Replaced] = []
    lost: list[VersionSpan] = []
    lost_versions: list[VersionSpan] = []
    aside: list[Aside] = []
    settled: list[Settled] = []
    ring_fits: bool = True

    @property
    def put_aside(self) -> int:
        """The number of records that were put aside."""
        return sum(each.count for each in self.aside)


def rebuild(folder: Folder, frames: list[Frame], *, bridge: bool = True) -> Rebuilt:
    """Make the journal the longest history that the folder's files, and `frames` of the commit ring, prove.

    A replaced file is kept as `NAME.damaged`. Intact records outside that history go to `put-aside.jsonl`.

    With `bridge`, the history continues after lost positions if the streams show that it did. Without, it ends before
    them, and before a torn line after the checkpoint. You may interrupt this at any point and run it again.

    Raises:
        CorruptionError: without `bridge`, the last lines are whole but changed, in both copies. No file was changed.
        OSError: a call of the operating system failed.
        StoreOpenError: there is no store.
        StoreFormatError: `hangarlog.json` is damaged, or of another format.
    """
    segment_bytes = folder.open(1, create=False).segment_bytes
    rewriting = Rewriting(folder.journal, segment_bytes)
    merge = Merge(folder, frames)
    history = _History(folder, rewriting, merge, bridge)
    for position, candidates, bad in merge.positions():
        history.add(position, candidates, bad)
    if not bridge:
        history.refuse_changed_end()
    return history.finish()


class _Kept(NamedTuple):
    """A line of the history."""

    position: int
    line: bytes
    candidate: Candidate


class _Holes(NamedTuple):
    """Lost positions of the history, and the damaged lines that stand at some of them."""

    positions: range
    bad: dict[int, bytes]


class _History:
    """Builds the history from its first position. It ends where the next record cannot be proved to follow."""

    def __init__(self, folder: Folder, rewriting: Rewriting, merge: Merge, bridges: bool) -> None:
        self._folder, self._rewriting, self._merge, self._bridges = folder, rewriting, merge, bridges
        self._report = Rebuilt()
        self._next = self._begins = folder.journal.begins()
        self._versions: dict[str, int] = {}  # {stream id: next version}
        self._crcs: dict[str, str] = {}  # {stream id: checksum of its last record}
        self._crc = ""  # The checksum of the last record of all; "" if that is lost.
        self._batch: list[_Kept | _Holes] = []  # It counts once its last line is there.
        self._durable = load_checkpoint(folder).position
        self._torn = False  # True if a power cut may have lost a line of this batch. Then only a later one proves it.
        self._bad: dict[int, bytes] = {}  # {position: damaged line} since the last intact line.
        self._lost = 0  # Lost positions whose stream is not known yet.
        self._runs: list[Stretch] = []  # The runs of the journal that hold the last line.
        self._streams: set[str] = set()  # The streams with records since these runs began.
        self._ended = ""
        self._aside: list[bytes] = []

    def add(self, position: int, candidates: list[Candidate], bad: bytes | None) -> None:
        """Take the candidates of a position, and the damaged line in its place. Positions come in order."""
        if position == self._next and not self._ended:
            candidates = self._of_this_batch(candidates)
        if not candidates:
            if bad is not None and not self._ended:
                self._bad[position] = bad
            return
        if not self._ended and position > self._next:
            self._bridge(position, candidates)
        if self._ended:
            self._put_aside(candidates, self._ended)
        else:
            self._choose(position, candidates)

    def _of_this_batch(self, candidates: list[Candidate]) -> list[Candidate]:
        """Drop the candidates that only streams have if they belong to another batch than the line before.

        A batch that was taken back may have left them: its positions were given to others.
        """
        last = self._batch[-1] if self._batch else None
        if isinstance(last, _Holes):
            return candidates
        open_batch = last.candidate.record.open_batch if last else 0
        kept = []
        for candidate in candidates:
            if candidate.record.may_follow(open_batch) or candidate.runs or candidate.in_ring:
                kept.append(candidate)
            else:
                self._put_aside([candidate], _WITHOUT_REST)
        return kept

    def _bridge(self, position: int, candidates: list[Candidate]) -> None:
        """Keep a place for each line lost before `position`, or end the history there."""
        missing = range(self._next, position)
        absent = position - self._next - len(self._bad)
        runs = [run for candidate in candidates for run in candidate.runs] or self._merge.torn_apart
        explained = self._merge.explained or any(_missing_before(run, position) for run in runs)
        # A power cut leaves zeros in what was never synced.
        torn = position > self._durable and any(b"\0" in line for line in self._bad.values())
        if (self._bridges or not torn) and (not absent or (self._bridges and explained and absent <= _MAX_LOST)):
            self._batch.append(_Holes(missing, self._bad))
            self._torn = torn and candidates[0].record.batch_end > 0
            self._lost += len(missing)
            self._crc = ""
        else:
            self._ended = f"positions {missing[0]} to {missing[-1]} before it are missing"
            self._report.lost.append(VersionSpan(missing[0], missing[-1]))
        self._bad = {}

    def _choose(self, position: int, candidates: list[Candidate]) -> None:
        best = candidates[0] if len(candidates) == 1 else max(candidates, key=self._rank)
        record = best.record
        last = self._batch[-1] if self._batch else None
        if isinstance(last, _Kept) and not record.may_follow(last.candidate.record.open_batch):
            self._leave_batch()
            self._bridge(position, candidates)
            if self._ended:
                self._put_aside(candidates, self._ended)
                return
        version = None if self._contradicted(best) else self._version(best)
        if version is None:
            self._ended = (
                f"version {record.stream_version} of {record.stream_id!r} at {position} belongs to another history"
            )
            self._put_aside(candidates, self._ended)
            return
        same = [each for each in candidates if _is_same(each, best)]
        best.runs = [run for each in candidates if each in same or _breaks_format(each, best) for run in each.runs]
        self._put_aside([each for each in candidates if each not in same], "another record has its position")
        if best.runs and not self._follows(best):
            self._streams.clear()
        self._runs, line = best.runs, best.line
        if best.erased:  # A whole copy of it, which others may name, has another checksum.
            self._crc = ""
            self._crcs.pop(record.stream_id, None)
        else:
            self._crc = self._crcs[record.stream_id] = record.crc
        if version != record.stream_version:
            self._put_aside([best], SETTLED)
            self._report.settled.append(Settled(position, record.stream_id, record.stream_version, version))
            encode = erased_in_journal if best.erased else encode_envelope
            line = encode(msgspec.structs.replace(record, stream_version=version))[:-1]
        self._next, self._versions[record.stream_id] = position + 1, version + 1
        self._streams.add(record.stream_id)
        self._batch.append(_Kept(position, line, best))
        if record.ends_batch and not self._torn:
            self._commit()
        self._torn &= not record.ends_batch

    def _leave_batch(self) -> None:
        """Put the open batch aside: the next record, which is another history's, does not continue it."""
        while self._batch and isinstance(kept := self._batch[-1], _Kept):
            record = kept.candidate.record
            if record.ends_batch:
                break  # It waits for a later one, which proves it.
            self._batch.pop()
            self._put_aside([kept.candidate], _WITHOUT_REST)
            self._next = kept.position
            self._versions[record.stream_id] = decode_record(kept.line).stream_version
            self._crcs.pop(record.stream_id, None)

    def _rank(self, candidate: Candidate) -> tuple[bool, bool, bool, bool, int, int, bool]:
        """Return the sort key of a candidate.

        Preferred, in this order: it follows the history; it is erased, and a mark hides it; it is valid in the full
        format; it has the expected version; streams confirm its run; its run reaches furthest; the journal has it.
        """
        follows = not self._contradicted(candidate)
        record, runs = candidate.record, candidate.runs
        expected = self._versions.get(record.stream_id)
        fits = record.stream_version == expected
        if expected is None:  # A mark that is put back may tell another version than the journal.
            fits = record.stream_version <= self._merge.through(record.stream_id) + 1 or self._follows(candidate)
        confirmed = max((self._merge.confirmed[run] for run in runs), default=0)
        reach = max((run.last for run in runs), default=0)
        strict = isinstance(record_or_cause(candidate.line), StoredEnvelope)
        hidden = candidate.erased and record.stream_version <= self._merge.through(record.stream_id)
        return follows, hidden, strict, fits, confirmed, reach, bool(runs)

    def _contradicted(self, candidate: Candidate) -> bool:
        """True if a candidate follows a line that is not in the history, in every place where it was found."""
        record = candidate.record
        proofs = [run in self._runs for run in candidate.runs if run.first < record.position]
        if self._crc:
            proofs += [crc == self._crc for crc in candidate.after]
        if record.stream_id in self._crcs:
            proofs += [crc == self._crcs[record.stream_id] for crc in candidate.before]
        return bool(proofs) and not any(proofs)

    def _follows(self, candidate: Candidate) -> bool:
        """True if a candidate follows the last line in a file of the journal, not counting damaged lines."""
        position = candidate.record.position
        if position == self._begins > 1:
            return bool(candidate.runs)
        return any(run in self._runs or (run.first == position and 0 < run.after < position) for run in candidate.runs)

    def _version(self, candidate: Candidate) -> int | None:
        """Return the version of a record in this history, or None if it is of another history."""
        record = candidate.record
        stream_id, version = record.stream_id, record.stream_version
        expected = self._versions.get(stream_id)
        new = expected is None
        if expected is None:
            expected = min(version, self._merge.through(stream_id) + 1)
        if version == expected:
            return version
        if 0 < version - expected <= self._lost:
            self._lost -= version - expected
            self._report.lost_versions.append(VersionSpan(expected, version - 1, stream_id))
            return version
        belongs = candidate.in_stream or (self._follows(candidate) and (new or stream_id in self._streams))
        dropped = new and self._begins > 1 and (candidate.in_ring or bool(candidate.runs))  # Its earlier ones may be.
        if not belongs and not dropped:
            return None
        # An imported stream without the snapshot that tells its first version, or a version given twice.
        return version if new else expected if expected <= MAX_NUMBER else None

    def _commit(self) -> None:
        """Add the gathered lines, which make complete batches."""
        report, may_begin = self._report, True
        for kept in self._batch:
            if isinstance(kept, _Holes):
                self._commit_holes(kept, may_begin=may_begin)
                may_begin = True
            else:
                self._rewriting.add(kept.position, kept.line, may_begin=may_begin)
                may_begin = False
                report.last = kept.position
        self._batch = []

    def _commit_holes(self, holes: _Holes, *, may_begin: bool) -> None:
        for position in holes.positions:
            line = holes.bad.get(position) or _LOST % position
            self._rewriting.add(position, line, may_begin=may_begin, hole=True)
            self._note_lost(position)
            may_begin = True

    def _note_lost(self, position: int) -> None:
        lost = self._report.lost
        if lost and lost[-1].last == position - 1:
            lost[-1] = VersionSpan(lost[-1].first, position)
        else:
            lost.append(VersionSpan(position, position))

    def _put_aside(self, candidates: Iterable[Candidate], cause: str) -> None:
        report = self._report
        for candidate in candidates:
            position = candidate.record.position
            self._aside.append(candidate.line)
            report.ring_fits &= not candidate.in_ring
            if report.aside and report.aside[-1].cause == cause:
                report.aside[-1].last = position
                report.aside[-1].count += 1
            else:
                report.aside.append(Aside(position, position, cause))
        if sum(map(len, self._aside)) > _MAX_ASIDE_BYTES:
            self._write_aside()

    def _write_aside(self) -> None:
        if self._aside:
            self._folder.put_aside(self._aside)
            self._aside = []

    def refuse_changed_end(self) -> None:
        """Raise `CorruptionError` if damaged lines at the end are neither torn nor zeros: copying changes no line."""
        for position, line in self._bad.items():
            if b"\0" not in line and line.rstrip(b"\r").endswith(b'"}'):
                path = self._folder.journal.active_path
                cause = (
                    "its bytes were changed, and so were those of its other copy; copy the store again, or let "
                    "`hangarlog repair` keep what is whole and say what is lost"
                )
                raise CorruptionError(path, os.path.basename(path), 0, cause, position, mendable=False)

    def finish(self) -> Rebuilt:
        """Put the rebuilt journal in place."""
        self._put_aside([kept.candidate for kept in self._batch if isinstance(kept, _Kept)], UNFINISHED)
        for position in self._bad:
            self._note_lost(position)
        self._rewriting.finish()
        if self._report.aside:
            self._write_aside()
            _sync(self._folder, self._folder.aside_path)
        self._report.replaced = self._rewriting.put_in_place()
        return self._report


def _is_same(candidate: Candidate, best: Candidate) -> bool:
    """True if a candidate is the best one, or the same event, and one of both is erased."""
    if candidate is best or not (candidate.erased or best.erased):
        return candidate is best
    return _event_of(candidate) == _event_of(best)


def _breaks_format(candidate: Candidate, best: Candidate) -> bool:
    """True if a candidate is the best one's event, but in a line that breaks the format: its run is of this history."""
    return _event_of(candidate) == _event_of(best) and isinstance(record_or_cause(candidate.line), str)


def _event_of(candidate: Candidate) -> tuple[str, int, str]:
    record = candidate.record
    return record.stream_id, record.stream_version, record.event_id


def _missing_before(run: Stretch, position: int) -> bool:
    """True if lines missing before `run` include `position`, and so few are missing that damage may explain it."""
    few = _MAX_DELETED_LINES + run.skipped // _MIN_LINE_BYTES
    return 0 < run.after < position <= run.first <= run.after + few


def _sync(folder: Folder, path: str) -> None:
    filesystem = folder.filesystem
    fd = filesystem.open_append(path)
    try:
        filesystem.sync_data(fd)
    finally:
        filesystem.close(fd)
    filesystem.sync_folder(folder.path)
