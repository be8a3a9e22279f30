"""The limit on files that all stores of this process keep open between calls.

Each store keeps the streams it last appended to and the segments it last read. To let a file go is to drop a reference,
which any thread may do at any time: a file in use is closed when its user is done.
"""

from __future__ import annotations

import sys
import weakref
from operator import attrgetter
from typing import Protocol

_SHARE = 4
"""Stores keep at most one in this many of the files that the process may open. The application has the rest."""

_MIN_DESCRIPTORS = 8


if sys.platform == "win32":  # pragma: no cover

    def _limit() -> int:
        return 512

else:
    from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

    def _limit() -> int:
        """Return how many files the process may open now."""
        soft, _ = getrlimit(RLIMIT_NOFILE)
        return 1 << 20 if soft == RLIM_INFINITY else soft


class Keeper(Protocol):
    """An object that keeps files open for the next call."""

    @property
    def held(self) -> int:
        """The number of descriptors that it holds."""

    def let_go(self) -> None:
        """Let go of the least recently used file, if there is one."""


_keepers: dict[int, weakref.ref[Keeper]] = {}  # Changes and copies are atomic, so it needs no lock to break in a fork.


def watch(keeper: Keeper) -> None:
    """Count the files of `keeper` for as long as it lives. Call it before `keeper` keeps its first file."""
    keepers, key = _keepers, id(keeper)
    keepers[key] = weakref.ref(keeper, lambda _: keepers.pop(key, None))


def allowed() -> int:
    """Return how many descriptors all keepers together may hold, under the process's present limit."""
    return max(_MIN_DESCRIPTORS, _limit() // _SHARE)


def excess(keeper: Keeper) -> int:
    """Return how many descriptors `keeper` must let go of to come under the limit.

    Keepers that hold more than `keeper` let go first.
    """
    while True:
        keepers = _alive()
        over = sum(keeper.held for keeper in keepers) - allowed()
        if over <= 0:
            return 0
        fullest = max(keepers, key=attrgetter("held"))
        if fullest.held <= keeper.held:
            return over
        fullest.let_go()


def give_back() -> bool:
    """Let go of every file that is kept. Return True if there was one."""
    keepers = [keeper for keeper in _alive() if keeper.held]
    for keeper in keepers:
        for _ in range(keeper.held):
            keeper.let_go()
    return bool(keepers)


def _alive() -> list[Keeper]:
    # Iterate over a copy: garbage collection may remove keepers at any moment.
    return [keeper for keeper in [reference() for reference in _keepers.copy().values()] if keeper is not None]
