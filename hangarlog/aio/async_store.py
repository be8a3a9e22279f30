"""The event store for asyncio and trio: each call is made in a thread, appends of many tasks share a sync."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload
from uuid import UUID

from anyio.lowlevel import checkpoint_if_cancelled

from hangarlog.aio.async_cursor import AsyncCursor
from hangarlog.aio.async_reading import AsyncReading
from hangarlog.aio.async_subscribing import AsyncSubscribing
from hangarlog.aio.committer import Committer
from hangarlog.aio.event_loop import result_of
from hangarlog.aio.executing import AsyncDecide, Turns, decided, until_written
from hangarlog.aio.threads import Threads, settle
from hangarlog.errors import ConcurrencyError
from hangarlog.events.encoded_event import EncodedEvent
from hangarlog.events.registry import UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.arguments import whole_number
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.cursor import CursorStatus
from hangarlog.eventstore.engine import Durability
from hangarlog.eventstore.expected_version import ANY
from hangarlog.eventstore.pending import Metadata
from hangarlog.eventstore.record import Event, Record
from hangarlog.eventstore.retention_policy import RetentionPolicy, RetentionReport
from hangarlog.eventstore.selection import OnDamage, ReadOptions
from hangarlog.eventstore.snapshot import SnapshotInfo
from hangarlog.eventstore.stats import StoreStats
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.filestore.store import FileEventStore
from hangarlog.opening import open as open_store
from hangarlog.record.cursor_move import CursorMove
from hangarlog.record.envelope import Envelope

if TYPE_CHECKING:
    from typing_extensions import TypeForm

_Self = TypeVar("_Self", bound="AsyncEventStore[Any]")
Wanted = TypeVar("Wanted")
Done = TypeVar("Done")
Events = Sequence[Event | UntypedEvent | EncodedEvent]


class AsyncEventStore(AsyncSubscribing[Event], Generic[Event]):
    """An event store for the tasks of one event loop: the calls of `hangarlog.EventStore`, to be awaited.

    It uses the given store, and closes it. Reads are async iterators. A call that is cancelled before it has begun does
    nothing. One that has begun is waited for, and its result returned; the cancellation comes at the next await.
    """

    def __init__(self, store: EventStore[Event], *, threads: Threads | None = None) -> None:
        super().__init__(store, threads or Threads())
        self._committer = Committer(store)
        self._turns = Turns(store, self._threads)
        self._closing: Future[None] | None = None
        self._closer = threading.Thread()

    @property
    def store(self) -> EventStore[Event]:
        """The store that is used. Its calls block."""
        return self._store

    @property
    def serializer(self) -> EventSerializer:
        """The store's serializer."""
        return self._store.serializer

    # Appending

    async def append(
        self,
        stream_id: str,
        events: Events[Event],
        expected_version: int,
        *,
        metadata: Metadata | None = None,
        durability: Durability | None = None,
        retry: bool = True,
        idempotent: bool = False,
        cursor: CursorMove | None = None,
    ) -> AppendResult:
        """As `EventStore.append`. Appends of many tasks share one sync; the error of one is its own.

        If it is cancelled, nothing was written. Once it has begun, it ends: see `AsyncEventStore`.
        """
        append = partial(
            self._store.append, stream_id, events, expected_version,
            metadata=metadata, retry=retry, idempotent=idempotent, cursor=cursor,
        )  # fmt: skip
        return await self._commit(append, durability, cursor)

    async def append_at_end(
        self,
        stream_id: str,
        events: Events[Event],
        *,
        metadata: Metadata | None = None,
        durability: Durability | None = None,
        retry: bool = True,
        idempotent: bool = False,
        cursor: CursorMove | None = None,
    ) -> AppendResult:
        """As `EventStore.append_at_end`: `append` with `ANY`."""
        return await self.append(
            stream_id, events, ANY,
            metadata=metadata, durability=durability, retry=retry, idempotent=idempotent, cursor=cursor,
        )  # fmt: skip

    async def append_many(
        self,
        appends: Iterable[tuple[str, Events[Event], int]],
        *,
        metadata: dict[str, Any] | None = None,
        durability: Durability | None = None,
        retry: bool = True,
        idempotent: bool = False,
        cursor: CursorMove | None = None,
    ) -> dict[str, AppendResult]:
        """As `EventStore.append_many`: to several streams, all or none."""
        append = partial(
            self._store.append_many, appends,
            metadata=metadata, retry=retry, idempotent=idempotent, cursor=cursor,
        )  # fmt: skip
        return await self._commit(append, durability, cursor)

    async def _commit(self, append: Callable[..., Done], durability: Durability | None, cursor: object) -> Done:
        await checkpoint_if_cancelled()
        future = self._committer.put(
            lambda durability: append(durability=durability), durability, moves=cursor is not None
        )
        return await result_of(future)

    async def execute(
        self,
        stream_id: str,
        decide: AsyncDecide[Event],
        *,
        from_version: int = 0,
        metadata: Metadata | None = None,
        durability: Durability | None = None,
        cursor: CursorMove | None = None,
        attempts: int = 100,
    ) -> AppendResult:
        """As `EventStore.execute`. `decide` runs in the event loop, and may be a coroutine function."""
        stream_id = check_stream_id(stream_id)
        first = max(0, whole_number("from_version", from_version))

        async def attempt() -> AppendResult | ConcurrencyError:
            events, version = await self._threads.run(self._store._load, stream_id, first)
            given = await decided(decide(events, version))
            try:
                return await self.append(
                    stream_id, () if given is None else given, version,
                    metadata=metadata, durability=durability, cursor=cursor,
                )  # fmt: skip
            except ConcurrencyError as conflict:
                return conflict

        return await until_written(attempt, self._turns, stream_id, attempts)

    async def sync(self) -> None:
        """As `EventStore.sync`."""
        await self._threads.run(self._store.sync)

    # Reading

    @overload
    async def read_stream(
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
    async def read_stream(
        self,
        stream_id: str,
        from_version: int = 0,
        *,
        to_version: int | None = None,
        type: TypeForm[Wanted],
        on_damage: OnDamage = "raise",
        durable: bool = False,
    ) -> list[Wanted]: ...
    async def read_stream(
        self,
        stream_id: str,
        from_version: int = 0,
        *,
        to_version: int | None = None,
        type: Any = None,  # noqa: A002 - as `EventStore.read_stream` calls it
        on_damage: OnDamage = "raise",
        durable: bool = False,
    ) -> list[Any]:
        """As `EventStore.read_stream`."""
        read: Callable[..., list[Any]] = self._store.read_stream
        return await self._threads.run(
            read, stream_id, from_version, to_version=to_version, type=type, on_damage=on_damage, durable=durable
        )

    def read_all(
        self,
        from_position: int = 0,
        limit: int | None = None,
        *,
        on_damage: OnDamage = "raise",
        durable: bool = False,
    ) -> AsyncReading[tuple[int, str, Event]]:
        """As `EventStore.read_all`, as an async iterator."""
        found = self._store.read_all(from_position, limit, on_damage=on_damage, durable=durable)
        return AsyncReading(self._threads, found)

    def records(self, stream_id: str | None = None, **options: Unpack[ReadOptions]) -> AsyncReading[Record[Event]]:
        """As `EventStore.records`, as an async iterator."""
        return AsyncReading(self._threads, self._store.records(stream_id, **options))

    def envelopes(
        self, stream_id: str | None = None, **options: Unpack[ReadOptions]
    ) -> AsyncReading[Sequence[Envelope]]:
        """As `EventStore.envelopes`, as an async iterator."""
        return AsyncReading(self._threads, self._store.envelopes(stream_id, **options))

    async def event(self, event_id: str | UUID) -> Record[Event] | None:
        """As `EventStore.event`."""
        return await self._threads.run(self._store.event, event_id)

    async def contains(self, event_id: str | UUID) -> bool:
        """As `EventStore.contains`."""
        return await self._threads.run(self._store.contains, event_id)

    # Cursors

    def cursor(self, name: str) -> AsyncCursor:
        """As `EventStore.cursor`: return the cursor with this name, which need not exist yet."""
        return AsyncCursor(self._threads, self._store.cursor(name))

    async def cursors(self) -> list[CursorStatus]:
        """As `EventStore.cursors`: return all cursors, sorted by name, each with its lag."""
        return await self._threads.run(self._store.cursors)

    # Snapshots, and what is kept of a stream

    async def save_snapshot(
        self,
        stream_id: str,
        version: int,
        state: dict[str, Any],
        *,
        schema_version: int = 1,
        saved_at: datetime | str | None = None,
        ahead: bool = False,
    ) -> None:
        """As `EventStore.save_snapshot`."""
        await self._threads.run(
            self._store.save_snapshot,
            stream_id,
            version,
            state,
            schema_version=schema_version,
            saved_at=saved_at,
            ahead=ahead,
        )

    async def load_snapshot(self, stream_id: str, *, schema_version: int | None = None) -> dict[str, Any] | None:
        """As `EventStore.load_snapshot`."""
        return await self._threads.run(self._store.load_snapshot, stream_id, schema_version=schema_version)

    async def snapshot_time(self, stream_id: str) -> str | None:
        """As `EventStore.snapshot_time`."""
        return await self._threads.run(self._store.snapshot_time, stream_id)

    async def list_snapshots(self, prefix: str = "", *, since: datetime | str | None = None) -> list[SnapshotInfo]:
        """As `EventStore.list_snapshots`."""
        return await self._threads.run(self._store.list_snapshots, prefix, since=since)

    async def delete_snapshot(self, stream_id: str, *, force: bool = False) -> bool:
        """As `EventStore.delete_snapshot`."""
        return await self._threads.run(self._store.delete_snapshot, stream_id, force=force)

    async def compact_stream(self, stream_id: str) -> int:
        """As `EventStore.compact_stream`."""
        return await self._threads.run(self._store.compact_stream, stream_id)

    async def truncate_stream(self, stream_id: str, before_version: int) -> int:
        """As `EventStore.truncate_stream`."""
        return await self._threads.run(self._store.truncate_stream, stream_id, before_version)

    async def delete_stream(self, stream_id: str, *, permanent: bool = False, expected_version: int = ANY) -> int:
        """As `EventStore.delete_stream`."""
        return await self._threads.run(
            self._store.delete_stream, stream_id, permanent=permanent, expected_version=expected_version
        )

    async def retain(self, *policies: RetentionPolicy, dry_run: bool = False) -> RetentionReport:
        """As `FileEventStore.retain`. Raises `TypeError` for a store that is no folder."""
        if not isinstance(self._store, FileEventStore):
            raise TypeError("only a store in a folder has segments to drop")
        return await self._threads.run(self._store.retain, *policies, dry_run=dry_run)

    async def archive(self, target: str | os.PathLike[str], **options: Any) -> RetentionReport:
        """As `FileEventStore.archive`, with its options. Raises `TypeError` for a store that is no folder."""
        if not isinstance(self._store, FileEventStore):
            raise TypeError("only a store in a folder has segments to move")
        return await self._threads.run(self._store.archive, target, **options)

    async def restore_archive(self, target: str | os.PathLike[str]) -> RetentionReport:
        """As `FileEventStore.restore_archive`. Raises `TypeError` for a store that is no folder."""
        if not isinstance(self._store, FileEventStore):
            raise TypeError("only a store in a folder has an archive")
        return await self._threads.run(self._store.restore_archive, target)

    # Queries

    async def get_stream_version(self, stream_id: str) -> int:
        """As `EventStore.get_stream_version`."""
        return await self._threads.run(self._store.get_stream_version, stream_id)

    async def list_streams(self, prefix: str = "") -> list[str]:
        """As `EventStore.list_streams`."""
        return await self._threads.run(self._store.list_streams, prefix)

    async def get_all_stream_ids(self) -> list[str]:
        """As `EventStore.get_all_stream_ids`."""
        return await self._threads.run(self._store.get_all_stream_ids)

    async def get_event_count(self) -> int:
        """As `EventStore.get_event_count`."""
        return await self._threads.run(self._store.get_event_count)

    async def get_stream_count(self) -> int:
        """As `EventStore.get_stream_count`."""
        return await self._threads.run(self._store.get_stream_count)

    async def first_position(self) -> int:
        """As `EventStore.first_position`."""
        return await self._threads.run(lambda: self._store.first_position)

    async def last_position(self) -> int:
        """As `EventStore.last_position`."""
        return await self._threads.run(lambda: self._store.last_position)

    async def durable_position(self) -> int:
        """As `EventStore.durable_position`."""
        return await self._threads.run(lambda: self._store.durable_position)

    async def stats(self) -> StoreStats:
        """As `EventStore.stats`."""
        return await self._threads.run(self._store.stats)

    # Closing

    async def aclose(self) -> None:
        """As `close`: the name that `contextlib.aclosing` calls."""
        await self.close()

    async def close(self) -> None:
        """Make the appends that were asked for, wait for running calls, then close the store and end all threads.

        Subscriptions that wait raise `StoreOpenError`, and so do later calls. Closing twice is fine. A cancellation
        comes after it.
        """
        if self._closing is None:
            self._closing = Future()
            self._closer = threading.Thread(target=settle, args=(self._closing, self._close), name="hangarlog-close")
            self._closer.start()
        await result_of(self._closing, withdraw=False)
        self._closer.join()  # It has nothing left to do.

    def _close(self) -> None:
        try:
            self._committer.close()
            self._store.close()
        finally:
            self._end_following()
            self._threads.close()

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncEventStore of {self._store!r}>"


class Opening(Generic[Event]):
    """A store that is about to be opened: await it, or use it in `async with`."""

    def __init__(self, path: str | os.PathLike[str], options: dict[str, Any]) -> None:
        self._path, self._options = path, options
        self._opened: AsyncEventStore[Event] | None = None

    async def _open(self) -> AsyncEventStore[Event]:
        threads = Threads()
        try:
            store: EventStore[Event] = await threads.run(open_store, self._path, **self._options)
        except BaseException:
            threads.close()
            raise
        return AsyncEventStore(store, threads=threads)

    def __await__(self) -> Generator[Any, Any, AsyncEventStore[Event]]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncEventStore[Event]:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.close()
