"""A workload: its measure, its stores and sizes, its contenders, and the figures of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.harness.engine import Engine, Figures, Run

Sizes = Mapping[str, float]
Measure = Callable[[Run], Figures]


@dataclass(frozen=True)
class Workload:
    """One table of the comparison.

    `figures` maps the name of a figure to its column heading. Ratios are of the first figure, and `more_is_better`
    refers to it. `recipe` names the store to read: each engine writes it once, and all rounds use it. Without a
    recipe, every measurement gets a fresh folder.
    """

    key: str
    title: str
    measure: Measure
    figures: Mapping[str, str]
    contenders: Sequence[str]
    sizes: Sizes
    quick_sizes: Sizes
    slow_sizes: Sizes = field(default_factory=dict)  # Replace `sizes` for engines that read slowly.
    durable: bool = False
    payload_kind: str = ""
    recipe: str = ""
    more_is_better: bool = True
    max_rounds: int | None = None
    note: str = ""

    def sizes_for(self, engine: Engine, *, quick: bool) -> dict[str, float]:
        """Return the sizes to measure an engine with."""
        return dict(self.quick_sizes) if quick else {**self.sizes, **(self.slow_sizes if engine.reads_slowly else {})}
