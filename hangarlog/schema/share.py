"""Reading a share, a range of positions: its events by type and schema version, and the ones that cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from hangarlog.errors import HangarlogError, UpcastingError
from hangarlog.events.block_reader import kinds_of
from hangarlog.events.payload import FAILURES, decode_object
from hangarlog.events.registry import EventRegistry
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.selection import ReadOptions
from hangarlog.filestore.store import FileEventStore
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.opening import is_on_servers
from hangarlog.opening import open as open_address
from hangarlog.record.envelope import Envelope
from hangarlog.schema.describe import describe
from hangarlog.schema.gather import Gathered
from hangarlog.schema.losses import Loss, LossFinder, LossKind, Note, Seen, add_loss
from hangarlog.schema.places import extra_names
from hangarlog.schema.purity import ImpureUpcasterError, pure_path, upcasting
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

    The events are read with the application's code at `target`, or as stored if that is None. `with_fields` gathers the
    payloads' fields.
    """

    path: str
    start: int
    stop: int
    target: str | None
    folder: str | None
    with_fields: bool


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
    read with the purity check, and `impure` has its messages. `payload` is set if fields were gathered. `losses` counts
    what reads lose without an error, and `seen` has the values of fields before and after the upcasters.
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
    losses: list[Loss] = []
    seen: dict[str, Seen] = {}

    @property
    def fails(self) -> bool:
        """True if some event cannot be read, is read by an impure step, or loses a value."""
        lost = any(loss.fails(self.seen.get(loss.path)) for loss in self.losses)
        return bool(self.failed or self.impure or lost)

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
        for loss in other.losses:
            add_loss(self.losses, loss)
        for name, seen in other.seen.items():
            if name in self.seen:
                self.seen[name].merge(seen)
            else:
                self.seen[name] = seen


_decode_objects = msgspec.json.Decoder(list[dict[str, Any]]).decode
_opened: dict[str, EventStore[Any]] = {}  # Kept between the shares that a worker process reads.
_serializers: dict[str, EventSerializer] = {}


def read_share(share: Share) -> list[StoredKind]:
    """Read a share in this process. Raises what `check_history` raises."""
    serializer = None if share.target is None else _serializers.get(share.target)
    if serializer is None and share.target is not None:
        serializer = _serializers[share.target] = load_events(share.target, share.folder)
    if is_on_servers(share.path):  # A connection is not left open.
        with open_to_read(share.path) as store:
            return scan(store, share.start, share.stop, serializer, share.with_fields)
    return scan(_store(share.path), share.start, share.stop, serializer, share.with_fields)


def _store(path: str) -> EventStore[Any]:
    store = _opened.get(path)
    if store is None:
        store = _opened[path] = open_to_read(path)
    return store


def open_to_read(path: str) -> EventStore[Any]:
    """Open a store for reading without the application's types, which may be what fails."""
    serializer = EventSerializer(registry=EventRegistry(), unknown="untyped")
    if is_on_servers(path):
        return open_address(path, serializer=serializer, create=False, durability="relaxed")
    return FileEventStore(path, serializer=serializer, create=False, filesystem=for_reading(path))


def scan(
    store: EventStore, start: int, stop: int, serializer: EventSerializer | None, with_fields: bool
) -> list[StoredKind]:
    """Return the events after position `start`, up to `stop`, by type and version.

    With a serializer, every event is read, and failures are noted. `with_fields` gathers the payloads' fields.
    """
    found: dict[Key, StoredKind] = {}
    latest: dict[Key, tuple[Sequence[Envelope], int]] = {}
    finding = None if serializer is None else _StoredLosses(serializer)
    start = max(start, store.first_position - 1)
    if start >= stop:
        return []
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
        if serializer is not None and finding is not None:
            _read(block, keys, serializer, found)
            finding.add(block, keys, found)
        if with_fields:
            for stored in found.values():
                stored.payload = stored.payload or Gathered()
            for envelope, key in zip(block, keys, strict=True):
                _gather(found[key], envelope)
    for key, (block, at) in latest.items():
        last = block[at]
        found[key].last_position, found[key].last_recorded_at = last.position, last.recorded_at
    return list(found.values())


class _StoredLosses:
    """Finds what reads of stored events lose, by event type."""

    def __init__(self, serializer: EventSerializer) -> None:
        self._serializer = serializer
        self._finders: dict[str, LossFinder | None] = {}
        self._extras: dict[tuple[str, str], bool] = {}

    def add(self, block: Sequence[Envelope], keys: list[Key], found: dict[Key, StoredKind]) -> None:
        """Count the losses of the events in a block."""
        groups: dict[Key, list[Envelope]] = {}
        for envelope, key in zip(block, keys, strict=True):
            groups.setdefault(key, []).append(envelope)
        for key, envelopes in groups.items():
            if not self._is_passed_over(*key):
                upcasts = _needs_upcasting(self._serializer, *key)
                (self._add_upcast if upcasts else self._add_current)(found[key], envelopes)

    def _is_passed_over(self, event_type: str, version: int) -> bool:
        registry = self._serializer.registry
        is_newer = version > registry.target_version(event_type) and self._serializer.chain.split_of(event_type) is None
        return version < 1 or is_newer or event_type in registry.dropped

    def _add_current(self, stored: StoredKind, envelopes: list[Envelope]) -> None:
        finder = self._finder(stored.event_type)
        if finder is None:
            return
        for envelope, payload in zip(envelopes, _payloads(envelopes), strict=True):
            if payload is not None:
                payload.pop("_version", None)
                finder.find(payload, self._note(stored, envelope))

    def _add_upcast(self, stored: StoredKind, envelopes: list[Envelope]) -> None:
        event_type, finder = stored.event_type, self._finder(stored.event_type)
        try:
            run = upcasting(self._serializer, event_type, stored.version)
        except UpcastingError:
            return  # The read reports it.
        for envelope, payload, made in zip(envelopes, _payloads(envelopes), _payloads(envelopes), strict=True):
            if payload is None or made is None:
                continue
            try:
                reached = run(made)
                for name, part in reached if isinstance(reached, list) else [(event_type, reached)]:
                    self._find(stored, envelope, name, part)
            except Exception:  # An upcaster may raise or return anything. The read reports it with its place.
                continue
            if finder is not None and isinstance(reached, dict):
                payload.pop("_version", None)
                finder.compare(payload, reached, self._note(stored, envelope), stored.seen)

    def _find(self, stored: StoredKind, envelope: Envelope, event_type: str, payload: dict[str, Any]) -> None:
        finder = self._finder(event_type)
        is_other = payload.get("_version", 1) != self._serializer.registry.target_version(event_type)
        if finder is not None and (event_type == stored.event_type or not is_other):
            finder.find(payload, self._note(stored, envelope))

    def _finder(self, event_type: str) -> LossFinder | None:
        if event_type not in self._finders:
            self._finders[event_type] = self._new_finder(event_type)
        return self._finders[event_type]

    def _new_finder(self, event_type: str) -> LossFinder | None:
        event_class = self._serializer.registry.types.get(event_type)
        if event_class is None or event_type in self._serializer.registry.dropped:
            return None
        try:
            return LossFinder(describe(event_type, event_class, self._serializer.enc_hook))
        except HangarlogError:
            return None

    def _note(self, stored: StoredKind, envelope: Envelope) -> Note:
        def note(kind: LossKind, path: str, before: Any, after: Any) -> None:
            if kind == "unread" and self._is_extra(envelope, path):
                return
            add_loss(stored.losses, Loss(kind, path, 1, envelope.position, before, after))

        return note

    def _is_extra(self, envelope: Envelope, name: str) -> bool:
        """True if events of a class keep a name as an attribute that is no field."""
        key = envelope.event_type, name
        if key not in self._extras:
            try:
                events = self._serializer.deserialize_all(envelope.event_type, bytes(envelope.data))
            except (HangarlogError, *FAILURES):
                return True  # The read reports it.
            self._extras[key] = name in extra_names(events)
        return self._extras[key]


def _payloads(envelopes: list[Envelope]) -> list[dict[str, Any] | None]:
    """Return the payloads of some events, decoded together; None for one that is no object."""
    try:
        return list(_decode_objects(b"[%b]" % b",".join([bytes(envelope.data) for envelope in envelopes])))
    except FAILURES:
        return [_payload(envelope) for envelope in envelopes]


def _payload(envelope: Envelope) -> dict[str, Any] | None:
    try:
        made: dict[str, Any] = decode_object(envelope.data)
    except FAILURES:
        return None  # The read reports it.
    return made


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
        if serializer.unreadable == "error":  # Others pass over failures.
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
