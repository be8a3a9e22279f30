"""What a store holds, by type and schema version, and whether every event of it is read by today's classes.

The store is read in shares of positions, by as many processes as there are processors.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import msgspec

from hangarlog.errors import CorruptionWarning, HangarlogError
from hangarlog.events.block_reader import kinds_of
from hangarlog.events.payload import FAILURES, decode_object
from hangarlog.events.registry import EventRegistry
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.selection import ReadOptions
from hangarlog.filestore.store import FileEventStore
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.record.envelope import Envelope
from hangarlog.schema.gather import Gathered
from hangarlog.schema.purity import ImpureUpcasterError, pure_path
from hangarlog.schema.target import load_events
from hangarlog.system.import_lock import importing
from hangarlog.system.read_only import for_reading

_SHARE = 25_000  # Events; what one process reads before it reports.
_FIRST = 3
"""So many failures of a type and version are kept with their place."""

_WATCHED = 50
"""So many events of a type and version, in each share, go through upcasters that are watched for being pure."""

Progress = Callable[[int], None]
Key = tuple[str, int]


class Share(msgspec.Struct):
    """Positions of a store to be read: after `start`, up to `stop`; as the events at `target`, or as they are."""

    path: str
    start: int
    stop: int
    target: str | None
    folder: str | None


class Failure(msgspec.Struct, frozen=True):
    """A stored event that cannot be read."""

    position: int
    stream_id: str
    stream_version: int
    event_type: str
    version: int
    cause: str


class Stored(msgspec.Struct):
    """The events of one type and schema version (0: what is stored as `_version` is none)."""

    event_type: str
    version: int
    count: int
    first_position: int
    first_recorded_at: str
    last_position: int
    last_recorded_at: str
    failed: int = 0
    failures: list[Failure] = []
    watched: int = 0
    impure: list[str] = []
    payload: Gathered | None = None

    def merge(self, other: Stored) -> None:
        """Take in what another share of the store holds of them."""
        self.count += other.count
        self.failed += other.failed
        if other.first_position < self.first_position:
            self.first_position, self.first_recorded_at = other.first_position, other.first_recorded_at
        if other.last_position > self.last_position:
            self.last_position, self.last_recorded_at = other.last_position, other.last_recorded_at
        failures = [*self.failures, *other.failures]
        self.failures = sorted(failures, key=lambda failure: failure.position)[:_FIRST]
        self.impure = sorted({*self.impure, *other.impure})
        if self.payload is not None and other.payload is not None:
            self.payload.merge(other.payload)


def check_history(
    path: str, target: str, *, folder: str | None = None, progress: Progress = lambda events: None
) -> list[Stored]:
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


def show_history(path: str, *, progress: Progress = lambda events: None) -> list[Stored]:
    """What a store holds, with the payloads' fields, whatever wrote it. Raises what `check_history` raises."""
    return _in_processes(path, None, None, progress)


def count_events(path: str) -> int:
    """How many events a store holds. Raises `StoreOpenError`."""
    with _open(path) as store:
        return store.get_event_count()


def check_store(store: EventStore, serializer: EventSerializer) -> list[Stored]:
    """As `check_history`, in this process, of any store."""
    return list(_merged([_scan(store, 0, store.get_event_count(), serializer, False)]).values())


def _in_processes(path: str, target: str | None, folder: str | None, progress: Progress) -> list[Stored]:
    end = count_events(path)
    shares = [Share(path, at, min(at + _SHARE, end), target, folder) for at in range(0, end, _SHARE)]
    count = min(len(shares), _processors())
    if count <= 1 or not sys.executable:
        return _sorted(_merged(_reported(zip(shares, map(read_share, shares), strict=True), progress)))
    return _sorted(_merged(_reported(_shared_out(shares, count), progress)))


def _shared_out(shares: list[Share], count: int) -> Iterator[tuple[Share, list[Stored]]]:
    with importing:
        from concurrent.futures import ThreadPoolExecutor, as_completed

        from hangarlog.schema.workers import workers
    with ThreadPoolExecutor(count) as threads, workers(count) as ask:
        reading = {threads.submit(ask, share): share for share in shares}
        for done in as_completed(reading):
            share, answer = reading[done], done.result()
            for warning in answer.warnings:
                warnings.warn(CorruptionWarning(warning), stacklevel=2)
            # What another process cannot do is done here, where it raises what is to be raised.
            yield share, read_share(share) if answer.stored is None else answer.stored


def _reported(read: Iterable[tuple[Share, list[Stored]]], progress: Progress) -> Iterator[list[Stored]]:
    for share, stored in read:
        progress(share.stop - share.start)
        yield stored


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _merged(shares: Iterable[list[Stored]]) -> dict[Key, Stored]:
    whole: dict[Key, Stored] = {}
    for stored in chain.from_iterable(shares):
        key = stored.event_type, stored.version
        if key in whole:
            whole[key].merge(stored)
        else:
            whole[key] = stored
    return whole


def _sorted(whole: dict[Key, Stored]) -> list[Stored]:
    return [whole[key] for key in sorted(whole)]


_opened: dict[str, FileEventStore] = {}  # In a process that reads shares: importing and opening is done once.
_serializers: dict[str, EventSerializer] = {}


def read_share(share: Share) -> list[Stored]:
    """What is in a share, in this process. Raises what `check_history` raises."""
    if share.target is None:
        return _scan(_store(share.path), share.start, share.stop, None, True)
    serializer = _serializers.get(share.target)
    if serializer is None:
        serializer = _serializers[share.target] = load_events(share.target, share.folder)
    return _scan(_store(share.path), share.start, share.stop, serializer, False)


def _store(path: str) -> FileEventStore:
    store = _opened.get(path)
    if store is None:
        store = _opened[path] = _open(path)
    return store


def _open(path: str) -> FileEventStore:
    # Without the types of the application, which may be what is wrong.
    serializer = EventSerializer(registry=EventRegistry(), unknown="untyped")
    return FileEventStore(path, serializer=serializer, create=False, filesystem=for_reading(path))


def _scan(
    store: EventStore, start: int, stop: int, serializer: EventSerializer | None, with_fields: bool
) -> list[Stored]:
    found: dict[Key, Stored] = {}
    latest: dict[Key, tuple[Sequence[Envelope], int]] = {}
    options: ReadOptions = {"from_position": start, "limit": stop - start}
    blocks: Iterable[Sequence[Envelope]]
    if isinstance(store, FileEventStore):
        blocks = (block for block, _ in as_stored(store, store.envelopes(**options)))
    else:
        blocks = store.envelopes(**options)
    for block in blocks:
        keys = kinds_of(block)
        counts = Counter(keys)
        firsts = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        lasts = dict(zip(keys, range(len(keys)), strict=True))
        for key, count in counts.items():
            if key not in found:
                first = block[firsts[key]]
                found[key] = Stored(*key, 0, first.position, first.recorded_at, 0, "")
            found[key].count += count
            latest[key] = block, lasts[key]
        if serializer is not None:
            _read(block, keys, serializer, found)
        if with_fields:
            for stored in found.values():
                stored.payload = stored.payload or Gathered()
            for envelope, key in zip(block, keys, strict=True):
                _gather(found[key], envelope)
    for key, (block, at) in latest.items():
        last = block[at]
        found[key].last_position, found[key].last_recorded_at = last.position, last.recorded_at
    return list(found.values())


def _gather(stored: Stored, envelope: Envelope) -> None:
    payload = decode_object(envelope.data)
    payload.pop("_version", None)
    assert stored.payload is not None
    stored.payload.add(payload)


def _read(block: Sequence[Envelope], keys: list[Key], serializer: EventSerializer, found: dict[Key, Stored]) -> None:
    """Read a block as its types, at once, or one by one where that fails."""
    _look_at_upcasters(block, keys, serializer, found)
    try:
        for _ in serializer.blocks().events(block):
            pass
        return
    except (HangarlogError, *FAILURES):
        pass
    for envelope, key in zip(block, keys, strict=True):
        try:
            serializer.reader(envelope.event_type)(envelope.data)
        except (HangarlogError, *FAILURES) as error:
            stored = found[key]
            stored.failed += 1
            if len(stored.failures) < _FIRST:
                stored.failures.append(
                    Failure(envelope.position, envelope.stream_id, envelope.stream_version, *key, str(error))
                )


def _look_at_upcasters(
    block: Sequence[Envelope], keys: list[Key], serializer: EventSerializer, found: dict[Key, Stored]
) -> None:
    old = {key for key in {*keys} if found[key].watched < _WATCHED and _is_old(serializer, *key)}
    if not old:
        return
    for envelope, key in zip(block, keys, strict=True):
        stored = found[key]
        if key in old and stored.watched < _WATCHED:
            stored.watched += 1
            try:
                payload = decode_object(envelope.data)
                payload.pop("_version", None)
                pure_path(serializer, *key, payload)
            except ImpureUpcasterError as error:
                if str(error) not in stored.impure:
                    stored.impure.append(str(error))
            except Exception:  # Whatever an upcaster raises: reading will say so, with its place.
                stored.watched = _WATCHED


def _is_old(serializer: EventSerializer, event_type: str, version: int) -> bool:
    registry = serializer.registry
    if event_type in registry.dropped or version < 1:
        return False
    return version < registry.target_version(event_type) or serializer.chain.split_of(event_type) is not None
