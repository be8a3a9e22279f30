"""The event store's public interface, built on the few calls that an engine provides."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, TypeVar, Unpack

import msgspec

from hangarlog.errors import CompactionError, CorruptionError, StreamNotFoundError
from hangarlog.events.payload import FAILURES, decode_object, encode_object
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.arguments import flag, number_or_none, whole_number
from hangarlog.eventstore.engine import Durability, Engine
from hangarlog.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS
from hangarlog.eventstore.limits import counted, limited
from hangarlog.eventstore.selection import OnDamage, ReadOptions, Selection, Span, selection, skips
from hangarlog.eventstore.snapshot import Snapshot, decode_state
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import MAX_NUMBER, Envelope
from hangarlog.record.timestamp import now

Append = tuple[str, Sequence[Any], int]
_ENVELOPE = ("position", "stream_id", "stream_version", "event_id", "recorded_at", "metadata")
_Self = TypeVar("_Self", bound="EventStore")
_position = itemgetter(0)


class Record(msgspec.Struct, frozen=True, gc=False):
    """An event with its envelope. `position` counts from 1 in the store, `stream_version` from 0 in the stream."""

    position: int
    stream_id: str
    stream_version: int
    event_type: str
    event_id: str
    recorded_at: datetime
    metadata: dict[str, Any] | None
    event: Any


def _position_of_pair(pair: tuple[Any, Any]) -> int:
    position: int = pair[0].position
    return position


def _check_durability(durability: Durability) -> None:
    if durability not in ("always", "relaxed"):
        raise ValueError(f"an append's durability is 'always' or 'relaxed', not {durability!r}")


class EventStore(Engine):
    """A store of typed events. A subclass is an engine: it implements the abstract methods."""

    def __init__(self, serializer: EventSerializer | None) -> None:
        self.serializer = serializer if serializer is not None else EventSerializer()
        self.serializer.check()

    # Appending

    def append(
        self,
        stream_id: str,
        events: Sequence[Any],
        expected_version: int,
        *,
        metadata: dict[str, Any] | None = None,
        durability: Durability | None = None,
        retry: bool = True,
    ) -> int:
        """Append events to one stream, all or none, and return the stream's new version.

        `expected_version` is the version that the stream must be at (`NO_STREAM`, which is -1: it must not exist),
        `ANY`, or `STREAM_EXISTS`. If the event ids already stand at that place, the append is a retry: it succeeds
        without writing. With `retry=False` ids are not compared: a matching version writes, any other conflicts.
        `durability` ("always" or "relaxed") overrides the store's setting for this append.

        Raises:
            ConcurrencyError: the stream is at another version.
            RetryUnknownError: the stream is at another version, and the events at that place are compacted away, so
                this append may be a retry of them.
            StreamIdError, EventSerializationError: the stream id or an event is invalid; nothing was written.
            StorageError: the operating system refused a call; nothing was written.
            OutcomeUnknownError: the append was cut short, and may or may not count (`SyncError`: a sync failed).
        """
        if durability is not None:
            _check_durability(durability)
        pending = self._pending(stream_id, events, expected_version, metadata, retry)
        return self._commit([pending], durability)[pending.stream_id]

    def append_at_end(
        self,
        stream_id: str,
        events: Sequence[Any],
        *,
        metadata: dict[str, Any] | None = None,
        durability: Durability | None = None,
        retry: bool = True,
    ) -> int:
        """Append at the end of the stream, whatever its version: `append` with `ANY`."""
        return self.append(stream_id, events, ANY, metadata=metadata, durability=durability, retry=retry)

    def append_many(
        self,
        appends: Iterable[Append],
        *,
        metadata: dict[str, Any] | None = None,
        durability: Durability | None = None,
        retry: bool = True,
    ) -> dict[str, int]:
        """Append to several streams at once, all or none, and return {stream id: new version}.

        Raises what `append` raises, and `ValueError` if a stream is named twice.
        """
        if durability is not None:
            _check_durability(durability)
        pendings = [
            self._pending(stream_id, events, expected, metadata, retry) for stream_id, events, expected in appends
        ]
        if len({pending.stream_id for pending in pendings}) != len(pendings):
            raise ValueError("a stream is named twice in one append_many; join its events")
        return self._commit(pendings, durability) if pendings else {}

    def _pending(
        self, stream_id: str, events: Sequence[Any], expected: int, metadata: dict[str, Any] | None, retry: bool = True
    ) -> Pending:
        stream_id = check_stream_id(stream_id)
        if type(expected) is not int or (expected < NO_STREAM and expected not in (ANY, STREAM_EXISTS)):
            raise ValueError(f"expected_version must be a version, NO_STREAM, ANY or STREAM_EXISTS, not {expected!r}")
        if type(events) is not list:
            if isinstance(events, (str, bytes, dict, msgspec.Struct)):
                raise TypeError(f"events must be a list of events, not one {type(events).__name__}")
            events = list(events)
        encoded_metadata = None if metadata is None else encode_object(metadata, "metadata")
        return Pending(stream_id, self.serializer.encode_all(events), expected, encoded_metadata, retry=retry)

    # Importing

    def append_encoded(self, pendings: list[Pending]) -> dict[str, int]:
        """Append encoded events, as `append_many` does, without a sync: call `sync` to make them durable."""
        return self._commit(pendings, "relaxed")

    def begin_stream(self, stream_id: str, version: int) -> None:
        """Begin a stream that you import without its events before `version`."""
        self._change_snapshot(stream_id, lambda _: Snapshot(stream_id, compacted_through=version - 1))

    def sync(self) -> None:
        """Sync every event committed so far to the device, whatever its durability.

        Raises:
            SyncError: the sync failed.
            OutcomeUnknownError: the files could not be opened or read, or the sync lock did not become free in time.
        """

    # Reading

    def read_stream(
        self,
        stream_id: str,
        from_version: int = 0,
        *,
        to_version: int | None = None,
        on_damage: OnDamage = "raise",
        durable: bool = False,
    ) -> list[Any]:
        """Return the typed events of a stream from version `from_version` to `to_version`, both inclusive.

        Without `to_version` it returns all that follow, and none if the stream does not exist. `on_damage="skip"` skips
        events that are damaged in both copies, with a `CorruptionWarning`. `durable` returns only events that are known
        to be on the device: those up to `durable_position`.

        Raises:
            CorruptionError: a record is damaged or missing in both copies.
            UnknownEventTypeError, EventSerializationError, UpcastingError: an event cannot be read as its class.
            TypeError: an argument is of a wrong kind.
        """
        events_of = self.serializer.blocks().events
        events: list[Any] = []
        first, last = max(0, whole_number("from_version", from_version)), number_or_none("to_version", to_version)
        limit = None if last is None else max(0, last - first + 1)
        span = Span(
            check_stream_id(stream_id),
            first,
            limit=limit,
            skip=skips(on_damage),
            durable=flag("durable", durable),
            stop=last,
        )
        for block in self._blocks(span):
            events += events_of(block)
        return events

    def read_all(
        self,
        from_position: int = 0,
        limit: int | None = None,
        *,
        on_damage: OnDamage = "raise",
        durable: bool = False,
    ) -> Iterator[tuple[int, str, Any]]:
        """Yield (position, stream id, typed event) of all streams in commit order, after `from_position` (exclusive).

        `limit` is the most events to yield (None: all). Events of dropped types do not count. The parts of a split
        event all count but stay together, so the last event may exceed the limit by its other parts. So a program that
        goes on from the last position that it got misses nothing. `on_damage`, `durable` and the errors raised are
        those of `read_stream`.
        """
        limit = number_or_none("limit", limit)
        first = max(0, whole_number("from_position", from_position))
        span = Span(None, first, limit=limit, skip=skips(on_damage), durable=flag("durable", durable))
        placed = self.serializer.blocks("position", "stream_id").placed
        return counted(self._as_needed(span), placed, _position, limit)

    def records(self, stream_id: str | None = None, **options: Unpack[ReadOptions]) -> Iterator[Record]:
        """Yield events with their envelopes, of one stream or of all. For the options see `ReadOptions`.

        Raises what `read_stream` raises; `ValueError` if versions come without a stream, or a time without an offset;
        `TypeError` for an unknown option, or a class that is not registered.
        """
        return self._records(selection(stream_id, options, self.serializer))

    def _records(self, selected: Selection) -> Iterator[Record]:
        pairs = self.serializer.blocks(*_ENVELOPE).pairs
        blocks = selected.wanted(self._as_needed(selected.span()))
        found = counted(blocks, selected.parts_of(pairs), _position_of_pair, selected.limit)
        for envelope, event in found:
            recorded_at, metadata = self._read(envelope)
            yield Record(
                envelope.position,
                envelope.stream_id,
                envelope.stream_version,
                envelope.event_type,
                envelope.event_id,
                recorded_at,
                metadata,
                event,
            )

    def _as_needed(self, span: Span) -> Iterator[Sequence[Envelope]]:
        """Yield a span's blocks: at first as many records as its limit, then all others if the caller goes on.

        The caller does so if stored events became fewer than it wants, because types are dropped.
        """
        return self._blocks(span) if span.limit is None else self._first_and_others(span, span.limit)

    def _first_and_others(self, span: Span, limit: int) -> Iterator[Sequence[Envelope]]:
        for block in self._blocks(span):
            part = block[:limit]
            yield part
            limit -= len(part)
            if limit <= 0:
                last = part[-1].position if span.stream_id is None else part[-1].stream_version
                start = last if span.stream_id is None else last + (-1 if span.reverse else 1)
                yield from self._blocks(msgspec.structs.replace(span, start=start, limit=None))
                return

    def _read(self, envelope: Envelope) -> tuple[datetime, dict[str, Any] | None]:
        """Return the (time, metadata) of a record. Raises `CorruptionError` if one of them is invalid."""
        raw = bytes(envelope.metadata)
        try:
            return datetime.fromisoformat(envelope.recorded_at), decode_object(raw) if raw else None
        except FAILURES as error:
            cause = f"the checksum is right but the time or the metadata is invalid: {error}"
            place = (envelope.position, envelope.stream_id, envelope.stream_version)
            raise self._damage("journal.jsonl", cause, *place) from error

    def _damage(self, name: str, cause: str, position: int | None, stream_id: str, version: int) -> CorruptionError:
        path = os.path.join(getattr(self, "path", ""), name)
        return CorruptionError(path, name, 0, cause, position, stream_id, version)

    def envelopes(self, stream_id: str | None = None, **options: Unpack[ReadOptions]) -> Iterator[Sequence[Envelope]]:
        """Yield what `records` yields, in blocks and with the payloads as stored: it needs no registered event types.

        A block may be empty. `limit` counts stored events. It raises what `records` raises.
        """
        selected = selection(stream_id, options, self.serializer)
        return limited(selected.wanted(self._blocks(selected.span())), selected.limit)

    # Queries

    @abstractmethod
    def get_stream_version(self, stream_id: str) -> int:
        """Return the version of a stream's last event, -1 if the stream does not exist."""

    @abstractmethod
    def list_streams(self, prefix: str = "") -> list[str]:
        """Return the ids of all streams that begin with `prefix`, sorted."""

    def get_all_stream_ids(self) -> list[str]:
        """Return the ids of all streams, sorted."""
        return self.list_streams()

    @abstractmethod
    def get_event_count(self) -> int:
        """Return the number of events in the store, which is the position of the last one."""

    @property
    def durable_position(self) -> int:
        """The position up to which every event is known to be on the device."""
        return self.get_event_count()

    @abstractmethod
    def get_stream_count(self) -> int:
        """Return the number of streams in the store."""

    # Snapshots

    def save_snapshot(
        self,
        stream_id: str,
        version: int,
        state: dict[str, Any],
        *,
        schema_version: int = 1,
        saved_at: str | None = None,
    ) -> None:
        """Save `state` as the aggregate's state at stream version `version`, in place of any earlier snapshot.

        `schema_version` is that of the state: `load_snapshot` ignores snapshots of another one. `saved_at` is the time
        of the snapshot (RFC 3339), by default now.

        Raises:
            EventSerializationError: the state has no JSON form, or is too large.
            ValueError: the version is not a whole number from 0 up, or its event is compacted away.
            TypeError: `saved_at` is not text, or `schema_version` is not a whole number.
        """
        check_stream_id(stream_id)
        if type(version) is not int or not 0 <= version <= MAX_NUMBER:
            raise ValueError(f"a snapshot's version must be a whole number from 0 up, not {version!r}")
        if type(schema_version) is not int or not isinstance(saved_at, (str, type(None))):
            raise TypeError(f"schema_version must be a whole number, saved_at text: {schema_version!r}, {saved_at!r}")
        encoded = msgspec.Raw(encode_object(state, "snapshot"))
        made_at = saved_at or now().decode()

        def replace(before: Snapshot | None) -> Snapshot:
            through = before.compacted_through if before else -1
            if version < through:
                raise ValueError(
                    f"a snapshot at {version} is too old: events up to version {through} are compacted away"
                )
            return Snapshot(stream_id, version, encoded, made_at, schema_version, event_id, through)

        with self._calling():
            event_id = self._event_id_at(stream_id, version)
            self._change_snapshot(stream_id, replace)

    def load_snapshot(self, stream_id: str, *, schema_version: int | None = None) -> dict[str, Any] | None:
        """Return the latest snapshot as {"version": …, "state": …}, or None.

        Return None also if the snapshot has another `schema_version` than the one asked for, or if its event is gone,
        as after a power cut in a store with relaxed durability. The state must then be replayed from the events.

        Raises:
            CorruptionError: the file is not a snapshot.
        """
        snapshot = self._load_snapshot(check_stream_id(stream_id))
        if (
            snapshot is None
            or snapshot.version < 0
            or (schema_version is not None and snapshot.schema_version != schema_version)
        ):
            return None
        compacted = snapshot.version <= snapshot.compacted_through
        if snapshot.event_id and not compacted and self._event_id_at(stream_id, snapshot.version) != snapshot.event_id:
            return None
        try:
            return {"version": snapshot.version, "state": decode_state(snapshot.state)}
        except FAILURES as error:
            cause = f"the state in the snapshot is not an object ({error}); delete the snapshot, and save a new one"
            raise self._damage("snapshots", cause, None, stream_id, snapshot.version) from error

    def snapshot_time(self, stream_id: str) -> str | None:
        """Return when the latest snapshot of a stream was saved (RFC 3339), None if there is none."""
        snapshot = self._load_snapshot(check_stream_id(stream_id))
        return snapshot.saved_at if snapshot and snapshot.version >= 0 else None

    def compact_stream(self, stream_id: str) -> int:
        """Drop the events of a stream that its snapshot covers, and return how many were dropped.

        Reads of the stream then begin after the snapshot. The stream keeps its version, the journal keeps all events.

        Raises:
            StreamNotFoundError: the stream does not exist.
            CompactionError: the stream has no snapshot, or its snapshot does not match its events.
        """
        with self._calling():
            return self._compact(stream_id)

    def _compact(self, stream_id: str) -> int:
        version = self.get_stream_version(stream_id)
        if version < 0:
            raise StreamNotFoundError(stream_id)
        snapshot = self._load_snapshot(stream_id)
        if snapshot is None or snapshot.version < 0:
            raise CompactionError(stream_id, "it has no snapshot, so its state could not be rebuilt; save one first")
        if self.load_snapshot(stream_id) is None or snapshot.version > version:
            raise CompactionError(stream_id, f"its snapshot (version {snapshot.version}) does not match its events")
        through = snapshot.version
        dropped = through - max(snapshot.compacted_through, self._first_version(stream_id) - 1)

        def mark(now: Snapshot | None) -> Snapshot | None:
            if now is None or now.compacted_through >= through:
                return None
            return msgspec.structs.replace(now, compacted_through=through)

        self._change_snapshot(stream_id, mark)  # From here on reads skip the events.
        self._reclaim(stream_id, through)
        return max(0, dropped)

    def _event_id_at(self, stream_id: str, version: int) -> str | None:
        for block in self._blocks(Span(stream_id, version, limit=1)):
            return block[0].event_id if block and block[0].stream_version == version else None
        return None

    def _first_version(self, stream_id: str) -> int:
        for block in self._blocks(Span(stream_id, 0, limit=1)):
            return block[0].stream_version
        return 0

    # Closing

    def close(self) -> None:
        """Release all resources; closing twice is fine."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
