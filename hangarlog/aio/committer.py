"""The appends of many tasks: one thread makes them, and one sync serves all that have come together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple

from hangarlog.aio.event_loop import Result, loop_calls
from hangarlog.aio.threads import submit
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.engine import Durability


class _Request(NamedTuple, Generic[Result]):
    append: Callable[[Durability | None], Result]
    durability: Durability | None
    moves: bool
    future: Future[Result]


_Settled = tuple[Future[Any], Any, BaseException | None]


class Committer:
    """Makes the appends of a store's tasks, in the order in which they came."""

    def __init__(self, store: EventStore[Any]) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, "hangarlog-append")
        self._requests: deque[_Request[Any]] = deque()
        self._starting, self._running = threading.Lock(), False
        self._gathers = False  # True if the last appends came together. Then those that they woke may all go first.

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
        if starts and self._gathers:
            loop_calls()(self._start)
        elif starts:
            self._start()
        return future

    def _start(self) -> None:
        submit(self._pool, self._run)

    def close(self) -> None:
        """Make the appends that were asked for, and end the thread."""
        self._pool.shutdown()

    def _run(self) -> None:
        while True:
            requests = []
            while self._requests:
                requests.append(self._requests.popleft())
            if requests:
                self._gathers = len(requests) > 1
                self._commit(requests)
                continue
            with self._starting:
                if not self._requests:
                    self._running = False
                    return

    def _commit(self, requests: list[_Request[Any]]) -> None:
        """Make each append by itself: the error of one is its own. Then sync once for those that are to be durable."""
        usual = self._store._durability
        written: list[_Settled] = []
        durable: list[_Settled] = []
        sync: Callable[[bool], None] | None = None
        moves = False
        for request in requests:
            future, wanted = request.future, request.durability
            if not future.set_running_or_notify_cancel():
                continue
            to_sync = (wanted or usual) == "always"
            try:
                if to_sync:
                    sync = sync or self._store._sync_from_here()
                result = request.append("relaxed" if to_sync else wanted)
            except BaseException as error:
                written.append((future, None, error))
                continue
            moves = moves or (to_sync and request.moves)
            (durable if to_sync else written).append((future, result, None))
        # Together: a loop that is woken after each of them would compete with this thread for the interpreter.
        _settle(written)
        if sync is not None and durable:
            try:
                sync(moves)
            except BaseException as error:
                durable = [(future, None, error) for future, _, _ in durable]
            _settle(durable)


def _settle(outcomes: list[_Settled]) -> None:
    for future, result, error in outcomes:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
