"""The runner of a projection: it follows the store, and rebuilds what is outdated beside the live model."""

from __future__ import annotations

import contextlib
import threading
from time import monotonic

from hangarlog.eventstore.arguments import seconds_or_none
from hangarlog.eventstore.queue import Place
from hangarlog.projections.definition import AnyStore, Definition, Model
from hangarlog.projections.errors import ProjectionBusyError, ProjectionVersionError
from hangarlog.projections.feeding import Feeder, Pace, move_cursor, save
from hangarlog.projections.owning import owned, saving
from hangarlog.projections.rebuilding import Progress, Rebuild

_PATIENCE_SECONDS = 1.0
"""Seconds after which an idle runner looks whether another model was put in the place of its own."""


class Follower:
    """Runs a projection on a store. One thread calls `run`; any may call `stop`."""

    def __init__(
        self,
        definition: Definition,
        store: AnyStore,
        *,
        rebuild: bool = False,
        standby: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._definition, self._store = definition, store
        self._anew, self._standby, self._progress = rebuild, standby, progress
        self._pace = Pace(definition.every_events, definition.every_seconds)
        self._feeder = Feeder(definition, store, self._pace, lambda position, event_id: self._save(position, event_id))
        self._model: Model | None = None
        self._place: Place | None = None
        self._rebuild: Rebuild | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def position(self) -> int:
        """The position up to which the projection is saved."""
        return self._model.position if self._model else 0

    @property
    def lag(self) -> int:
        """The number of events in the store after `position`."""
        return max(0, self._store.last_position - self.position)

    def run(self, timeout: float | None = None) -> None:
        """Follow the store until `stop`, or until `timeout` seconds pass without an event (None: never).

        First it builds what has to be built anew, beside the live model. It saves as it ends. After an error that you
        have mended you may call it again.

        Raises:
            ProjectionError: the projection's function failed at an event.
            ProjectionBusyError: another runner has the projection.
            ProjectionVersionError: what is stored is of a newer version, or such a runner has taken over.
            ProjectionStateError: the state cannot be kept.

        It raises also what `EventStore.subscribe` raises.
        """
        seconds = seconds_or_none("timeout", timeout)
        try:
            stored = self._definition._stored(self._store)
            if stored and stored.version > self._definition.version:
                raise self._overtaken(stored.version)
            if stored and (stored.version < self._definition.version or not stored.usable):
                self._begin_rebuild(beside=False)  # A runner of the old version may go on meanwhile.
                self._standby = True  # It goes when it finds that it was replaced.
            elif stored and (self._anew or self._definition._has_unfinished(self._store)):
                mine = self._becomes_owner()
                if mine or self._anew:
                    self._begin_rebuild(beside=mine and seconds != 0)
                if not (mine or self._standby):
                    return  # The other runner goes on with what was built.
            if not self._feeder.stopped:
                self._follow(seconds)
        finally:
            self._end()

    def _overtaken(self, version: int) -> ProjectionVersionError:
        advice = "run the newer program"
        return ProjectionVersionError(self._definition.name, self._definition.version, version, advice)

    # Rebuilding

    def _begin_rebuild(self, *, beside: bool) -> None:
        anew, self._anew = self._anew, False
        rebuild = Rebuild(self._definition, self._store, anew=anew, standby=self._standby, progress=self._progress)
        self._rebuild = rebuild
        if self._feeder.stopped:
            rebuild.stop()
        if beside:
            rebuild.begin()  # Here, so that a second one is refused here.
            self._thread = threading.Thread(target=self._rebuild_beside, args=(rebuild,), name="hangarlog-rebuild")
            self._thread.start()
        else:
            rebuild.run()

    def _rebuild_beside(self, rebuild: Rebuild) -> None:
        try:
            rebuild.run()
        except BaseException as error:  # The other thread raises it.
            self._failure = error
            self._feeder.stop()

    # Following

    def _follow(self, timeout: float | None) -> None:
        definition, store, feeder = self._definition, self._store, self._feeder
        if self._place is None:
            stopped = lambda: feeder.stopped  # noqa: E731
            self._place = owned(store, definition.name, "running", standby=self._standby, stopped=stopped)
        if self._place is None:
            return
        self._open()
        quiet_since = monotonic()
        while True:
            before = feeder.position
            drained = feeder.drain()
            now = monotonic()
            if feeder.position != before:
                quiet_since = now
            if not drained:
                break
            unsaved = feeder.position != self.position
            pause = self._pace.pause if unsaved else _PATIENCE_SECONDS
            if unsaved and (pause <= 0 or self._opened.holds_lock):
                self._save(feeder.position, "")
                continue
            if timeout is not None and now - quiet_since >= timeout:
                break
            left = pause if timeout is None else min(pause, quiet_since + timeout - now)
            feeder.wait(left)
            if not unsaved and self._opened.is_replaced():
                self._reopen()
        if self._failure is None and feeder.is_whole:
            self._save(feeder.position, "", sync=True)

    def _becomes_owner(self) -> bool:
        """Become the one runner if there is no other; return False if there is."""
        with contextlib.suppress(ProjectionBusyError):
            self._place = owned(self._store, self._definition.name, "running", standby=False)
            return True
        if not (self._anew or self._standby):
            raise ProjectionBusyError(self._definition.name, "running")
        return False

    @property
    def _opened(self) -> Model:
        assert self._model
        return self._model

    def _open(self) -> None:
        with saving(self._store, self._definition.name):
            stored = self._definition._stored(self._store)
            if stored and stored.version > self._definition.version:
                raise self._overtaken(stored.version)
            model = self._model = self._definition._open_live(self._store)
            move_cursor(self._store, self._definition.name, model.position)
        self._feeder.feed(model)

    def _reopen(self) -> None:
        """Go on with the model that was put in the place of this one."""
        self._opened.close()
        self._open()

    def _save(self, position: int, event_id: str, *, sync: bool = False) -> None:
        model, definition, store = self._opened, self._definition, self._store
        saved = model.holds_lock
        if saved:  # A rebuild that is put in place may be waiting for it, inside `saving`.
            if model.is_replaced():
                self._reopen()
                return
            save(definition, store, model, (position, event_id), self._pace, sync=sync)
        with saving(store, definition.name):
            replaced = model.is_replaced()
            if not replaced:
                if not saved:
                    save(definition, store, model, (position, event_id), self._pace, sync=sync)
                move_cursor(store, definition.name, position)
        if replaced:
            self._reopen()

    # Ending

    def stop(self) -> None:
        """End `run` after the batch that is being applied. Any thread may call it, and a signal handler."""
        self._feeder.stop()
        if self._rebuild:
            self._rebuild.stop()

    def _end(self) -> None:
        failure = None
        with contextlib.ExitStack() as ending:
            ending.callback(self._leave)
            if self._model:
                ending.callback(self._model.close)
            ending.callback(self._feeder.close)
            if self._rebuild and self._thread:
                self._rebuild.stop()
                self._thread.join()
            failure, self._failure = self._failure, None
            self._rebuild = self._thread = None
        if failure:
            raise failure

    def _leave(self) -> None:
        place, self._place = self._place, None
        if place:
            place.leave()
