"""An event store in memory, for tests: the same interface and rules as on disk."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NoReturn

from hangarlog.errors import PositionError, StoreOpenError, StreamDeletedError
from hangarlog.events.registry import EventRegistry, UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.arguments import text
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.cursor import check_move
from hangarlog.eventstore.engine import Durability, StateSlot
from hangarlog.eventstore.expected_version import End, StoredId, settle
from hangarlog.eventstore.idempotent import retried
from hangarlog.eventstore.limits import ended
from hangarlog.eventstore.queue import Place
from hangarlog.eventstore.record import Event
from hangarlog.eventstore.selection import Span
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.eventstore.tail import Tail
from hangarlog.record.batch import Pending, encode_batch
from hangarlog.record.cursor_move import CursorMove, CursorPlace
from hangarlog.record.envelope import Envelope
from hangarlog.record.line import decode_record, encode_envelope
from hangarlog.record.timestamp import now


class _MemoryTail(Tail):
    """The records of a store in memory after a position."""

    def __init__(self, store: MemoryEventStore[Any], position: int) -> None:
        self._store, self.position, self._stopped = store, position, False

    def end(self) -> int:
        return self._store.get_event_count()

    def step(self) -> Sequence[Envelope] | None:
        with self._store._held():
            block = self._store._journal[self.position :]
        self.position += len(block)
        return block or None

    def seek(self, position: int) -> None:
        self.position = position

    def wait(self, seconds: float) -> None:
        with self._store._lock:
            self._store._grown.wait_for(
                lambda: self._stopped or self._store._closed or len(self._store._journal) > self.position,
                min(seconds, threading.TIMEOUT_MAX),
            )

    def stop(self) -> None:
        with self._store._lock:
            self._stopped = True
            self._store._grown.notify_all()

    def close(self) -> None:
        self.stop()


class _MemoryPlace(Place):
    """A place in a queue of threads."""

    def __init__(self, queue: list[_MemoryPlace]) -> None:
        self._queue = queue

    def is_first(self) -> bool:
        return self._queue[:1] == [self]

    def leave(self) -> None:
        with contextlib.suppress(ValueError):
            self._queue.remove(self)


class MemoryEventStore(EventStore[Event]):
    """A store in memory, for tests. It keeps events encoded, so that reads decode them as they would from disk."""

    def __init__(self, *, serializer: EventSerializer | None = None) -> None:
        super().__init__(serializer)
        self._lock, self._turns, self._closed = threading.RLock(), threading.Lock(), False
        self._grown = threading.Condition(self._lock)
        self._journal: list[Envelope] = []
        self._streams: dict[str, list[Envelope]] = {}
        self._first: dict[str | tuple[str, str], Envelope] = {}  # By event id, and by (event id, stream id).
        self._snapshots: dict[str, Snapshot] = {}
        self._cursors: dict[str, CursorPlace] = {}
        self._queues: dict[str, list[_MemoryPlace]] = {}
        self._states: dict[tuple[str, StateSlot], bytes] = {}

    @classmethod
    def untyped(cls: type[MemoryEventStore[Any]]) -> MemoryEventStore[UntypedEvent]:
        """Make a store that reads every event as an `UntypedEvent`. No type needs to be registered."""
        return cls(serializer=EventSerializer(registry=EventRegistry(), unknown="untyped"))

    def __repr__(self) -> str:
        return f"<MemoryEventStore ({len(self._journal)} events in {len(self._streams)} streams)>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a MemoryEventStore cannot be copied or pickled; append its events to another one")

    def close(self) -> None:
        """Refuse later calls with `StoreOpenError`, as a closed store on disk does."""
        with self._lock:
            self._closed = True
            self._grown.notify_all()

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise StoreOpenError("in memory", "it was closed")
            yield

    _calling = _held

    def _commit(self, pendings: list[Pending], durability: Durability | None = None) -> dict[str, AppendResult]:
        with self._held():
            for pending in pendings:
                mark = self._snapshots.get(pending.stream_id)
                if mark and mark.tombstone:
                    raise StreamDeletedError(pending.stream_id, self._end(pending.stream_id)[0])
            if pendings[0].idempotent:
                find = lambda event_id, stream_id: self._first.get((event_id, stream_id))  # noqa: E731
                if stored := retried(pendings, lambda stream_id: self._end(stream_id)[0], find):
                    return stored
            results, to_write = settle(pendings, self._end, self._stored, self._deleted_through)
            if not to_write:
                return results
            move = next((pending.cursor for pending in pendings if pending.cursor), None)
            if move:
                self._check_move(move)
            text, _, shares, _ = encode_batch(to_write, len(self._journal) + 1, now())
            for line in text.split(b"\n")[:-1]:
                envelope = decode_record(line)
                self._journal.append(envelope)
                self._streams.setdefault(envelope.stream_id, []).append(envelope)
                self._first.setdefault(envelope.event_id, envelope)
                self._first.setdefault((envelope.event_id, envelope.stream_id), envelope)
            for share in shares:
                results[share.stream_id] = AppendResult(
                    share.version, share.first_position, share.last_position, share.ids, True
                )
            if move:
                self._cursors[move.name] = CursorPlace(move.name, move.position, now().decode())
            self._grown.notify_all()
            return results

    def _tail(self, position: int | None, *, durable: bool, skip: bool) -> Tail:
        with self._held():
            last = len(self._journal)
        if position is not None and position > last:
            raise PositionError("the store in memory", position, last)
        return _MemoryTail(self, last if position is None else position)

    def _queue_for(self, name: str) -> Place:
        with self._held():
            queue = self._queues.setdefault(name, [])
            queue.append(place := _MemoryPlace(queue))
        return place

    def _owner_of(self, name: str) -> int | None:
        with self._held():
            return os.getpid() if self._queues.get(name) else None

    def _find(self, event_id: str) -> Envelope | None:
        with self._held():
            return self._first.get(event_id)

    def _end(self, stream_id: str) -> End:
        records = self._streams.get(stream_id)
        return (records[-1].stream_version, records[-1].event_id, records[-1].position) if records else (-1, "", 0)

    def _stored(self, stream_id: str, version: int, count: int) -> list[StoredId]:
        records = self._streams[stream_id]
        start = version - records[0].stream_version
        return [(record.event_id, record.position) for record in records[start : start + count]] if start >= 0 else []

    def _deleted_through(self, stream_id: str) -> int:
        mark = self._snapshots.get(stream_id)
        return mark.deleted_through if mark else -1

    def _blocks(self, span: Span) -> Iterator[Sequence[Envelope]]:
        with self._held():
            records = self._journal[:] if span.stream_id is None else self._kept(span.stream_id)
        field = "position" if span.stream_id is None else "stream_version"
        number, start = attrgetter(field), span.start
        if start is not None and span.stream_id is None:
            start += -1 if span.reverse else 1  # A start position is exclusive.
        if span.reverse:
            records = [r for r in reversed(records) if start is None or number(r) <= start]
        else:
            records = [r for r in records if start is None or number(r) >= start]
        if records:
            yield from [records] if span.stop is None else ended([records], field, span.stop, span.reverse)

    def _kept(self, stream_id: str) -> list[Envelope]:
        """Return the records of a stream that are not compacted away."""
        snapshot = self._snapshots.get(stream_id)
        through = snapshot.compacted_through if snapshot else -1
        return [r for r in self._streams.get(stream_id, []) if r.stream_version > through]

    def get_stream_version(self, stream_id: str) -> int:
        """Return the version of a stream's last event, -1 if it never had one."""
        with self._held():
            return self._end(check_stream_id(stream_id))[0]

    def list_streams(self, prefix: str = "") -> list[str]:
        """Return the ids of all streams that begin with `prefix`, sorted."""
        beginning = text("prefix", prefix)
        with self._held():
            return sorted(filter(self._exists, (each for each in self._streams if each.startswith(beginning))))

    def _exists(self, stream_id: str) -> bool:
        return self._end(stream_id)[0] > self._deleted_through(stream_id)

    def get_event_count(self) -> int:
        """Return the number of events in the store."""
        with self._held():
            return len(self._journal)

    def get_stream_count(self) -> int:
        """Return the number of streams in the store."""
        with self._held():
            return sum(map(self._exists, self._streams))

    def _size(self) -> tuple[int, int]:
        return sum(len(encode_envelope(envelope)) for envelope in self._journal), 1 + len(self._streams)

    @contextlib.contextmanager
    def _turn(self, stream_id: str) -> Iterator[None]:
        with self._turns:
            yield

    def _await_turn(self, stream_id: str) -> None:
        with self._turns:
            pass

    def _load_snapshot(self, stream_id: str) -> Snapshot | None:
        with self._held():
            return self._snapshots.get(stream_id)

    def _change_snapshot(self, stream_id: str, change: Callable[[Snapshot | None], Snapshot | None]) -> None:
        with self._held():
            after = change(self._snapshots.get(stream_id))
            self._keep(stream_id, after)

    def _keep(self, stream_id: str, after: Snapshot | None) -> None:
        if after and after.says_nothing:
            self._snapshots.pop(stream_id, None)
        elif after:
            self._snapshots[stream_id] = after

    def _stored_snapshots(self, prefix: str) -> list[Snapshot]:
        with self._held():
            return [each for stream_id, each in self._snapshots.items() if stream_id.startswith(prefix)]

    def _hide_events(self, stream_id: str, change: Callable[[int, Snapshot | None], Snapshot | None]) -> None:
        with self._held():
            after = change(self._end(stream_id)[0], self._snapshots.get(stream_id))
            self._keep(stream_id, after)
            if after:
                records = self._streams[stream_id]
                shown = [record for record in records[:-1] if record.stream_version > after.compacted_through]
                self._streams[stream_id] = shown + records[-1:]

    def _cursor_position(self, name: str) -> int:
        with self._held():
            place = self._cursors.get(name)
        return place.position if place else 0

    def _cursor_places(self) -> tuple[int, list[CursorPlace]]:
        with self._held():
            return len(self._journal), list(self._cursors.values())

    def _check_move(self, move: CursorMove) -> None:
        check_move(move, self._cursor_position(move.name), len(self._journal))

    def _move_cursor(self, move: CursorMove, durability: Durability | None = None) -> None:
        with self._held():
            self._check_move(move)
            known = self._cursors.get(move.name)
            if known is None or known.position != move.position:
                self._cursors[move.name] = CursorPlace(move.name, move.position, now().decode())
                self._grown.notify_all()

    def _await_cursors(self, reached: Callable[[], bool], seconds: float) -> bool:
        with self._held():
            self._grown.wait_for(lambda: self._closed or reached(), min(seconds, threading.TIMEOUT_MAX))
            return reached()

    def _wake_cursor_waits(self) -> None:
        with self._grown:
            self._grown.notify_all()

    def _read_state(self, name: str, slot: StateSlot, size: int | None = None) -> bytes | None:
        with self._held():
            return self._states.get((name, slot), b"")[:size] or None

    def _write_state(self, name: str, slot: StateSlot, content: bytes | None, *, sync: bool) -> None:
        with self._held():
            self._states[name, slot] = content or b""

    def _delete_cursor(self, name: str) -> None:
        with self._held():
            self._cursors.pop(name, None)
