"""Who changes a store: the commit, step by step, the roll, and taking back what failed."""

from __future__ import annotations

import contextlib
import os
import sys
from time import monotonic

from hangarlog.errors import (
    ConcurrencyError,
    CorruptionError,
    HangarlogError,
    LockTimeoutError,
    OutcomeUnknownError,
    SyncError,
)
from hangarlog.eventstore.expected_version import settle
from hangarlog.filestore.open_streams import COLD_BYTES, MAX_OPEN_STREAMS, StreamEnd
from hangarlog.filestore.shared_state import FAILED, FAILURES, words_of
from hangarlog.filestore.write_session import WriteSession
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.record.batch import Pending, StreamShare, encode_batch
from hangarlog.record.timestamp import now
from hangarlog.system.file_lock import enter, held

_REPLAYED_IN_TIME_BYTES = 6 << 20
"""A checkpoint is due when so many bytes of journal have gathered, or streams that take as long. A recovery reads that
much in a tenth of a second."""


class Writer(WriteSession):
    """Commits events to one store, in this process. Safe to share between threads, and over a fork."""

    # The commit

    def commit(self, pendings: list[Pending]) -> tuple[dict[str, int], int, int]:
        """Write events to the journal and to their streams, all or none. Syncs nothing.

        Returns ({stream id: its new version}, the position that is committed, how many syncs had failed before).

        Raises what `EventStore.append` raises.
        """
        now, threads, entered = monotonic(), self._lock.threads, False
        try:  # As in `lock`: a generator would cost every append a microsecond.
            entered = enter(threads, self._lock_seconds)
            if not entered:
                raise LockTimeoutError(self.path, os.getpid(), self._lock_seconds or 0)
            self._refuse_inside()
            versions, due = self._commit(pendings, now)
            position, failures = self._committed, int.from_bytes(self._raw[FAILED], sys.byteorder)
        finally:
            if entered or threads._is_owned():
                threads.release()
        if due:
            self._checkpoint()
        return versions, position, failures

    def _commit(self, pendings: list[Pending], now: float) -> tuple[dict[str, int], bool]:
        """With no other thread inside: (the streams' new versions, whether a checkpoint is due)."""
        only = pendings[0] if len(pendings) == 1 else None
        try:
            self._enter(now, only)
            committed = self._committed
            ends = {}
            to_write = []
            for pending in pendings:
                end = ends[pending.stream_id] = self._streams.get(pending.stream_id, now, committed)
                if pending.expected == end.place[0] >= 0 and pending.events:
                    to_write.append((pending, pending.expected + 1))
            versions: dict[str, int] = {}
            if len(to_write) < len(pendings):
                versions, to_write = settle(pendings, lambda stream_id: ends[stream_id].place, self._ids_at)
            if to_write:
                self._write(to_write, ends, versions)
            due, self._checkpoint_due = self._checkpoint_due, False
            return versions, due
        except OSError as error:
            raise self._refused(error) from error
        finally:
            try:
                self._leave()
            except BaseException:
                self._leave()  # An interrupt came first.
                raise

    def _refuse_overtaken(self, pending: Pending) -> None:
        """Raise `ConcurrencyError` if the stream can be seen to have gone on: for that nobody has to wait for the lock.

        What is committed stays, and was there before the stream was looked at. Any doubt is for whoever has the lock.
        """
        end, published = self._streams.seen(pending.stream_id), self._state.published()
        open_files_are_live = self._files_are_live()
        if end is None or end.live is None or not (published and open_files_are_live and self._session.is_joined):
            return
        expected = pending.expected
        if expected < 0 or not pending.events:
            return
        seen = end.seen if end.seen[0] == expected else (end.version, end.live.size)
        if seen[0] != expected:
            return
        with contextlib.suppress(OSError, CorruptionError):
            found = end.live.records_beyond(seen[1], published[0])
            if found:
                first, last, offset = found
                retried = first.event_id == pending.events[0][1]
                if first.stream_version == expected + 1 and not retried:
                    end.seen = (last.stream_version, offset)
                    raise ConcurrencyError(pending.stream_id, expected, last.stream_version)

    def _ids_at(self, stream_id: str, version: int, count: int) -> list[str]:
        end = self._streams.seen(stream_id)
        near = end.live.records_since(version) if end and end.live else []
        if near:
            return [record.event_id for record in near[:count]]
        ids: list[str] = []
        for block in self._folder.stream(stream_id).forward(version):
            if block[0].stream_version > version and not ids:
                break  # Compacted away.
            ids += [record.event_id for record in block[: count - len(ids)]]
            if len(ids) == count:
                break
        return ids

    def _write(self, to_write: list[tuple[Pending, int]], ends: dict[str, StreamEnd], versions: dict[str, int]) -> None:
        """Write a batch to the journal, then to its streams, then publish it; or leave everything as it was."""
        state = self._state
        position, first = self._committed + 1, self._journal_first
        data, lengths, shares, last = encode_batch(to_write, position, now())
        published = False
        undo: list[tuple[StreamEnd, int]] = []
        size = -1
        try:
            journal = self._journal
            assert journal
            rolled = journal.size >= self._segment_bytes
            if rolled:
                journal = self._roll_journal(journal)
            size = journal.size
            if not size:
                first = position
            journal.append(data, lengths)
            self._write_streams(shares, ends, position - 1, undo)
            tail = self._tail_after(len(data))
            published = True  # Before it is: what readers may have seen is never taken back.
            try:
                self._standing = state.publish(self._raw, last, first, journal.size, tail)
            except OSError:
                published = state.committed >= last  # A call that fails may have been done.
                raise
            self._committed, self._journal_first, self._tail = last, first, tail
            if rolled:
                self._state.abandon()
            self._note(shares, ends, versions, position - 1)
        except BaseException as error:
            try:
                if not published:
                    self._undo(undo, size, error)
            finally:
                for end in ends.values():
                    end.close()
                self._forget()
            if published and isinstance(error, OSError):
                raise OutcomeUnknownError(self.path, f"it is written; then {error}") from error
            raise

    def _write_streams(
        self, shares: list[StreamShare], ends: dict[str, StreamEnd], position: int, undo: list[tuple[StreamEnd, int]]
    ) -> None:
        """Give each stream its share of a batch behind a position; `undo` gets what would have to be taken back."""
        for stream_id, data, lengths, _ in shares:
            end = ends[stream_id]
            live = end.live
            if live is None or live.size >= self._segment_bytes:
                live = self._live_to_write(end, undo)
            undo.append((end, live.size))
            live.append(data, lengths)
            if len(undo) > MAX_OPEN_STREAMS:
                end.close()
        for stream_id, _, lengths, place in shares:
            position += len(lengths)
            self._catalog.put(stream_id, place[0], position)

    def _note(
        self, shares: list[StreamShare], ends: dict[str, StreamEnd], versions: dict[str, int], position: int
    ) -> None:
        """After a batch was published behind a position: where its streams are, and the indexes that are due."""
        for stream_id, _, lengths, place in shares:
            end = ends[stream_id]
            position += len(lengths)
            end.place, end.position = place, position
            versions[stream_id] = place[0]
            live = end.live
            if not end.is_kept:
                self._streams.keep(stream_id, end)
            if live and live.size >= live.index_due:
                live.extend_index()
        journal = self._journal
        if journal and journal.size >= journal.index_due:
            journal.extend_index()

    def _tail_after(self, size: int) -> int:
        """How much there is to replay after this commit, in bytes, or what takes as long; 0 if a checkpoint is due."""
        cold, self._streams.cold = self._streams.cold, 0
        tail = self._tail + size + cold * COLD_BYTES
        if tail < _REPLAYED_IN_TIME_BYTES:
            return tail
        self._checkpoint_due = True
        return 0

    def _live_to_write(self, end: StreamEnd, undo: list[tuple[StreamEnd, int]]) -> ActiveSegment:
        """The live segment of a stream, made or rolled if it is time; `undo` gets what to do about a file made here."""
        cold = end.live is None
        if not end.exists:
            undo.append((end, 0))  # Before there is a file.
            try:
                end.open()
            except FileExistsError:
                undo.pop()  # It is not ours.
                raise
        live = end.open()
        if cold:
            self._folder.refuse_moved()  # After it was opened: else it may be another store's.
        return self._rolled(end, live) if live.size >= self._segment_bytes else live

    def _undo(self, undo: list[tuple[StreamEnd, int]], size: int, error: BaseException) -> None:
        if size < 0:
            return  # A roll failed; its mark stays, and the next writer looks how far it came.
        assert self._journal
        try:
            for end, end_size in reversed(undo):
                end.undo(end_size)
            if self._journal.cut(size):  # Last: as long as the batch is whole here, it counts.
                self._sync_now(self._journal)  # Else a power cut could bring back what is now said not to be there.
        except SyncError:
            raise
        except OSError as failure:
            raise OutcomeUnknownError(self.path, f"{error}; taking it back failed too: {failure}") from error
        for end, _ in undo:
            with contextlib.suppress(OSError):
                self._catalog.put(end.stream_id, end.version, end.position)
        self._state.abandon()

    def _roll_journal(self, journal: ActiveSegment) -> ActiveSegment:
        self._sync_now(journal)
        self._folder.refuse_moved()
        self._state.begin(os.getpid())  # Another file may be as long as this one: its size shows nothing.
        journal = self._journal = journal.roll()
        self._checkpoint_due = True
        self._changed_layout()
        return journal

    def _rolled(self, end: StreamEnd, live: ActiveSegment) -> ActiveSegment:
        assert self._journal
        self._sync_now(self._journal)  # First: a sealed segment must hold nothing that the journal could lose.
        if self._state.failures:
            live = live.rewritten()  # Since a sync has failed, none of what was written before it can be believed.
        else:
            self._sync_now(live)
        self._folder.refuse_moved()
        live = end.live = live.roll()
        self._changed_layout()
        return live

    def _checkpoint(self) -> None:
        """Have the streams brought to the device, unless that is being done: a recovery is to have little to replay."""
        # After a failed sync a later one proves nothing: recovery begins at the last good checkpoint until a restart.
        if not (words_of(self._raw)[FAILURES] or (self._checkpointing and self._checkpointing.is_alive())):
            self._checkpointing = self._filesystem.in_background(self._make_checkpoint, "hangarlog-checkpoint")

    # The end

    def _last_checkpoint(self) -> None:
        if self._session.is_joined and self._state.valid and (replaced := self._streams.replaced()):
            with contextlib.suppress(HangarlogError), held(self._lock, self._lock_seconds):
                self._streams.settle(replaced, self._state.committed)
        super()._last_checkpoint()
