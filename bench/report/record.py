"""The record of a run, kept as JSON: the figures, the machine, the versions."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec

from bench.harness.engine import Figures


class Cell(msgspec.Struct):
    """A contender in a workload: its figures round by round, or the reason why there are none."""

    rounds: list[Figures] = []
    error: str = ""
    unsupported: str = ""

    def median(self, figure: str) -> float | None:
        """Return the median over all rounds, or None without one."""
        values = [figures[figure] for figures in self.rounds if figure in figures]
        return statistics.median(values) if values else None


class Table(msgspec.Struct):
    """A workload. `figures` maps the name of a figure to its column heading; ratios are of the first figure."""

    key: str
    title: str
    note: str
    figures: dict[str, str]
    more_is_better: bool
    sizes: dict[str, float]
    cells: dict[str, Cell] = {}

    def ratio(self, figure: str, ours: str, theirs: str) -> float | None:
        """Return the median over rounds of ours / theirs, or None if either is missing."""
        if ours not in self.cells or theirs not in self.cells:
            return None
        pairs = zip(self.cells[ours].rounds, self.cells[theirs].rounds, strict=False)
        ratios = [a[figure] / b[figure] for a, b in pairs if b.get(figure) and figure in a]
        return statistics.median(ratios) if ratios else None


class EngineInfo(msgspec.Struct):
    """An engine: title, version, settings, notes on unequal conditions, and the reason if it is missing."""

    title: str
    version: str
    settings: str
    notes: list[str]
    missing: str = ""


class Curve(msgspec.Struct):
    """A figure over a size. `across` and `up` label the axes; `lines` maps an engine to its points (size, figure)."""

    key: str
    title: str
    across: str
    up: str
    lines: dict[str, list[tuple[float, float]]] = {}
    errors: dict[str, str] = {}


class Record(msgspec.Struct):
    """One run."""

    date: str
    machine: dict[str, str]
    options: dict[str, str]
    engines: dict[str, EngineInfo] = {}
    tables: list[Table] = []
    curves: list[Curve] = []

    def table(self, key: str) -> Table | None:
        """Return the table of a workload, or None if it is missing."""
        return next((table for table in self.tables if table.key == key), None)


def save(record: Record, path: Path) -> None:
    """Write a record as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_rounded(record)), indent=1) + b"\n")


def load(path: Path) -> Record:
    """Read a record that `save` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Record)


def _rounded(record: Record) -> Record:
    """Round all figures to six digits; more are noise."""
    for table in record.tables:
        for cell in table.cells.values():
            cell.rounds = [{name: float(f"{value:.6g}") for name, value in each.items()} for each in cell.rounds]
    return record
