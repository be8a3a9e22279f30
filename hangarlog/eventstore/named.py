"""Named subscriptions: they begin at a cursor, move it, and have one owner at a time, or share their work."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from time import monotonic, sleep
from typing import Any, Literal, TypeVar

from hangarlog.errors import (
    CursorConflictError,
    EventSerializationError,
    HangarlogError,
    OutcomeUnknownError,
    StorageError,
    StoreBusyError,
    StoreOpenError,
    UpcastingError,
)
from hangarlog.eventstore.arguments import NotAwaitedError, whole_number
from hangarlog.eventstore.engine import Durability
from hangarlog.eventstore.finding import Finding
from hangarlog.eventstore.ownership import Ownership
from hangarlog.eventstore.parked import (
    CATEGORY,
    UNREADABLE,
    Handler,
    ParkedEvent,
    attempt,
    cause_of,
    envelope_at,
    park,
    parked_events,
    parked_stream,
)
from hangarlog.eventstore.record import Record
from hangarlog.eventstore.share import Share
from hangarlog.eventstore.subscriber_errors import HandlerError, SkippedWarning, SubscriptionLostError
from hangarlog.eventstore.subscription import Reading, Subscription
from hangarlog.eventstore.tail import Tail
from hangarlog.record.cursor_move import CursorMove
from hangarlog.record.envelope import Envelope

_Item = TypeVar("_Item")
OnFailure = Literal["stop", "park", "park_stream", "skip"]

STANDBY_SECONDS = 0.05
"""Between two looks whether this subscription has become the owner."""
_LOOK_SECONDS = 0.2
"""Between two looks of a member whether shares are free, or due to others."""
_MOVE_SECONDS = 1.0
"""Between two moves of a cursor that come with no full batch."""

STORE_FAILURES = (
    CursorConflictError,
    StoreOpenError,
    StorageError,
    StoreBusyError,
    OutcomeUnknownError,
    NotAwaitedError,
)
"""What a handler raises if not its event is the cause, but the store, or the handler as a whole."""


class NamedSubscription(Subscription[_Item]):
    """A subscription that goes on at a cursor: see `EventStore.subscribe`.

    It owns its name, or its shares, from the first event that is asked for until `close`, or until it is garbage.
    """

    def __init__(
        self,
        tail: Tail,
        reading: Reading,
        timeout: float | None,
        heartbeat: float | None,
        *,
        store: Finding[Any],
        name: str,
        batch: int | None,
        workers: int | None,
        hides_parked: bool,
    ) -> None:
        super().__init__(tail, reading, timeout, heartbeat)
        self.name = name
        self._store, self._batch, self._workers = store, batch, workers
        self._own = Ownership(store, name, workers, tail.position)
        self._hidden = f"{CATEGORY}:" if hides_parked else parked_stream(name)
        self._hides_all = hides_parked
        self._processed = 0  # The consumer is done with everything up to here, and no batch is begun.
        self._count = 0
        self._current: Share | None = None
        self._moved_at = self._look_at = 0.0
        self._again = False
        self._blocked: set[str] = set()
        self._parked_version = -1
        self._handled_to: int | None = None  # While `run` is at an event, or about to get one: what is done.
        self._handling: Record[Any] | None = None

    # Moving the cursor

    def advance(self, to: int | None = None, *, durability: Durability | None = None) -> None:
        """Move the cursor to the event that was delivered last, which is then processed, or to an earlier position.

        It never goes back: a position that the cursor has passed changes nothing.

        Raises:
            SubscriptionLostError: somebody else has moved the cursor.
            ValueError: `to` is beyond what was delivered, or nothing was delivered since this is the owner.

        Raises also what `Cursor.advance` raises.
        """
        to = self._delivered(to)
        if not self._own.shares:
            raise ValueError(f"subscriber {self.name!r} has no event to move behind; iterate first")
        self._move_shares([(share, max(to, share.floor)) for share in self._own.shares.values()], durability)

    def move(self, to: int | None = None) -> CursorMove:
        """Return the move that `advance` makes, for an append that makes it too: `store.append(…, cursor=…)`.

        With workers, it moves the cursor of the event that was delivered last. An event then leads to its output once,
        also if two processes take themselves for the owner: the append of one is refused with `CursorConflictError`.

        Raises what `advance` raises.
        """
        to = self._delivered(to)
        if self._current is None or self._current not in self._own.shares.values():
            raise ValueError(f"subscriber {self.name!r} has no event to move behind; iterate first")
        with self._giving_up():
            return self._current.offer(to)

    def _delivered(self, to: int | None) -> int:
        if to is not None and whole_number("to", to) > self._position:
            raise ValueError(f"events up to position {self._position} were delivered; {to} is beyond")
        return self._position if to is None else int(to)

    def _move_on(self) -> None:
        """Move the cursors that this subscription may move by itself, up to what was processed."""
        self._moved_at = monotonic()
        with self._giving_up():
            moving = [share for share in self._own.shares.values() if self._batch or share.is_settled()]
        self._move_shares([(share, max(self._processed, share.floor)) for share in moving], None)

    def _move_shares(self, moves: Sequence[tuple[Share, int]], durability: Durability | None) -> None:
        with self._giving_up():
            moves = [(share, to) for share, to in moves if to > share.at]
            for number, (share, to) in enumerate(moves, 1):
                share.move(to, durability if number == len(moves) else "relaxed")  # The last one's sync is for all.
        self._count = 0

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Give up the ownership if somebody else has moved a cursor. Raises `RuntimeError` in a forked child."""
        self._own.refuse_forked()
        try:
            yield
        except SubscriptionLostError:
            self._give_up()
            raise

    def _give_up(self) -> None:
        self._own.leave()
        with contextlib.suppress(ValueError):  # It is what calls this, and ends by the error.
            self._end_iteration()

    # The loop

    def _iterate(self) -> Iterator[_Item]:
        if self._closed:
            return
        self._begin_moved()
        while True:
            yield from self._stand_by()
            if not self._own.shares:
                return
            self._seek()
            self._again = False
            yield from self._work()
            if not self._again:
                return

    def _stand_by(self) -> Iterator[_Item]:
        """Wait until there is a share to work at, or return without one after `timeout` or `stop`."""
        while not (self._take() or self._own.shares):
            self._tail.end()  # It raises if the store was closed.
            now = monotonic()
            if self._stopped or self._timed_out(now):
                return
            if self._beats(now) or self._lets_wait:
                yield None  # type: ignore[misc] # Only with a heartbeat: see `EventStore.subscribe`.
                continue
            sleep(max(0.0, min(STANDBY_SECONDS, super()._left(now))))

    def _begin_moved(self) -> None:
        """Go on at those cursors that somebody has set since the last iteration."""
        moved = [share for share in self._own.shares.values() if share.was_moved()]
        if moved:
            self._note_processed()
            self._own.has_new = True
            for share in moved:
                share.begin()
            self._scan_anew()

    def _note_processed(self) -> None:
        for share in self._own.shares.values():
            share.floor = max(share.floor, self._processed)

    def _scan_anew(self) -> None:
        self._position = self._processed = min(share.floor for share in self._own.shares.values())
        if self._handled_to is not None:
            self._handled_to = self._position
        self._own.has_new = False

    def _take(self) -> bool:
        self._note_processed()
        self._own.take()
        if not (self._own.has_new and self._own.shares):  # An interrupt may have come when it had taken some.
            return False
        self._scan_anew()
        self._moved_at = monotonic()
        return True

    def _work(self) -> Iterator[_Item]:
        end, full, grouped = 0, self._batch or math.inf, self._workers is not None
        own, only = self._own.of, None if grouped else self._own.shares[0]
        for record in self._deliver():
            if record is not None:
                position: int = record.position  # type: ignore[attr-defined]
                given, self._position = self._position, position - 1  # If what follows fails, it comes again.
                if position > end:
                    self._processed = position - 1
                    if self._count >= full:
                        self._move_on()
                    if grouped and self._look_around():
                        self._again = True
                        return
                end = self._batch_end
                self._current = share = only or own(record.stream_id)  # type: ignore[attr-defined]
                if share:
                    share.deliver(position)
                self._count += 1
                self._position = given
            yield record
        if not self._again:
            self._move_on()

    def _wanted(self, block: Sequence[Envelope]) -> Iterator[Sequence[Envelope]]:
        text = getattr(block, "text", None)  # A verified block is quicker to decode if it stays whole.
        found = super()._wanted(block)
        if self._workers is None and text is not None and b'"parked:' not in text:
            return found
        return (self._own_part(part) for part in found)

    def _own_part(self, part: Sequence[Envelope]) -> Sequence[Envelope]:
        """Return the records of a block that belong to this subscription's shares, without parked events."""
        own, hidden, all_parked = self._own.of, self._hidden, self._hides_all
        return [
            envelope
            for envelope in part
            if (share := own(envelope.stream_id))
            and envelope.position > share.floor
            and not (envelope.stream_id.startswith(hidden) if all_parked else envelope.stream_id == hidden)
        ]

    def _passed(self) -> bool:
        if self._batch_end > self._position:
            return False  # In the middle of a batch.
        self._processed = self._position
        full = self._batch is not None and self._count >= self._batch
        if full or monotonic() - self._moved_at >= _MOVE_SECONDS:
            self._move_on()
        self._again = self._workers is not None and self._look_around()
        return self._again

    def _left(self, now: float) -> float:
        left = super()._left(now)
        if any(share.at < self._processed for share in self._own.shares.values()):
            left = min(left, self._moved_at + _MOVE_SECONDS - now)
        return max(0.0, left if self._workers is None else min(left, self._look_at - now))

    def _is_at_hand(self) -> bool:
        """True if the next event is read, and asking for it neither moves a cursor nor looks at shares."""
        return (
            self._position < self._read_end
            and self._running is not None
            and not (self._stopped or self._reading.splits)
            and (self._batch is None or self._count < self._batch)
            and (self._workers is None or monotonic() < self._look_at)
        )

    def _look_around(self) -> bool:
        """Give up shares that are due to others, and take what is due and free. True if something changed."""
        now, changed = monotonic(), False
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_SECONDS
        with self._giving_up():
            for number in self._own.surplus():
                share = self._own.shares[number]
                if self._batch:
                    share.move(max(self._processed, share.floor))
                if share.is_settled():
                    self._own.drop(number)
                    changed = True
        if changed and self._own.shares:
            self._position = self._processed
        return self._take() or changed

    def close(self) -> None:
        """Move the cursor as after `stop`, if it moves by itself; stop, and release all resources."""
        if self._batch and not self._own.is_forked:
            with contextlib.suppress(HangarlogError, OSError):  # Then some events come again.
                self._move_on()
        self._own.leave()
        super().close()

    # Handlers

    def run(self, handler: Handler, *, on_failure: OnFailure = "stop", attempts: int = 1) -> None:
        """Call `handler(record)` for each event, until `timeout` or `stop`. An event is processed when it returns.

        If the handler raises an `Exception` in all `attempts`, or an event cannot be read, then `on_failure` decides:
        "stop" raises `HandlerError`, and the next run begins with the same event; "park" appends a note of it to the
        stream `parked:NAME`, with the cause, and goes on; "park_stream" also parks the later events of its stream,
        until `EventStore.replay` has processed the earlier ones; "skip" goes on, with a `SkippedWarning`. Failures of
        the store itself, and conflicts of cursors, are always raised. Once the cursor is past the event, by an append
        of the handler's, the handler is not called with it again, whatever it raises.

        Raises:
            HandlerError: an event could not be processed. Its `__cause__` is what the handler or the read raised.
            SubscriptionLostError: somebody else has moved the cursor.
        """
        check_handling(on_failure, attempts)
        self._go_back()  # An earlier run was interrupted, and so was its way back.
        try:
            self._handle_all(handler, on_failure, attempts)
        except BaseException:
            self._go_back()
            raise

    def _handle_all(self, handler: Handler, on_failure: OnFailure, attempts: int) -> None:
        failed = 0  # The position of the last event that failed: its other parts are passed over.
        while True:
            self._handling, self._handled_to = None, self._position
            try:
                record: Any = next(self)
            except StopIteration:
                self._handled_to = None
                return
            except UNREADABLE as error:
                self._settle_unreadable(error, on_failure)
                continue
            if record is not None and record.position != failed:
                self._handling = record
                failed = self._handle(record, handler, on_failure, attempts)

    def _go_back(self) -> None:
        """Let the next iteration begin with the event that `run` was at, or was about to get."""
        if self._handled_to is not None:
            self._rewind(self._handled_to, self._handling)
            self._handled_to = None

    def _handle(self, record: Record[Any], handler: Handler, on_failure: OnFailure, attempts: int) -> int:
        """Call the handler. Return the record's position if it failed and was settled, else 0."""
        if self._parks_too(record, on_failure):
            return record.position
        try:
            attempt(handler, [record], attempts, STORE_FAILURES, self._is_past)
        except Exception as error:
            self._settle_failure(record, error, attempts, on_failure)
            return record.position
        return 0

    def _parks_too(self, record: Record[Any], on_failure: OnFailure) -> bool:
        """Park an event if an earlier one of its stream is parked, and it is to follow. Return True if so."""
        if on_failure != "park_stream" or not self._is_blocked(record.stream_id):
            return False
        self._settle(record, EarlierParkedError("an earlier event of its stream is parked"), 0, on_failure)
        return True

    def _settle_failure(self, record: Record[Any], error: Exception, attempts: int, on_failure: OnFailure) -> None:
        """Settle an event whose handler has failed. Raises a failure of the store."""
        if isinstance(error, CursorConflictError) and error.name in {s.name for s in self._own.shares.values()}:
            self._give_up()
            raise SubscriptionLostError(*error.args) from error
        if isinstance(error, STORE_FAILURES):
            raise error
        self._settle(record, error, attempts, on_failure)

    def _settle_unreadable(self, error: EventSerializationError | UpcastingError, on_failure: OnFailure) -> None:
        """Settle an event that cannot be read, and pass over it."""
        if error.position is None:
            raise error
        self._settle(envelope_at(self._store, error.position), error, 0, on_failure)
        self._position = error.position

    def _is_past(self, record: Record[Any]) -> bool:
        """True if the handler has moved the cursor past an event: its output is written, so it must not run again."""
        with self._giving_up():
            return self._current is not None and self._current.is_settled(record.position)

    def _rewind(self, position: int, record: Record[Any] | None) -> None:
        """Let the next iteration begin after a position, unless the cursor has passed the record that was handled."""
        self._end_iteration()
        with contextlib.suppress(HangarlogError, OSError):
            if record and self._current is not None and self._current.is_settled(record.position):
                return
        self._position = min(position, self._position)

    def _settle(self, event: Any, error: Exception, attempts: int, on_failure: OnFailure) -> None:
        """Do with an event that failed what `on_failure` says. It is a record or an envelope."""
        place = event.position, event.stream_id, event.stream_version, event.event_type
        if on_failure == "stop":
            raise HandlerError(self.name, *place, cause_of(error), attempts) from error
        if on_failure == "skip":
            message = f"subscriber {self.name!r} skipped position {place[0]} (stream {place[1]!r}): {cause_of(error)}"
            warnings.warn(SkippedWarning(message), stacklevel=5)
            return
        share = self._own.of(event.stream_id)
        if share is None:
            raise ValueError(f"subscriber {self.name!r} is not the owner of stream {event.stream_id!r}")
        parked = ParkedEvent(*place, event.event_id, cause_of(error), attempts)
        try:
            version = park(self._store, self.name, parked, self._move_past(share, event.position))
        except CursorConflictError as conflict:
            self._give_up()
            raise SubscriptionLostError(*conflict.args) from conflict
        if version == self._parked_version + 1:
            self._parked_version = version
            self._blocked.add(event.stream_id)

    def _move_past(self, share: Share, position: int) -> CursorMove | None:
        """Return the move past an event, None if the caller has yet to move past earlier ones."""
        with self._giving_up():
            share.deliver(position)
            return share.offer(position) if self._batch or share.is_settled(share.before) else None

    def _is_blocked(self, stream_id: str) -> bool:
        """True if an earlier event of a stream is parked."""
        version = self._store.get_stream_version(parked_stream(self.name))
        if version != self._parked_version:
            self._blocked = {event.stream_id for event in parked_events(self._store, self.name)}
            self._parked_version = version
        return stream_id in self._blocked


def check_handling(on_failure: str, attempts: int) -> None:
    """Raise `ValueError` or `TypeError` if the options of `NamedSubscription.run` are wrong."""
    if on_failure not in ("stop", "park", "park_stream", "skip"):
        raise ValueError(f"on_failure is 'stop', 'park', 'park_stream' or 'skip', not {on_failure!r}")
    if whole_number("attempts", attempts) < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")


class EarlierParkedError(Exception):
    """An event is parked because an earlier event of its stream is."""
