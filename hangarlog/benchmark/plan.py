"""What a run measures, in which order, and how much it may write."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hangarlog.benchmark.alone import INTERVAL_SECONDS, Alone
from hangarlog.benchmark.errors import BenchmarkError
from hangarlog.benchmark.payloads import Payloads
from hangarlog.benchmark.reading import Reading
from hangarlog.benchmark.scratch import Place, free_bytes
from hangarlog.benchmark.together import Together
from hangarlog.benchmark.turn import Turn

BATCHES = (10, 100, 1000)
_MOST_TURN_BYTES = 16 << 20
_LEAST_TURN_BYTES = 1 << 20
_FIXED_BYTES = 16 << 20
"""What stores take besides events: rings, catalogs, indexes."""

_ROUND_SECONDS = 12
"""The length of a round in a long run: in a longer one, turns would end because they have written enough."""


class Stores(msgspec.Struct):
    """What the turns of a round use."""

    alone: Alone
    reading: Reading
    together: Together


class Measure(msgspec.Struct, frozen=True):
    """One measure of a run.

    Attributes:
        name: Its name in JSON.
        title: Its name for people.
        group: The heading that it stands below.
        turn: How to measure: (the stores of a round, seconds) -> the turn.
        weight: Its share of the time, relative to the others.
        batch: Events per append.
        processes: How many processes append.
        beside: The name of the bare measure it stands beside, "" for none.
        singly: True if each call was timed by itself, so that there are percentiles.
        writes: True if it writes files.
        paced: True if its rate is its own choice.
    """

    name: str
    title: str
    group: str
    turn: Callable[[Stores, float], Turn]
    weight: float = 1
    batch: int = 1
    processes: int = 1
    beside: str = ""
    singly: bool = True
    writes: bool = True
    paced: bool = False


class Plan(msgspec.Struct):
    """A run: its length in seconds, its rounds, and what it measures.

    `turn_bytes` is the most that a turn writes, `needed_bytes` the most that the files of a run take at one moment.
    """

    seconds: float
    rounds: int
    processes: int
    turn_bytes: int
    needed_bytes: int
    measures: list[Measure]


def make_plan(place: Place, payloads: Payloads, seconds: float, processes: int) -> Plan:
    """Return the plan of a run. Raises `BenchmarkError` if there is not enough room for it."""
    free, line_bytes = free_bytes(place.folder), payloads.line_bytes
    least = max(_LEAST_TURN_BYTES, int(4 * line_bytes))  # Two calls of two copies.
    turn_bytes = max(least, _MOST_TURN_BYTES)
    turns = sum(measure.writes for measure in _measures(list(BATCHES), processes))
    if free < 2 * _needed(turns, turn_bytes):
        turn_bytes = max(least, (free // 2 - _FIXED_BYTES) // (turns + 1))
    needed = _needed(turns, turn_bytes)
    if free < needed:
        raise BenchmarkError(
            place.folder,
            f"it has {free >> 20:,} MiB free, and a run may need {needed >> 20:,} MiB there; free some space, "
            "name a folder on another disk, or measure smaller payloads",
        )
    batches = [size for size in BATCHES if size * 2 * line_bytes <= turn_bytes / 4]
    rounds = max(5, int(seconds / _ROUND_SECONDS)) if seconds >= 20 else 3 if seconds >= 5 else 2 if seconds >= 1 else 1
    return Plan(seconds, rounds, processes, turn_bytes, needed, _measures(batches, processes))


def _needed(turns: int, turn_bytes: int) -> int:
    return (turns + 1) * turn_bytes + _FIXED_BYTES


def _measures(batches: list[int], processes: int) -> list[Measure]:
    one, many, read = "one append at a time", f"{processes} processes at once, durable", "reading"
    found = [
        Measure("durable", "durable", one, lambda s, t: s.alone.durable(t), 2, beside="bare_synced"),
        Measure("bare_synced", "bare write + fdatasync", one, lambda s, t: s.alone.bare_synced(t), 2),
        Measure("interval", f"every {INTERVAL_SECONDS:g} s", one, lambda s, t: s.alone.interval(t), beside="bare"),
        Measure("relaxed", "relaxed", one, lambda s, t: s.alone.relaxed(t), beside="bare"),
        Measure("bare", "bare write", one, lambda s, t: s.alone.bare(t), 0.5),
        Measure(
            "encode", "JSON encoding (msgspec)", one, lambda s, t: s.alone.encode(t), 0.3, singly=False, writes=False
        ),
    ]
    for size in batches:
        found += _batch(size)
    found += [
        Measure(
            "processes_own",
            "a stream each",
            many,
            lambda s, t: s.together.own_streams(t),
            2,
            processes=processes,
            beside="processes_bare",
        ),
        Measure(
            "processes_one",
            "one stream",
            many,
            lambda s, t: s.together.one_stream(t),
            2,
            processes=processes,
            beside="processes_bare",
        ),
        Measure(
            "processes_bare",
            "bare write + fdatasync, a file each",
            many,
            lambda s, t: s.together.bare(t),
            processes=processes,
        ),
        Measure("read_stream", "one stream", read, lambda s, t: s.reading.stream(t), beside="bare_read", writes=False),
        Measure("read_all", "all streams", read, lambda s, t: s.reading.all(t), beside="bare_read", writes=False),
        Measure("bare_read", "bare read of the journal", read, lambda s, t: s.reading.bare(t), 0.5, writes=False),
        Measure(
            "decode", "JSON decoding (msgspec)", read, lambda s, t: s.alone.decode(t), 0.3, singly=False, writes=False
        ),
        Measure(
            "follow",
            "append returned → event in another process",
            "following",
            lambda s, t: s.together.follow(t),
            1.5,
            paced=True,
        ),
    ]
    return found


def _batch(size: int) -> list[Measure]:
    group = f"batches of {size:,}"
    return [
        Measure(
            f"durable_{size}",
            "durable",
            group,
            lambda s, t: s.alone.durable(t, size),
            0.8,
            size,
            beside=f"bare_synced_{size}",
        ),
        Measure(
            f"bare_synced_{size}", "bare write + fdatasync", group, lambda s, t: s.alone.bare_synced(t, size), 0.8, size
        ),
        Measure(f"relaxed_{size}", "relaxed", group, lambda s, t: s.alone.relaxed(t, size), 0.6, size),
    ]
