"""Row 14: a file of a store in use is replaced, emptied, cut, deleted, relinked or moved, at any step of a call.

In each cell three users share a store: A, in one of whose calls it happens; B, who has had it open; and C, who opens it
afterwards. What they are told, and what is found when all have closed, must agree.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from ..cells import Cell, missing, one_a_site, reached, run_cells
from ..harness import Campaign, Figures
from ..mutations import WHOLE, mutations_of
from .scene import Scene
from .store import TARGETS, make_bases

ACTS = tuple(name[4:] for name in vars(Scene) if name.startswith("act_"))
UPKEEP, STEPS = ("compress", "retain", "archive"), 16
"""The acts of many steps, and how many of them are tried in CI."""
ORDERS = [f"{order}{at}" for order in ("ABC", "ACB", "BAC", "BCA", "CAB", "CBA") for at in range(5)]


def play(cell: Cell, path: Path) -> None:
    scene = Scene(cell, path)
    scene.play()
    cell.figures["done to a store"] += scene.done


def steps_of(act: str, folder: Path) -> list[tuple[str, str]]:
    """The calls of an act, at each of which something can be done."""
    scene = Scene(Cell(f"{act} 0 {WHOLE} moved alone ABC0"), folder / f"steps-{act}")
    scene.play()
    scene.a.close()
    scene.b.close()
    return scene.calls


def cells(folder: Path, size: int, seed: int) -> Iterator[str]:
    """Every step of every act (in CI, and of an archiving, one of each site), each with many things done to files."""
    rng = random.Random(seed)
    base = folder / "bases/full"
    ways = [f"{target} {way}" for target in TARGETS if (base / target).exists() for way in mutations_of(base, target)]
    for act in ACTS:
        steps = steps_of(act, folder)
        sampled = size <= CAMPAIGN.ci or act == "archive"  # It has 1,500 steps.
        indexes = one_a_site(steps, rng) if sampled else list(range(len(steps)))
        if act in UPKEEP and size <= CAMPAIGN.ci:
            indexes = sorted(rng.sample(indexes, min(STEPS, len(indexes))))
        for at in indexes:
            for way in rng.sample(ways, min(size, len(ways))):
                yield f"{act} {at + 1}:{steps[at][0]} {way} {rng.choice(['alone', 'beside'])} {rng.choice(ORDERS)}"


def run(folder: Path, size: int, seed: int) -> Figures:
    make_bases(folder / "bases")
    names = list(cells(folder, size, seed))
    figures = run_cells(names, play, folder, seed)
    reached(figures, "done to a store", len(names))
    return figures


CAMPAIGN = Campaign(
    row=14,
    fault="a file of a store in use is replaced, emptied, cut, deleted, relinked, its folder moved",
    promise="every call succeeds rightly or names the place; nothing acknowledged is lost, no version given twice, "
    "no two are inside the lock, what is a cache comes back",
    how="every file and folder x every call of an append, a batch, a roll, a read, a compression, a "
    "retention, an archiving and its restoring, an opening and a close; two others "
    "who have the store open, or open it then, go on beside it, and the power is cut",
    ci=3,
    release=1_000,
    unit="changes to files at each step, of all there are",
    run=run,
    in_memory=True,
    missing=missing,
)
