"""How many files all stores of this process together keep open between calls: one limit, the rest is the application's.

Each store keeps the streams it appended to last, and the segments it read last. To let one go is to drop a reference,
which any thread may do at any moment: a file in use is closed when its user is done with it.
"""

from __future__ import annotations

import sys
import weakref
from operator import attrgetter
from typing import Protocol

_SHARE = 4
"""The part of what the process may open that is kept: a quarter."""

_MIN_DESCRIPTORS = 8


if sys.platform == "win32":  # pragma: no cover

    def _limit() -> int:
        return 512

else:
    from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

    def _limit() -> int:
        """How many files the process may open now."""
        soft, _ = getrlimit(RLIMIT_NOFILE)
        return 1 << 20 if soft == RLIM_INFINITY else soft


class Keeper(Protocol):
    """Keeps files open for the next call."""

    @property
    def held(self) -> int:
        """How many descriptors it holds."""

    def let_go(self) -> None:
        """Let go of the file that was unused for longest, if there is one."""


_keepers: dict[int, weakref.ref[Keeper]] = {}  # Changed and copied in one step each: no lock that a fork could break.


def watch(keeper: Keeper) -> None:
    """Count what `keeper` keeps, from its first file on, for as long as it lives."""
    keepers, key = _keepers, id(keeper)
    keepers[key] = weakref.ref(keeper, lambda _: keepers.pop(key, None))


def allowed() -> int:
    """How many descriptors all keepers together may hold, by the limit that the process has now."""
    return max(_MIN_DESCRIPTORS, _limit() // _SHARE)


def excess(keeper: Keeper) -> int:
    """How many descriptors `keeper` has to let go of: all that are too many, where nobody holds more than it does.

    Whoever does lets go first.
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
    """Let go of every file that is kept; says whether there was any."""
    keepers = [keeper for keeper in _alive() if keeper.held]
    for keeper in keepers:
        for _ in range(keeper.held):
            keeper.let_go()
    return bool(keepers)


def _alive() -> list[Keeper]:
    # A copy: a collection may run at any moment, and take out who is deleted by it.
    return [keeper for keeper in [reference() for reference in _keepers.copy().values()] if keeper is not None]
