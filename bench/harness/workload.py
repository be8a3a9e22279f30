"""What a workload is: how a store is prepared for it, what is done and timed, and in which figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from bench.harness import payload
from bench.harness.engine import Engine, Session

Figures = dict[str, float]
Sizes = Mapping[str, float]


_OURS = ("hangarlog", "floor", "sqlite3")


class Task(msgspec.Struct, frozen=True):
    """What a child process is to do; `round` counts from 0."""

    do: Literal["measure", "prepare", "write", "follow", "append for ever"]
    workload: str
    contender: str
    folder: str
    sizes: dict[str, float]
    round: int = 0
    target: str = ""
    number: int = 0


@dataclass(frozen=True)
class Run:
    """One engine in one round of a workload."""

    engine: Engine
    task: Task
    durable: bool
    kind: str

    @property
    def folder(self) -> str:
        """Where the store is; the engine makes what it needs in it."""
        return self.task.folder

    @property
    def variant(self) -> str:
        """What follows the engine's name in the contender's."""
        return self.task.contender.partition(":")[2]

    def events(self, count: int, first: int | None = None) -> list[Any]:
        """Fresh events, of the engine's own class."""
        made = payload.events(count, self.kind, first)
        return [self.engine.own(event) for event in made]

    def size(self, name: str) -> int:
        """One of the workload's sizes, a whole number."""
        return int(self.task.sizes[name])

    @property
    def seconds(self) -> float:
        """For how long at most; a slow peer need not be given as long."""
        name = "seconds" if self.task.contender.partition(":")[0] in _OURS else "peer_seconds"
        return self.task.sizes.get(name, self.task.sizes.get("seconds", 0.0))

    @contextmanager
    def served(self) -> Iterator[str]:
        """The target of sessions, with a server running where there is one."""
        with self.engine.serve(self.folder, durable=self.durable) as target:
            yield target

    @contextmanager
    def session(self, target: str) -> Iterator[Session]:
        """An open store."""
        session = self.engine.open(target, durable=self.durable, variant=self.variant, kind=self.kind)
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def opened(self) -> Iterator[Session]:
        """An open store, served where it has to be."""
        with self.served() as target, self.session(target) as session:
            yield session


Prepare = Callable[[Run], None]
Measure = Callable[[Run], Figures]


@dataclass(frozen=True)
class Workload:
    """One table of the comparison. Its first figure is the one that ratios are of.

    `prepare` names a recipe: stores are written once an engine and recipe, and used by all rounds. `figures` maps a
    figure's name to its column's heading; `more_is_better` is about the first.
    """

    key: str
    title: str
    measure: Measure
    figures: Mapping[str, str]
    contenders: Sequence[str]
    sizes: Sizes
    quick: Sizes
    slow: Sizes = field(default_factory=dict)  # What is different for engines that read slowly.
    durable: bool = False
    kind: str = ""
    prepare: str = ""
    more_is_better: bool = True
    rounds: int | None = None
    note: str = ""

    def sized(self, engine: Engine, *, quick: bool) -> dict[str, float]:
        """The sizes to measure an engine with."""
        return dict(self.quick) if quick else {**self.sizes, **(self.slow if engine.slow else {})}


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of sorted values lie."""
    return values[min(len(values) - 1, int(len(values) * part))]


def latencies(nanoseconds: list[int]) -> Figures:
    """p50 and p99 in microseconds."""
    ordered = sorted(nanoseconds)
    return {"p50": percentile(ordered, 0.5) / 1e3, "p99": percentile(ordered, 0.99) / 1e3}


def disk_bytes(folder: str, leave_out: str = "") -> tuple[int, int]:
    """(files, bytes of their blocks) below a folder, but for files whose names begin with `leave_out`."""
    files = blocks = 0
    for path, _, names in os.walk(folder):
        for name in names:
            if not leave_out or not name.startswith(leave_out):
                files += 1
                blocks += os.lstat(os.path.join(path, name)).st_blocks
    return files, blocks * 512
