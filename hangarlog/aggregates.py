"""Aggregates: a stream's state, from its latest snapshot and the events after it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from hangarlog.errors import HangarlogError, SnapshotError
from hangarlog.events.encoded_event import EncodedEvent
from hangarlog.events.registry import UntypedEvent
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.arguments import whole_number
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.record import Event
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.record.cursor_move import CursorMove

State = TypeVar("State")
_State = TypeVar("_State")
_ATTEMPTS = 10


class AggregateError(HangarlogError):
    """An aggregate's state cannot be known. Fields: `stream_id`, `cause`."""

    def __init__(self, stream_id: str, cause: str) -> None:
        super().__init__(stream_id, cause)
        self.stream_id, self.cause = stream_id, cause

    def __str__(self) -> str:
        return f"the state of stream {self.stream_id!r} cannot be known: {self.cause}"


class Aggregate(NamedTuple, Generic[_State]):
    """The state of a stream as of `version`, its last one (-1: the stream never had an event)."""

    state: _State
    version: int


class _Kept(msgspec.Struct, frozen=True):
    """What a snapshot holds: a state, and the schema versions of the event types that went into it."""

    event_types: dict[str, int]
    state: msgspec.Raw


class _Base(NamedTuple):
    """Where the fold of a stream begins: after `version`, with what a snapshot kept (None: with the initial state).

    `hidden` is what the stream hides. If that changes, so may this.
    """

    kept: _Kept | None
    version: int
    hidden: tuple[int, int]


class Repository(Generic[State, Event]):
    """Loads the aggregates of a category, and executes decisions on them. Threads may share it.

    Args:
        store: the event store.
        category: the part of the stream ids before the colon; None if ids are given as stream ids.
        apply: called with (state, event) for each event; returns the new state, or changes it and returns None.
        initial: makes the state before the first event.
        state_type: the state's type, as msgspec takes it; by default `initial`, if that is a class.
        state_version: raise it when `apply` or the state's type changes: older snapshots are then passed over. They are
            also passed over if an event type that went into them has got another schema version.
        snapshot_every: `execute` saves a snapshot once so many events have come since the last one; None: never.
    """

    def __init__(
        self,
        store: EventStore[Event],
        category: str | None,
        *,
        apply: Callable[[State, Event], State | None],
        initial: Callable[[], State] = dict,  # type: ignore[assignment]
        state_type: Any = None,
        state_version: int = 1,
        snapshot_every: int | None = 100,
    ) -> None:
        if snapshot_every is not None and whole_number("snapshot_every", snapshot_every) < 1:
            raise ValueError(f"snapshot_every must be a whole number from 1 up, or None, not {snapshot_every!r}")
        self._store, self._category, self._apply, self._initial = store, category, apply, initial
        if state_type is None:
            state_type = initial if isinstance(initial, type) else Any
        self._decoder = msgspec.json.Decoder(state_type)
        self._form = whole_number("state_version", state_version)
        self._every = snapshot_every
        if category is not None:
            check_stream_id(f"{category}:x")

    @property
    def makes_snapshots(self) -> bool:
        """True if `execute` saves snapshots by itself."""
        return self._every is not None

    def stream_id(self, aggregate_id: str) -> str:
        """Return the stream of an aggregate."""
        return check_stream_id(aggregate_id if self._category is None else f"{self._category}:{aggregate_id}")

    def load(self, aggregate_id: str) -> Aggregate[State]:
        """Return the aggregate's state, and the version of its stream.

        Raises:
            AggregateError: its first events are compacted or truncated, and no snapshot of this schema has their state.

        It raises also what `read_stream` raises, and what `apply` raises.
        """
        state, version, _ = self._load(self.stream_id(aggregate_id))
        return Aggregate(state, version)

    def execute(
        self,
        aggregate_id: str,
        decide: Callable[[State, int], Sequence[Event | UntypedEvent | EncodedEvent] | None],
        *,
        metadata: Any = None,
        durability: Any = None,
        cursor: CursorMove | None = None,
        attempts: int = 100,
    ) -> AppendResult:
        """Load the aggregate, let `decide(state, version)` return the events to append, and append them.

        After a conflict all of it is done again, so `decide` may be called more than once. It may change the state.
        It raises what `load` and `EventStore.execute` raise, and what `decide` raises; nothing is written then. If a
        snapshot is due and cannot be saved, that is a warning: the events are appended.
        """
        stream_id = self.stream_id(aggregate_id)
        base = self._base(stream_id)

        def on_events(events: list[Event], version: int) -> Sequence[Event | UntypedEvent | EncodedEvent] | None:
            if self._hidden(stream_id) == base.hidden:
                return decide(self._folded(base, events), version)
            loaded, _, _ = self._load(stream_id)  # If it is of another version, the append will conflict.
            return decide(loaded, version)

        first = base.version + 1
        result = self._store.execute(
            stream_id,
            on_events,
            from_version=first,
            metadata=metadata,
            durability=durability,
            cursor=cursor,
            attempts=attempts,
        )
        if self._every is not None and result.written and int(result) - base.version >= self._every:
            self._save_due(stream_id)
        return result

    def save_snapshot(self, aggregate_id: str) -> bool:
        """Save the state as it is now. Return False if there is none, or if a newer program's snapshot is stored.

        Raises:
            AggregateError: the state would not come back as it is.

        It raises also what `load` and `EventStore.save_snapshot` raise.
        """
        return self._save(self.stream_id(aggregate_id))

    # Loading

    def _hidden(self, stream_id: str) -> tuple[int, int]:
        """Return the last version that is (deleted, compacted or deleted), -1 if none is."""
        snapshot = self._store._load_snapshot(stream_id)
        return (snapshot.deleted_through, snapshot.compacted_through) if snapshot else (-1, -1)

    def _base(self, stream_id: str) -> _Base:
        snapshot = self._store._load_snapshot(stream_id)
        if snapshot is None:
            return _Base(None, -1, (-1, -1))
        hidden = snapshot.deleted_through, snapshot.compacted_through
        if snapshot.version >= 0 and snapshot.schema_version == self._form:
            kept = _kept(snapshot)
            if kept and self._versions(kept.event_types) == kept.event_types and self._store._matches(snapshot):
                return _Base(kept, snapshot.version, hidden)
        if snapshot.compacted_through > snapshot.deleted_through:
            cause = f"versions up to {snapshot.compacted_through} are compacted or truncated"
            advice = "and no snapshot of this schema has their state; fold them from the journal with store.records()"
            raise AggregateError(stream_id, f"{cause}, {advice}")
        return _Base(None, snapshot.deleted_through, hidden)

    def _versions(self, event_types: Iterable[str]) -> dict[str, int]:
        target_version = self._store.serializer.registry.target_version
        return {event_type: target_version(event_type) for event_type in event_types}

    def _load(self, stream_id: str) -> tuple[State, int, _Base]:
        for _ in range(_ATTEMPTS):
            base = self._base(stream_id)
            events, version = self._store._load(stream_id, base.version + 1)
            if self._hidden(stream_id) == base.hidden:
                return self._folded(base, events), version, base
        raise AggregateError(stream_id, "it is compacted or deleted too often; load it again")

    def _folded(self, base: _Base, events: Iterable[Event]) -> State:
        state = self._decoder.decode(base.kept.state) if base.kept else self._initial()
        apply = self._apply
        for event in events:
            after = apply(state, event)
            if after is not None:
                state = after
        return state

    # Snapshots

    def _save_due(self, stream_id: str) -> None:
        try:
            self._save(stream_id)
        except HangarlogError as error:
            text = f"no snapshot of stream {stream_id!r} was saved: {error}; the events are appended"
            warnings.warn(RuntimeWarning(text), stacklevel=3)

    def _save(self, stream_id: str) -> bool:
        if self._is_newer(self._store._load_snapshot(stream_id)):
            return False
        state, version, base = self._load(stream_id)
        if version <= base.version:
            return False
        blocks = self._store.envelopes(stream_id, from_version=base.version + 1, to_version=version)
        types = {envelope.event_type for block in blocks for envelope in block}
        if base.kept:
            types |= set(base.kept.event_types)
        kept = {"event_types": self._versions(sorted(types)), "state": self._encoded(stream_id, state)}
        try:
            self._store.save_snapshot(stream_id, version, kept, schema_version=self._form)
        except SnapshotError:
            return False  # Another process was quicker, or the stream was deleted.
        return True

    def _is_newer(self, stored: Snapshot | None) -> bool:
        """True if a newer program has saved a snapshot: during a deployment both run, and the older one leaves it."""
        if stored is None or stored.version < 0:
            return False
        if stored.schema_version != self._form:
            return stored.schema_version > self._form
        types = kept.event_types if (kept := _kept(stored)) else {}
        return any(types[event_type] > version for event_type, version in self._versions(types).items())

    def _encoded(self, stream_id: str, state: State) -> Any:
        try:
            encoded = msgspec.json.encode(state)
            if self._decoder.decode(encoded) != state:
                cause = "its snapshot would not come back as it is from JSON; give state_type"
                raise AggregateError(stream_id, cause)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise AggregateError(stream_id, f"it cannot be kept as JSON: {error}; give state_type") from error
        return msgspec.json.decode(encoded)


def _kept(snapshot: Snapshot) -> _Kept | None:
    """Return what a snapshot holds; None if it was not saved by a repository."""
    try:
        return msgspec.json.decode(snapshot.state, type=_Kept)
    except (msgspec.MsgspecError, RecursionError):
        return None
