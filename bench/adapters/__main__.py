"""Measure one adapter beside its framework's own default backend: `python -m bench.adapters NAME`.

Both take turns in one process, on one disk, with what each does by default. The figures are medians of the rounds.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

ROUNDS = 7

Work = Callable[[], int]
"""Do something, and return of how many events."""


class Row(NamedTuple):
    """What is measured: its title, and what each of both does in a round."""

    title: str
    ours: Work
    theirs: Work


def per_second(work: Work) -> float:
    """Return how many events a second."""
    begin = perf_counter()
    events = work()
    return events / (perf_counter() - begin)


def main(name: str) -> None:
    """Print a table. The last column is how many times as fast hangarlog is, the median of each round's ratio."""
    print(f"| {name} | hangarlog /s | its SQLite /s | times |\n| --- | --- | --- | --- |")
    rows = importlib.import_module(f"bench.adapters.{name}").rows
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(Path(folder)):
            per_second(row.ours), per_second(row.theirs)  # Warm up.
            rounds = [(per_second(row.ours), per_second(row.theirs)) for _ in range(ROUNDS)]
            ours, theirs = (median(column) for column in zip(*rounds, strict=True))
            ratio = median(one / other for one, other in rounds)
            print(f"| {row.title} | {ours:,.0f} | {theirs:,.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
