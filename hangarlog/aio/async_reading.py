"""Reads of tasks: iterators whose items come from a thread, many at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from time import perf_counter
from typing import Generic, TypeVar

from hangarlog.aio.threads import Threads

_Item = TypeVar("_Item")

_FIRST_ITEMS, _MOST_ITEMS, _SECONDS = 64, 1024, 0.01
"""How much is read at once: more each time, so that a few items come soon and many cost little."""


class AsyncReading(AsyncIterator[_Item], Generic[_Item]):
    """Iterates over what a store reads. It holds no thread between two items, and need not be closed."""

    def __init__(self, threads: Threads, items: Iterator[_Item]) -> None:
        self._threads, self._items = threads, items
        self._read: list[_Item] = []  # The next one is the last.
        self._count, self._busy = _FIRST_ITEMS, False
        self._error: BaseException | None = None

    async def __anext__(self) -> _Item:
        if not self._read:
            if self._busy:
                raise RuntimeError("another task iterates over this; give each task a read of its own")
            self._busy = True
            try:
                self._read = await self._threads.run(self._read_some)
            finally:
                self._busy = False
        if self._read:
            return self._read.pop()
        error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopAsyncIteration

    def _read_some(self) -> list[_Item]:
        """In a thread: return the next items, the first one last. An error comes in its turn."""
        items: list[_Item] = []
        if self._error is not None:
            return items
        count, deadline = self._count, perf_counter() + _SECONDS
        try:
            for item in self._items:
                items.append(item)
                if len(items) >= count or perf_counter() > deadline:
                    break
        except Exception as error:
            self._error = error
        self._count = min(4 * count, _MOST_ITEMS)
        items.reverse()
        return items

    async def aclose(self) -> None:
        """End the iteration."""
        self._read, self._items = [], iter(())
