"""The event store's public interface, built on the few calls that an engine provides."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar, Unpack

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.events.payload import FAILURES, decode_object, encode_object
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.engine import Durability
from hangarlog.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS
from hangarlog.eventstore.kept_streams import KeptStreams
from hangarlog.eventstore.selection import OnDamage, ReadOptions, Selection, Span, limited, skips
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import Envelope

Append = tuple[str, Sequence[Any], int]
_ENVELOPE = ("position", "stream_id", "stream_version", "event_id", "recorded_at", "metadata")
_Self = TypeVar("_Self", bound="EventStore")


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


def _check_durability(durability: Durability) -> None:
    if durability not in ("always", "relaxed"):
        raise ValueError(f"an append's durability is 'always' or 'relaxed', not {durability!r}")


class EventStore(KeptStreams):
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
            StreamDeletedError: the stream was deleted for good.
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
        beginning = Snapshot(stream_id, compacted_through=version - 1)
        self._change_snapshot(stream_id, lambda before: beginning if before is None or before.is_beginning else None)

    def sync(self) -> None:
        """Sync every event committed so far to the device, whatever its durability.

        Raises:
            SyncError: the sync failed.
            OutcomeUnknownError: the files could not be opened or read, or the sync lock did not become free in time.
        """

    # Reading

    def read_stream(
        self, stream_id: str, from_version: int = 0, *, on_damage: OnDamage = "raise", durable: bool = False
    ) -> list[Any]:
        """Return the typed events of a stream from version `from_version` (inclusive) on, none if it does not exist.

        `on_damage="skip"` skips events that are damaged in both copies, with a `CorruptionWarning`. `durable` returns
        only events that are known to be on the device: those up to `durable_position`.

        Raises:
            CorruptionError: a record is damaged or missing in both copies.
            UnknownEventTypeError, EventSerializationError, UpcastingError: an event cannot be read as its class.
        """
        events_of = self.serializer.blocks().events
        events: list[Any] = []
        span = Span(check_stream_id(stream_id), max(0, from_version), skip=skips(on_damage), durable=durable)
        for block in self._blocks(span):
            events += events_of(block)
        return events

    def read_all(
        self, from_position: int = 0, limit: int = 1000, *, on_damage: OnDamage = "raise", durable: bool = False
    ) -> Iterator[tuple[int, str, Any]]:
        """Yield (position, stream id, typed event) of all streams in commit order, after `from_position` (exclusive).

        Yields at most `limit` events. `on_damage`, `durable` and the errors raised are those of `read_stream`.
        """
        placed = self.serializer.blocks("position", "stream_id").placed
        span = Span(None, max(0, from_position), limit=limit, skip=skips(on_damage), durable=durable)
        for block in limited(self._blocks(span), limit):
            yield from placed(block)

    def records(self, stream_id: str | None = None, **options: Unpack[ReadOptions]) -> Iterator[Record]:
        """Yield events with their envelopes, of one stream or of all. For the options see `ReadOptions`.

        Raises what `read_stream` raises, `ValueError` if `from_version` comes without a stream, and `TypeError` for an
        unknown option.
        """
        pairs = self.serializer.blocks(*_ENVELOPE).pairs
        for block in self.envelopes(stream_id, **options):
            for envelope, event in pairs(block):
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

        A block may be empty.
        """
        selection = Selection(stream_id=stream_id, **options)
        return selection.wanted(self._blocks(selection.span()))

    # Queries

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

    # Closing

    def close(self) -> None:
        """Release all resources; closing twice is fine."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
