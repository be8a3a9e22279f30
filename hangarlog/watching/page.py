"""One page of plots about a store: a single file without scripts that opens anywhere, and asks no network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from hangarlog.watching.durations import BOUNDS_SECONDS, SyncTimes
from hangarlog.watching.figures import short, sized, timed
from hangarlog.watching.page_style import STYLE
from hangarlog.watching.scales import interval_name, interval_of, time_ticks
from hangarlog.watching.store_files import LargeStream
from hangarlog.watching.subscriber_signs import SubscriberSigns
from hangarlog.watching.survey import Survey, TypeShare
from hangarlog.watching.svg import Bar, Mark, area, bars, clean, meter
from hangarlog.watching.vitals import Vitals

OPENING = "<!doctype html>\n<!-- hangarlog stats -->\n"
"""What every page begins with: a page that begins so may be replaced by a newer one."""

MOST_ROWS = 12
_INTERVALS, _POINTS = 100, 240
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page allows itself: no script, image or network, should a text from a store ever get through as markup."""


def page(vitals: Vitals, survey: Survey) -> str:
    """Return the page."""
    name = clean(os.path.basename(vitals.path) or vitals.path)
    parts = [
        OPENING,
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{name} · hangarlog</title><style>{STYLE}</style></head><body><main>",
        f'<h1>{name}</h1><p class="path">{clean(vitals.path)}</p>',
        _tiles(vitals, survey),
        _problems([*vitals.problems, *([survey.problem] if survey.problem else [])]),
        '<div class="plots">',
        *_figures(vitals, survey),
        "</div>",
        _footer(vitals, survey),
        "</main></body></html>\n",
    ]
    return "".join(parts)


# The head and the foot


def _tiles(vitals: Vitals, survey: Survey) -> str:
    files = vitals.files
    total = sum(part.bytes for part in files.parts.values()) if files else None
    tiles = [
        ("unknown" if vitals.committed is None else f"{vitals.committed:,}", "events"),
        (f"{files.streams:,}" if files else "unknown", "streams"),
        (sized(total), "on disk"),
    ]
    if len(survey.times) > 1:
        tiles.append((timed(survey.times[-1] - survey.times[0]), "first to last event"))
    if vitals.last_at is not None:
        tiles.append((timed(max(0.0, vitals.at - vitals.last_at)), "since the last event"))
    if vitals.state.syncs and vitals.state.syncs.count:
        tiles.append((timed(vitals.state.syncs.quantile(0.99)), "p99 of a sync"))
    shown = "".join(f'<div class="tile"><b>{clean(value)}</b><span>{text}</span></div>' for value, text in tiles)
    return f'<div class="tiles">{shown}</div>'


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    rows = "".join(f"<li>{clean(problem)}</li>" for problem in problems)
    return f'<div class="problems"><b>Not everything could be read</b><ul>{rows}</ul></div>'


def _footer(vitals: Vitals, survey: Survey) -> str:
    how = (
        "All events were counted."
        if survey.is_exact
        else f"Growth, rates, types and payloads are estimates from {survey.looked_at:,} of {survey.events:,} events."
    )
    moment = _utc(vitals.at)
    store = f" · store {clean(vitals.meta.store_id)}, format {vitals.meta.format}" if vitals.meta else ""
    return f"<footer>{how} Times are in UTC. Made by hangarlog at {moment}{store}.</footer>"


def _utc(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _minute(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


# The figures


def _figures(vitals: Vitals, survey: Survey) -> Iterator[str]:
    if len(survey.times) > 1 and survey.times[-1] > survey.times[0]:
        yield _figure("Growth", "events recorded up to a time", _growth(survey))
        yield _activity(survey)
    yield _types("Event types", "by number of events", survey.types, survey.other_types, by_bytes=False)
    yield _types("Payload bytes by type", "sum of the payloads", survey.types, survey.other_types, by_bytes=True)
    if survey.payload_sizes:
        yield _figure("Payload sizes", "events by the bytes of their payload", _payloads(survey))
    if vitals.state.syncs and vitals.state.syncs.count:
        text = f"{vitals.state.syncs.count:,} syncs of the journal since the machine started"
        yield _figure("How long syncs take", text, _syncs(vitals.state.syncs))
    if vitals.files and vitals.files.largest:
        yield _figure("Largest streams", "bytes of their files", _streams(vitals.files.largest))
    if vitals.files:
        yield _figure("Files", "by what they are for", _files(vitals))
    if vitals.subscribers:
        most = (
            f"the {MOST_ROWS} most behind of {len(vitals.subscribers):,}" if len(vitals.subscribers) > MOST_ROWS else ""
        )
        text = most or "how far each named subscriber is"
        yield _figure("Subscribers", text, _subscribers(vitals.subscribers, vitals.committed))


def _figure(title: str, note: str, content: str) -> str:
    return f'<figure><figcaption><h2>{title}</h2><p class="note">{clean(note)}</p></figcaption>{content}</figure>'


def _growth(survey: Survey) -> str:
    times = survey.times
    count = len(times)
    weight = survey.events / count
    places = sorted({round(number * (count - 1) / (_POINTS - 1)) for number in range(_POINTS)})
    points = [(times[place], (place + 1) * weight) for place in places]
    label = f"{survey.events} events from {_utc(times[0])} to {_utc(times[-1])}"
    return area(label, "events", points, time_ticks(times[0], times[-1], 7))


def _activity(survey: Survey) -> str:
    first, last = survey.times[0], survey.times[-1]
    interval = interval_of(first, last, _INTERVALS)
    start = first // interval * interval
    number = int((last - start) / interval) + 1
    counts = survey.events_by_time([start + interval * each for each in range(number + 1)])
    values = [
        Bar(count, f"{_utc(start + interval * each)}: {short(count)} events") for each, count in enumerate(counts)
    ]
    ticks = [((tick.at - start) / interval, tick.label) for tick in time_ticks(start, start + interval * number, 7)]
    title = f"Events per {interval_name(interval)}"
    return _figure(title, f"from {_minute(first)} to {_minute(last)} UTC", bars(title, "events", values, ticks))


def _types(title: str, note: str, types: Sequence[TypeShare], other: TypeShare | None, *, by_bytes: bool) -> str:
    def value(each: TypeShare) -> float:
        return each.bytes if by_bytes else each.events

    total = sum(map(value, types)) + (value(other) if other else 0.0)
    ordered = sorted(types, key=lambda each: (-value(each), each.name))
    rows = [(clean(each.name), value(each)) for each in ordered[:MOST_ROWS]]
    rest = sum(map(value, ordered[MOST_ROWS:])) + (value(other) if other else 0.0)
    if rest:
        rows.append(("<i>all others</i>", rest))
    heads = ("type", "", "share", "bytes" if by_bytes else "events")
    show = sized if by_bytes else short
    cells = [(name, _meter(of, rows[0][1]), _percent(of, total), clean(show(of))) for name, of in rows]
    return _figure(title, note, _table(heads, cells))


def _meter(value: float, highest: float) -> str:
    return meter(value / highest if highest else 0.0)


def _percent(value: float, total: float) -> str:
    share = 100 * value / total if total else 0.0
    return (
        f"{share:.0f}\u202f%"
        if share >= 9.95 or not share
        else f"{share:.1f}\u202f%"
        if share >= 0.05
        else "&lt; 0.1\u202f%"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are markup already; those with a meter are recognised by it."""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="meter-cell">{cell}</td>' if "<svg" in cell else f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _payloads(survey: Survey) -> str:
    low, high = min(survey.payload_sizes), max(survey.payload_sizes)
    low, high = max(0, low - 1), high + 1
    numbers = range(low, high + 1)
    values = [
        Bar(count := survey.payload_sizes.get(n, 0.0), f"{_bytes(n - 1)} to {_bytes(n)}: {short(count)} events")
        for n in numbers
    ]
    ticks = [(n - low + 1, _bytes(n)) for n in numbers]
    return bars("Payload sizes", "events", values, ticks)


def _bytes(power: int) -> str:
    """Return 2^`power` bytes as text."""
    units = ("B", "KiB", "MiB", "GiB")
    return "0 B" if power < 0 else f"{1 << power % 10} {units[min(3, power // 10)]}"


def _syncs(times: SyncTimes) -> str:
    used = [number for number, (count, _) in enumerate(times.buckets) if count]
    low, high = max(0, used[0] - 2), min(len(BOUNDS_SECONDS), used[-1] + 2)
    bounds = (0.0, *BOUNDS_SECONDS, float("inf"))
    values = [
        Bar(times.buckets[n][0], f"{timed(bounds[n])} to {timed(bounds[n + 1])}: {times.buckets[n][0]:,} syncs")
        for n in range(low, high + 1)
    ]
    ticks = [
        (n - low + 1, timed(BOUNDS_SECONDS[n])) for n in range(low, min(high + 1, len(BOUNDS_SECONDS))) if n % 2 == 0
    ]
    marks = []
    for name, fraction in (("p50", 0.5), ("p99", 0.99)):
        value = times.quantile(fraction)
        if value is not None:
            marks.append(Mark(_place(value) - low, f"{name} {timed(value)}"))
    return bars("How long syncs take", "syncs", values, ticks, marks)


def _place(seconds: float) -> float:
    """Return where a time lies among the buckets: their bounds are evenly spaced."""
    from math import log2

    return min(max(0.0, 2 * log2(max(seconds, 1e-9) / 1e-6) + 1), len(BOUNDS_SECONDS) + 1.0)


def _streams(largest: Sequence[LargeStream]) -> str:
    rows = [(clean(each.name), _meter(each.bytes, largest[0].bytes), sized(each.bytes)) for each in largest[:MOST_ROWS]]
    return _table(("stream", "", "size"), rows)


def _subscribers(subscribers: Sequence[SubscriberSigns], committed: int | None) -> str:
    ordered = sorted(subscribers, key=lambda each: (-(each.lag or 0), each.name))[:MOST_ROWS]
    rows = []
    for each in ordered:
        owner = "unknown" if each.is_owned is None else "working" if each.is_owned else "nobody"
        progress = meter(each.position / committed) if committed else ""
        behind = clean(timed(each.lag_seconds)) if each.lag else "0 s"
        rows.append((clean(each.name), progress, clean(short(each.lag)), behind, owner))
    return _table(("name", "", "lag", "behind", "owner"), rows)


def _files(vitals: Vitals) -> str:
    assert vitals.files
    most = max(part.bytes for part in vitals.files.parts.values())
    names = {"journal": "journal", "streams": "streams", "other": "indexes, locks, snapshots and the like"}
    rows = [
        (names[part], _meter(each.bytes, most), f"{each.files:,}", sized(each.bytes))
        for part, each in vitals.files.parts.items()
    ]
    if vitals.space:
        rows.append(("free on the file system", "", "", sized(vitals.space.free)))
    return _table(("part", "", "files", "size"), rows)
