"""The record of a run: what was measured, on what, with which versions. It is kept as JSON."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec

from bench.harness.workload import Figures


class Cell(msgspec.Struct):
    """A contender in a workload: its figures round by round, or why there are none."""

    rounds: list[Figures] = []
    error: str = ""
    unsupported: str = ""

    def median(self, figure: str) -> float | None:
        """Over all rounds."""
        values = [figures[figure] for figures in self.rounds if figure in figures]
        return statistics.median(values) if values else None


class Table(msgspec.Struct):
    """A workload; `figures` maps their names to headings, and ratios are of the first."""

    key: str
    title: str
    note: str
    figures: dict[str, str]
    more_is_better: bool
    sizes: dict[str, float]
    cells: dict[str, Cell] = {}

    def ratio(self, figure: str, ours: str, theirs: str) -> float | None:
        """The median over rounds of ours to theirs; None if either was not measured."""
        if ours not in self.cells or theirs not in self.cells:
            return None
        pairs = zip(self.cells[ours].rounds, self.cells[theirs].rounds, strict=False)
        ratios = [a[figure] / b[figure] for a, b in pairs if b.get(figure) and figure in a]
        return statistics.median(ratios) if ratios else None


class Measured(msgspec.Struct):
    """An engine: its name for readers, version, settings and what is not alike."""

    title: str
    version: str
    settings: str
    notes: list[str]
    missing: str = ""


class Curve(msgspec.Struct):
    """A figure over a size: one line a name, each a list of (size, figure)."""

    key: str
    title: str
    across: str
    up: str
    lines: dict[str, list[tuple[float, float]]] = {}
    errors: dict[str, str] = {}


class Record(msgspec.Struct):
    """A whole run."""

    date: str
    machine: dict[str, str]
    options: dict[str, str]
    engines: dict[str, Measured] = {}
    tables: list[Table] = []
    curves: list[Curve] = []

    def table(self, key: str) -> Table | None:
        """That of a workload, if it was measured."""
        return next((table for table in self.tables if table.key == key), None)


def save(record: Record, path: Path) -> None:
    """Write it as JSON that a person can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_rounded(record)), indent=1) + b"\n")


def load(path: Path) -> Record:
    """Read what `save` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Record)


def _rounded(record: Record) -> Record:
    """More than six digits of a measurement are noise."""
    for table in record.tables:
        for cell in table.cells.values():
            cell.rounds = [{name: float(f"{value:.6g}") for name, value in each.items()} for each in cell.rounds]
    return record
