"""The page of a record, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.report.record import Cell, Curve, Record, Table
from bench.report.targets import TARGETS, is_met, measured

_HEAD = """# Benchmarks

`python -m bench` writes this page from its record; do not edit it. It compares hangarlog with floors (the bare calls,
in Python) and with peers. The engines take turns round by round, and each measurement runs in a fresh process. Figures
are medians over the rounds. Ratios are medians of the ratios within a round. Read the ratios: absolute times are those
of this machine, and drift. The page claims nothing about other machines, payloads or settings: `hangarlog bench`
[measures hangarlog on yours](bench.md), in a minute and without peers. No engine is tuned beyond the settings listed at
the end.

The payload is MCP Hangar's `ProviderStarted`, about 200 bytes of JSON, each with its own id. Reads return typed
objects if the engine can. *Durable*: an append returns once its events are on the device. *Relaxed*: the operating
system decides when they get there. W9 measures followers; until the next full run, its figures are in
[following](following.md#figures).
"""


def render_page(record: Record, curves: Record | None = None, plots: Mapping[str, str] | None = None) -> str:
    """Return the page; `plots` maps a title to the path of a plot."""
    plots = dict(plots or {})
    drawn = (curves or record).curves
    parts = [_HEAD, *_about(record), *_targets(record)]
    titles = {curve.title for curve in drawn}
    parts += [f"![{title}]({path})\n" for title, path in plots.items() if title not in titles]
    parts += [_section(table) for table in record.tables]
    if drawn:
        about = (
            f"Measured on {curves.date}, in {curves.options['rounds']} rounds, or one if the store grows."
            if curves
            else ""
        )
        parts += ["## Curves\n", f"{about}\n", *(_curve(curve, plots.get(curve.title)) for curve in drawn)]
    parts += ["## The engines\n", _engines(record)]
    return "\n".join(parts)


def _about(record: Record) -> Iterator[str]:
    yield "## The run\n"
    rows = {"date": record.date, **record.machine, **record.options}
    yield _markdown(["", ""], [[name, value] for name, value in rows.items()])


def _targets(record: Record) -> Iterator[str]:
    rows = []
    for target in TARGETS:
        if record.table(target.workload) is None:
            continue
        value = measured(target, record)
        shown = "not measured" if value is None else format_number(value)
        verdict = "" if value is None else "met" if is_met(target, value) else "**not met**"
        rows.append([target.workload, _name(target.ours), _name(target.requirement), shown, verdict])
    if rows:
        yield "## Targets\n"
        yield _markdown(["workload", "engine", "required", "measured", "verdict"], rows)


def _name(contender: str) -> str:
    return contender.replace(":", ", ")


def _section(table: Table) -> str:
    rounds = max((len(cell.rounds) for cell in table.cells.values()), default=0)
    note = f"{table.note} {rounds} round{'s' * (rounds != 1)}.".strip()
    headings = ["", *table.figures.values()]
    if len(table.cells) > 1:
        headings.append(f"hangarlog is … times as {'small' if 'mb' in table.figures else 'fast'}")
    rows = [_row(table, contender, cell)[: len(headings)] for contender, cell in table.cells.items()]
    return f"## {table.key}: {table.title}\n\n{note}\n\n{_markdown(headings, rows)}"


def _row(table: Table, contender: str, cell: Cell) -> list[str]:
    if reason := cell.error or cell.unsupported:
        return [_name(contender), reason.replace("|", "/"), *[""] * len(table.figures)]
    figures = [format_number(value) if (value := cell.median(figure)) is not None else "" for figure in table.figures]
    return [_name(contender), *figures, _ratio(table, contender)]


def _ratio(table: Table, contender: str) -> str:
    """Return how many times better hangarlog's first figure is."""
    if contender == "hangarlog" or "hangarlog" not in table.cells:
        return ""
    pair = ("hangarlog", contender) if table.more_is_better else (contender, "hangarlog")
    value = table.ratio(next(iter(table.figures)), *pair)
    return "" if value is None else f"{value:.2f}"


def _curve(curve: Curve, plot: str | None) -> str:
    sizes = sorted({size for line in curve.lines.values() for size, _ in line})
    rows = []
    for name, line in curve.lines.items():
        points = dict(line)
        rows.append([name, *(format_number(points[size]) if size in points else "" for size in sizes)])
    shown = f"![{curve.title}]({plot})\n\n" if plot else ""
    failed = "".join(f"{name}: {reason}\n\n" for name, reason in curve.errors.items())
    table = _markdown([f"{curve.up}, over {curve.across}", *(format_number(size) for size in sizes)], rows)
    return f"### {curve.title}\n\n{shown}{failed}{table}"


def _engines(record: Record) -> str:
    rows = [
        [name, f"{engine.title} {engine.version}".strip(), engine.missing or engine.settings, "; ".join(engine.notes)]
        for name, engine in record.engines.items()
    ]
    return _markdown(["", "version", "settings", "not like for like"], rows)


def format_number(value: float) -> str:
    """Return a number with three significant digits."""
    if value >= 1000:
        unit = 10 ** (len(str(int(value))) - 3)
        return f"{round(value / unit) * unit:,}"
    return "0" if value < 0.001 else f"{value:.3g}"


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
