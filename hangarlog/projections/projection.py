"""A projection whose state the store keeps, in a file of text beside the events."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from hangarlog.errors import CorruptionWarning
from hangarlog.eventstore.engine import StateSlot
from hangarlog.eventstore.record import Record
from hangarlog.projections.definition import AnyStore, Definition, Filters, Model, StoredModel
from hangarlog.projections.errors import ProjectionStateError, ProjectionVersionError
from hangarlog.projections.follower import Follower
from hangarlog.projections.rebuilding import Progress
from hangarlog.projections.saved import LATEST, SavedState, current, generation_of, read_saved, write_saved
from hangarlog.record.timestamp import now

State = TypeVar("State")
Loaded_ = TypeVar("Loaded_")


class Loaded(NamedTuple, Generic[Loaded_]):
    """A projection's state, and the position up to which all events went into it."""

    state: Loaded_
    position: int


class Projection(Definition, Generic[State]):
    """Folds events into a state, which the store keeps together with its position.

    Args:
        name: of its file and its cursor: `store.wait(name, position)` waits until the state has got there.
        apply: called with (state, record) for each event; returns the new state, or changes it and returns None. It
            must depend on nothing else, and have no other effect: events are applied again after a crash.
        initial: makes the state before the first event.
        version: raise it when `apply` changes: the state is then built anew, beside the old one.
        state_type: the state's type, as msgspec takes it; by default `initial`, if that is a class.
        stream_id, category, not_category, event_types: which events to apply, as in `EventStore.subscribe`.
        every_events, every_seconds: while many events come, the state is saved after so many, or so much time. It is
            also saved whenever there are no more, and at the end.
    """

    def __init__(
        self,
        name: str,
        apply: Callable[[State, Record[Any]], State | None],
        *,
        initial: Callable[[], State] = dict,  # type: ignore[assignment]
        version: int = 1,
        state_type: Any = None,
        stream_id: str | None = None,
        category: str | Collection[str] | None = None,
        not_category: str | Collection[str] | None = None,
        event_types: str | type | Collection[str | type] | None = None,
        every_events: int = 10_000,
        every_seconds: float = 1.0,
    ) -> None:
        super().__init__(
            name, version, Filters(stream_id, category, not_category, event_types), every_events, every_seconds
        )
        self._apply, self._initial = apply, initial
        if state_type is None:
            state_type = initial if isinstance(initial, type) else Any
        self._decoder = msgspec.json.Decoder(state_type)

    def __repr__(self) -> str:
        return f"<Projection {self.name!r}, version {self.version}>"

    def load(self, store: AnyStore) -> Loaded[State]:
        """Return the state as it was saved last, and its position; `initial()` and 0 if it never was.

        Raises:
            ProjectionVersionError: what is saved is of another version.
            ProjectionStateError: it cannot be decoded.
        """
        saved, _ = current(store, self.name)
        if saved is None:
            return Loaded(self._initial(), 0)
        if saved.version != self.version:
            cause = "run this version once, which builds its state; until then only the other program can read it"
            if saved.version > self.version:
                cause = "a newer program has built it"
            raise ProjectionVersionError(self.name, self.version, saved.version, cause)
        return Loaded(self._decoded(saved), saved.position)

    def follow(
        self,
        store: AnyStore,
        *,
        rebuild: bool = False,
        standby: bool = False,
        progress: Progress | None = None,
    ) -> Follower:
        """Return a runner of the projection. Call its `run`; `stop` ends that from any thread.

        `rebuild` builds the state anew while the live one stays and goes on, then replaces it. A rebuild that was
        interrupted goes on with the next runner, without `rebuild`. If another runner has the projection, it is
        refused; with `standby` it waits until that one has gone. `progress` is called with (position, last position in
        the store) while a rebuild runs.
        """
        return Follower(self, store, rebuild=rebuild, standby=standby, progress=progress)

    def run(self, store: AnyStore, timeout: float | None = None, **options: Any) -> None:
        """Follow the store: `follow(store, **options).run(timeout)`. With `timeout=0`, until it has caught up."""
        self.follow(store, **options).run(timeout)

    # What the runner needs

    def _decoded(self, saved: SavedState) -> State:
        try:
            state: State = self._decoder.decode(saved.state)
        except (msgspec.MsgspecError, RecursionError) as error:
            cause = f"cannot be read: {error}; raise its version if its type has changed"
            raise ProjectionStateError(self.name, cause) from error
        return state

    def _encoded(self, state: State, *, prove: bool) -> msgspec.Raw:
        try:
            encoded = msgspec.json.encode(state)
            if prove and self._decoder.decode(encoded) != state:
                cause = "would not come back as it is from JSON, as a number would that is a key; give state_type"
                raise ProjectionStateError(self.name, cause)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ProjectionStateError(self.name, f"cannot be kept as JSON: {error}; give state_type") from error
        return msgspec.Raw(encoded)

    def _stored(self, store: AnyStore) -> StoredModel | None:
        saved, _ = current(store, self.name)
        return StoredModel(saved.version, saved.generation, saved.position) if saved else None

    def _open_live(self, store: AnyStore) -> Model:
        saved, found = current(store, self.name)
        if saved is None:
            generation = self._next_generation(store)
            if found:
                text = f"the state of projection {self.name!r} is damaged, or of other events; it is built anew"
                warnings.warn(CorruptionWarning(text), stacklevel=2)
            return _StateModel(self, store, self._initial(), 0, generation)
        return _StateModel(self, store, self._decoded(saved), saved.position, saved.generation)

    def _next_generation(self, store: AnyStore) -> int:
        saved = [read_saved(store, self.name, slot) for slot in ("saved", *LATEST)]
        return max([each.generation for each in saved if each], default=-1) + 1

    def _unfinished(self, store: AnyStore) -> SavedState | None:
        saved = read_saved(store, self.name, "rebuilding")
        if saved and saved.version == self.version and saved.generation >= self._next_generation(store):
            return saved
        return None

    def _has_unfinished(self, store: AnyStore) -> bool:
        return self._unfinished(store) is not None

    def _open_rebuild(self, store: AnyStore, *, anew: bool) -> Model:
        saved = None if anew else self._unfinished(store)
        if saved is None:
            generation = self._next_generation(store)
            return _StateModel(self, store, self._initial(), 0, generation, rebuilt=True)
        return _StateModel(self, store, self._decoded(saved), saved.position, saved.generation, rebuilt=True)

    def _put_in_place(self, store: AnyStore, model: Model, position: int, event_id: str) -> bool:
        assert isinstance(model, _StateModel)
        generation = max(model.generation, self._next_generation(store))
        write_saved(store, "saved", model.as_of(position, event_id, generation, prove=True), sync=True)
        for slot in ("rebuilding", *LATEST):
            store._write_state(self.name, slot, None, sync=False)
        return True


class _StateModel(Model):
    """A state, and where it is saved."""

    def __init__(
        self,
        projection: Projection[Any],
        store: AnyStore,
        state: Any,
        position: int,
        generation: int,
        *,
        rebuilt: bool = False,
    ) -> None:
        self._projection, self._store, self._state, self._rebuilt = projection, store, state, rebuilt
        self._apply = projection._apply
        self.position, self.generation = position, generation
        self._is_proved = False
        self._saves = self._newest(store, projection.name)

    @staticmethod
    def _newest(store: AnyStore, name: str) -> int:
        """Return which of the latest states is the newer one, so that the next save overwrites the other."""
        first, second = (read_saved(store, name, slot) for slot in LATEST)
        return int(bool(second and (first is None or second.position > first.position)))

    def apply(self, record: Record[Any]) -> None:
        state = self._apply(self._state, record)
        if state is not None:
            self._state = state

    def is_replaced(self) -> bool:
        return generation_of(self._store, self._projection.name) > self.generation

    def as_of(self, position: int, event_id: str, generation: int, *, prove: bool) -> SavedState:
        """Return what is saved of it."""
        projection = self._projection
        state = projection._encoded(self._state, prove=prove)
        return SavedState(projection.name, generation, projection.version, position, event_id, now().decode(), state)

    def save(self, position: int, event_id: str, *, sync: bool) -> None:
        saved = self.as_of(position, event_id, self.generation, prove=sync or not self._is_proved)
        self._saves += 1
        slot: StateSlot = "rebuilding" if self._rebuilt else "saved" if sync else LATEST[self._saves % 2]
        write_saved(self._store, slot, saved, sync=sync)
        self.position, self._is_proved = position, True

    def close(self) -> None:
        self._state = None
