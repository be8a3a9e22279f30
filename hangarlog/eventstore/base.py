"""The event store's public interface, built on the few calls that an engine provides."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

import msgspec

from hangarlog.errors import ConcurrencyError
from hangarlog.events.encoded_event import EncodedEvent
from hangarlog.events.registry import UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.arguments import flag, number_or_none, whole_number
from hangarlog.eventstore.cursor import HasCursors, check_move_argument
from hangarlog.eventstore.engine import Durability, check_durability
from hangarlog.eventstore.execute import Decide, until_written
from hangarlog.eventstore.expected_version import ANY
from hangarlog.eventstore.finding import ENVELOPE
from hangarlog.eventstore.idempotent import check_ids
from hangarlog.eventstore.kept_streams import KeptStreams
from hangarlog.eventstore.limits import counted, limited
from hangarlog.eventstore.pending import Metadata, pending, triples
from hangarlog.eventstore.record import Event, Record
from hangarlog.eventstore.selection import OnDamage, ReadOptions, Selection, Span, selection, skips
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.eventstore.stats import StoreStats
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.eventstore.subscribing import Subscribing
from hangarlog.eventstore.wanted_types import WantedTypes, classes_of
from hangarlog.record.batch import Pending
from hangarlog.record.cursor_move import CursorMove
from hangarlog.record.envelope import Envelope

if TYPE_CHECKING:
    from typing_extensions import TypeForm

Wanted = TypeVar("Wanted")
_Self = TypeVar("_Self", bound="EventStore[Any]")
_position = itemgetter(0)


def _position_of_pair(pair: tuple[Any, Any]) -> int:
    position: int = pair[0].position
    return position


class EventStore(HasCursors, Subscribing[Event], KeptStreams):
    """A store of typed events. A subclass is an engine: it implements the abstract methods.

    `EventStore[Opened | Closed]` tells a type checker which events a store has. At run time it changes nothing.
    """

    def __init__(self, serializer: EventSerializer | None) -> None:
        if not isinstance(serializer, (EventSerializer, type(None))):
            raise TypeError(f"serializer must be an EventSerializer, as EventSerializer(chain) is, not {serializer!r}")
        self.serializer = serializer if serializer is not None else EventSerializer()
        self.serializer.check()

    # Appending

    def append(
        self,
        stream_id: str,
        events: Sequence[Event | UntypedEvent | EncodedEvent],
        expected_version: int,
        *,
        metadata: Metadata | None = None,
        durability: Durability | None = None,
        retry: bool = True,
        idempotent: bool = False,
        cursor: CursorMove | None = None,
    ) -> AppendResult:
        """Append events to one stream, all or none, and return the stream's new version, and where the events are.

        An event is an instance of a registered class, an `UntypedEvent`, or an `EncodedEvent`. `metadata` is a
        dictionary for all events, or a list with one dictionary (or None) for each.

        `expected_version` is the version that the stream must be at (`NO_STREAM`, which is -1: it must not exist),
        `ANY`, or `STREAM_EXISTS`. If the event ids already stand at that place, the append is a retry: it succeeds
        without writing. With `retry=False` ids are not compared: a matching version writes, any other conflicts.
        With `idempotent=True` the ids, which every event must have, are looked for in the whole stream, compacted
        events included: if all are there, nothing is written, and the result says where they are.
        `durability` ("always" or "relaxed") overrides the store's setting for this append. `cursor` is a move that is
        made with the append, both or neither: `store.cursor(name).at(position, expected=…)`. A retry makes none.

        Raises:
            ConcurrencyError: the stream is at another version.
            CursorConflictError: the cursor is not at its expected position; nothing was written.
            RetryUnknownError: the stream is at another version, and the events at that place are compacted away, so
                this append may be a retry of them.
            PartialRetryError: with `idempotent`, only some of the ids are in the stream.
            StreamIdError, EventSerializationError: the stream id or an event is invalid; nothing was written.
            StreamDeletedError: the stream was deleted for good.
            StorageError: the operating system refused a call; nothing was written.
            OutcomeUnknownError: the append was cut short, and may or may not count (`SyncError`: a sync failed).
        """
        if durability is not None:
            check_durability(durability)
        one = pending(self.serializer, stream_id, events, expected_version, metadata, retry, idempotent)
        if idempotent:
            check_ids([one])
        if cursor is not None:
            return self._commit_moving([one], durability, cursor)[one.stream_id]
        return self._commit([one], durability)[one.stream_id]

    def append_at_end(
        self,
        stream_id: str,
        events: Sequence[Event | UntypedEvent | EncodedEvent],
        *,
        metadata: Metadata | None = None,
        durability: Durability | None = None,
        retry: bool = True,
        idempotent: bool = False,
        cursor: CursorMove | None = None,
    ) -> AppendResult:
        """Append at the end of the stream, whatever its version: `append` with `ANY`."""
        return self.append(
            stream_id,
            events,
            ANY,
            metadata=metadata,
            durability=durability,
            retry=retry,
            idempotent=idempotent,
            cursor=cursor,
        )

    def append_many(
        self,
        appends: Iterable[tuple[str, Sequence[Event | UntypedEvent | EncodedEvent], int]],
        *,
        metadata: dict[str, Any] | None = None,
        durability: Durability | None = None,
        retry: bool = True,
        idempotent: bool = False,
        cursor: CursorMove | None = None,
    ) -> dict[str, AppendResult]:
        """Append to several streams at once, all or none, and return {stream id: result}.

        `appends` has (stream id, events, expected version). A stream may be named more than once: each append follows
        the one before. Positions are in the order given, without gaps. `metadata` is for all events; for one of its
        own, give an `EncodedEvent`.

        Raises what `append` raises.
        """
        if metadata is not None and not isinstance(metadata, dict):
            raise TypeError(f"metadata must be one dictionary for all events, not {type(metadata).__name__}")
        if durability is not None:
            check_durability(durability)
        pendings = [
            pending(self.serializer, stream_id, events, expected, metadata, retry, idempotent)
            for stream_id, events, expected in triples(appends)
        ]
        if idempotent:
            check_ids(pendings)
        if cursor is not None:
            return self._commit_moving(pendings, durability, cursor)
        return self._commit(pendings, durability) if pendings else {}

    def _commit_moving(
        self, pendings: list[Pending], durability: Durability | None, move: CursorMove
    ) -> dict[str, AppendResult]:
        """Commit an append that moves a cursor. Its last record carries the move; without events, nothing does."""
        check_move_argument(move)
        carrier = next((n for n, pending in enumerate(pendings) if pending.events), None)
        if carrier is not None:
            pendings[carrier] = msgspec.structs.replace(pendings[carrier], cursor=move)
            return self._commit(pendings, durability)
        results = self._commit(pendings, durability) if pendings else {}
        self._move_cursor(move, durability)
        return results

    def execute(
        self,
        stream_id: str,
        decide: Decide[Event],
        *,
        from_version: int = 0,
        metadata: Metadata | None = None,
        durability: Durability | None = None,
        cursor: CursorMove | None = None,
        attempts: int = 100,
    ) -> AppendResult:
        """Load a stream, let `decide(events, version)` return the events to append, and append them.

        If another writer came between, all of it is done again with the events of then, so `decide` may be called more
        than once. After a conflict, other callers of `execute` wait for this one: among themselves, each needs a few
        attempts at most. The version is that of the stream, -1 if there never was one; a deleted one has its last
        version, and no events. The events are those from `from_version` on, for a caller with a snapshot. If the
        stream is compacted, they are those that are left. `cursor` is moved with the append, as `append` does it, also
        if there is nothing to append.

        Raises:
            ConcurrencyError: plain appends of others conflicted with all `attempts`.
            LockTimeoutError: another caller of `execute` took too long to decide.

        Raises also what `read_stream` and `append` raise, and what `decide` raises; nothing is written then.
        """
        stream_id = check_stream_id(stream_id)
        first = max(0, whole_number("from_version", from_version))

        def attempt() -> AppendResult | ConcurrencyError:
            events, version = self._load(stream_id, first)
            decided = [] if (given := decide(events, version)) is None else given
            try:
                return self.append(stream_id, decided, version, metadata=metadata, durability=durability, cursor=cursor)
            except ConcurrencyError as conflict:
                return conflict

        return until_written(attempt, lambda: self._await_turn(stream_id), lambda: self._turn(stream_id), attempts)

    def _load(self, stream_id: str, first: int) -> tuple[list[Any], int]:
        """Return the events of a stream from version `first` on, and the stream's version."""
        version = self.get_stream_version(stream_id)  # Read first: what comes later makes an append conflict.
        events_of = self.serializer.blocks().events
        events: list[Any] = []
        for block in self._blocks(Span(stream_id, first)):
            version = block[-1].stream_version
            events += events_of(block)
        return events, version

    # Importing

    def append_encoded(self, pendings: list[Pending]) -> dict[str, AppendResult]:
        """Append encoded events, as `append_many` does, without a sync: call `sync` to make them durable."""
        return self._commit(pendings, "relaxed")

    def append_batches(self, batches: list[list[Pending]]) -> list[int]:
        """Append encoded batches one after the other, without a sync, and return the first position of each.

        Each is written as a whole or not at all. If one fails, those before it are there. An engine may write many at
        once, as long as a crash leaves whole batches, and none without those before it.
        """
        return [min(result.first_position for result in self.append_encoded(batch).values()) for batch in batches]

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

    @overload
    def read_stream(
        self,
        stream_id: str,
        from_version: int = 0,
        *,
        to_version: int | None = None,
        type: None = None,
        on_damage: OnDamage = "raise",
        durable: bool = False,
    ) -> list[Event]: ...
    @overload
    def read_stream(
        self,
        stream_id: str,
        from_version: int = 0,
        *,
        to_version: int | None = None,
        type: TypeForm[Wanted],
        on_damage: OnDamage = "raise",
        durable: bool = False,
    ) -> list[Wanted]: ...
    def read_stream(
        self,
        stream_id: str,
        from_version: int = 0,
        *,
        to_version: int | None = None,
        type: Any = None,  # noqa: A002 - as `msgspec.json.decode` calls it
        on_damage: OnDamage = "raise",
        durable: bool = False,
    ) -> list[Any]:
        """Return the typed events of a stream from version `from_version` to `to_version`, both inclusive.

        Without `to_version` it returns all that follow, and none if the stream does not exist. `type` is a registered
        class, or a union of them such as `Opened | Closed`: only events that are read back as one of them are returned,
        and events of these types that the serializer returns as `UntypedEvent` because they cannot be read.
        `on_damage="skip"` skips events that are damaged in both copies, with a `CorruptionWarning`. `durable` returns
        only events that are known to be on the device: those up to `durable_position`.

        Raises:
            CorruptionError: a record is damaged or missing in both copies.
            UnknownEventTypeError, EventSerializationError, UpcastingError: an event cannot be read as its class.
            TypeError: an argument is of a wrong kind.
        """
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
        events: list[Any] = []
        if type is not None:
            selected = Selection(
                stream_id=span.stream_id, event_types=WantedTypes(classes_of(type), self.serializer, "type")
            )
            pairs = selected.parts_of(self.serializer.blocks(*ENVELOPE).pairs)
            for block in selected.wanted(self._blocks(span)):
                events += [event for _, event in pairs(block)]
            return events
        events_of = self.serializer.blocks().events
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
    ) -> Iterator[tuple[int, str, Event]]:
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

    def records(self, stream_id: str | None = None, **options: Unpack[ReadOptions]) -> Iterator[Record[Event]]:
        """Yield events with their envelopes, of one stream or of all. For the options see `ReadOptions`.

        Raises what `read_stream` raises; `ValueError` if versions come without a stream, or a time without an offset;
        `TypeError` for an unknown option, or a class that is not registered.
        """
        return self._records(selection(stream_id, options, self.serializer))

    def _records(self, selected: Selection) -> Iterator[Record[Event]]:
        pairs = self.serializer.blocks(*ENVELOPE).pairs
        blocks = selected.wanted(self._as_needed(selected.span()))
        for envelope, event in counted(blocks, selected.parts_of(pairs), _position_of_pair, selected.limit):
            yield self._record(envelope, event)

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

    def envelopes(self, stream_id: str | None = None, **options: Unpack[ReadOptions]) -> Iterator[Sequence[Envelope]]:
        """Yield what `records` yields, in blocks and with the payloads as stored: it needs no registered event types.

        A block may be empty. `limit` counts stored events. It raises what `records` raises.
        """
        selected = selection(stream_id, options, self.serializer)
        return limited(selected.wanted(self._blocks(selected.span())), selected.limit)

    # Queries

    @abstractmethod
    def list_streams(self, prefix: str = "") -> list[str]:
        """Return the ids of all streams that begin with `prefix`, sorted."""

    def get_all_stream_ids(self) -> list[str]:
        """Return the ids of all streams, sorted."""
        return self.list_streams()

    @abstractmethod
    def get_event_count(self) -> int:
        """Return the number of events in the store: those that a retention dropped do not count."""

    @property
    def first_position(self) -> int:
        """The position of the store's first event: 1 unless a retention has dropped events."""
        return 1

    @property
    def last_position(self) -> int:
        """The position of the store's last event, 0 if it never had one."""
        return self.get_event_count()

    @property
    def durable_position(self) -> int:
        """The position up to which every event is known to be on the device."""
        return self.last_position

    @abstractmethod
    def get_stream_count(self) -> int:
        """Return the number of streams in the store."""

    def stats(self) -> StoreStats:
        """Return how much the store holds."""
        with self._calling():
            size, segments = self._size()
            first, last = (
                next((block[0] for block in self._blocks(Span(None, reverse=end, limit=1))), None)
                for end in (False, True)
            )
            return StoreStats(
                self.get_event_count(),
                self.get_stream_count(),
                size,
                segments,
                self._read(first)[0] if first else None,
                self._read(last)[0] if last else None,
            )

    # Closing

    def close(self) -> None:
        """Release all resources; closing twice is fine."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
