"""The page of a record: Markdown, made whole."""

from __future__ import annotations

from collections.abc import Iterator

from bench.record import Cell, Record, Table
from bench.targets import TARGETS, met, reached

_HEAD = """# Benchmarks

Made by `python -m bench` from its record; do not edit. It measures hangarlog beside floors (the bare calls, in Python)
and peers, in turn, round by round, a fresh process a measurement: the figures are medians over the rounds, the ratios
medians of the ratios within a round. Read the ratios: absolute times are this machine's, and drift. Nothing is claimed
about other machines, payloads or settings, and no engine was tuned beyond what is said here.

The payload is MCP Hangar's `ProviderStarted`, about 200 bytes of JSON, each with an id of its own; reads give typed
objects where an engine can. *Durable*: an append returns when it is on the device. *Relaxed*: the operating system
decides. There is no workload for followers yet, because hangarlog has no subscriptions.
"""


def page(record: Record, plots: dict[str, str] | None = None) -> str:
    """The whole of it; `plots` maps a title to a picture's path."""
    parts = [_HEAD, *_about(record), *_targets(record)]
    for title, path in (plots or {}).items():
        parts.append(f"![{title}]({path})\n")
    parts += [_section(table, record) for table in record.tables]
    parts += list(_curves(record))
    parts += ["## The engines\n", _engines(record)]
    return "\n".join(parts)


def _about(record: Record) -> Iterator[str]:
    yield "## The run\n"
    rows = {"date": record.date, **record.machine, **record.options}
    yield _markdown(["", ""], [[name, value] for name, value in rows.items()])


def _targets(record: Record) -> Iterator[str]:
    rows = []
    for target in TARGETS:
        value = reached(target, record)
        if record.table(target.workload) is None:
            continue
        shown = "not measured" if value is None else number(value)
        verdict = "" if value is None else "met" if met(target, value) else "**not met**"
        ours = target.ours if target.baseline or target.ours != "hangarlog" else ""
        rows.append([target.workload, ours, target.what, shown, verdict])
    if rows:
        yield "## Targets\n"
        yield _markdown(["workload", "", "needed", "measured", ""], rows)


def _section(table: Table, record: Record) -> str:
    more = f"{table.key}: {table.title}"
    headings = ["", *table.figures.values(), _ratio_heading(table)]
    rows = [_row(table, contender, cell) for contender, cell in table.cells.items()]
    rounds = max((len(cell.rounds) for cell in table.cells.values()), default=0)
    note = f"{table.note} {rounds} rounds.".strip()
    return f"## {more}\n\n{note}\n\n{_markdown(headings, rows)}"


def _ratio_heading(table: Table) -> str:
    return "hangarlog is … times as fast" if "hangarlog" in table.cells and len(table.cells) > 1 else ""


def _row(table: Table, contender: str, cell: Cell) -> list[str]:
    name = contender.replace(":", ", ")
    if reason := cell.error or cell.unsupported:
        return [name, reason.replace("|", "/"), *[""] * len(table.figures)]
    figures = [number(value) if (value := cell.median(figure)) is not None else "" for figure in table.figures]
    return [name, *figures, _ratio(table, contender)]


def _ratio(table: Table, contender: str) -> str:
    """How much better hangarlog's first figure is."""
    if contender == "hangarlog" or "hangarlog" not in table.cells:
        return ""
    pair = ("hangarlog", contender) if table.more_is_better else (contender, "hangarlog")
    value = table.ratio(next(iter(table.figures)), *pair)
    return "" if value is None else f"{value:.2f}"


def _curves(record: Record) -> Iterator[str]:
    if record.curves:
        yield "## Curves\n"
    for curve in record.curves:
        sizes = sorted({size for line in curve.lines.values() for size, _ in line})
        rows = []
        for name, line in curve.lines.items():
            points = dict(line)
            rows.append([name, *(number(points[size]) if size in points else "" for size in sizes)])
        rows += [[name, reason] + [""] * (len(sizes) - 1) for name, reason in curve.errors.items()]
        yield f"### {curve.title}\n\n{curve.up}, over {curve.across}.\n"
        yield _markdown(["", *(number(size) for size in sizes)], rows)


def _engines(record: Record) -> str:
    rows = [
        [name, f"{engine.title} {engine.version}".strip(), engine.missing or engine.settings, "; ".join(engine.notes)]
        for name, engine in record.engines.items()
    ]
    return _markdown(["", "version", "settings", "not like for like"], rows)


def number(value: float) -> str:
    """Three digits that mean something."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value / 10**digits) * 10**digits:,}"
    return f"{value:.3g}"


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
