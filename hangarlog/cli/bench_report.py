"""The results of `hangarlog bench` as lines of text: tables, shares, histograms, warnings, a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from hangarlog.benchmark.results import Result, Results
from hangarlog.benchmark.verdict import MEMORY_TYPES, is_noisy, rounded
from hangarlog.cli.terminal import counted

WIDTH = 80
_BAR = 20
_READING = "reading"
_ROWS = 14
"""The most rows of a histogram, and how many empty ones in turn are shown as one."""
_GAP = 3
_RARE = 0.005
"""Buckets at both ends of a histogram with less than this share are shown as one."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_PLAIN = str.maketrans({"µ": "u", "→": ">", "█": "#", "░": ".", "≥": ">", "•": "*", "…": "..."})
_HISTOGRAMS = [
    ("durable", "bare_synced", "durable append", "bare write + fdatasync"),
    ("relaxed", "bare", "relaxed append", "bare write"),
    ("follow", "", "append returned → event in another process", ""),
]


def report(results: Results, *, unicode: bool) -> Iterator[tuple[str, bool]]:
    """Yield (line, whether it is a heading) of a run. Without `unicode` the lines are ASCII, except for names."""
    for line, heading in _report(results, unicode):
        yield (line if unicode else line.translate(_PLAIN)), heading


def _report(results: Results, unicode: bool) -> Iterator[tuple[str, bool]]:
    for line in _head(results):
        yield line, False
    for group, found in groupby(results.measures, lambda result: result.group):
        yield "", False
        rows = list(found)
        rate = "" if all(map(_has_no_rate, rows)) else "events/s"
        columns = "" if group == _READING else f"{'p50':>8}{'p99':>8}{'p99.9':>8}{'max':>9}"
        yield f"{group:<36}{rate:>11}{columns}", True
        for result in rows:
            yield _row(result), False
    parts = [
        ("where the time of a typical append goes", _shares(results)),
        ("how long single calls took", _histograms(results, unicode)),
        ("warnings", [line for text in results.warnings for line in _folded(text)]),
        ("verdict", [line for text in results.verdict for line in _folded(text)]),
    ]
    for heading, lines in parts:
        if lines:
            yield "", False
            yield heading, True
            for line in lines:
                yield line, False


def _head(results: Results) -> Iterator[str]:
    machine, payload = results.machine, results.payload
    load = "" if machine.load is None else f", load {machine.load:.1f}"
    beside = f", beside the store {machine.store}" if machine.store else ""
    yield f"measured in {machine.folder}{beside}"
    yield f"{machine.file_system or 'an unknown file system'}, {machine.cores} cores{load}, {machine.python}"
    yield machine.system
    sizes = f"{payload.bytes:,.0f} bytes of JSON, {payload.line_bytes:,.0f} bytes a line"
    yield f"payload: {payload.source} ({counted(payload.events, 'event')}), {sizes}"
    if not payload.classes:
        yield "appended as UntypedEvents, which are slower than classes of your own"
    stopped = "" if results.stopped is None else ", stopped early"
    yield f"{results.seconds:.1f} s, {counted(results.rounds, 'whole round')}{stopped}"


def _has_no_rate(result: Result) -> bool:
    return result.name == "follow"


def _row(result: Result) -> str:
    mark = " ~" if is_noisy(result) else ""
    if result.group == _READING:  # A call reads everything.
        times = f"{result.bytes_per_second / 1e6:>19,.0f} MB/s"
    else:
        times = "".join(f"{_time(time):>8}" for time in (result.p50_us, result.p99_us, result.p999_us))
        times += f"{_time(result.max_us):>9}"
    title = f"  {result.title}"
    if _has_no_rate(result):  # A long title takes its place.
        return f"{title + mark:<47}{times}".rstrip()
    return f"{title:<36}{f'{rounded(result.events_per_second):,}{mark}':>11}{times}".rstrip()


def _time(microseconds: float | None) -> str:
    if microseconds is None:
        return "-"
    for limit, unit, each in ((1e3, "µs", 1.0), (1e6, "ms", 1e3), (float("inf"), "s", 1e6)):
        if microseconds < limit:
            value = microseconds / each
            return f"{value:.{2 if value < 0.995 else 1 if value < 9.95 else 0}f} {unit}"
    return ""


def _shares(results: Results) -> list[str]:
    """Return lines such as `durable append  186 µs = 171 µs disk + 15 µs hangarlog`."""
    device = "memory" if results.machine.file_system in MEMORY_TYPES else "disk"
    lines = []
    for result in results.measures:
        if result.p50_us is None or result.disk_us is None:
            continue
        bare = result.name.startswith("bare")
        what = "bare" if bare else "durable"
        what += " append" if result.batch == 1 else f", {result.batch:,} events"
        total, disk, own = split(result.p50_us, result.disk_us)
        share = result.disk_us / result.p50_us
        bar = "█" * round(share * 10) + "░" * (10 - round(share * 10))
        rest = "write" if bare else "hangarlog"
        lines.append(f"  {bar}  {what:<22}{total:>8} = {disk} {device} + {own} {rest}")
    return lines


def split(total_us: float, disk_us: float) -> tuple[str, str, str]:
    """Return a time, its part in syncs, and the rest, rounded so that they add up as they are shown."""
    unit, each, digits = ("µs", 1.0, 0) if total_us < 10_000 else ("ms", 1000.0, 1)
    total, disk = round(total_us / each, digits), round(disk_us / each, digits)
    return tuple(f"{value:.{digits}f} {unit}" for value in (total, disk, total - disk))  # type: ignore[return-value]


def _histograms(results: Results, unicode: bool) -> list[str]:
    lines: list[str] = []
    for names in _HISTOGRAMS:
        shown = [
            (result, title)
            for name, title in zip(names[:2], names[2:], strict=True)
            if (result := results.find(name)) and result.histogram
        ]
        if shown and shown[0][0].name == names[0]:
            lines += [""] * bool(lines)
            lines.append(f"  {'':<18}" + "".join(f"{title:<30}" for _, title in shown).rstrip())
            lines += histogram_lines([result.histogram for result, _ in shown], unicode=unicode)
    return lines


def histogram_lines(columns: Sequence[Sequence[tuple[float, float, int]]], *, unicode: bool) -> list[str]:
    """Return the lines of histograms side by side; each column has (from, to, calls) in microseconds."""
    rows = _rows(columns)
    most = max(share for _, shares in rows for share in shares)
    return [
        (
            f"  {label:>16}  " + "".join(f"{_bar(share / most, unicode)} {_percent(share):<9}" for share in shares)
        ).rstrip()
        for label, shares in rows
    ]


def _rows(columns: Sequence[Sequence[tuple[float, float, int]]]) -> list[tuple[str, list[float]]]:
    """Return (label, each column's share of its calls). Rare ends are one row each, and wide histograms are coarser."""
    counts = [{low: count for low, _, count in column} for column in columns]
    totals = [sum(each.values()) for each in counts]
    lows = sorted({low for column in columns for low, _, _ in column})
    rows = [(low, [each.get(low, 0) / total for each, total in zip(counts, totals, strict=True)]) for low in lows]
    common = [number for number, (_, shares) in enumerate(rows) if max(shares) >= _RARE]
    first, last = common[0], common[-1] + 1
    middle = rows[first:last]
    ends = [*lows, max(high for column in columns for _, high, _ in column)]
    top = ends[last]
    while sum(map(any, (shares for _, shares in middle))) > _ROWS:
        middle = [(middle[at][0], _sums(middle[at : at + 2])) for at in range(0, len(middle), 2)]
    found: list[tuple[str, list[float]]] = []
    if first:
        found.append((f"under {_time(lows[first])}", _sums(rows[:first])))
    highs = [low for low, _ in middle[1:]] + [top]
    for (low, shares), high in zip(middle, highs, strict=True):
        found.append((f"under {_time(high)}" if not low else f"{_time(low)} - {_time(high)}", shares))
    if last < len(rows):
        found.append((f"{_time(top)} and over", _sums(rows[last:])))
    return _without_gaps(found)


def _without_gaps(rows: list[tuple[str, list[float]]]) -> list[tuple[str, list[float]]]:
    found: list[tuple[str, list[float]]] = []
    for empty, group in groupby(rows, lambda row: not any(row[1])):
        these = list(group)
        found += [("…", these[0][1])] if empty and len(these) >= _GAP else these
    return found


def _sums(rows: Sequence[tuple[float, list[float]]]) -> list[float]:
    return [sum(column) for column in zip(*(shares for _, shares in rows), strict=True)]


def _percent(share: float) -> str:
    if not share:
        return ""
    return f"{share:.1%}" if share >= 0.001 else f"{share:.2%}" if share >= 0.0001 else "<0.01%"


def _bar(part: float, unicode: bool) -> str:
    """Return a bar of at most `_BAR` characters, filled up with blanks; what is not nothing is seen."""
    if not unicode:
        return ("#" * (max(1, round(part * _BAR)) if part else 0)).ljust(_BAR)
    eighths = max(1, round(part * _BAR * 8)) if part else 0
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(_BAR)


def _folded(text: str) -> list[str]:
    """Return a text as an item of a list, folded to the width."""
    lines, line = [], "  •"
    for word in text.split(" "):
        if len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {word}"
    return [*lines, line]
