"""The events in a store by type and schema version, and a check that today's classes read all of them.

The store is split into shares, ranges of positions. Worker processes, one per processor, read the shares.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain

from hangarlog.errors import CorruptionWarning
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.progress import Progress
from hangarlog.schema.share import Key, Share, StoredKind, open_to_read, read_share, scan
from hangarlog.schema.workers import workers
from hangarlog.system.import_lock import importing

_EVENTS_PER_SHARE = 25_000  # What one process reads before it reports.


def check_history(
    path: str,
    target: str,
    *,
    folder: str | None = None,
    progress: Progress = lambda events: None,
    with_fields: bool = False,
) -> list[StoredKind]:
    """Read every stored event through the chain.

    Return the counts by type and version, with the failures and what reads lose. `target` names the application's
    events, as for `load_events`. Every worker process imports it, from `folder` if it is nowhere else. `progress`
    counts events. `with_fields` gathers the payloads' fields, too.

    Raises:
        EventsNotFoundError: there are no events at `target`.
        CorruptionError: a stored record is damaged in both copies.
        StoreOpenError: there is no store at `path`.
    """
    if folder is None and (os.getcwd() in sys.path or "" in sys.path):
        folder = os.getcwd()  # Worker processes do not have it on their path.
    return _read_store(path, target, folder, progress, with_fields)


def show_history(path: str, *, progress: Progress = lambda events: None) -> list[StoredKind]:
    """Return the counts by type and version with the payloads' fields, without any application code.

    Raises what `check_history` raises.
    """
    return _read_store(path, None, None, progress, True)


def count_events(path: str) -> int:
    """Return the number of events in a store. Raises `StoreOpenError`."""
    with open_to_read(path) as store:
        return store.last_position


def check_store(store: EventStore, serializer: EventSerializer) -> list[StoredKind]:
    """Check an open store of any kind as `check_history` does, in this process."""
    return list(_merged([scan(store, 0, store.last_position, serializer, False)]).values())


def _read_store(
    path: str, target: str | None, folder: str | None, progress: Progress, with_fields: bool
) -> list[StoredKind]:
    end = count_events(path)
    shares = [
        Share(path, at, min(at + _EVENTS_PER_SHARE, end), target, folder, with_fields)
        for at in range(0, end, _EVENTS_PER_SHARE)
    ]
    count = min(len(shares), _processors())
    if count <= 1 or not sys.executable:
        return _sorted(_merged(_with_progress(zip(shares, map(read_share, shares), strict=True), progress)))
    return _sorted(_merged(_with_progress(_read_in_processes(shares, count), progress)))


def _read_in_processes(shares: list[Share], count: int) -> Iterator[tuple[Share, list[StoredKind]]]:
    with importing:
        from concurrent.futures import ThreadPoolExecutor, as_completed

    with ThreadPoolExecutor(count) as threads, workers(count) as ask:
        reading = {threads.submit(ask, share): share for share in shares}
        for done in as_completed(reading):
            share, answer = reading[done], done.result()
            for warning in answer.warnings:
                warnings.warn(CorruptionWarning(warning), stacklevel=2)
            # A share that a worker cannot read is read here, where its error is raised.
            yield share, read_share(share) if answer.stored is None else answer.stored


def _with_progress(read: Iterable[tuple[Share, list[StoredKind]]], progress: Progress) -> Iterator[list[StoredKind]]:
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
