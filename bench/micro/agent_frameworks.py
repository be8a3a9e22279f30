"""Adapters for agent frameworks beside each framework's own store: `python -m bench.micro.agent_frameworks NAME`.

Run it with the Python of that adapter's environment: `.venv-integrations/NAME/bin/python`. Both sides sync each append.
"""

from __future__ import annotations

import asyncio
import importlib
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

ROUNDS = 5

Turn = Callable[[Any], Awaitable[int]]
"""Does something with a store, and returns how often."""


class Sides(NamedTuple):
    """What is compared: makers of both stores from an empty folder, and what is done with each, in this order."""

    theirs: str
    ours: Callable[[Path], Any]
    other: Callable[[Path], Any]
    turns: dict[str, Turn]


async def _round(make: Callable[[Path], Any], turns: dict[str, Turn]) -> dict[str, float]:
    """Return how often each turn's call was made in a second, on a fresh store."""
    with tempfile.TemporaryDirectory(prefix="hangarlog-bench-") as folder:
        made = make(Path(folder))
        store = await made.__aenter__() if hasattr(made, "__aenter__") else made
        rates = {}
        for name, turn in turns.items():
            start = perf_counter()
            count = await turn(store)
            rates[name] = count / (perf_counter() - start)
        if hasattr(made, "__aexit__"):
            await made.__aexit__(None, None, None)
        elif hasattr(made, "close"):
            closing = made.close()
            if asyncio.iscoroutine(closing):
                await closing
        return rates


def compare(sides: Sides) -> None:
    """Print the median rates of both sides, and their ratio."""
    makers = sides.ours, sides.other
    rounds = [[asyncio.run(_round(make, sides.turns)) for make in makers] for _ in range(ROUNDS)]
    print(f"| calls a second | hangarlog | {sides.theirs} | ratio |\n| --- | --- | --- | --- |")
    for name in sides.turns:
        ours, other = (statistics.median(each[side][name] for each in rounds) for side in (0, 1))
        print(f"| {name} | {ours:,.0f} | {other:,.0f} | {ours / other:.2f} |")


if __name__ == "__main__":
    compare(importlib.import_module(f"bench.micro.frameworks.{sys.argv[1]}").SIDES)
