"""The threads in which the blocking calls of a store run."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from anyio.lowlevel import checkpoint_if_cancelled

from hangarlog.aio.event_loop import Result, result_of

_CALLS, _TURNS = 8, 4


class Threads:
    """Threads of one store's own: its calls neither wait for those of others, nor hold them up.

    Those who wait for a turn at a stream have threads of their own. Else they could take all, and the one that has the
    turn none to end it. Who waits for events uses none of these.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._calls = ThreadPoolExecutor(_CALLS, "hangarlog")
        self._turns = ThreadPoolExecutor(_TURNS, "hangarlog-turn")

    def _refresh(self) -> None:
        """In a fork, which has none of its parent's threads, begin anew."""
        if self._pid != os.getpid():
            self.__init__()  # type: ignore[misc]

    async def run(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Call a function in a thread. A cancellation is handled as by `result_of`."""
        await checkpoint_if_cancelled()
        self._refresh()
        return await result_of(submit(self._calls, lambda: function(*args, **kwargs)))

    async def run_waiting(self, function: Callable[[], Result]) -> Result:
        """Call a function that waits for a turn in a thread."""
        await checkpoint_if_cancelled()
        self._refresh()
        return await result_of(submit(self._turns, function))

    async def run_to_the_end(self, function: Callable[[], Result]) -> Result:
        """Call a function in a thread, also if this task is cancelled already."""
        self._refresh()
        return await result_of(submit(self._calls, function), withdraw=False)

    def close(self) -> None:
        """Wait until the threads have ended."""
        self._refresh()
        self._calls.shutdown()
        self._turns.shutdown()


def submit(pool: ThreadPoolExecutor, function: Callable[[], Result]) -> Future[Result]:
    """Call a function in a thread of the pool; here, if that is closed: a closed store refuses it without waiting."""
    try:
        return pool.submit(function)
    except RuntimeError:
        refused: Future[Result] = Future()
        settle(refused, function)
        return refused


def settle(future: Future[Result], function: Callable[[], Result]) -> None:
    """Call a function, and let a future have its result or its error."""
    try:
        result = function()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
