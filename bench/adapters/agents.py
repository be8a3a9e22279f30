"""What the measures of agent frameworks share: asynchronous calls of two stores, in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from bench.adapters.__main__ import Row

Turn = Callable[[Any], Coroutine[Any, Any, int]]
"""Does something with a store, again at each call, and returns how often."""


class Pair:
    """Both stores, ours and the framework's. What is an asynchronous context manager is entered."""

    def __init__(self, ours: Any, theirs: Any) -> None:
        self._runner, self._entered = asyncio.Runner(), [ours, theirs]
        self.stores = [
            self._runner.run(each.__aenter__()) if hasattr(each, "__aenter__") else each for each in (ours, theirs)
        ]

    def fill(self, turn: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Do something with both that is not measured."""
        for store in self.stores:
            self._runner.run(turn(store))  # type: ignore[arg-type]

    def row(self, title: str, turn: Turn) -> Row:
        """Return the measure of one kind of call."""
        ours, theirs = self.stores
        return Row(title, lambda: self._runner.run(turn(ours)), lambda: self._runner.run(turn(theirs)))

    def close(self) -> None:
        """Close both stores and the event loop."""
        for entered in self._entered:
            if hasattr(entered, "__aexit__"):
                self._runner.run(entered.__aexit__(None, None, None))
            elif hasattr(entered, "close"):
                closing = entered.close()
                if asyncio.iscoroutine(closing):
                    self._runner.run(closing)
        self._runner.close()
