"""Reads streams and the journal, forwards and backwards. A damaged record is read from the other copy."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from msgspec.structs import replace

from hangarlog.errors import CorruptionError, CorruptionWarning, EventsDroppedError, StoreOpenError
from hangarlog.eventstore.limits import ended
from hangarlog.eventstore.selection import Span
from hangarlog.filestore.catalog import NO_STREAM, Catalog, Known
from hangarlog.filestore.event_ids import Moment
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.shared_state import JOURNAL_SIZE, WRITING, SharedState
from hangarlog.filestore.shown_blocks import missing_versions, refuse_late_beginning, shown, up_to
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.filestore.stream_ends import conflicts_with_journal, disproved_by_journal, ends_early, lines_of_stream
from hangarlog.filestore.two_copies import missing_position
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.log.segment_cache import SegmentCache
from hangarlog.log.time_search import ranges_in_time
from hangarlog.record.line import StoredEnvelope, is_erased
from hangarlog.record.verified_block import without_erased
from hangarlog.system.import_lock import importing

if TYPE_CHECKING:
    from hangarlog.filestore.recovery.unrecovered import Unrecovered
    from hangarlog.filestore.salvage import Salvage

_Blocks = Iterator[Sequence[StoredEnvelope]]
_FEW_DOUBTFUL = 8
_MAX_LISTINGS = 100  # Listings of a stream's files in one read.


class Reader:
    """Reads what is committed, in blocks of records. It takes no lock.

    A damaged record is read from the other copy, with a `CorruptionWarning`. If both copies are damaged, it raises
    `CorruptionError`.
    """

    def __init__(self, folder: Folder, snapshots: SnapshotFiles, state: SharedState, catalog: Catalog) -> None:
        self._folder, self._snapshots, self._state, self._catalog = folder, snapshots, state, catalog
        self.layout = -1
        """The layout when the committed position was last read. Every read begins with that."""
        self._cache: SegmentCache | None = None
        self._unrecovered: Unrecovered | None = None

    def unrecovered(self, store_id: str) -> Unrecovered:
        """Return what the files alone say is committed, for a store that needs recovery and may not be written to.

        Raises:
            StoreOpenError: only a recovery can tell.
        """
        if self._unrecovered is None:
            with importing:
                from hangarlog.filestore.recovery.unrecovered import Unrecovered
            found = Unrecovered(self._folder, store_id)
            if found.doubt:
                cause = f"{found.doubt.cause}; open it once with permission to write, which recovers it"
                raise StoreOpenError(self._folder.path, cause)
            self._unrecovered = found
        return self._unrecovered

    def close(self) -> None:
        """Release the cached files."""
        self._cache = None

    def look_again(self) -> None:
        """Use the files that are at the store's paths now."""
        self._cache = self._unrecovered = None
        if not self._catalog.is_in_place and self._state.session:
            self._catalog.open(self._state.session, reading=not self._state.writable)

    def _cached(self) -> SegmentCache:
        """Return the cache of open segments, for this layout. Callers read the committed position first."""
        cache, layout = self._cache, self.layout
        if cache is None or cache.layout != layout:
            cache = self._cache = SegmentCache(layout)
        return cache

    def _journal(self, committed: int) -> Log:
        return self._folder.journal_log().cached_in(self._cached(), committed)

    def _stream_log(self, stream_id: str, committed: int) -> Log:
        cache = self._cached()
        return self._folder.stream(stream_id, cache.folders).cached_in(cache, committed)

    def blocks(self, span: Span, committed: int) -> Iterator[Sequence[StoredEnvelope]]:
        """Yield the records of a span up to position `committed`. An event damaged in both copies raises its error.

        Raises:
            EventsDroppedError: the span begins, in its direction, with a position that was dropped.
        """
        if span.stream_id is None and span.start:
            wanted = span.start + (-1 if span.reverse else 1)
            if 0 < wanted < (first := self.begins()) - span.reverse:  # The end of a read in reverse is none.
                raise EventsDroppedError(self._folder.path, first, wanted)
        if span.since is None and span.until is None:
            return self._up_to_stop(span, committed)
        return chain.from_iterable(self._up_to_stop(part, committed) for part in self._parts_in_time(span, committed))

    def _up_to_stop(self, span: Span, committed: int) -> Iterator[Sequence[StoredEnvelope]]:
        if (stop := span.stop) is None:
            return self._from_start(span, committed)
        if not span.reverse:
            count = stop - (span.start or 0) + (span.stream_id is not None)  # A start position is exclusive.
            if count <= 0:
                return iter(())
            span = replace(span, limit=count if span.limit is None else min(count, span.limit))
        field = "position" if span.stream_id is None else "stream_version"
        return ended(self._from_start(span, committed), field, stop, span.reverse)

    def _from_start(self, span: Span, committed: int) -> Iterator[Sequence[StoredEnvelope]]:
        """Yield the records of a span, and perhaps some beyond its `stop`."""
        if span.stream_id is None:
            return self._journal_blocks(span, committed)
        if self._unrecovered and not self._state.valid:
            return self._unrecovered_stream(self._unrecovered, span.stream_id, span)
        if span.reverse:
            return self._stream_backward(span, committed)
        return self._stream_forward(span.stream_id, span.start or 0, committed, span.limit, span.skip)

    def blocks_at(self, span: Span, moment: Moment) -> Iterator[Sequence[StoredEnvelope]]:
        """Yield the records of a span of the whole store as it was at a moment, also what is left of erased ones."""
        self.layout = moment.layout
        return self._whole_journal(span, moment.committed, passes=True)

    def _parts_in_time(self, span: Span, committed: int) -> Iterator[Span]:
        """Yield the parts of a span that may hold records of its time, in order."""
        if self._unrecovered and not self._state.valid:
            yield span  # Its files may have text that never was committed.
            return
        if span.stream_id is None:
            log, before = self._journal(committed), 1 if span.reverse else -1  # A start position is exclusive.
        else:
            log, before = self._stream_log(span.stream_id, committed), 0
        start = None if span.start is None else span.start - before
        times = self._cached().times
        for first, last in ranges_in_time(log, times, start, span.stop, span.since, span.until, span.reverse):
            yield replace(span, start=None if first is None else first + before, stop=last, since=None, until=None)

    def _unrecovered_stream(self, found: Unrecovered, stream_id: str, span: Span) -> Iterator[Sequence[StoredEnvelope]]:
        """Yield records up to the settled position from the stream, and later ones from the journal."""
        first = max(0 if span.reverse else span.start or 0, self._compacted_through(stream_id) + 1)
        last = span.start if span.reverse else None
        behind = Span(None, None if span.reverse else found.settled, span.reverse, skip=span.skip)

        def newer() -> Iterator[Sequence[StoredEnvelope]]:
            if found.ends.get(stream_id, -1) < first:
                return
            for block in self._journal_blocks(behind, found.committed):
                yield [
                    record
                    for record in block
                    if record.stream_id == stream_id
                    and record.position > found.settled
                    and record.stream_version >= first
                    and (last is None or record.stream_version <= last)
                ]
                if block[-1].position <= found.settled:
                    return

        if span.reverse:
            yield from filter(None, newer())
            yield from self._stream_backward(span, found.settled)
        else:
            yield from self._stream_forward(stream_id, first, found.settled, None, span.skip)
            yield from filter(None, newer())

    def _stream_forward(
        self, stream_id: str, version: int, committed: int, limit: int | None, skip: bool
    ) -> Iterator[Sequence[StoredEnvelope]]:
        log = self._stream_log(stream_id, committed)
        through = self._compacted_through(stream_id)
        version, position, listings = max(version, through + 1), 0, 0
        while True:
            known = self._known(stream_id)
            try:
                for block in self._committed_only(log.forward(version, limit), known, committed):
                    first = block[0]
                    if first.stream_version != version:
                        raise missing_versions(log, version, first.stream_version - 1)
                    if not first.event_type and is_erased(first):
                        raise missing_versions(log, version, version)  # The mark that hides it is gone.
                    yield block
                    version, position = block[-1].stream_version + 1, block[-1].position
                self._refuse_torn(log)
                self._refuse_short(log, stream_id, known, version - 1, committed)
                return
            except (CorruptionError, FileNotFoundError) as error:
                through = self._compacted_through(stream_id)
                if through >= version:
                    version = through + 1  # The stream was compacted while it was read.
                    continue
                if isinstance(error, FileNotFoundError):
                    log = self._relisted(stream_id, committed, listings := listings + 1, error)
                    continue
                damage = error.with_traceback(None)  # The traceback would keep this frame and its files.
            part = _stream_part(self._folder, log, damage, stream_id, version, position, through, committed)
            part.certain = not self._commit_in_progress()
            if position and part.hidden_through >= version:
                raise damage  # It has given events before one that is hidden: their mark is gone.
            for records in part.records(part.numbers(), skip, _served("journal", damage)):
                yield records
                position = records[-1].position
            if part.ends:
                return
            version = part.last + 1

    def _relisted(self, stream_id: str, committed: int, listings: int, gone: FileNotFoundError) -> Log:
        """Return the log of a stream after a listed file disappeared, because a writer rolled or compacted it.

        Raises `gone` after too many `listings`.
        """
        if listings > _MAX_LISTINGS:
            raise gone
        self._cache = None
        return self._stream_log(stream_id, committed)

    def _stream_backward(self, span: Span, committed: int, *, compacted: bool = False) -> _Blocks:
        """Yield a stream's records, latest first; with `compacted` also those that are hidden but not yet deleted."""
        stream_id, from_version, skip = span.stream_id or "", span.start, span.skip
        log = self._stream_log(stream_id, committed)
        through = -1 if compacted else self._compacted_through(stream_id)
        version, listings, exists = from_version, 0, False  # `exists`: the stream is known to have `version`.
        while version is None or version > through:
            known = self._known(stream_id)
            try:
                for block in self._committed_only(log.backward(version, span.limit), known, committed):
                    kept = shown(block, through, compacted)
                    self._refuse_torn(log)  # Otherwise an earlier record may be taken for the last one.
                    if not exists:
                        self._refuse_short(log, stream_id, known, block[0].stream_version, committed, version)
                    if kept:
                        yield kept
                        version, exists = kept[-1].stream_version - 1, True
                    if len(kept) < len(block):
                        none_shown = block[0].stream_version <= through
                        version, exists = (through, True) if none_shown else (version, exists)
                        break
                self._refuse_torn(log)
                if not exists:
                    self._refuse_short(log, stream_id, known, -1, committed, version)
                if not compacted:
                    refuse_late_beginning(log, version, through, committed, exists)
            except FileNotFoundError as error:
                log = self._relisted(stream_id, committed, listings := listings + 1, error)
                through = -1 if compacted else self._compacted_through(stream_id)
                continue
            except CorruptionError as error:
                through = -1 if compacted else self._compacted_through(stream_id)
                damage = error.with_traceback(None)
            else:
                return
            if version is not None and version <= through:
                return  # The stream was compacted while it was read.
            found = (self._folder, log, damage, stream_id, version, 0, through, committed)
            part = _stream_part(*found, reverse=True, exists=exists, compacted=compacted)
            through = max(through, part.hidden_through)
            numbers = part.numbers()
            stop = numbers.stop if version is None else min(numbers.stop, version + 1)
            yield from part.records(range(numbers.start, stop)[::-1], skip, _served("journal", damage))
            version, exists = part.first - 1, True

    def begins(self) -> int:
        """Return the first position that the journal has."""
        cache = self._cached()
        if not cache.begins:
            cache.begins = self._folder.journal.begins()
        return cache.begins

    def _journal_blocks(self, span: Span, committed: int) -> Iterator[Sequence[StoredEnvelope]]:
        return filter(None, map(without_erased, self._whole_journal(span, committed)))

    def _whole_journal(self, span: Span, committed: int, *, passes: bool = False) -> Iterator[Sequence[StoredEnvelope]]:
        """Yield the journal's records up to position `committed`, after the span's start or, in reverse, before it.

        With `passes`, positions that are dropped meanwhile are passed over. What is left of erased events comes too.
        """
        journal = self._journal(committed)
        tail: Sequence[StoredEnvelope] = ()
        if self._unrecovered and not self._state.valid:
            tail, committed = self._unrecovered.tail, self._unrecovered.stored
        if span.reverse:
            last = sys.maxsize if span.start is None else span.start - 1
            blocks = self._journal_backward(journal, min(last, committed), committed, span.skip)
            newest = [record for record in reversed(tail) if record.position <= last]
            return chain([newest], blocks) if newest else blocks
        first, passing = max((span.start or 0) + 1, self.begins()), True if passes else False if span.start else None
        blocks = self._journal_forward(journal, first, committed, span.limit, span.skip, passing)
        newest = [record for record in tail if record.position >= first]
        return chain(blocks, [newest]) if newest else blocks

    def _journal_forward(
        self, journal: Log, position: int, committed: int, limit: int | None, skip: bool, passes: bool | None
    ) -> Iterator[Sequence[StoredEnvelope]]:
        while position <= committed:
            left = committed - position + 1 if limit is None else limit  # Few records are found through the index.
            try:
                for block in up_to(journal.forward(position, left), committed):
                    if block[0].position != position:
                        break
                    yield block
                    passes, position = bool(passes), block[-1].position + 1
                    if position > committed:
                        return
                raise missing_position(journal, position, committed)
            except (CorruptionError, FileNotFoundError) as error:
                if (begins := self._folder.journal.begins()) > position:  # It was dropped meanwhile.
                    if passes is False:
                        raise EventsDroppedError(self._folder.path, begins, position) from error
                    self._cache, position = None, begins
                    journal = self._journal(committed)
                    continue
                if isinstance(error, FileNotFoundError):
                    raise
                damage = error.with_traceback(None)
            part = _journal_part(self._folder, journal, damage, (position, committed))
            part.certain = part.last < committed or not self._commit_in_progress()
            yield from part.records(part.numbers(), skip, _served("streams", damage))
            position = part.last + 1

    def _journal_backward(
        self, journal: Log, position: int, committed: int, skip: bool
    ) -> Iterator[Sequence[StoredEnvelope]]:
        begins = self.begins()
        while position >= begins:
            try:
                for block in journal.backward(position):
                    if block[0].position != position:
                        break
                    yield block
                    position = block[-1].position - 1
                if position >= begins:
                    raise missing_position(journal, position, committed)
            except (CorruptionError, FileNotFoundError) as error:
                if (begins := self._folder.journal.begins()) > position:
                    return  # The rest was dropped meanwhile.
                if isinstance(error, FileNotFoundError):
                    raise
                damage = error.with_traceback(None)
            else:
                return
            part = _journal_part(self._folder, journal, damage, (begins, position), reverse=True)
            yield from part.records(part.numbers()[::-1], skip, _served("streams", damage))
            position = part.first - 1

    def version(self, stream_id: str, committed: int) -> int:
        """Return the version of a stream's last record up to position `committed`, or -1."""
        if self._unrecovered and not self._state.valid:
            if stream_id in self._unrecovered.ends:
                return self._unrecovered.ends[stream_id]
            committed = self._unrecovered.settled
        block = next(self._stream_backward(Span(stream_id, limit=1), committed, compacted=True), None)
        return block[0].stream_version if block else -1

    def _refuse_torn(self, log: Log) -> None:
        """Raise if a torn tail that was read is damage: it stays although nobody is writing."""
        if self._unrecovered and not self._state.valid:
            return  # A power cut left it.
        for _ in range(2 if log.torn else 0):
            committed = self._state.committed
            with contextlib.closing(Segment(self._folder.filesystem, log.base, log.field)) as active:
                end = active.end_offset()
            if end == active.size or self._commit_in_progress() or self._state.committed != committed:
                return
        if log.torn:
            raise active.damage(end, f"{active.size - end} bytes after the last whole line")

    def _commit_in_progress(self) -> bool:
        """True if a commit is in progress: the journal is longer than was published."""
        words = self._state.look()
        size = self._folder.filesystem.size_at(self._folder.journal.active_path)
        return words[WRITING] != 0 or words[JOURNAL_SIZE] != size

    def _known(self, stream_id: str) -> Known | None:
        """Return what is known of a stream's last record; None if nothing tells."""
        if self._unrecovered and not self._state.valid:
            return self._unrecovered.known(stream_id)
        return (self._catalog.get(stream_id) or NO_STREAM) if self._catalog.is_open else None

    def _committed_only(
        self, blocks: Iterator[Sequence[StoredEnvelope]], known: Known | None, committed: int
    ) -> Iterator[Sequence[StoredEnvelope]]:
        """Yield a stream's committed records. Its file may also have records that a power cut took from the journal."""
        last = known.version if known else sys.maxsize
        for block in up_to(blocks, committed):
            if max(block[0].stream_version, block[-1].stream_version) <= last:
                yield block
            elif counted := [
                record
                for record in block
                if record.stream_version <= last or not disproved_by_journal(self._folder, record, committed)
            ]:
                yield counted

    def _refuse_short(
        self, log: Log, stream_id: str, known: Known | None, version: int, committed: int, wanted: int | None = None
    ) -> None:
        """Raise if a stream's file ends at `version`, before what is `known` of the stream.

        Nothing is raised if the caller `wanted` no later versions.
        """
        if known is None or known.version <= version or (wanted is not None and wanted <= version):
            return
        self._folder.refuse_moved()
        now = self._state.committed if self._state.valid else committed
        last, position = known.version, known.position_before(now)
        if committed < position <= now:
            return  # It was committed since.
        if known.position and (position <= 0 or conflicts_with_journal(self._folder, stream_id, last, position)):
            # A power cut, or an older file, has taken what the catalog knows of. The journal tells.
            records = [record for record, _ in lines_of_stream(self._folder, stream_id, 0, committed)]
            last, position = (records[-1].stream_version, records[-1].position) if records else (-1, 0)
        if last > version:
            raise ends_early(log, stream_id, version, last, position)

    def stream_ids(self, committed: int) -> set[str]:
        """Return the ids of all streams in the journal. Reads the whole journal; warns of what is lost in it."""
        whole = self._whole_journal(Span(None, skip=True), committed)
        return {record.stream_id for block in whole for record in block}

    def committed_among(self, stream_ids: Iterable[str], committed: int) -> list[str]:
        """Return those of these streams that have a record up to position `committed`.

        If the files of many streams do not tell, the journal is read once for all of them.
        """
        certain, doubtful = [], []
        for stream_id in stream_ids:
            log = self._folder.stream(stream_id)
            with contextlib.suppress(CorruptionError, FileNotFoundError):
                if log.last_record() and not log.torn:
                    certain.append(stream_id)
                    continue
            doubtful.append(stream_id)
        if len(doubtful) > _FEW_DOUBTFUL:
            found = [*self.stream_ids(committed).intersection(doubtful)]
        else:
            found = [stream_id for stream_id in doubtful if self.version(stream_id, committed) >= 0]
        return found + [stream_id for stream_id in certain if self.version(stream_id, committed) >= 0]

    def _compacted_through(self, stream_id: str) -> int:
        # Most stores have no snapshots at all.
        if not self._folder.filesystem.is_there(self._folder.snapshots_path):
            return -1
        snapshot = self._snapshots.load(stream_id)
        return snapshot.compacted_through if snapshot else -1


def _stream_part(
    folder: Folder,
    log: Log,
    damage: CorruptionError,
    stream_id: str,
    version: int | None,
    after: int,
    through: int,
    committed: int,
    *,
    reverse: bool = False,
    exists: bool = False,
    compacted: bool = False,
) -> Salvage:
    """Return what both copies have of a stream's part that holds `version` (None: the last), forwards or backwards.

    The missing records come after position `after`. In reverse without `exists`, `version` may not exist.
    """
    with importing:
        from hangarlog.filestore.salvage import ENDLESS, Salvage, bounds
    begins, last = bounds(log, ENDLESS if version is None else version)
    first = max(begins, through + 1)
    if not reverse:
        first = version or 0
    elif exists:
        last = version or 0
    part = Salvage(log, damage, first, last, reverse=reverse, stream_id=stream_id)
    part.known = -1 if damage.stream_version is None else damage.stream_version
    part.erased_too = compacted
    part.read_own(committed, begins or through + 1)
    part.read_journal(folder, after, committed)
    return part


def _journal_part(
    folder: Folder, journal: Log, damage: CorruptionError, positions: tuple[int, int], *, reverse: bool = False
) -> Salvage:
    with importing:
        from hangarlog.filestore import salvage
    return salvage.journal_part(folder, journal, damage, positions, reverse=reverse)


def _served(source: str, damage: CorruptionError) -> CorruptionWarning:
    return CorruptionWarning(f"served from the {source}: {damage}")
