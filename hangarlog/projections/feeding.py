"""Feeds a model with the events after its position, and saves it when that is due."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import msgspec

from hangarlog.errors import (
    CorruptionError,
    CursorConflictError,
    EventSerializationError,
    HangarlogError,
    UpcastingError,
)
from hangarlog.eventstore.record import Record
from hangarlog.eventstore.subscription import Subscription
from hangarlog.projections.definition import AnyStore, Definition, Model
from hangarlog.projections.errors import ProjectionError
from hangarlog.projections.saved import event_id_at

_SYNC_SECONDS = 1.0
_SHARE = 9
"""Between two saves passes at least this many times the time that the first has taken."""
_LOOKS_EVERY = 64  # Events between two looks at the clock.


class Pace:
    """When a model is saved: not so often that saving takes more than a tenth of the time."""

    def __init__(self, events: int | None, seconds: float) -> None:
        self._events, self._seconds = events, seconds
        self._ended = self._allowed = monotonic()
        self._synced = self._ended - _SYNC_SECONDS

    def is_due(self, events: int) -> bool:
        """True if a model must be saved that so many events went into since."""
        now = monotonic()
        many = self._events is not None and events >= self._events
        return now >= self._allowed and (many or now - self._ended >= self._seconds)

    @property
    def pause(self) -> float:
        """Seconds until a model may be saved again."""
        return max(0.0, self._allowed - monotonic())

    @property
    def sync_is_due(self) -> bool:
        """True if the next save must be on the device."""
        return monotonic() - self._synced >= _SYNC_SECONDS

    def saved(self, began: float, *, synced: bool) -> None:
        """Note that a save has ended, which began at that time."""
        self._ended = monotonic()
        self._allowed = self._ended + _SHARE * (self._ended - began)
        if synced:
            self._synced = self._ended


class Feeder:
    """Feeds one model. `save` is called with (position, event id) when it is due."""

    def __init__(self, definition: Definition, store: AnyStore, pace: Pace, save: Callable[[int, str], None]) -> None:
        self._definition, self._store, self._pace, self._save = definition, store, pace, save
        self._splits = frozenset(store.serializer.chain.split_types())
        self._subscription: Subscription[Record[Any]] | None = None
        self._model: Model | None = None
        self.position = 0
        """The position up to which all events went into the model."""
        self.stopped = False

    def feed(self, model: Model) -> None:
        """Feed another model from now on, from its position on."""
        self._end()
        self._model, self.position = model, model.position

    def stop(self) -> None:
        """End `drain` after the batch, and `wait`. Any thread may call it, and a signal handler."""
        self.stopped = True
        if subscription := self._subscription:
            subscription.stop()

    def drain(self) -> bool:
        """Let all visible events go into the model, and save it when it is due. Return False if it was stopped."""
        while not self.stopped:
            subscription = self._subscribed()
            try:
                ended = self._fold(subscription)
            except (EventSerializationError, UpcastingError) as error:
                raise self._unreadable(error) from error
            if ended:
                self.position = subscription.position
                return True
            self._end()
            if not self.stopped:
                self._save(self.position, "")
        return False

    def _fold(self, subscription: Subscription[Record[Any]]) -> bool:
        """Let events go into the model. Return False if the subscription has to begin anew at `position`."""
        model, pace, splits = self._model, self._pace, self._splits
        assert model
        apply, last, ended = model.apply, None, False
        for count, record in enumerate(subscription, 1):
            try:
                apply(record)
            except Exception as error:
                raise self._refused(record, error) from error
            last = record
            if not count % _LOOKS_EVERY and not ended and pace.is_due(count):
                if not splits:
                    subscription.stop()  # It goes on to the end of the batch.
                elif record.event_type in splits:
                    continue  # Parts of it may still come.
                ended = True
                if splits:
                    break
        if not (ended or self.stopped):
            return True
        if last is not None:
            self.position = last.position
            if last.event_type in splits:
                self._model = None  # Stopped among the parts of an event: what was saved before counts.
        return False

    @property
    def is_whole(self) -> bool:
        """True if the model has exactly the events up to `position`."""
        return self._model is not None

    def _refused(self, record: Record[Any], error: Exception) -> ProjectionError:
        cause = f"{type(error).__name__}: {error}"
        return ProjectionError(
            self._definition.name, record.position, record.stream_id, record.stream_version, record.event_type, cause
        )

    def _unreadable(self, error: EventSerializationError | UpcastingError) -> HangarlogError:
        if error.position is None:
            return error
        cause = f"{type(error).__name__}: {error.message}"
        place = error.position, error.stream_id or "", error.stream_version or 0
        return ProjectionError(self._definition.name, *place, error.event_type, cause)

    def _subscribed(self) -> Subscription[Record[Any]]:
        if self._subscription is None:
            filters = msgspec.structs.asdict(self._definition.filters)
            self._subscription = self._store.subscribe(self.position, timeout=0, **filters)
            if self.stopped:  # `stop` came before it was there.
                self._subscription.stop()
        return self._subscription

    def wait(self, seconds: float) -> None:
        """Sleep until there are more events, for at most `seconds`."""
        if not self.stopped:
            self._subscribed().wait(seconds)

    def _end(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription:
            subscription.close()

    def close(self) -> None:
        """Release all resources."""
        self._end()
        self._model = None


def save(
    definition: Definition, store: AnyStore, model: Model, place: tuple[int, str], pace: Pace, *, sync: bool
) -> None:
    """Save a model as of a place: (position, id of the event there, or "" if unknown)."""
    began, (position, event_id) = monotonic(), place
    sync = sync or pace.sync_is_due
    if sync and store.durable_position < position:
        store.sync()  # No state on the device without its events.
    model.save(position, event_id or event_id_at(store, position), sync=sync)
    pace.saved(began, synced=sync)


def move_cursor(store: AnyStore, name: str, position: int) -> None:
    """Move the cursor of a projection to where its model is, for those who wait for it."""
    cursor = store.cursor(name)
    try:
        cursor.advance(position, durability="relaxed")
    except (CursorConflictError, CorruptionError):  # An older model was put back, or older events.
        cursor.reset(position, durability="relaxed")
