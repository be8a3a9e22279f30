"""Measure the store on JetStream beside a bare loop of nats-py, on one server and on three.

Both take turns in one run, on the same servers. A ratio is the median of the rounds' ratios: the store's figure divided
by the bare loop's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import NamedTuple

import msgspec

from bench.harness.instruments import percentile
from bench.harness.paths import ROOT
from bench.jetstream.child import Task
from bench.jetstream.memory import memory_rows
from bench.jetstream.sides import Bare, Place, Side, Store

sys.path.append(str(ROOT / "tests/jetstream"))
from nats_servers import Cluster

ROUNDS, WRITER_ROUNDS = 7, 3
_APPENDS, _BATCHES, _BATCH, _READ = 400, 4, 1000, 20_000
_PROCESSES, _WRITER_SECONDS = 8, 3.0
_DELIVERED, _PAUSE_SECONDS = 400, 0.005


Sides = tuple[Store, Bare]


class Row(NamedTuple):
    """A line of the table: what, the store's figure, the bare loop's, their ratio, and what is aimed at."""

    title: str
    store: str
    bare: str
    ratio: str
    target: str

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"


def rates(title: str, rounds: list[tuple[float, float]], target: str, unit: str = "/s") -> Row:
    """Return the row of rates of rounds."""
    store, bare = (median(column) for column in zip(*rounds, strict=True))
    ratios = sorted(one / other for one, other in rounds)
    spread = f"{median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
    return Row(title, f"{store:,.0f}{unit}", f"{bare:,.0f}{unit}", spread, target)


def in_turns(sides: Sides, rate: Callable[[Side], float], rounds: int = ROUNDS) -> list[tuple[float, float]]:
    """Return both rates of each round. Every second round begins with the bare loop."""
    store, bare = sides
    rate(store), rate(bare)  # Warm up.
    found = []
    for number in range(rounds):
        if number % 2:
            second = rate(bare)
            found.append((rate(store), second))
        else:
            found.append((rate(store), rate(bare)))
    return found


def _per_second(count: int, work: Callable[[], object]) -> float:
    begin = perf_counter()
    work()
    return count / (perf_counter() - begin)


def append_rows(sides: Sides, name: str, target: str) -> list[Row]:
    """Return the rows of single appends: rates, and the times that they take."""
    taken: dict[type, list[float]] = {Store: [], Bare: []}

    def rate(side: Side) -> float:
        times = side.appends("bench:1", _APPENDS)
        taken[type(side)] += [(end - begin) / 1e3 for begin, end in pairwise(times)]
        return _APPENDS * 1e9 / (times[-1] - times[0])

    rows = [rates(name, in_turns(sides, rate), target)]
    return [*rows, Row("… p50, p99", _percentiles(taken[Store], "µs"), _percentiles(taken[Bare], "µs"), "", "")]


def _percentiles(times: list[float], unit: str) -> str:
    times.sort()
    return f"{percentile(times, 0.5):,.4g}, {percentile(times, 0.99):,.4g} {unit}"


def batch_and_read_rows(sides: Sides) -> list[Row]:
    """Return the rows of W3 and W4."""

    def batches(side: Side) -> float:
        return _BATCHES * _BATCH * 1e9 / sum(side.batch("batch:1", _BATCH) for _ in range(_BATCHES))

    rows = [rates("W3: batches of 1,000, events", in_turns(sides, batches), "0.75")]
    store, _ = sides
    for _ in range(_READ // _BATCH):
        store.batch("read:1", _BATCH)
    reads = in_turns(sides, lambda side: _per_second(_READ, lambda: side.read("read:1")), 5)
    return [*rows, rates(f"W4: a stream of {_READ:,}, beside an ordered consumer", reads, "0.6")]


# Several processes


@contextmanager
def running(tasks: list[Task]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start a process for each task, and let all begin at once."""
    pipe = subprocess.PIPE
    commands = [[sys.executable, "-m", "bench.jetstream.child", msgspec.json.encode(task).decode()] for task in tasks]
    children = [subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT) for command in commands]
    try:
        for child in children:
            assert child.stdout
            if child.stdout.readline() != b"ready\n":
                raise RuntimeError("a process did not begin")
        for child in children:
            assert child.stdin
            child.stdin.write(b"go\n")
            child.stdin.flush()
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def _times(child: subprocess.Popen[bytes]) -> list[int]:
    assert child.stdout
    return msgspec.json.decode(child.stdout.readline(), type=list[int])


def writer_rows(place: Place, *, shared: bool, target: str) -> list[Row]:
    """Return the rows of W6: eight processes, with a stream each or all with one."""
    rounds, fairness = [], []
    for number in range(WRITER_ROUNDS):
        both = []
        for side in ("store", "bare"):
            streams = [f"w{number}:{0 if shared else process}" for process in range(_PROCESSES)]
            with running([Task(place, side, "write", stream, _WRITER_SECONDS) for stream in streams]) as children:
                times = [_times(child) for child in children]
            each = [(len(one) - 1) * 1e9 / (one[-1] - one[0]) for one in times]
            both.append((sum(each), min(each) / max(each)))
        rounds.append((both[0][0], both[1][0]))
        fairness.append((both[0][1], both[1][1]))
    title = "W6b: eight processes, one stream" if shared else "W6a: eight processes, a stream each"
    store, bare = (f"{median(column):.2f}" for column in zip(*fairness, strict=True))
    return [rates(title, rounds, target), Row("… least / most", store, bare, "", "0.25" if shared else "")]


def delivery_row(place: Place, sides: Sides) -> Row:
    """Return the row of W9: from the begin of an append to the typed event in another process."""
    shown = []
    for side in sides:
        position = side.position()
        side.appends("bench:9", 1)
        with running([Task(place, side.name, "follow", "", _DELIVERED, position)]) as (child,):
            begun = []
            for _ in range(_DELIVERED):
                sleep(_PAUSE_SECONDS)
                begun.append(side.appends("bench:9", 1)[0])
            shown.append(_percentiles([(came - at) / 1e6 for came, at in zip(_times(child), begun, strict=True)], "ms"))
    return Row("W9: append begun → event in another process, p50, p99", shown[0], shown[1], "", "p99 ≤ 5 ms")


# All of it


def rows(size: int, folder: Path, only: str) -> Iterator[Row | str]:
    """Yield the rows of so many servers whose titles begin with `only`."""
    for syncs, name in (("always", "W1: append, synced"), ('"2m"', "W2: append, servers sync later")):
        with Cluster(folder / name[:2], size, syncs=syncs) as cluster:
            place = Place(cluster.address, size, "bench")
            sides = Store(place), Bare(place)
            if syncs == "always" and "memory".startswith(only):
                yield from memory_rows(cluster, place)
                cluster.delete("many")
            if name.startswith(only):
                yield from append_rows(sides, name, {1: "0.65", 3: "0.8"}[size] if syncs == "always" else "")
            if syncs == "always":
                if only in ("", "W3", "W4"):
                    yield from batch_and_read_rows(sides)
                if "W6a".startswith(only):
                    yield from writer_rows(place, shared=False, target="")
                if "W6b".startswith(only):
                    yield from writer_rows(place, shared=True, target="400/s" if size == 3 else "")
                if "W9".startswith(only):
                    yield delivery_row(place, sides)
            for side in sides:
                side.close()


def main(arguments: list[str]) -> None:
    """Print the tables, of all workloads or of those whose names begin as the first argument does."""
    only = arguments[0] if arguments else ""
    for size in (int(number) for number in arguments[1:] or (1, 3)):
        print(Row(f"{size} server{'s' * (size > 1)}", "hangarlog", "bare loop", "ratio", "target"))
        print("| --- " * len(Row._fields) + "|", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(size, Path(folder), only):
                print(row, flush=True)
        print(flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
