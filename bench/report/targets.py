"""The targets of hangarlog, as data, and the verdict of a record on each."""

from __future__ import annotations

from dataclasses import dataclass

from bench.measures.opening import CLOSED_STORES, DEATHS
from bench.report.record import Record


@dataclass(frozen=True)
class Target:
    """The required `figure` of `ours` in a workload: a ratio to the figure of `baseline`, or an absolute value."""

    workload: str
    required: float
    baseline: str = ""
    figure: str = "rate"
    ours: str = "hangarlog"
    at_most: bool = False
    unit: str = ""

    @property
    def requirement(self) -> str:
        """The requirement as the page shows it."""
        limit = f"{'≤' if self.at_most else '≥'} {self.required:,g}"
        return f"{limit} times {self.baseline}" if self.baseline else f"{limit} {self.unit}"


TARGETS = (
    Target("W1", 1.1, "sqlite3"),
    Target("W2", 2.5, "sqlite3"),
    Target("W2", 5, "sqlite3", ours="hangarlog:exclusive"),
    Target("W3 relaxed", 2.5, "sqlite3"),
    Target("W3 durable", 2, "umadb"),
    Target("W3 durable", 0.5, "floor"),
    Target("W4", 1, "sqlite3"),
    Target("W5", 1, "sqlite3"),
    Target("W6a", 2, "sqlite3"),
    Target("W6a", 1.5, "umadb"),
    Target("W6a", 2000, figure="p99", at_most=True, unit="µs, p99"),
    Target("W6a", 0.5, figure="fairness", unit="slowest / fastest"),
    Target("W6b", 1.5, "sqlite3"),
    Target("W6b", 2000, figure="p99", at_most=True, unit="µs, p99"),
    Target("W6b", 0.5, figure="fairness", unit="slowest / fastest"),
    Target("W7", 0.6, "floor:file per stream"),
    Target("W7", 1.1, figure="files", at_most=True, unit="files per stream"),
    Target("W7", 4.5, figure="kilobytes", at_most=True, unit="KB per stream"),
    Target("W7 read", 30_000, unit="streams/s"),
    Target("W8 clean", 5, figure="ms", at_most=True, unit="ms"),
    Target("W8 killed", 20, figure="ms", at_most=True, unit="ms"),
    *(
        Target(f"W8 alone {events}/{streams}", 5, figure="ms", at_most=True, unit="ms")
        for events, streams, _, _ in CLOSED_STORES
    ),
    *(Target(f"W8 died {name}", 100, figure="ms", at_most=True, unit="ms") for name, _, _, _ in DEATHS),
    Target("W8 power cut", 500_000, ours="hangarlog:no checkpoint", unit="events replayed/s"),
    *(
        Target(f"W9 {key}", required, figure=figure, at_most=figure != "ratio", unit=unit)
        for key, figure, required, unit in (
            ("paced 1", "p50", 50, "µs, p50"),
            ("paced 1", "p99", 250, "µs, p99"),
            ("paced 8", "p50", 150, "µs, p50"),
            ("paced 8", "p99", 500, "µs, p99"),
            ("paced 64", "ratio", 0.9, "of the rate alone"),
            ("full 1", "ratio", 0.95, "of the rate alone"),
            ("full 8", "ratio", 0.8, "of the rate alone"),
            ("full 8", "p50", 1000, "µs, p50"),
            ("durable 8", "ratio", 0.9, "of the rate alone"),
            ("idle", "ms", 10, "ms of processor a second"),
        )
    ),
    Target("W10 version", 30, figure="p50", at_most=True, unit="µs, p50"),
    Target("W10 position", 30, figure="p50", at_most=True, unit="µs, p50"),
    Target("upcasting", 0.4, "hangarlog", ours="hangarlog:chain of 1"),
    Target("upcasting", 0.25, "hangarlog", ours="hangarlog:chain of 5"),
    Target("memory write", 60, figure="mb", at_most=True, unit="MB"),
    Target("memory read", 60, figure="mb", at_most=True, unit="MB"),
    Target("memory verify", 60, figure="mb", at_most=True, unit="MB"),
    Target("memory follow", 60, figure="mb", at_most=True, unit="MB"),
    Target("start", 40, figure="import", at_most=True, unit="ms to import"),
    Target("start", 120, figure="version", at_most=True, unit="ms of --version"),
)


def measured(target: Target, record: Record) -> float | None:
    """Return the measured ratio or figure, or None if it is missing."""
    table = record.table(target.workload)
    if table is None or target.ours not in table.cells:
        return None
    if target.baseline:
        return table.ratio(target.figure, target.ours, target.baseline)
    return table.cells[target.ours].median(target.figure)


def is_met(target: Target, value: float) -> bool:
    """True if a measured value meets the target."""
    return value <= target.required if target.at_most else value >= target.required
