"""The commit: a batch goes into the journal, then into its streams, then it is published, or all is undone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from time import monotonic

from hangarlog.errors import ArchiveError, LockTimeoutError, OutcomeUnknownError, SyncError
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.expected_version import StoredId, settle
from hangarlog.eventstore.idempotent import retried
from hangarlog.filestore.cursors import Cursors, Planned
from hangarlog.filestore.event_ids import EventIds, Moment
from hangarlog.filestore.open_streams import COLD_BYTES, MAX_OPEN_STREAMS, StreamEnd
from hangarlog.filestore.shared_state import FAILED, FAILURES, LAYOUT, words_of
from hangarlog.filestore.write_session import WriteSession
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.log import Log
from hangarlog.record.batch import EncodedBatch, Pending, StreamShare, encode_batch, encode_batches
from hangarlog.record.line import StoredEnvelope
from hangarlog.record.timestamp import now as now_text
from hangarlog.system.file_lock import enter
from hangarlog.system.import_lock import importing


class Writer:
    """Commits events to one store, in this process. Threads may share it, and so may a forked child."""

    def __init__(self, session: WriteSession, ids: EventIds, cursors: Cursors) -> None:
        self._session, self._ids, self._cursors = session, ids, cursors
        self._sealed_in, self._sealed = -1, dict[str, dict[str, int]]()  # The session, and what it found by folder.
        self._moved = False  # True if a commit has moved a cursor, and nobody was woken since.

    # The commit

    def commit(self, pendings: list[Pending]) -> tuple[dict[str, AppendResult], int, int]:
        """Write events to the journal and to their streams, all or none, without a sync.

        Returns ({stream id: result}, the committed position, the number of syncs that had failed before).

        Raises what `EventStore.append` raises.
        """
        session, idempotent = self._session, pendings[0].idempotent
        if session.folder.is_archive:
            raise ArchiveError(session.path, "it takes no appends; append to the store whose events it has")
        if idempotent:
            self._prepare_ids()
        now, threads, entered = monotonic(), session.write_lock.threads, False
        try:  # As in `WriteSession.lock`: a generator would cost every append a microsecond.
            entered = enter(threads, session.lock_seconds)
            if not entered:
                raise LockTimeoutError(session.path, os.getpid(), session.lock_seconds or 0)
            session.refuse_inside()
            results = self._commit(pendings, now, idempotent)
            position, failures = session.committed, int.from_bytes(session.raw[FAILED], sys.byteorder)
            due, session.checkpointing.due = session.checkpointing.due, False
        finally:
            if entered or threads._is_owned():
                threads.release()
        if self._moved:
            self._moved = False
            session.state.wake_cursor_waiters()
        if idempotent:
            self._ids.note(results)
        # After a failed sync a later one proves nothing: recovery begins at the last good checkpoint until a restart.
        if due and not words_of(session.raw)[FAILURES]:
            session.checkpointing.begin()
        return results, position, failures

    def _prepare_ids(self) -> None:
        state = self._session.state
        with contextlib.suppress(OSError):  # The commit will say what is wrong.
            if self._ids.is_due(state.committed) and state.valid:
                self._ids.prepare(Moment(state.committed, state.layout, state.history))

    def _commit(self, pendings: list[Pending], now: float, idempotent: bool) -> dict[str, AppendResult]:
        """Commit under the lock between threads; return {stream id: result}."""
        session = self._session
        only = pendings[0] if len(pendings) == 1 and not idempotent else None
        try:
            session.enter(now, only)
            streams, committed = session.streams, session.committed
            ends: dict[str, StreamEnd] = {}
            to_write = []
            for pending in pendings:
                end = ends[pending.stream_id] = streams.get(pending.stream_id, now, committed)
                if pending.expected == end.last[0] >= 0 and pending.events:
                    to_write.append((pending, pending.expected + 1))
            results: dict[str, AppendResult] = {}
            if idempotent and (stored := retried(pendings, lambda stream_id: ends[stream_id].version, self._find)):
                return stored
            if len(to_write) < len(pendings) or len(ends) < len(pendings):
                results, to_write = settle(
                    pendings,
                    lambda stream_id: ends[stream_id].last,
                    self._stored_at,
                    lambda stream_id: ends[stream_id].deleted,
                )
            if to_write:
                move = only.cursor if only else next((p.cursor for p in pendings if p.cursor), None)
                encoded = encode_batch(to_write, committed + 1, now_text())
                self._write(encoded, ends, results, self._cursors.plan(move) if move else None)
            return results
        except OSError as error:
            raise session.refused(error) from error
        finally:
            try:
                session.leave()
            except BaseException:
                session.leave()  # An interrupt came before the release.
                raise

    def commit_batches(self, batches: list[list[Pending]]) -> list[int]:
        """Write the first ones of some batches at once, as many as the journal's segment has room for.

        Return the first position of each that was written. There is none if the first batch needs `commit`: an append
        does not continue its stream, or a cursor moves. Raises what `commit` raises.
        """
        session = self._session
        if session.folder.is_archive:
            return []
        with session.lock():
            ends: dict[str, StreamEnd] = {}
            size = session.journal.size if session.journal else 0
            room = session.segment_bytes - size if size < session.segment_bytes else session.segment_bytes
            continuing = self._continuing(batches, ends)
            encoded, firsts = encode_batches(continuing, session.committed + 1, now_text(), room)
            if firsts:
                self._write(encoded, ends, {}, None)
            due, session.checkpointing.due = session.checkpointing.due, False
        if due and not session.state.failures:
            session.checkpointing.begin()
        return firsts

    def _continuing(
        self, batches: list[list[Pending]], ends: dict[str, StreamEnd]
    ) -> Iterator[list[tuple[Pending, int]]]:
        """Yield the first batches that continue their streams, with the first version of each append."""
        session, now = self._session, monotonic()
        versions: dict[str, int] = {}
        for batch in batches:
            to_write = []
            for pending in batch:
                stream_id = pending.stream_id
                if stream_id not in ends:
                    end = ends[stream_id] = session.streams.get(stream_id, now, session.committed)
                    versions[stream_id] = end.version
                at = versions[stream_id]
                if pending.expected != at or pending.cursor or not pending.events:
                    return
                first = at + 1 if at >= 0 else pending.first_version
                to_write.append((pending, first))
                versions[stream_id] = first + len(pending.events) - 1
            yield to_write

    def _stored_at(self, stream_id: str, version: int, count: int) -> list[StoredId]:
        session = self._session
        end = session.streams.seen(stream_id)
        near = end.active.records_since(version) if end and end.active else []
        if near:
            return [(record.event_id, record.position) for record in near[:count]]
        found: list[StoredId] = []
        for block in session.folder.stream(stream_id).forward(version):
            if block[0].stream_version > version and not found:
                break  # Compacted away.
            found += [(record.event_id, record.position) for record in block[: count - len(found)]]
            if len(found) == count:
                break
        return found

    def _find(self, event_id: str, stream_id: str) -> StoredEnvelope | None:
        session = self._session
        words = words_of(session.raw)
        now = Moment(session.committed, words[LAYOUT], (session.state.session, words[FAILURES]))
        return self._ids.find(event_id, stream_id, now, session.journal)

    def _write(
        self,
        encoded: EncodedBatch,
        ends: dict[str, StreamEnd],
        results: dict[str, AppendResult],
        planned: Planned | None,
    ) -> None:
        """Write a batch to the journal and to its streams, and publish it; undo all of it if a step fails."""
        session = self._session
        state = session.state
        position, first = session.committed + 1, session.journal_first
        data, lengths, shares, last = encoded
        published = False
        undo: list[tuple[StreamEnd, int]] = []
        moved: Planned | None = None
        size = -1
        try:
            journal = session.journal
            assert journal
            rolled = journal.size >= session.segment_bytes
            if rolled:
                journal = self._roll_journal(journal)
            size = journal.size
            if not size:
                first = position
            journal.append(data, lengths)
            self._write_streams(shares, ends, undo)
            if planned:
                moved = planned  # Set first: a part of the move may be written.
                self._cursors.move_with(planned, last, data)
            cold, session.streams.cold = session.streams.cold, 0
            tail = session.checkpointing.tail_after(session.tail, len(data) + cold * COLD_BYTES)
            published = True  # Set first: what readers may have seen is never undone.
            try:
                session.standing = state.publish(session.raw, last, first, journal.size, tail)
            except OSError:
                published = state.committed >= last  # A call may fail and still have worked.
                raise
            session.committed, session.journal_first, session.tail = last, first, tail
            self._moved |= planned is not None
            if rolled:
                session.state.abandon()
            self._note(shares, ends, results)
        except BaseException as error:
            try:
                if not published:
                    self._undo(undo, size, error, moved)
            finally:
                for end in ends.values():
                    end.close()
                session.forget()
            if published and isinstance(error, OSError):
                raise OutcomeUnknownError(session.path, f"it is written; then {error}") from error
            raise

    def _write_streams(
        self, shares: list[StreamShare], ends: dict[str, StreamEnd], undo: list[tuple[StreamEnd, int]]
    ) -> None:
        """Append each stream's share of a batch; note in `undo` how to take it back."""
        session = self._session
        for share in shares:
            end = ends[share.stream_id]
            active = end.active
            if active is None or active.size >= session.segment_bytes:
                active = self._active_to_write(end, undo)
            undo.append((end, active.size))
            active.append(share.data, share.lengths)
            if len(undo) > MAX_OPEN_STREAMS:
                end.close()
        for share in shares:
            session.catalog.put(share.stream_id, share.version, share.last_position)

    def _note(self, shares: list[StreamShare], ends: dict[str, StreamEnd], results: dict[str, AppendResult]) -> None:
        """After the commit is published: note where the streams end, and extend the indexes that are due."""
        session = self._session
        for share in shares:
            end = ends[share.stream_id]
            end.last = share.version, share.ids[-1], share.last_position
            results[share.stream_id] = AppendResult(
                share.version, share.first_position, share.last_position, share.ids, True
            )
            active = end.active
            if not end.is_kept:
                session.streams.keep(share.stream_id, end)
            if active and active.size >= active.index_due:
                active.extend_index()
        journal = session.journal
        if journal and journal.size >= journal.index_due:
            journal.extend_index()

    def _active_to_write(self, end: StreamEnd, undo: list[tuple[StreamEnd, int]]) -> ActiveSegment:
        """Return the active segment of a stream, created or rolled if need be; add to `undo` a file created here."""
        session = self._session
        cold = end.active is None
        if not end.exists:
            undo.append((end, 0))  # Noted before the file is created.
            try:
                end.open()
            except FileExistsError:
                undo.pop()  # It is not ours.
                raise
        active = end.open()
        if cold:
            session.folder.refuse_moved()  # Checked last: the folder may have been replaced before the open.
        return self._rolled(end, active) if active.size >= session.segment_bytes else active

    def _undo(self, undo: list[tuple[StreamEnd, int]], size: int, error: BaseException, moved: Planned | None) -> None:
        session = self._session
        if size < 0:
            return  # A roll failed. The mark stays, and the next writer finds out how far it came.
        assert session.journal
        try:
            if moved:
                self._cursors.take_back(moved)
            for end, end_size in reversed(undo):
                end.undo(end_size)
            if session.journal.cut(size):  # Last: the batch counts while it is whole here.
                session.sync_now(session.journal)  # Else a power cut could bring the batch back.
        except SyncError:
            raise
        except OSError as failure:
            raise OutcomeUnknownError(session.path, f"{error}; taking it back failed too: {failure}") from error
        for end, _ in undo:
            with contextlib.suppress(OSError):
                session.catalog.put(end.stream_id, end.version, end.last[2])
        session.state.abandon()

    def seal(self, stream_id: str | None) -> None:
        """Seal the active segment of a stream, or of the journal (None), if it has records."""
        session = self._session
        with session.lock():
            try:
                if stream_id is None:
                    self._seal_journal()
                else:
                    end = session.streams.get(stream_id, monotonic(), session.committed)
                    if end.exists and end.open().size:
                        self._rolled(end, end.open())
            except BaseException:
                session.forget()  # The next writer finds out how far a roll came.
                raise

    def _seal_journal(self) -> None:
        session = self._session
        journal, first = session.journal, session.committed + 1
        if journal and journal.size:
            self._roll_journal(journal)
            session.standing = session.state.publish(session.raw, session.committed, first, 0, session.tail)
            session.journal_first = first
            session.state.abandon()

    def _roll_journal(self, journal: ActiveSegment) -> ActiveSegment:
        session = self._session
        session.sync_now(journal)
        session.folder.refuse_moved()
        session.state.begin(os.getpid())  # The new file may grow as long as this one: its size proves nothing.
        first, sealed_bytes = journal.first_number_or_raise(), journal.size
        journal = session.journal = journal.roll()
        session.checkpointing.due = True
        session.checkpointing.sealed(journal.log, first)
        session.changed_layout()
        session.state.count_sealed(session.journal_first, sealed_bytes)
        return journal

    def _highest_sealed(self, log: Log) -> int:
        """Return the first version of a stream's last sealed segment as this session found it, -1 if it had none.

        One listing of a folder, which may have 100,000 files, does for all its streams.
        """
        number = self._session.state.session
        if self._sealed_in != number:
            self._sealed_in, self._sealed = number, {}
        if log.folder not in self._sealed:
            with importing:
                from hangarlog.filestore.rolled_streams import highest_sealed
            self._sealed[log.folder] = highest_sealed(log.filesystem, log.folder)
        return self._sealed[log.folder].get(log.name, -1)

    def _rolled(self, end: StreamEnd, active: ActiveSegment) -> ActiveSegment:
        session = self._session
        assert session.journal
        session.sync_now(session.journal)  # First: a sealed segment must not hold what the journal could still lose.
        if session.state.failures:
            active = active.rewritten()  # After a failed sync, earlier writes cannot be trusted.
        else:
            session.sync_now(active)
        session.folder.refuse_moved()
        first = active.first_number_or_raise()
        if self._highest_sealed(active.log) >= first:
            with importing:
                from hangarlog.filestore.stream_ends import put_left_over_aside
            put_left_over_aside(active)
        active = end.active = active.roll()
        session.checkpointing.sealed(active.log, first)
        session.changed_layout()
        return active
