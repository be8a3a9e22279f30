"""One runner at a time: places in the queues of a store, which the kernel gives back when a runner dies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from time import sleep
from typing import Any

from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.queue import Place
from hangarlog.projections.errors import ProjectionBusyError

_STANDBY_SECONDS = 0.05
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.0002, 0.01


def owned(
    store: EventStore[Any], name: str, work: str, *, standby: bool, stopped: Callable[[], bool] = lambda: False
) -> Place | None:
    """Return the place of the one runner that does this work for a projection; None if `stopped` while waiting.

    Raises `ProjectionBusyError` if there is another, unless `standby`: then wait until all before have gone.
    """
    place = store._queue_for(f"{work} projection:{name}")
    try:
        while not place.is_first():
            if not standby:
                raise ProjectionBusyError(name, work)
            if stopped():
                place.leave()
                return None
            sleep(_STANDBY_SECONDS)
    except BaseException:
        place.leave()
        raise
    return place


@contextlib.contextmanager
def saving(store: EventStore[Any], name: str) -> Iterator[None]:
    """Let nobody else save, or put a rebuild in the place of, the projection meanwhile."""
    place, pause = store._queue_for(f"saving projection:{name}"), _FIRST_PAUSE_SECONDS
    try:
        while not place.is_first():
            sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        yield
    finally:
        place.leave()
