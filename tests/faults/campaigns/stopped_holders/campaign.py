"""Row 16: a process that holds a lock is stopped, or killed, wherever it is; every call of the others ends in its time.

In each cell a holder does something, and is stopped at a call of its in which it holds certain locks. Everything that
a user can do is done meanwhile, all at once, by stores with a `lock_timeout`. Then the holder goes on, or is killed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..cells import Cell, missing, opened, reached, run_cells
from ..harness import Campaign, Figures
from .holders import ACTS, GATE, Stopping
from .scene import Scene

DEADLINES = ("0", "0.2", "together", "0.2-stateless")


def play(cell: Cell, path: Path) -> None:
    Scene(cell, path).play()


def points_of(act: str, folder: Path) -> Counter[str]:
    """The sets of locks that are held in an act, and at how many calls each."""
    scene = Scene(Cell(f"thread-{act} nothing 0 0 continued"), folder / f"points-{act}")
    scene.open_users("always")
    if act == "recover":
        scene.somebody_dies()
    filesystem = Stopping("nothing")
    do, options = ACTS[act]
    store = opened(scene.path, filesystem=filesystem, **options)
    filesystem.armed = True
    do(store)
    filesystem.armed = False
    for each in (store, *scene.users.values()):
        each.close()
    return filesystem.counts


def points(folder: Path, size: int, rng: random.Random) -> Iterator[str]:
    """Where somebody is stopped: in a process, in a thread of the same store, at the gate."""
    for act in ACTS:
        for held, count in sorted(points_of(act, folder).items()):
            for nth in sorted(rng.sample(range(1, count + 1), min(size, count))):
                yield f"process-{act} {held} {nth}"
                if act in ("durable", "roll", "compact"):
                    yield f"thread-{act} {held} {nth}"
    for nth in range(1, min(size, 3) + 1):
        yield f"gate-durable {GATE} {nth}"


def cells(folder: Path, size: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for point in points(folder, size, rng):
        for at, deadline in enumerate(DEADLINES):
            if deadline.endswith("stateless") and point.startswith("thread"):
                continue
            ends = ["continued", "killed"]
            for end in ends if size > 1 else [ends[(at + len(point)) % 2]]:
                yield f"{point} {deadline} {end}"


def run(folder: Path, size: int, seed: int) -> Figures:
    names = list(cells(folder, size, seed))
    figures = run_cells(names, play, folder, seed)
    reached(figures, "holders stopped", len(names))
    return figures


CAMPAIGN = Campaign(
    row=16,
    fault="the holder of a lock is stopped (SIGSTOP) or killed, wherever it is",
    promise="every call of the others ends in its lock_timeout, threads together; it says what it did; then all go on",
    how="a process, a thread of the same store, or who stands at the gate, at calls with each set of locks it holds x "
    "every kind of call, all at once x deadlines of 0 and 0.2 s, six threads, no state",
    ci=1,
    release=1_000,
    unit="calls with each set of locks, of all there are",
    run=run,
    in_memory=True,
    missing=missing,
)
