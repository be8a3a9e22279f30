"""An async store as a synchronous one, so that tests of stores run over it: each call in an event loop of its own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from anyio import to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from hangarlog import AppendResult, EventStore
from hangarlog.aio import AsyncCursor, AsyncEventStore, AsyncReading
from hangarlog.record.cursor_move import CursorMove


def in_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that may use a store of this kind, which blocks, as a coroutine function."""

    async def run(*args: Any) -> Any:
        return await to_thread.run_sync(function, *args)

    return run


class SyncIterator:
    """An async iterator, iterated from a thread."""

    def __init__(self, portal: BlockingPortal, items: Any) -> None:
        self._portal, self._items = portal, items

    def __iter__(self) -> SyncIterator:
        return self

    def __next__(self) -> Any:
        async def following() -> Any:
            try:
                return (await self._items.__anext__(),)
            except StopAsyncIteration:
                return ()

        for item in self._portal.call(following):
            return item
        raise StopIteration


class SyncSubscription(SyncIterator):
    """An async subscription."""

    def __init__(self, portal: BlockingPortal, subscription: Any) -> None:
        super().__init__(portal, subscription)
        portal.call(subscription.__aenter__)
        self.stop = subscription.stop

    def __iter__(self) -> SyncIterator:
        async def begin() -> None:
            self._items.__aiter__()

        self._portal.call(begin)
        return self

    @property
    def position(self) -> int:
        return self._items.position

    @property
    def lag(self) -> int:
        return self._portal.call(self._items.lag)

    @property
    def stopped(self) -> bool:
        return self._items.stopped

    @property
    def name(self) -> str:
        return self._items.name

    def advance(self, *args: Any, **options: Any) -> None:
        self._portal.call(functools.partial(self._items.advance, *args, **options))

    def move(self, *args: Any) -> CursorMove:
        return self._items.move(*args)

    def run(self, handler: Callable[..., Any], **options: Any) -> None:
        self._portal.call(functools.partial(self._items.run, in_thread(handler), **options))

    def close(self) -> None:
        self._portal.call(self._items.aclose)

    def __enter__(self) -> SyncSubscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SyncCursor:
    """An async cursor."""

    def __init__(self, portal: BlockingPortal, cursor: AsyncCursor) -> None:
        self._portal, self._cursor = portal, cursor
        self.name, self.at = cursor.name, cursor.at

    @property
    def position(self) -> int:
        return self._portal.call(self._cursor.position)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._cursor, name)
        return lambda *args, **kwargs: self._portal.call(functools.partial(method, *args, **kwargs))

    def __repr__(self) -> str:
        return f"<Cursor {self.name!r} at position {self.position}>"  # An async cursor's cannot read it.


class SyncStore:
    """An async store."""

    def __init__(self, make: Callable[[], EventStore], backend: str) -> None:
        with contextlib.ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal(backend))
            self._store = AsyncEventStore(make())
            self._end = stack.pop_all()

    @property
    def durable_position(self) -> int:
        return self._portal.call(self._store.durable_position)

    def cursor(self, name: str) -> SyncCursor:
        return SyncCursor(self._portal, self._store.cursor(name))

    def subscribe(self, *args: Any, **options: Any) -> SyncSubscription:
        return SyncSubscription(self._portal, self._store.subscribe(*args, **options))

    def execute(self, stream_id: str, decide: Callable[..., Any], **options: Any) -> AppendResult:
        return self._portal.call(functools.partial(self._store.execute, stream_id, in_thread(decide), **options))

    def replay(self, name: str, handler: Callable[..., Any], **options: Any) -> int:
        return self._portal.call(functools.partial(self._store.replay, name, in_thread(handler), **options))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name, None)
        if method is None:
            return getattr(self._store.store, name)
        if not callable(method):
            return method

        def call(*args: Any, **options: Any) -> Any:
            async def run() -> Any:
                result = method(*args, **options)
                return result if isinstance(result, AsyncReading) else await result

            result = self._portal.call(run)
            return SyncIterator(self._portal, result) if isinstance(result, AsyncReading) else result

        return call

    def close(self) -> None:
        self._portal.call(self._store.close)

    def __enter__(self) -> SyncStore:
        return self

    def __exit__(self, *_: object) -> None:
        with self._end:
            self.close()
