"""What a store holds, by type and schema version, and whether every event of it is read by today's classes.

The store is read in shares of positions, by as many processes as there are processors.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from hangarlog.errors import CorruptionWarning
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.base import EventStore
from hangarlog.schema.share import Key, Share, StoredKind, open_to_read, read_share, scan
from hangarlog.schema.workers import workers
from hangarlog.system.import_lock import importing

_EVENTS_A_SHARE = 25_000  # Events; what one process reads before it reports.
Progress = Callable[[int], None]


def check_history(
    path: str, target: str, *, folder: str | None = None, progress: Progress = lambda events: None
) -> list[StoredKind]:
    """Read every stored event through the chain, and say what there is, with what cannot be read.

    `target` is where the application's events are, as `load_events` takes it: every process imports it.

    Raises:
        EventsNotFoundError: there are no events at `target`.
        CorruptionError: a stored record is damaged in both copies.
        StoreOpenError: there is no store.
    """
    if folder is None and (os.getcwd() in sys.path or "" in sys.path):
        folder = os.getcwd()  # Where other processes look for nothing else.
    return _in_processes(path, target, folder, progress)


def show_history(path: str, *, progress: Progress = lambda events: None) -> list[StoredKind]:
    """What a store holds, with the payloads' fields, whatever wrote it. Raises what `check_history` raises."""
    return _in_processes(path, None, None, progress)


def count_events(path: str) -> int:
    """How many events a store holds. Raises `StoreOpenError`."""
    with open_to_read(path) as store:
        return store.get_event_count()


def check_store(store: EventStore, serializer: EventSerializer) -> list[StoredKind]:
    """As `check_history`, in this process, of any store."""
    return list(_merged([scan(store, 0, store.get_event_count(), serializer, False)]).values())


def _in_processes(path: str, target: str | None, folder: str | None, progress: Progress) -> list[StoredKind]:
    end = count_events(path)
    shares = [Share(path, at, min(at + _EVENTS_A_SHARE, end), target, folder) for at in range(0, end, _EVENTS_A_SHARE)]
    count = min(len(shares), _processors())
    if count <= 1 or not sys.executable:
        return _sorted(_merged(_reported(zip(shares, map(read_share, shares), strict=True), progress)))
    return _sorted(_merged(_reported(_shared_out(shares, count), progress)))


def _shared_out(shares: list[Share], count: int) -> Iterator[tuple[Share, list[StoredKind]]]:
    with importing:
        from concurrent.futures import ThreadPoolExecutor, as_completed

    with ThreadPoolExecutor(count) as threads, workers(count) as ask:
        reading = {threads.submit(ask, share): share for share in shares}
        for done in as_completed(reading):
            share, answer = reading[done], done.result()
            for warning in answer.warnings:
                warnings.warn(CorruptionWarning(warning), stacklevel=2)
            # What another process cannot do is done here, where it raises what is to be raised.
            yield share, read_share(share) if answer.stored is None else answer.stored


def _reported(read: Iterable[tuple[Share, list[StoredKind]]], progress: Progress) -> Iterator[list[StoredKind]]:
    for share, stored in read:
        progress(share.stop - share.start)
        yield stored


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _merged(shares: Iterable[list[StoredKind]]) -> dict[Key, StoredKind]:
    whole: dict[Key, StoredKind] = {}
    for stored in chain.from_iterable(shares):
        key = stored.event_type, stored.version
        if key in whole:
            whole[key].merge(stored)
        else:
            whole[key] = stored
    return whole


def _sorted(whole: dict[Key, StoredKind]) -> list[StoredKind]:
    return [whole[key] for key in sorted(whole)]
