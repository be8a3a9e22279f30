"""Calls from threads into an event loop, and waiting there for what a thread does."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import RunVar

Result = TypeVar("Result")


class LoopCalls:
    """Calls functions in the event loop that made it, from any thread: at once as many as have come together.

    To wake an event loop is a system call, so a hundred calls need one.
    """

    def __init__(self) -> None:
        trio = _trio()
        self._soon: Callable[[Callable[[], None]], object] = (
            trio.lowlevel.current_trio_token().run_sync_soon
            if trio is not None
            else asyncio.get_running_loop().call_soon_threadsafe
        )
        self._calls: deque[Callable[[], object]] = deque()
        self._scheduled = False

    def __call__(self, function: Callable[[], object]) -> None:
        """Call the function in the event loop, soon. If the loop has ended, its tasks have, too: do nothing."""
        self._calls.append(function)
        if self._scheduled:
            return
        self._scheduled = True
        try:
            self._soon(self._run)
        except RuntimeError:  # The loop is closed; trio's error is one of these.
            self._calls.clear()

    def _run(self) -> None:
        self._scheduled = False  # First: a call that comes now is in the queue, or schedules the next run.
        while self._calls:
            self._calls.popleft()()


_loop_calls: RunVar[LoopCalls] = RunVar("hangarlog.aio")


def loop_calls() -> LoopCalls:
    """Return what calls functions in the running event loop."""
    found = _loop_calls.get(None)
    if found is None:
        found = LoopCalls()
        _loop_calls.set(found)
    return found


async def result_of(future: Future[Result], *, withdraw: bool = True) -> Result:
    """Wait for the result of what a thread does.

    A cancellation withdraws what has not begun. What has begun is waited for, and its result is returned (or its error
    raised); the cancellation then comes at the task's next await. So who is cancelled knows that nothing was done.
    With `withdraw=False` nothing is withdrawn.
    """
    if future.done():
        return future.result()
    done, calls = anyio.Event(), loop_calls()
    future.add_done_callback(lambda _: calls(done.set))
    cancelled = anyio.get_cancelled_exc_class()
    try:
        await done.wait()
    except cancelled as error:
        if withdraw and future.cancel():
            raise
        cancellation = error
    else:
        return future.result()
    with anyio.CancelScope(shield=True):
        while not done.is_set():
            try:
                await done.wait()
            except cancelled as error:  # `Task.cancel` of asyncio knows no shield.
                cancellation = error
    _cancel_again(cancellation)
    return future.result()


def _cancel_again(cancellation: BaseException) -> None:
    """Let a cancellation of asyncio, which comes only once, come again at the task's next await."""
    task = asyncio.current_task() if _trio() is None else None
    if task is not None:
        asyncio.get_running_loop().call_soon(_cancel_still, task, cancellation.args)


def _cancel_still(task: asyncio.Task[Any], message: tuple[Any, ...]) -> None:
    if task.cancelling() and not task.done():  # Else the one who cancelled it, such as a timeout, has ended.
        task.cancel(*message)
        task.uncancel()  # It was counted already.


def _trio() -> Any:
    """Return trio if a task of it is running, else None."""
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_task() else None
