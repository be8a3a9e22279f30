"""The curves: how figures change with the length of a stream, with streams, writers, followers and the payload."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.child import ask
from bench.comparison import measured, say, scratch
from bench.harness.machine import machine
from bench.harness.workload import Measure, Task, Workload
from bench.measures import appending, followers, growing, processes, writers
from bench.report.record import Curve, Record

_ENGINES = ("hangarlog", "sqlite3")
_BYTES_AN_EVENT = 1000  # On disk, both copies.
_BYTES_A_STREAM = 6000


def _point(key: str, measure: Measure, *, durable: bool = False, kind: str = "") -> Workload:
    return Workload(f"curve {key}", "", measure, {}, _ENGINES, {}, {}, durable=durable, kind=kind)


_PAYLOADS = (50, 200, 1000, 10_000, 100_000, 1_000_000)

POINTS = {
    point.key: point
    for point in (
        _point("longer", growing.longer_stream),
        _point("read", growing.read_whole),
        _point("open long", growing.open_long_stream),
        _point("verify", processes.verifying),
        _point("streams", growing.more_streams),
        _point("open some", growing.open_some_stream),
        _point("durable writers", writers.together, durable=True),
        _point("relaxed writers", writers.together),
        _point("followers", followers.followed),
        *(_point(f"payload {size}", appending.one_a_call, kind=str(size)) for size in _PAYLOADS),
    )
}


@dataclass(frozen=True)
class _Family:
    """Curves over one size, measured together: at each size some points, in one store that grows or in fresh ones."""

    across: str
    sizes: Sequence[int]
    points: Sequence[str]
    curves: Sequence[tuple[str, str, str]]  # (figure, title, unit)
    grows: int = 0  # Bytes on disk of one more, where the store is kept from size to size.
    limits: str = "seconds"


_FAMILIES = (  # What takes longest comes last.
    _Family(
        "writing processes, a stream each",
        [1, 2, 4, 8, 16, 32],
        ["durable writers"],
        [("rate", "Durable writers", "events/s"), ("p99", "Durable writers, p99 of an append", "µs")],
    ),
    _Family(
        "relaxed writing processes, a stream each",
        [1, 2, 4, 8, 16, 32],
        ["relaxed writers"],
        [("rate", "Relaxed writers", "events/s"), ("p99", "Relaxed writers, p99 of an append", "µs")],
    ),
    _Family(
        "followers that poll every millisecond",
        [1, 2, 4, 8, 16, 32, 64],
        ["followers"],
        [
            ("rate", "One relaxed writer while others follow", "events/s"),
            ("late", "The slowest follower, behind the writer's end", "ms"),
        ],
    ),
    _Family(
        "bytes of payload",
        _PAYLOADS,
        ["payload"],
        [("p50", "A relaxed append of a large payload", "µs, p50")],
    ),
    _Family(
        "events in a stream",
        [10**n for n in range(3, 8)],
        ["longer", "read", "open long", "verify"],
        [
            ("append", "A relaxed append to a long stream", "µs, p50"),
            ("version", "One event by version of a long stream", "µs, p50"),
            ("rate", "Reading a store that is one long stream", "events/s"),
            ("open", "Opening a store that is one long stream, until the first append", "ms"),
            ("write_mb", "Peak memory of writing", "MB"),
            ("read_mb", "Peak memory of reading", "MB"),
            ("mb", "Peak memory of verifying", "MB"),
        ],
        grows=_BYTES_AN_EVENT,
    ),
    _Family(
        "streams",
        [10**n for n in range(7)],
        ["streams", "open some"],
        [
            ("create", "Making a stream with its first event, relaxed", "µs, mean"),
            ("append", "A relaxed append to one of many streams", "µs, p50"),
            ("open", "Opening a store of many streams, until the first append", "ms"),
        ],
        grows=_BYTES_A_STREAM,
    ),
)


def draw(folder: str | None, quick: bool, keep: Callable[[Record], None], rounds: int = 3) -> Record:
    """Measure all points (quick: of the two smallest sizes); `keep` is given the record after each family."""
    with scratch(folder) as path:
        options = {"rounds": str(rounds), "sizes": "quick" if quick else "full"}
        record = Record(time.strftime("%Y-%m-%d"), machine(path), options, measured(_ENGINES))
        for number, family in enumerate(_FAMILIES):
            say(f"curves over {family.across}")
            record.curves += _Drawing(family, f"{path}/{number}", quick, rounds).run()
            keep(record)
    return record


class _Drawing:
    """One family in the making."""

    def __init__(self, family: _Family, folder: str, quick: bool, rounds: int) -> None:
        self.family, self.folder, self.rounds = family, folder, rounds
        self.sizes = family.sizes[:2] if quick else family.sizes
        self.curves = {
            figure: Curve(f"{figure} over {family.across}", title, family.across, unit)
            for figure, title, unit in family.curves
        }
        self.seconds = 0.2 if quick else 1.5

    def run(self) -> list[Curve]:
        """Sizes in turn, engines in turn within each."""
        before = 0
        for size in self.sizes:
            if (needed := (size - before) * self.family.grows * 2) > _free(self.folder):
                say(f"  {size:,}: left out, there is not enough room on the disk ({needed / 1e9:.0f} GB)")
                break
            for engine in _ENGINES:
                found = self._measured(engine, before, size)
                for figure, curve in self.curves.items():
                    if figure in found:
                        curve.lines.setdefault(engine, []).append((size, found[figure]))
                say(f"  {size:,} {engine}: " + ", ".join(f"{key} {value:.5g}" for key, value in found.items()))
            before = size
        shutil.rmtree(self.folder, ignore_errors=True)
        return list(self.curves.values())

    def _measured(self, engine: str, before: int, size: int) -> dict[str, float]:
        """All figures at a size: medians of rounds where every round has a fresh store."""
        found: dict[str, list[float]] = {}
        for number in range(1 if self.family.grows else self.rounds):
            path = os.path.join(self.folder, engine if self.family.grows else f"{engine}-{number}")
            os.makedirs(path, exist_ok=True)
            for point in self._points(engine, size):
                sizes = {"from": before, "to": size, "processes": size, "events": 2000, "shared": 0}
                answer = ask(Task("measure", point, engine, path, {**sizes, "seconds": self.seconds}, number))
                if answer.error or answer.unsupported:
                    self.curves[next(iter(self.curves))].errors[engine] = answer.error or answer.unsupported
                    say(f"  {size:,} {engine} {point}: {answer.error or answer.unsupported}")
                for figure, value in answer.figures.items():
                    if figure in self.curves:
                        found.setdefault(figure, []).append(value)
            if not self.family.grows:
                shutil.rmtree(path, ignore_errors=True)
        return {figure: sorted(values)[len(values) // 2] for figure, values in found.items()}

    def _points(self, engine: str, size: int) -> Iterator[str]:
        for name in self.family.points:
            if name == "payload":
                yield f"curve payload {size}"
            elif name != "verify" or engine == "hangarlog":
                yield f"curve {name}"


def _free(folder: str) -> int:
    return shutil.disk_usage(os.path.dirname(folder)).free
