"""Appends. Every message carries the number of the message before it in its stream, so it can be sent again safely.

Two messages of one place cannot both be stored, so what stands at the place that an append was sent to tells whether it
counts. An append whose answer was lost is therefore settled at that place before anything else is tried.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from time import monotonic, sleep
from typing import Any

import msgspec

from hangarlog.errors import ConcurrencyError, StorageError, StreamDeletedError, TooLargeError
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.expected_version import End as Settled
from hangarlog.eventstore.expected_version import StoredId, settle
from hangarlog.eventstore.idempotent import retried
from hangarlog.eventstore.selection import Span
from hangarlog.eventstore.server_errors import AppendUnknownError, BatchLimitError, UnavailableError
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.jetstream.connection import Connection, NoReplyError, NotSentError
from hangarlog.jetstream.cursors import Cursors, Offer, OvertakenError, new_move_id
from hangarlog.jetstream.mark import Mark
from hangarlog.jetstream.messages import NO_END, End, encode, missing, results_of
from hangarlog.jetstream.reader import Reader
from hangarlog.jetstream.snapshots import Snapshots
from hangarlog.jetstream.turns import Turns
from hangarlog.jetstream.wake_ups import WakeUps
from hangarlog.jetstream.wire import Outgoing
from hangarlog.record.batch import Pending, StreamShare
from hangarlog.record.envelope import Envelope
from hangarlog.record.event_id import new_event_id

_CONFLICT, _IN_FLIGHT, _BATCH_LIMIT, _NOT_STORED = 10071, 10164, 10199, 10077
_LATER = {10023, 10167, 10176, 10210, 10211}
"""No room or no leader now, a batch with a gap, too many batches: nothing was done, and it may work a moment later."""
_KNOWN_ENDS = 1 << 16
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.0005, 0.02
_UNAVAILABLE_PAUSE_SECONDS = 0.05


class _ConflictError(Exception):
    """Others came first, or are about to."""


class Writer:
    """The appends of a store."""

    def __init__(
        self,
        connection: Connection,
        reader: Reader,
        snapshots: Snapshots,
        cursors: Cursors,
        wake_ups: WakeUps,
        mark: Mark,
        turns: Turns,
    ) -> None:
        self._connection, self._reader, self._snapshots, self._cursors = connection, reader, snapshots, cursors
        self._wake_ups, self._mark, self._turns = wake_ups, mark, turns
        self._ends: dict[str, End] = {}

    def commit(self, pendings: list[Pending]) -> dict[str, AppendResult]:
        """Append to all streams or to none. Raises what `EventStore.append_many` raises."""
        return _Append(self, pendings).run()

    def known_end(self, stream_id: str) -> End:
        """Return a stream's end as the leader has it, and remember it."""
        end = self._reader.end(stream_id, self._ends.get(stream_id, NO_END))
        self._remember(stream_id, end)
        return end

    def _remember(self, stream_id: str, end: End) -> None:
        self._ends.pop(stream_id, None)
        if end.version >= 0:
            self._ends[stream_id] = end
            if len(self._ends) > _KNOWN_ENDS:
                self._ends.pop(next(iter(self._ends)), None)

    def publish(self, messages: list[Outgoing], until: float) -> int:
        """Send the messages of an append, unless it is later than `until`. Return the position of the last one.

        Raises:
            _ConflictError, NotSentError: nothing was written.
            NoReplyError: it may be written.
            BatchLimitError, TooLargeError, StorageError: it will never be written like this.
        """
        for message in messages:
            size = len(message.head) + len(message.body)
            if size > self._connection.max_bytes:
                raise TooLargeError("event", size, self._connection.max_bytes)
        answer = self._connection.ask(messages, self._wake_ups.tell, until)
        if error := answer.get("error"):
            self._refused(error, len(messages))
        position = int(answer["seq"])
        self._mark.note(position)
        return position

    def _refused(self, error: dict[str, Any], count: int) -> None:
        code, cause, path = error.get("err_code"), str(error.get("description")), self._connection.path
        if code in (_CONFLICT, _IN_FLIGHT):
            raise _ConflictError(cause)
        if code == _BATCH_LIMIT:
            raise BatchLimitError(path, count)
        if code == _NOT_STORED:  # By one server; another one may have it.
            raise NoReplyError(cause)
        if code in _LATER or error.get("code", 0) in (429, 503):
            raise NotSentError(cause)
        raise StorageError(path, None, cause)


class _Append:
    """One append, until it is written, refused, or its time is over."""

    def __init__(self, writer: Writer, pendings: list[Pending]) -> None:
        self._writer, self._given, self._pendings = writer, pendings, [_with_ids(pending) for pending in pendings]
        self._reader, self._seconds = writer._reader, writer._connection.seconds
        self._begun = monotonic()
        self._tries = 0
        first = pendings[0].stream_id
        alone = all(pending.stream_id == first for pending in pendings)
        self._subject = self._reader.subject(first) if alone else None
        """Of its only stream. To wait for a turn in each of several would take too long."""
        # Without events, no server would check.
        self._fresh = self._asks_marks = not all(pending.events for pending in pendings)
        """True if no end, and no mark of hidden events, may be taken from memory."""
        self._tried: list[Pending] | None = None
        """What was sent without an answer, with the exact versions that it was sent to."""
        self._cause = ""
        self._ends: dict[str, End] = {}
        self._marks: dict[str, Snapshot | None] = {}
        self._move = next((pending.cursor for pending in pendings if pending.cursor), None)
        self._move_id = new_move_id() if self._move else ""

    def run(self) -> dict[str, AppendResult]:
        while True:
            results = self._attempt_in_turn()
            if results is not None:
                return results

    def _attempt_in_turn(self) -> dict[str, AppendResult] | None:
        """Attempt it, in this process's turn if others append to the stream. None: attempt it again."""
        if self._subject is None:
            return self._attempt()
        turns = self._writer._turns
        taken = turns.take(self._subject, self._begun + self._seconds)
        try:
            results = self._attempt()
        finally:
            if taken:
                turns.done(self._subject)
        if results is not None:
            turns.wrote(self._subject)
        return results

    def _attempt(self) -> dict[str, AppendResult] | None:
        settled = self._settled()
        if settled is None:
            return None
        results, to_write = settled
        if not to_write:
            return results
        self._tries += 1
        try:
            return {**results, **self._write(to_write)}
        except (_ConflictError, OvertakenError) as conflict:
            self._again(f"others always came first ({conflict})")
            if self._subject is not None:
                self._writer._turns.contend(self._subject)
            if self._tries > 1:
                sleep(random.random() * min(_PAUSE_SECONDS * 2**self._tries, _LONGEST_PAUSE_SECONDS))
        except NotSentError as error:
            self._again(str(error))
            sleep(_UNAVAILABLE_PAUSE_SECONDS)
        except NoReplyError as error:
            self._tried = [
                msgspec.structs.replace(pending, expected=version - 1, retry=True, idempotent=False)
                for pending, version in to_write
            ]
            self._again(str(error))
        return None

    def _again(self, cause: str) -> None:
        """Go on, without the ends that are in memory, unless the time is over."""
        self._fresh, self._cause = True, cause
        self._ends.clear()
        self._marks.clear()
        if monotonic() - self._begun > self._seconds:
            raise self._given_up()

    def _given_up(self) -> UnavailableError | AppendUnknownError:
        path = self._reader.path
        if self._tried is None:
            return UnavailableError(path, self._cause, self._seconds)
        tried: dict[str, tuple[int, tuple[str, ...]]] = {}
        for pending in self._tried:
            before, ids = tried.get(pending.stream_id, (pending.expected, ()))
            tried[pending.stream_id] = before, (*ids, *(event[1] or "" for event in pending.events))
        return AppendUnknownError(path, self._cause, tried)

    # Expected versions

    def _settled(self) -> tuple[dict[str, AppendResult], list[tuple[Pending, int]]] | None:
        """Return what is to be written and where, None to settle it again."""
        try:
            if self._tried is not None:
                return self._settle_tried(self._tried)
            self._refuse_deleted()
            if self._given[0].idempotent:
                self._fresh = self._asks_marks = True
                if stored := self._stored_already():
                    return stored, []
            results, to_write = settle(self._given, self._end, self._ids_at, self._deleted_through)
        except ConcurrencyError:
            if self._fresh and self._asks_marks and self._tried is None:
                raise
            if self._fresh and self._tried is None:
                self._asks_marks = True
            else:
                self._fresh, self._tried = True, None  # If it was sent, others have its place: it never will be stored.
                self._ends.clear()
            self._marks.clear()
            return None
        except UnavailableError as error:
            self._again(error.cause)
            return None
        named = iter(self._pendings)
        exact = {id(given): next(named) for given in self._given}
        return results, [(exact[id(pending)], version) for pending, version in to_write]

    def _settle_tried(self, tried: list[Pending]) -> tuple[dict[str, AppendResult], list[tuple[Pending, int]]]:
        results, to_write = settle(tried, self._end, self._ids_at, self._deleted_through)
        written = {
            stream_id: AppendResult(result, result.first_position, result.last_position, result.event_ids, True)
            for stream_id, result in results.items()
        }
        for pending in self._given:
            if pending.stream_id not in written and not to_write:
                written[pending.stream_id] = AppendResult(self._end(pending.stream_id)[0])
        return written, to_write

    def _end(self, stream_id: str) -> Settled:
        end = self._ends.get(stream_id)
        if end is None:
            known = self._writer._ends.get(stream_id)
            end = known if known and not self._fresh else self._writer.known_end(stream_id)
            self._ends[stream_id] = end
        return end.version, end.event_id, end.position

    def _mark(self, stream_id: str) -> Snapshot | None:
        if stream_id not in self._marks:
            snapshots = self._writer._snapshots
            self._marks[stream_id] = snapshots.load(stream_id) if self._asks_marks else snapshots.of_hiding(stream_id)
        return self._marks[stream_id]

    def _deleted_through(self, stream_id: str) -> int:
        mark = self._mark(stream_id)
        return mark.deleted_through if mark else -1

    def _refuse_deleted(self) -> None:
        for pending in self._given:
            mark = self._mark(pending.stream_id)
            if mark and mark.tombstone:
                raise StreamDeletedError(pending.stream_id, self._end(pending.stream_id)[0])

    def _ids_at(self, stream_id: str, version: int, count: int) -> list[StoredId]:
        """Return what stands at a place, as far as the stream shows it."""
        mark = self._mark(stream_id)
        if mark and version <= mark.compacted_through:
            return []
        blocks = self._reader.versions(stream_id, self._ends[stream_id], version, version + count - 1)
        return [(each.event_id, each.position) for block in blocks for each in block]

    def _stored_already(self) -> dict[str, AppendResult]:
        """Return where the events of an idempotent append are, {} if they are not there. It reads the streams."""
        found: dict[tuple[str, str], Envelope] = {}
        for stream_id in {pending.stream_id for pending in self._given}:
            wanted = {event[1] for pending in self._given if pending.stream_id == stream_id for event in pending.events}
            for block in self._reader.blocks(Span(stream_id, stop=self._end(stream_id)[0]), -1):
                for envelope in block:
                    if envelope.event_id in wanted:
                        found.setdefault((envelope.event_id, stream_id), envelope)
        find: Callable[[str, str], Envelope | None] = lambda event_id, stream_id: found.get((event_id, stream_id))  # noqa: E731
        return retried(self._given, lambda stream_id: self._end(stream_id)[0], find)

    # Writing

    def _write(self, to_write: list[tuple[Pending, int]]) -> dict[str, AppendResult]:
        for pending, _ in to_write:
            if self._ends[pending.stream_id].version < 0:
                self._ends[pending.stream_id] = NO_END._replace(first=pending.first_version)
        carrier = next((pending for pending, _ in to_write if pending.cursor), None)
        move = (carrier.stream_id, self._move_id) if carrier else None
        messages, shares = encode(self._reader.prefix, to_write, self._ends, move)
        until = self._offer(carrier) if carrier else inf
        self._reader.refuse_cut_off()
        seen = self._reader.seen
        last = self._writer.publish(messages, until)
        if last <= seen:
            cause = f"the event was stored at position {last}, and position {seen} was there: the store lost its tail"
            raise missing(self._reader.path, cause, last)
        results = results_of(shares, last, len(messages))
        self._remember(shares, results)
        return results

    def _offer(self, carrier: Pending) -> float:
        assert carrier.cursor is not None
        after = self._ends[carrier.stream_id].position
        offer = Offer(self._move_id, carrier.cursor.position, carrier.stream_id, after)
        return self._writer._cursors.offer(carrier.cursor, offer)

    def _remember(self, shares: list[StreamShare], results: dict[str, AppendResult]) -> None:
        for share in shares:
            end, position = self._ends[share.stream_id], results[share.stream_id].last_position
            end = End(share.version, share.ids[-1], position, end.first)
            self._writer._remember(share.stream_id, end)
            self._reader.note_end(self._reader.subject(share.stream_id), end)


def _with_ids(pending: Pending) -> Pending:
    """Return a pending append whose events all have ids, so that it can be told from others."""
    if all(event[1] is not None for event in pending.events):
        return pending
    events = [(kind, own or new_event_id(), *rest) for kind, own, *rest in pending.events]
    return msgspec.structs.replace(pending, events=events)
