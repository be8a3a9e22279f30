"""The curves: figures over stream length, number of streams, writers, followers, and payload size."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.comparison import describe_engines, log_progress, temporary_folder
from bench.harness.engine import Task
from bench.harness.machine import machine
from bench.harness.process import run_task
from bench.report.record import Curve, Record
from bench.workloads import CURVE_ENGINES, PAYLOAD_BYTES

_ROUNDS = 3
_BYTES_PER_EVENT = 1000
"""Disk space of an event, in both copies."""
_BYTES_PER_STREAM = 6000


@dataclass(frozen=True)
class _Family:
    """The curves over one size. At each size, some points run in one growing store or in fresh ones."""

    across: str
    sizes: Sequence[int]
    points: Sequence[str]
    curves: Sequence[tuple[str, str, str]]  # (figure, title, unit)
    growth_bytes: int = 0  # Disk space that a store needs to grow by one; 0 for fresh stores.


_FAMILIES = (  # The slowest come last.
    _Family(
        "writing processes, a stream each",
        [1, 2, 4, 8, 16, 32],
        ["durable writers"],
        [("rate", "Durable writers", "events/s"), ("p99", "Durable writers, p99 of an append", "µs")],
    ),
    _Family(
        "relaxed writing processes, a stream each",
        [1, 2, 4, 8, 16, 32],
        ["relaxed writers"],
        [("rate", "Relaxed writers", "events/s"), ("p99", "Relaxed writers, p99 of an append", "µs")],
    ),
    _Family(
        "followers that poll every millisecond",
        [1, 2, 4, 8, 16, 32, 64],
        ["followers"],
        [
            ("rate", "One relaxed writer while others follow", "events/s"),
            ("late", "Lag of the slowest follower at the writer's end", "ms"),
        ],
    ),
    _Family(
        "bytes of payload",
        PAYLOAD_BYTES,
        ["payload"],
        [("p50", "A relaxed append of a large payload", "µs, p50")],
    ),
    _Family(
        "events in a stream",
        [10**n for n in range(3, 8)],
        ["longer", "read", "open long", "verify"],
        [
            ("append", "A relaxed append to a long stream", "µs, p50"),
            ("version", "Reading one event by version from a long stream", "µs, p50"),
            ("rate", "Reading a store of one long stream", "events/s"),
            ("open", "Opening a store of one long stream, until the first append", "ms"),
            ("write_mb", "Peak memory of writing", "MB"),
            ("read_mb", "Peak memory of reading", "MB"),
            ("mb", "Peak memory of verifying", "MB"),
        ],
        growth_bytes=_BYTES_PER_EVENT,
    ),
    _Family(
        "streams",
        [10**n for n in range(7)],
        ["streams", "open some"],
        [
            ("create", "Creating a stream with its first event, relaxed", "µs, mean"),
            ("append", "A relaxed append to one of many streams", "µs, p50"),
            ("open", "Opening a store of many streams, until the first append", "ms"),
        ],
        growth_bytes=_BYTES_PER_STREAM,
    ),
)


def measure_curves(folder: str | None, quick: bool, save_progress: Callable[[Record], None]) -> Record:
    """Measure all curves, and call `save_progress` with the record after each family.

    A quick run takes the two smallest sizes of each family.
    """
    with temporary_folder(folder) as path:
        options = {"rounds": str(_ROUNDS), "sizes": "quick" if quick else "full"}
        record = Record(time.strftime("%Y-%m-%d"), machine(path), options, describe_engines(CURVE_ENGINES))
        for number, family in enumerate(_FAMILIES):
            log_progress(f"curves over {family.across}")
            record.curves += _FamilyRun(family, f"{path}/{number}", quick).run()
            save_progress(record)
    return record


class _FamilyRun:
    """The measurement of one family."""

    def __init__(self, family: _Family, folder: str, quick: bool) -> None:
        self.family, self.folder = family, folder
        self.sizes = family.sizes[:2] if quick else family.sizes
        self.curves = {
            figure: Curve(f"{figure} over {family.across}", title, family.across, unit)
            for figure, title, unit in family.curves
        }
        self.seconds = 0.2 if quick else 1.5

    def run(self) -> list[Curve]:
        """Measure size by size; the engines take turns at each size."""
        before = 0
        for size in self.sizes:
            if (needed_bytes := (size - before) * self.family.growth_bytes * 2) > _free_bytes(self.folder):
                log_progress(f"  {size:,}: skipped, because the disk lacks {needed_bytes / 1e9:.0f} GB of free space")
                break
            for engine in CURVE_ENGINES:
                found = self._figures(engine, before, size)
                for figure, curve in self.curves.items():
                    if figure in found:
                        curve.lines.setdefault(engine, []).append((size, found[figure]))
                log_progress(f"  {size:,} {engine}: " + ", ".join(f"{key} {value:.5g}" for key, value in found.items()))
            before = size
        shutil.rmtree(self.folder, ignore_errors=True)
        return list(self.curves.values())

    def _figures(self, engine: str, before: int, size: int) -> dict[str, float]:
        """Return all figures at a size, as medians over the rounds; a growing store has one round."""
        grows = bool(self.family.growth_bytes)
        found: dict[str, list[float]] = {}
        for number in range(1 if grows else _ROUNDS):
            path = os.path.join(self.folder, engine if grows else f"{engine}-{number}")
            os.makedirs(path, exist_ok=True)
            for point in self._points(engine, size):
                sizes = {"from": before, "to": size, "processes": size, "events": 2000, "shared": 0}
                result = run_task(Task("measure", point, engine, path, {**sizes, "seconds": self.seconds}, number))
                if result.error or result.unsupported:
                    self.curves[next(iter(self.curves))].errors[engine] = result.error or result.unsupported
                    log_progress(f"  {size:,} {engine} {point}: {result.error or result.unsupported}")
                for figure, value in result.figures.items():
                    if figure in self.curves:
                        found.setdefault(figure, []).append(value)
            if not grows:
                shutil.rmtree(path, ignore_errors=True)
        return {figure: sorted(values)[len(values) // 2] for figure, values in found.items()}

    def _points(self, engine: str, size: int) -> Iterator[str]:
        for name in self.family.points:
            if name == "payload":
                yield f"curve payload {size}"
            elif name != "verify" or engine == "hangarlog":
                yield f"curve {name}"


def _free_bytes(folder: str) -> int:
    return shutil.disk_usage(os.path.dirname(folder)).free
