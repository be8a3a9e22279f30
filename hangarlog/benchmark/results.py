"""The results of a run, as JSON has them. docs/bench.md describes every key."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence

import msgspec

from hangarlog.benchmark.figures import histogram, percentile, spread, typical_wait
from hangarlog.benchmark.payloads import Payloads
from hangarlog.benchmark.plan import Measure, Plan
from hangarlog.benchmark.scratch import Place
from hangarlog.benchmark.turn import Turn

FORMAT = 1
"""The version of the keys. It rises if one changes its meaning or goes."""


class Machine(msgspec.Struct):
    """Where the figures come from. `load` is the load average of the last minute before the run, None if unknown."""

    system: str
    python: str
    cores: int
    load: float | None
    folder: str
    store: str | None
    file_system: str


class Payload(msgspec.Struct):
    """What was appended: how many different events, the mean bytes of a payload and of a stored line.

    `classes` is how many classes were made for them, 0 if they were appended as `UntypedEvent`s.
    """

    source: str
    events: int
    classes: int
    bytes: float
    line_bytes: float


class Result(msgspec.Struct):
    """The figures of one measure. Times are in microseconds, of single calls; percentiles with too few calls are None.

    Attributes:
        name, title, group: The measure.
        beside: The bare measure to compare it with, None for none.
        processes: How many processes appended at once.
        batch: Events per append.
        calls, events, seconds: How much was measured.
        events_per_second: The rate over all turns.
        bytes_per_second: The rate in bytes: of lines, each event counted once; of payloads for JSON.
        p50_us, p99_us, p999_us, max_us: Of all calls of all turns.
        spread: The rate of the quickest round divided by that of the slowest; None where the rate is given.
        disk_us, hangarlog_us: The parts of `p50_us` of a watched append: in syncs, and the rest.
        histogram: [from, to, calls] of each bucket, in microseconds.
    """

    name: str
    title: str
    group: str
    beside: str | None
    processes: int
    batch: int
    calls: int
    events: int
    seconds: float
    events_per_second: float
    bytes_per_second: float
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    max_us: float | None = None
    spread: float | None = None
    disk_us: float | None = None
    hangarlog_us: float | None = None
    histogram: list[tuple[float, float, int]] = []


class Results(msgspec.Struct):
    """A run. `stopped` says why it ended early, None if it did not. `seconds` is how long it took."""

    benchmark: int
    hangarlog: str
    machine: Machine
    payload: Payload
    rounds: int
    seconds: float
    stopped: str | None
    measures: list[Result]
    warnings: list[str] = []
    verdict: list[str] = []

    def find(self, name: str) -> Result | None:
        """Return the result of a measure, None if there is none."""
        return next((result for result in self.measures if result.name == name), None)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine(place: Place) -> Machine:
    """Return where the figures come from."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return Machine(platform.platform(), python, cores(), load, place.folder, place.store, place.file_system)


def describe_payload(payloads: Payloads) -> Payload:
    """Return what was appended."""
    return Payload(payloads.source, len(payloads.events), payloads.classes, payloads.mean_bytes, payloads.line_bytes)


def results_of(plan: Plan, turns: Mapping[str, Sequence[Turn]], payloads: Payloads) -> list[Result]:
    """Return the figures of every measure that had a turn."""
    return [_result(measure, turns[measure.name], payloads) for measure in plan.measures if turns.get(measure.name)]


def _result(measure: Measure, turns: Sequence[Turn], payloads: Payloads) -> Result:
    samples = sorted(sample for turn in turns for sample in turn.samples)
    events, seconds = sum(turn.events for turn in turns), sum(turn.end - turn.begin for turn in turns) / 1e9
    rate = events / seconds if seconds else 0.0
    result = Result(
        measure.name,
        measure.title,
        measure.group,
        measure.beside or None,
        measure.processes,
        measure.batch,
        len(samples),
        events,
        seconds,
        rate,
        rate * (payloads.line_bytes if measure.singly else payloads.mean_bytes),
        spread=None if measure.paced else spread(turns),
    )
    if not measure.singly:
        return result
    result.p50_us, result.p99_us, result.p999_us = (_us(percentile(samples, part)) for part in (0.5, 0.99, 0.999))
    result.max_us = _us(samples[-1])
    result.histogram = [(low / 1e3, high / 1e3, count) for low, high, count in histogram(samples)]
    if result.p50_us is not None and any(wait for turn in turns for wait in turn.waits):
        result.disk_us = result.p50_us * typical_wait(turns)
        result.hangarlog_us = result.p50_us - result.disk_us
    return result


def _us(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e3
