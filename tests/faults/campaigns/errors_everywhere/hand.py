"""A thread that does what it is told."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

GUARD = 20.0
"""Seconds after which a call hangs. Only broken promises wait for it."""


class HungError(Exception):
    """A call did not come back."""


class Hand:
    """A thread that does what it is told, so that a call that never comes back is noticed and left behind."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="hand").start()

    def _work(self) -> None:
        while order := self._orders.get():
            result, failure = None, None
            try:
                result = order()
            except BaseException as error:
                failure = error.with_traceback(None)  # Its frames would keep what they hold alive.
                failure.__context__ = None
            self._results.put((result, failure))
            del order, result, failure

    def do(self, order: Callable[[], Any]) -> Any:
        self._orders.put(order)
        try:
            result, failure = self._results.get(timeout=GUARD)
        except queue.Empty:
            raise HungError from None
        if failure:
            raise failure
        return result

    def end(self) -> None:
        self._orders.put(None)
