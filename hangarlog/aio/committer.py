"""The appends of many tasks: one thread makes them, and one sync serves all that have come together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, NamedTuple

from hangarlog.aio.event_loop import Result
from hangarlog.aio.threads import settle, submit
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.engine import Durability


class _Request(NamedTuple, Generic[Result]):
    append: Callable[[Durability | None], Result]
    durability: Durability | None
    moves: bool
    future: Future[Result]


class Committer:
    """Makes the appends of a store's tasks, in the order in which they came."""

    def __init__(self, store: EventStore[Any]) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, "hangarlog-append")
        self._requests: deque[_Request[Any]] = deque()
        self._starting, self._running = threading.Lock(), False

    def put(
        self, append: Callable[[Durability | None], Result], durability: Durability | None, *, moves: bool
    ) -> Future[Result]:
        """Have an append made, which takes the durability to use. Until it begins, the future can be cancelled.

        `moves` tells that it moves a cursor.
        """
        future: Future[Result] = Future()
        self._requests.append(_Request(append, durability, moves, future))
        with self._starting:
            starts, self._running = not self._running, True
        if starts:
            submit(self._pool, self._run)
        return future

    def close(self) -> None:
        """Make the appends that were asked for, and end the thread."""
        self._pool.shutdown()

    def _run(self) -> None:
        while True:
            requests = []
            while self._requests:
                requests.append(self._requests.popleft())
            if requests:
                self._commit(requests)
                continue
            with self._starting:
                if not self._requests:
                    self._running = False
                    return

    def _commit(self, requests: list[_Request[Any]]) -> None:
        """Make each append by itself: the error of one is its own. Then sync once for those that are to be durable."""
        usual = self._store._durability
        unsynced: list[tuple[Future[Any], Any]] = []
        sync: Callable[[bool], None] | None = None
        moves = False
        for request in requests:
            append, future = request.append, request.future
            if not future.set_running_or_notify_cancel():
                continue
            if (request.durability or usual) != "always":
                settle(future, partial(append, request.durability))
                continue
            try:
                sync = sync or self._store._sync_from_here()
                unsynced.append((future, append("relaxed")))
                moves = moves or request.moves
            except BaseException as error:
                future.set_exception(error)
        if sync is not None and unsynced:
            self._finish(partial(sync, moves), unsynced)

    def _finish(self, sync: Callable[[], None], unsynced: list[tuple[Future[Any], Any]]) -> None:
        try:
            sync()
        except BaseException as error:
            for future, _ in unsynced:
                future.set_exception(error)
        else:
            for future, result in unsynced:
                future.set_result(result)
