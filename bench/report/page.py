"""The page of a record: Markdown, made whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.report.record import Cell, Curve, Record, Table
from bench.report.targets import TARGETS, met, reached

_HEAD = """# Benchmarks

Made by `python -m bench` from its record; do not edit. It measures hangarlog beside floors (the bare calls, in Python)
and peers, in turn, round by round, a fresh process a measurement: the figures are medians over the rounds, the ratios
medians of the ratios within a round. Read the ratios: absolute times are this machine's, and drift. Nothing is claimed
about other machines, payloads or settings, and no engine was tuned beyond what is said here.

The payload is MCP Hangar's `ProviderStarted`, about 200 bytes of JSON, each with an id of its own; reads give typed
objects where an engine can. *Durable*: an append returns when it is on the device. *Relaxed*: the operating system
decides. There is no workload for followers yet, because hangarlog has no subscriptions.
"""


def page(record: Record, curves: Record | None = None, pictures: Mapping[str, str] | None = None) -> str:
    """The whole of it; `pictures` maps a title to a path."""
    pictures = dict(pictures or {})
    drawn = (curves or record).curves
    parts = [_HEAD, *_about(record), *_targets(record)]
    titles = {curve.title for curve in drawn}
    parts += [f"![{title}]({path})\n" for title, path in pictures.items() if title not in titles]
    parts += [_section(table) for table in record.tables]
    if drawn:
        about = (
            f"Measured on {curves.date}, {curves.options['rounds']} rounds where stores do not grow." if curves else ""
        )
        parts += ["## Curves\n", f"{about}\n", *(_curve(curve, pictures.get(curve.title)) for curve in drawn)]
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
        value = reached(target, record)
        shown = "not measured" if value is None else number(value)
        verdict = "" if value is None else "met" if met(target, value) else "**not met**"
        rows.append([target.workload, _name(target.ours), _name(target.what), shown, verdict])
    if rows:
        yield "## Targets\n"
        yield _markdown(["workload", "", "needed", "measured", ""], rows)


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
    figures = [number(value) if (value := cell.median(figure)) is not None else "" for figure in table.figures]
    return [_name(contender), *figures, _ratio(table, contender)]


def _ratio(table: Table, contender: str) -> str:
    """How much better hangarlog's first figure is."""
    if contender == "hangarlog" or "hangarlog" not in table.cells:
        return ""
    pair = ("hangarlog", contender) if table.more_is_better else (contender, "hangarlog")
    value = table.ratio(next(iter(table.figures)), *pair)
    return "" if value is None else f"{value:.2f}"


def _curve(curve: Curve, picture: str | None) -> str:
    sizes = sorted({size for line in curve.lines.values() for size, _ in line})
    rows = []
    for name, line in curve.lines.items():
        points = dict(line)
        rows.append([name, *(number(points[size]) if size in points else "" for size in sizes)])
    shown = f"![{curve.title}]({picture})\n\n" if picture else ""
    failed = "".join(f"{name}: {reason}\n\n" for name, reason in curve.errors.items())
    table = _markdown([f"{curve.up}, over {curve.across}", *(number(size) for size in sizes)], rows)
    return f"### {curve.title}\n\n{shown}{failed}{table}"


def _engines(record: Record) -> str:
    rows = [
        [name, f"{engine.title} {engine.version}".strip(), engine.missing or engine.settings, "; ".join(engine.notes)]
        for name, engine in record.engines.items()
    ]
    return _markdown(["", "version", "settings", "not like for like"], rows)


def number(value: float) -> str:
    """Three digits that mean something."""
    if value >= 1000:
        unit = 10 ** (len(str(int(value))) - 3)
        return f"{round(value / unit) * unit:,}"
    return "0" if value < 0.001 else f"{value:.3g}"


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
