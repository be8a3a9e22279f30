"""Reading a share, a range of positions: its events by type and schema version, and the ones that cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from hangarlog.errors import HangarlogError
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
from hangarlog.system.read_only import for_reading

_MAX_FAILURES = 3
"""Failures of each type and version that are kept with their place."""

_MAX_WATCHED = 50
"""Events of each type and version in a share that are read with the purity check."""

Key = tuple[str, int]
"""(event type, schema version)."""


class Share(msgspec.Struct):
    """A range of positions to read: after `start`, up to `stop`.

    The events are read with the application's code at `target`, or as stored if that is None.
    """

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


class StoredKind(msgspec.Struct):
    """The events of one type and schema version; version 0 stands for an invalid `_version`.

    `failed` counts the events that cannot be read, and `failures` keeps the first of them. `watched` counts the events
    read with the purity check, and `impure` has its messages. `payload` is set if fields were gathered.
    """

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

    def merge(self, other: StoredKind) -> None:
        """Add the events of another share."""
        self.count += other.count
        self.failed += other.failed
        if other.first_position < self.first_position:
            self.first_position, self.first_recorded_at = other.first_position, other.first_recorded_at
        if other.last_position > self.last_position:
            self.last_position, self.last_recorded_at = other.last_position, other.last_recorded_at
        failures = [*self.failures, *other.failures]
        self.failures = sorted(failures, key=lambda failure: failure.position)[:_MAX_FAILURES]
        self.impure = sorted({*self.impure, *other.impure})
        if self.payload is not None and other.payload is not None:
            self.payload.merge(other.payload)


_opened: dict[str, FileEventStore] = {}  # Kept between the shares that a worker process reads.
_serializers: dict[str, EventSerializer] = {}


def read_share(share: Share) -> list[StoredKind]:
    """Read a share in this process. Raises what `check_history` raises."""
    if share.target is None:
        return scan(_store(share.path), share.start, share.stop, None, True)
    serializer = _serializers.get(share.target)
    if serializer is None:
        serializer = _serializers[share.target] = load_events(share.target, share.folder)
    return scan(_store(share.path), share.start, share.stop, serializer, False)


def _store(path: str) -> FileEventStore:
    store = _opened.get(path)
    if store is None:
        store = _opened[path] = open_to_read(path)
    return store


def open_to_read(path: str) -> FileEventStore:
    """Open a store for reading without the application's types, which may be what fails."""
    serializer = EventSerializer(registry=EventRegistry(), unknown="untyped")
    return FileEventStore(path, serializer=serializer, create=False, filesystem=for_reading(path))


def scan(
    store: EventStore, start: int, stop: int, serializer: EventSerializer | None, with_fields: bool
) -> list[StoredKind]:
    """Return the events after position `start`, up to `stop`, by type and version.

    With a serializer, every event is read, and failures are noted. `with_fields` gathers the payloads' fields.
    """
    found: dict[Key, StoredKind] = {}
    latest: dict[Key, tuple[Sequence[Envelope], int]] = {}
    options: ReadOptions = {"from_position": start, "limit": stop - start, "on_damage": "skip"}
    blocks: Iterable[Sequence[Envelope]]
    if isinstance(store, FileEventStore):
        blocks = (block for block, _ in as_stored(store, store.envelopes(**options)))
    else:
        blocks = store.envelopes(**options)
    for block in blocks:
        if block and block[-1].position > stop:  # Beyond the share, in place of events that were skipped.
            block = [envelope for envelope in block if envelope.position <= stop]
        keys = kinds_of(block)
        counts = Counter(keys)
        firsts = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        lasts = dict(zip(keys, range(len(keys)), strict=True))
        for key, count in counts.items():
            if key not in found:
                first = block[firsts[key]]
                found[key] = StoredKind(*key, 0, first.position, first.recorded_at, 0, "")
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


def _gather(stored: StoredKind, envelope: Envelope) -> None:
    payload = decode_object(envelope.data)
    payload.pop("_version", None)
    assert stored.payload is not None
    stored.payload.add(payload)


def _read(
    block: Sequence[Envelope], keys: list[Key], serializer: EventSerializer, found: dict[Key, StoredKind]
) -> None:
    """Read a block of events at once, or one by one to note the failures."""
    _check_purity(block, keys, serializer, found)
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
            if len(stored.failures) < _MAX_FAILURES:
                stored.failures.append(
                    Failure(envelope.position, envelope.stream_id, envelope.stream_version, *key, str(error))
                )


def _check_purity(
    block: Sequence[Envelope], keys: list[Key], serializer: EventSerializer, found: dict[Key, StoredKind]
) -> None:
    """Run the upcasters of some old events with the purity check."""
    old = {key for key in {*keys} if found[key].watched < _MAX_WATCHED and _needs_upcasting(serializer, *key)}
    if not old:
        return
    for envelope, key in zip(block, keys, strict=True):
        stored = found[key]
        if key in old and stored.watched < _MAX_WATCHED:
            stored.watched += 1
            try:
                payload = decode_object(envelope.data)
                payload.pop("_version", None)
                pure_path(serializer, *key, payload)
            except ImpureUpcasterError as error:
                if str(error) not in stored.impure:
                    stored.impure.append(str(error))
            except Exception:  # An upcaster may raise anything. The read reports it with its place.
                stored.watched = _MAX_WATCHED


def _needs_upcasting(serializer: EventSerializer, event_type: str, version: int) -> bool:
    registry = serializer.registry
    if event_type in registry.dropped or version < 1:
        return False
    return version < registry.target_version(event_type) or serializer.chain.split_of(event_type) is not None
