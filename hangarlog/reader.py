"""Reading a store: its streams and its journal, forwards and backwards; what is damaged comes from its other copy."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice

from hangarlog.catalog import Catalog, Known
from hangarlog.copies import journal_bounds, journal_lines, missing_position, stream_lines_in_journal
from hangarlog.errors import CorruptionError, CorruptionWarning
from hangarlog.folder import Folder
from hangarlog.kept import Kept
from hangarlog.log import Log
from hangarlog.stream_ends import confirms
from hangarlog.record import Envelope, decode_record
from hangarlog.segment import Segment
from hangarlog.snapshot import SnapshotFiles
from hangarlog.state import JOURNAL_SIZE, WRITING, SharedState


class Reader:
    """Reads what is committed, some records at a time. It takes no lock.

    What is damaged is read from its other copy, with a `CorruptionWarning`, or raised as `CorruptionError`.
    """

    def __init__(self, folder: Folder, snapshots: SnapshotFiles, state: SharedState, catalog: Catalog) -> None:
        self._folder, self._snapshots, self._state, self._catalog = folder, snapshots, state, catalog
        self._kept: Kept | None = None

    def close(self) -> None:
        """Let go of the files that are kept open."""
        self._kept = None

    def look_again(self) -> None:
        """Use the files that have the store's names now."""
        self._kept = None
        if not self._catalog.is_in_place and self._state.session:
            self._catalog.open()

    def _keeping(self) -> Kept:
        """What is kept open until the layout changes. Whoever uses it has asked before what is committed."""
        kept, layout = self._kept, self._state.layout
        if kept is None or kept.layout != layout:
            kept = self._kept = Kept(layout)
        return kept

    def _stream_log(self, stream_id: str, committed: int) -> Log:
        kept = self._keeping()
        return self._folder.stream(stream_id, kept.folders).keeping(kept, committed)

    def stream(
        self, stream_id: str, from_version: int | None, reverse: bool, committed: int, limit: int | None = None
    ) -> Iterator[Sequence[Envelope]]:
        """The records of a stream up to position `committed`, from `from_version` on, or down where `reverse`.

        Not more than `limit` of them will be wanted.
        """
        through = self._compacted_through(stream_id)
        version, position = from_version, 0
        try:
            for block in (
                self._stream_backward(stream_id, from_version, through, committed)
                if reverse
                else self._stream_forward(stream_id, from_version, through, committed, limit)
            ):
                yield block
                version, position = block[-1].stream_version + (-1 if reverse else 1), block[-1].position
        except CorruptionError as damage:
            if reverse:
                last = sys.maxsize if version is None else version
                records = list(self._from_journal(damage, stream_id, through + 1, 0, committed))
                yield [record for record in reversed(records) if record.stream_version <= last]
            else:
                yield from _blocks(
                    self._from_journal(damage, stream_id, max(version or 0, through + 1), position, committed)
                )

    def _stream_forward(
        self, stream_id: str, from_version: int | None, through: int, committed: int, limit: int | None
    ) -> Iterator[Sequence[Envelope]]:
        log = self._stream_log(stream_id, committed)
        start = max(from_version or 0, through + 1)
        while True:
            try:
                for block in self._counted(log.forward(start, limit), stream_id, committed):
                    if block[0].stream_version != start:
                        missing = f"stream_version {start} to {block[0].stream_version - 1} are missing"
                        raise CorruptionError(log.live_path, os.path.basename(log.live_path), 0, missing)
                    yield block
                    start = block[-1].stream_version + 1
            except (CorruptionError, FileNotFoundError):
                through = self._compacted_through(stream_id)
                if through < start:
                    raise
                start = through + 1  # The stream was compacted while it was read.
            else:
                self._refuse_torn(log)
                if limit is None:
                    self._refuse_short(log, stream_id, start - 1, committed)
                return

    def _stream_backward(
        self, stream_id: str, from_version: int | None, through: int, committed: int
    ) -> Iterator[list[Envelope]]:
        log = self._stream_log(stream_id, committed)
        version = None
        for block in self._counted(log.backward(from_version), stream_id, committed):
            kept = [record for record in block if record.stream_version > through]
            self._refuse_torn(log)  # Before anything that is not the last one is taken for it.
            if kept:
                yield kept
                version = kept[-1].stream_version
            if len(kept) < len(block):
                break
        self._refuse_torn(log)
        if version is None and (from_version is None or from_version <= through or log.last_record() is None):
            return
        if version != through + 1:
            missing = f"stream_version {through + 1} to {(version or 0) - 1} are missing"
            raise CorruptionError(log.live_path, os.path.basename(log.live_path), 0, missing)

    def _from_journal(
        self, damage: CorruptionError, stream_id: str, version: int, position: int, committed: int
    ) -> Iterator[Envelope]:
        """A stream's records from `version` on, which come after `position`, from the copy in the journal.

        Raises `damage` where that copy is damaged too, or is none.
        """
        serves = position > 0
        if serves:
            warnings.warn(CorruptionWarning(f"served from the journal: {damage}"), stacklevel=2)
        try:
            for record, _ in stream_lines_in_journal(self._folder, stream_id, position):
                if record.position > committed:
                    break
                if record.stream_version >= version:
                    if not serves:
                        warnings.warn(CorruptionWarning(f"served from the journal: {damage}"), stacklevel=2)
                        serves = True
                    yield record
        except CorruptionError:
            raise damage from None
        if not serves:
            raise damage

    def everything(
        self, from_position: int | None, reverse: bool, committed: int, limit: int | None = None
    ) -> Iterator[Sequence[Envelope]]:
        """The journal's records up to position `committed`, after `from_position`, or before it where `reverse`.

        Not more than `limit` of them will be wanted.
        """
        journal = self._folder.journal_log().keeping(self._keeping(), committed)
        if reverse:
            position = committed if from_position is None else min(from_position - 1, committed)
            return self._journal_backward(journal, position, committed)
        return self._journal_forward(journal, (from_position or 0) + 1, committed, limit)

    def _journal_forward(
        self, journal: Log, position: int, committed: int, limit: int | None
    ) -> Iterator[Sequence[Envelope]]:
        live_first = self._state.journal_first
        while position <= committed:
            try:
                for block in _up_to(journal.forward(position, limit), committed):
                    if block[0].position != position:
                        break
                    yield block
                    position = block[-1].position + 1
                if position <= committed:
                    raise missing_position(journal, position, committed)
            except CorruptionError as damage:
                _, last = journal_bounds(self._folder, position, live_first, committed)
                records = self._served(damage, position, min(last, committed))
                if not records:
                    return  # The damage is behind everything that was committed.
                yield records
                position += len(records)

    def _journal_backward(self, journal: Log, position: int, committed: int) -> Iterator[list[Envelope]]:
        live_first = self._state.journal_first
        while position >= 1:
            try:
                for block in journal.backward(position):
                    if block[0].position != position:
                        break
                    yield block
                    position = block[-1].position - 1
                if position >= 1:
                    raise missing_position(journal, position, committed)
            except CorruptionError as damage:
                first, _ = journal_bounds(self._folder, position, live_first, committed)
                records = self._served(damage, first, position)
                yield records[::-1]
                position -= len(records)

    def _served(self, damage: CorruptionError, first: int, last: int) -> list[Envelope]:
        """These positions of the journal, where needed from the streams; raises `damage` if those lack one, too."""
        lines = journal_lines(self._folder, first, last)
        if len(lines) <= last - first:
            raise damage
        warnings.warn(CorruptionWarning(f"served from the streams: {damage}"), stacklevel=3)
        return [decode_record(lines[at]) for at in range(first, last + 1)]

    def version(self, stream_id: str, committed: int) -> int:
        """The version of a stream's last record up to position `committed`, -1 where there is none."""
        try:
            log = self._stream_log(stream_id, committed)
            for block in self._counted(log.backward(), stream_id, committed):
                self._refuse_torn(log)
                self._refuse_short(log, stream_id, block[0].stream_version, committed)
                return block[0].stream_version
            self._refuse_torn(log)
            self._refuse_short(log, stream_id, -1, committed)
        except CorruptionError as damage:
            return [record.stream_version for record in self._from_journal(damage, stream_id, 0, 0, committed)][-1]
        return -1

    def _counted(
        self, blocks: Iterator[Sequence[Envelope]], stream_id: str, committed: int
    ) -> Iterator[Sequence[Envelope]]:
        """A stream's records that count: what a power cut took from the journal may be left in the stream's file."""
        known = self._catalog.get(stream_id) if self._catalog.is_open else Known(sys.maxsize, 0)
        last = known.version if known else -1
        for block in _up_to(blocks, committed):
            if max(block[0].stream_version, block[-1].stream_version) <= last:
                yield block
            elif counted := [record for record in block if record.stream_version <= last or self._counts(record)]:
                yield counted

    def _counts(self, record: Envelope) -> bool:
        return confirms(self._folder, record.stream_id, record.stream_version, record.position)

    def _refuse_short(self, log: Log, stream_id: str, version: int, committed: int) -> None:
        """Raise if a stream's file, which was read up to a version, ends before the stream does."""
        known = self._catalog.get(stream_id) if self._catalog.is_open else None
        if known is None or known.version <= version:
            return
        self._folder.refuse_moved()
        position = known.position_before(self._state.committed)
        if position <= committed and confirms(self._folder, stream_id, known.version, position):
            cause = f"it ends at version {version}; version {known.version} was committed at position {position}"
            raise CorruptionError(log.live_path, os.path.basename(log.live_path), 0, cause)

    def _refuse_torn(self, log: Log) -> None:
        """Raise if a live end that was met within a line is so for good: nobody is writing, and it stays so."""
        for _ in range(2 if log.torn else 0):
            committed = self._state.committed
            with contextlib.closing(Segment(self._folder.filesystem, log.base, log.field)) as live:
                end = live.end()
            if end == live.size or self._is_written_to() or self._state.committed != committed:
                return
        if log.torn:
            raise live.damage(end, f"{live.size - end} bytes after the last whole line")

    def _is_written_to(self) -> bool:
        """Whether a commit is going on: the journal has more than was published."""
        words = self._state.look()
        size = self._folder.filesystem.size_at(self._folder.journal.live_path)
        return words[WRITING] != 0 or words[JOURNAL_SIZE] != size

    def stream_ids(self, committed: int) -> set[str]:
        """The ids of all streams that the journal has; it reads all of it."""
        return {record.stream_id for block in self.everything(None, False, committed) for record in block}

    def _compacted_through(self, stream_id: str) -> int:
        # Most stores have no snapshots at all, and then no stream's has to be looked for.
        if not os.path.isdir(self._folder.snapshots_path):
            return -1
        snapshot = self._snapshots.load(stream_id)
        return snapshot.compacted_through if snapshot else -1


def _blocks(records: Iterator[Envelope], size: int = 1000) -> Iterator[list[Envelope]]:
    while block := list(islice(records, size)):
        yield block


def _up_to(blocks: Iterator[Sequence[Envelope]], committed: int) -> Iterator[Sequence[Envelope]]:
    """Only what is committed: a record that is being written is in its file before it counts."""
    for block in blocks:
        if block[0].position <= committed >= block[-1].position:
            yield block
        else:
            kept = [record for record in block if record.position <= committed]
            if kept:
                yield kept
