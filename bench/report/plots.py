"""The plots of a record, as SVG. The same record gives the same bytes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report.page import format_number
from bench.report.record import Curve, Record, Table

_OURS, _PEER = "#c2410c", "#64748b"
_BARS = {
    "appends": ("Appending", ("W1", "W2", "W3 relaxed", "W3 durable")),
    "reads": ("Reading", ("W4", "W5", "W7 read")),
    "writers": ("Eight durable writers", ("W6a", "W6b")),
}


def write_plots(record: Record | None, curves: Record | None, folder: Path) -> dict[str, str]:
    """Write the plots into a folder, and return their file names by title; none without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    for name, (title, keys) in _BARS.items() if record else ():
        tables = [table for key in keys if record and (table := record.table(key))]
        if tables:
            written[title] = _save(_bars(tables), folder / f"{name}.svg")
    for place, curve in enumerate(curves.curves if curves else [], 1):
        if curve.lines:
            written[curve.title] = _save(_line(curve), folder / f"curve-{place}.svg")
    return written


def _figure(rows: int, columns: int, height: float) -> tuple[Any, Sequence[Any]]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "hangarlog", "svg.fonttype": "none", "font.size": 9, "axes.titlesize": 9}
    )
    from matplotlib import pyplot

    size = (4.4 * columns, height * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    return figure, axes.flatten()


def _save(figure: Any, path: Path) -> str:
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return path.name


def _bars(tables: Sequence[Table]) -> Any:
    """Draw a panel per workload with the rate of each contender, without the floors, which would dwarf the others."""
    rows = -(-len(tables) // 2)
    figure, axes = _figure(rows, min(2, len(tables)), 0.6 + 0.24 * max(len(table.cells) for table in tables))
    for axis in axes[len(tables) :]:
        axis.remove()
    for axis, table in zip(axes, tables, strict=False):
        medians = {name: cell.median("rate") for name, cell in table.cells.items() if not name.startswith("floor")}
        found = dict(sorted(((name, value) for name, value in medians.items() if value), key=lambda pair: pair[1]))
        colours = [_OURS if name.startswith("hangarlog") else _PEER for name in found]
        bars = axis.barh([name.replace(":", ", ") for name in found], list(found.values()), color=colours)
        axis.bar_label(bars, [format_number(value) for value in found.values()], padding=2, fontsize=7)
        axis.set(title=f"{table.title}, {table.figures['rate']}", xticks=[])
        axis.margins(x=0.18)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def _line(curve: Curve) -> Any:
    figure, (axis,) = _figure(1, 1, 2.8)
    for name, points in curve.lines.items():
        sizes, values = zip(*points, strict=True)
        axis.plot(sizes, values, marker="o", label=name, color=_OURS if name == "hangarlog" else _PEER)
    axis.set(xscale="log", title=curve.title, xlabel=curve.across, ylabel=curve.up)
    every = [value for points in curve.lines.values() for _, value in points]
    if max(every) > 30 * max(min(every), 1e-9):
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
