"""The pictures of a record, as SVG that is the same bytes for the same record."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.record import Curve, Record, Table

_OURS, _PEER, _FLOOR = "#c2410c", "#64748b", "#cbd5e1"
_BARS = {
    "appends": ("Appending", ("W1", "W2", "W3 relaxed", "W3 durable")),
    "reads": ("Reading", ("W4", "W5", "W7 read")),
    "writers": ("Eight durable writers", ("W6a", "W6b")),
}


def draw(record: Record | None, curves: Record | None, folder: Path) -> dict[str, str]:
    """Title -> file name of each picture that was made in the folder; none without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, str] = {}
    for name, (title, keys) in _BARS.items() if record else ():
        tables = [table for key in keys if record and (table := record.table(key))]
        if tables:
            made[title] = _save(_bars(tables), folder / f"{name}.svg")
    for number, curve in enumerate(curves.curves if curves else [], 1):
        if curve.lines:
            made[curve.title] = _save(_line(curve), folder / f"curve-{number}.svg")
    return made


def _figure(columns: int, height: float) -> tuple[Any, Sequence[Any]]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "hangarlog", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(4.2 * columns, height), squeeze=False, layout="constrained")
    return figure, axes[0]


def _save(figure: Any, path: Path) -> str:
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return path.name


def _bars(tables: Sequence[Table]) -> Any:
    """A panel a workload: events a second of each contender, on a logarithmic scale."""
    figure, axes = _figure(len(tables), 0.5 + 0.26 * max(len(table.cells) for table in tables))
    for axis, table in zip(axes, tables, strict=True):
        found = {name: value for name, cell in table.cells.items() if (value := cell.median("rate"))}
        names = sorted(found, key=lambda name: found[name])
        colours = [_OURS if n.startswith("hangarlog") else _FLOOR if n.startswith("floor") else _PEER for n in names]
        bars = axis.barh([name.replace(":", ", ") for name in names], [found[name] for name in names], color=colours)
        axis.bar_label(bars, [f"{found[name]:,.0f}" for name in names], padding=2, fontsize=7)
        axis.set(xscale="log", title=f"{table.key.split()[0]} {table.title}", xlabel=table.figures["rate"])
        axis.set_xlim(right=max(found.values(), default=1) * 8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _line(curve: Curve) -> Any:
    figure, (axis,) = _figure(1, 2.8)
    for name, points in curve.lines.items():
        sizes, values = zip(*points, strict=True)
        axis.plot(sizes, values, marker="o", label=name, color=_OURS if name == "hangarlog" else _PEER)
    axis.set(xscale="log", yscale="log", title=curve.title, xlabel=curve.across, ylabel=curve.up)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
