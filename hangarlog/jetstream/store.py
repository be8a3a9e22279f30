"""The event store on NATS JetStream."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any, NoReturn, Unpack

from hangarlog.errors import PositionError, StoreOpenError
from hangarlog.events.registry import EventRegistry, UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.arguments import text
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.engine import Durability, StateSlot
from hangarlog.eventstore.queue import Place
from hangarlog.eventstore.record import Event
from hangarlog.eventstore.selection import Span
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.eventstore.tail import Tail
from hangarlog.jetstream.address import parse
from hangarlog.jetstream.bucket import Bucket
from hangarlog.jetstream.confirming import Majority
from hangarlog.jetstream.connection import Connection
from hangarlog.jetstream.cursors import Cursors
from hangarlog.jetstream.leases import Leases
from hangarlog.jetstream.mark import Mark
from hangarlog.jetstream.messages import missing
from hangarlog.jetstream.reader import Reader
from hangarlog.jetstream.settings import ServerOptions, Wanted, prepare
from hangarlog.jetstream.snapshots import Snapshots
from hangarlog.jetstream.subjects import token
from hangarlog.jetstream.tail import ServerTail
from hangarlog.jetstream.turns import Turns
from hangarlog.jetstream.wake_ups import WakeUps
from hangarlog.jetstream.writer import Writer
from hangarlog.record.batch import Pending
from hangarlog.record.cursor_move import CursorMove, CursorPlace
from hangarlog.record.envelope import Envelope


class JetStreamEventStore(EventStore[Event]):
    """An event store on NATS JetStream, shared by any number of threads, processes and machines.

    Args:
        url: the address of one server or more, such as "nats://a:4222,b:4222". It may have a user and a password, or a
            token, and end in the store's name.
        name: the name of the store, which is that of its JetStream stream.
        serializer: types, versions and upcasters; by default what is registered, with no upcasters.
        durability: "always": the servers must sync each write (`sync_interval: always`). With "relaxed" they need not:
            then a power cut of most of them may lose acknowledged events.
        replicas: how many servers must keep every event. With fewer than 3, damage on one server can lose events.
        synced: True vouches that every server syncs each write, where `monitor` cannot show it.
        monitor: the monitoring addresses of the servers, such as "http://a:8222", which show whether they sync.
        untested_server: use a version of the server that the tests have not run on.
        timeout: seconds that a call takes at most while servers do not answer; then it raises `UnavailableError`.
        create: with False, a store that is not there is an error instead of being made.
        reads: "leader": a read believes the leader, and one that is cut off may answer with what is old. With
            "linearizable", most servers must confirm the end, at the addresses in `monitor`; else it raises
            `UnavailableError`. Subscriptions, snapshots and cursors are not confirmed.
        accept_loss: open a store that has lost its last events, or its key-value bucket, and go on with what is left.
        connection: options for `nats.connect`, such as {"user_credentials": path} or {"tls": context}.

    Raises:
        StoreOpenError: the servers, or the store's settings there, are not as they must be.
        UnavailableError: no server answers.
        CorruptionError: the store ends before an event that was there.
        UpcastingError: the serializer's chain has a gap.
    """

    _closed = True  # Until it is open.

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        serializer: EventSerializer | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        super().__init__(serializer)
        address = parse(url, name)
        wanted = Wanted(**{**address.options, **options})
        self.path, self.name, self._durability = address.shown, address.name, wanted.durability
        self._process, self._seconds = os.getpid(), wanted.timeout
        self._calls, self._running = threading.Condition(), dict[int, int]()
        self._turns = threading.Lock()
        self._connection = Connection(address, wanted.connection, wanted.timeout)
        try:
            self._begin(self._connection.run(prepare(self._connection, self.name, wanted)), wanted)
        except BaseException:
            self._connection.close()
            raise
        self._closed = False
        weakref.finalize(self, self._connection.abandon).atexit = False

    def _begin(self, replicas: int, wanted: Wanted) -> None:
        connection, name = self._connection, self.name
        self._bucket = Bucket(connection, name)
        majority = self._majority(wanted) if replicas > 1 and wanted.reads == "linearizable" else None
        self._reader = Reader(connection, name, replicas, majority)
        self._mark, self._wake_ups = Mark(connection, self._bucket), WakeUps(connection, name)
        if wanted.accept_loss:
            connection.run(self._mark.lower(self._reader.last()))
        else:
            self._reader.seen = self._mark.read()
            self._check_tail()
        self._snapshots = Snapshots(connection, self._bucket, name)
        self._cursors = Cursors(self._bucket, self._reader)
        self._leases = Leases(connection, self._bucket)
        self._appending = Turns(connection, name)
        self._writer = Writer(
            connection, self._reader, self._snapshots, self._cursors, self._wake_ups, self._mark, self._appending
        )

    def _majority(self, wanted: Wanted) -> Majority:
        if not wanted.monitors:
            cause = "reads='linearizable' asks most servers at their monitoring addresses: give them as monitor=[…]"
            raise StoreOpenError(self.path, cause)
        return Majority(wanted.monitors, self._connection.run(self._connection.account()))

    def _check_tail(self) -> None:
        """Raise `CorruptionError` if the store ends before the position that was noted."""
        noted, state = self._reader.seen, self._connection.run(self._connection.state(self.name))
        if state["last_seq"] < noted:
            self._reader.last()  # It raises, if that is what it finds, too.
        if state["first_seq"] > 1:
            cause = f"the store begins at position {state['first_seq']}: the events before it were purged"
            raise missing(self.path, cause, 1)

    @classmethod
    def untyped(
        cls: type[JetStreamEventStore[Any]], url: str, name: str | None = None, **options: Unpack[ServerOptions]
    ) -> JetStreamEventStore[UntypedEvent]:
        """Open a store that reads every event as an `UntypedEvent`. No type needs to be registered."""
        serializer = EventSerializer(registry=EventRegistry(), unknown="untyped")
        return cls(url, name, serializer=serializer, **options)

    # Calls

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        """A call that `close` waits for. Raises `StoreOpenError` if the store is closed."""
        me = threading.get_ident()
        with self._calls:
            self._refuse_closed()
            self._running[me] = self._running.get(me, 0) + 1
        try:
            yield
        finally:
            with self._calls:
                self._running[me] -= 1
                if not self._running[me]:
                    del self._running[me]
                    self._calls.notify_all()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreOpenError(self.path, "it was closed")
        if self._process != os.getpid():
            raise StoreOpenError(self.path, "it was opened by the parent process; open it in this one, too")

    def close(self) -> None:
        """Wait for running calls, then end the connection. Later calls raise `StoreOpenError`."""
        if self._closed or self._process != os.getpid():
            return
        self._closed = True
        self._wake_ups.wake()
        self._appending.close()
        with self._calls:
            me = threading.get_ident()
            self._calls.wait_for(lambda: not set(self._running) - {me}, self._seconds)
        with contextlib.suppress(Exception):  # The mark and the names do without it.
            self._connection.run(self._ending())
        self._connection.close()

    async def _ending(self) -> None:
        await self._leases.close()
        await self._mark.write()

    # Appending

    def _commit(self, pendings: list[Pending], durability: Durability | None = None) -> dict[str, AppendResult]:
        with self._calling():
            return self._writer.commit(pendings)

    def sync(self) -> None:
        """Do nothing: an event that was acknowledged is as durable as the servers make it."""
        self._refuse_closed()

    @contextlib.contextmanager
    def _turn(self, stream_id: str) -> Iterator[None]:
        with self._turns:
            yield

    def _await_turn(self, stream_id: str) -> None:
        with self._turns:
            pass

    # Reading

    def _blocks(self, span: Span) -> Iterator[Sequence[Envelope]]:
        with self._calling():
            through = -1
            if span.stream_id is not None and (mark := self._snapshots.of_hiding(span.stream_id)):
                through = mark.compacted_through
            blocks = self._reader.blocks(span, through)
        while True:
            with self._calling():
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def _tail(self, position: int | None, *, durable: bool, skip: bool) -> Tail:
        with self._calling():
            last = self._reader.last()
        if position is not None and position > last:
            raise PositionError(self.path, position, last)
        return ServerTail(self._reader, self._wake_ups, last if position is None else position, skip)

    def get_stream_version(self, stream_id: str) -> int:
        """Return the version of a stream's last event, -1 if it never had one."""
        stream_id = check_stream_id(stream_id)
        with self._calling():
            return self._writer.known_end(stream_id).version

    def list_streams(self, prefix: str = "") -> list[str]:
        """Return the ids of all streams that begin with `prefix`, sorted."""
        beginning = text("prefix", prefix)
        category, colon, _ = beginning.partition(":")
        wanted = f"{self._reader.prefix}{token(category)}.>" if colon and category else f"{self._reader.prefix}>"
        with self._calling():
            found = self._reader.stream_ids(wanted)
            deleted = self._deleted()
        return sorted(each for each in found if each.startswith(beginning) and each not in deleted)

    def _deleted(self) -> set[str]:
        """Return the streams that are deleted, and did not begin anew."""
        return {
            stream_id
            for stream_id in set(self._snapshots.hiding())
            if (mark := self._snapshots.load(stream_id))
            and mark.deleted_through >= 0
            and self._writer.known_end(stream_id).version <= mark.deleted_through
        }

    def get_event_count(self) -> int:
        """Return the number of events in the store."""
        with self._calling():
            return self._reader.last()

    def get_stream_count(self) -> int:
        """Return the number of streams in the store. Deleted streams do not count."""
        with self._calling():
            state = self._connection.run(self._reader.state())
            return int(state.get("num_subjects", 0)) - len(self._deleted())

    def _size(self) -> tuple[int, int]:
        with self._calling():
            state = self._connection.run(self._connection.state(self.name))
        return int(state["bytes"]), 1 + int(state.get("num_subjects", 0))

    # Snapshots

    def _load_snapshot(self, stream_id: str) -> Snapshot | None:
        with self._calling():
            return self._snapshots.load(stream_id)

    def _change_snapshot(self, stream_id: str, change: Callable[[Snapshot | None], Snapshot | None]) -> None:
        with self._calling():
            self._snapshots.change(stream_id, change)

    def _stored_snapshots(self, prefix: str) -> list[Snapshot]:
        with self._calling():
            return self._snapshots.all(prefix)

    def _hide_events(self, stream_id: str, change: Callable[[int, Snapshot | None], Snapshot | None]) -> None:
        with self._calling():
            self._snapshots.change(stream_id, lambda before: change(self._writer.known_end(stream_id).version, before))

    # Cursors

    def _cursor_position(self, name: str) -> int:
        with self._calling():
            return self._cursors.position(name)

    def _cursor_places(self) -> tuple[int, list[CursorPlace]]:
        with self._calling():
            return self._cursors.places()

    def _move_cursor(self, move: CursorMove, durability: Durability | None = None) -> None:
        with self._calling():
            if self._cursors.move(move):
                self._connection.post(self._wake_ups.tell, b"")

    def _delete_cursor(self, name: str) -> None:
        with self._calling():
            self._cursors.delete(name)

    def _await_cursors(self, reached: Callable[[], bool], seconds: float) -> bool:
        until = monotonic() + seconds
        while True:
            with self._calling():
                count = self._wake_ups.listen()
            if reached():
                return True
            left = until - monotonic()
            if left <= 0:
                return False
            self._wake_ups.wait(left, count, lambda: self._closed)

    def _wake_cursor_waits(self) -> None:
        self._wake_ups.wake()

    # Names and projections

    def _queue_for(self, name: str) -> Place:
        with self._calling():
            return self._leases.place(name)

    def _owner_of(self, name: str) -> int | None:
        with self._calling():
            return self._leases.owner_of(name)

    def _read_state(self, name: str, slot: StateSlot, size: int | None = None) -> bytes | None:
        with self._calling():
            content, _ = self._bucket.get(_state_key(name, slot))
        return (content or b"")[:size] or None

    def _write_state(self, name: str, slot: StateSlot, content: bytes | None, *, sync: bool) -> None:
        key = _state_key(name, slot)
        with self._calling():
            while not self._bucket.put(key, content, self._bucket.get(key).revision):
                pass

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.path} ({'closed' if self._closed else f'durability={self._durability!r}'})>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a JetStreamEventStore cannot be copied or pickled; open it there, from {self.path!r}")


def _state_key(name: str, slot: str) -> str:
    return f"p.{token(name)}.{slot}"
