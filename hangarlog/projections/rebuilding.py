"""Builds a projection anew beside the live one, and puts it in its place when it has caught up."""

from __future__ import annotations

from collections.abc import Callable

from hangarlog.eventstore.queue import Place
from hangarlog.projections.definition import AnyStore, Definition, Model
from hangarlog.projections.errors import ProjectionVersionError
from hangarlog.projections.feeding import Feeder, Pace, move_cursor, save
from hangarlog.projections.owning import owned, saving
from hangarlog.projections.saved import event_id_at

Progress = Callable[[int, int], None]
"""Called with (the position that a rebuild has reached, the last position in the store)."""


class Rebuild:
    """One rebuild. It saves its model each `every_seconds`, and goes on from there after an interruption."""

    def __init__(
        self, definition: Definition, store: AnyStore, *, anew: bool, standby: bool, progress: Progress | None
    ) -> None:
        self._definition, self._store, self._anew, self._standby = definition, store, anew, standby
        self._progress = progress or (lambda position, last: None)
        self._pace = Pace(None, definition.every_seconds)
        self._feeder = Feeder(definition, store, self._pace, self._save)
        self._model: Model | None = None
        self._place: Place | None = None

    def begin(self) -> None:
        """Become the one that rebuilds. Raises `ProjectionBusyError`."""
        if self._place is None:
            stopped = lambda: self._feeder.stopped  # noqa: E731
            self._place = owned(
                self._store, self._definition.name, "rebuilding", standby=self._standby, stopped=stopped
            )

    def run(self) -> None:
        """Build the model, and put it in place, unless it is stopped before."""
        feeder = self._feeder
        try:
            self.begin()
            if self._place is None or not (self._anew or self._is_needed()):
                return
            self._model = self._definition._open_rebuild(self._store, anew=self._anew)
            feeder.feed(self._model)
            self._report()
            while feeder.drain():
                self._report()
                if self._put_in_place():
                    return
            if feeder.is_whole:
                self._save(feeder.position, "")
        finally:
            feeder.close()
            if self._model:
                self._model.close()
            if self._place:
                self._place.leave()

    def _is_needed(self) -> bool:
        """False if another runner has done it, while this one waited."""
        live, version = self._definition._stored(self._store), self._definition.version
        built = live is not None and live.usable and live.version == version
        return not built or self._definition._has_unfinished(self._store)

    def _report(self) -> None:
        self._progress(self._feeder.position, self._store.last_position)

    def _save(self, position: int, event_id: str) -> None:
        assert self._model
        save(self._definition, self._store, self._model, (position, event_id), self._pace, sync=True)
        self._report()

    def _put_in_place(self) -> bool:
        """Put the model in the place of the live one, if it is not behind that."""
        definition, store, position, model = self._definition, self._store, self._feeder.position, self._model
        assert model
        if store.durable_position < position:
            store.sync()
        with saving(store, definition.name):
            live = definition._stored(store)
            if live and live.version > definition.version:
                cause = "a newer one was built meanwhile"
                raise ProjectionVersionError(definition.name, definition.version, live.version, cause)
            if live and live.usable and live.position > position:
                return False  # It has gone on meanwhile: what was seen of it must not go back.
            if not definition._put_in_place(store, model, position, event_id_at(store, position)):
                return False
            move_cursor(store, definition.name, position)
        return True

    def stop(self) -> None:
        """End after the batch that is being applied, and keep what was built."""
        self._feeder.stop()
