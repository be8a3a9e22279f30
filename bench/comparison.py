"""Running the workloads: engines take turns round by round, each measurement in a fresh process and folder."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import engines
from bench.child import Answer, ask
from bench.harness.machine import machine
from bench.harness.workload import Task, Workload
from bench.report.record import Cell, Measured, Record, Table


@dataclass(frozen=True)
class Options:
    """What to run. `folder` is where stores are made, in a temporary folder of their own."""

    workloads: Sequence[Workload]
    engines: Sequence[str]
    rounds: int
    quick: bool
    folder: str | None


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def scratch(folder: str | None) -> Iterator[str]:
    """A folder for stores that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hangarlog-bench-", dir=folder, ignore_cleanup_errors=True) as path:
        yield path


def compare(options: Options, keep: Callable[[Record], None]) -> Record:
    """Measure everything that was asked for; `keep` is given the record after each workload."""
    with scratch(options.folder) as folder:
        sizes = "quick: too small to mean anything" if options.quick else "full"
        chosen = {"rounds": str(options.rounds), "sizes": sizes}
        record = Record(time.strftime("%Y-%m-%d"), machine(folder), chosen, measured(options.engines))
        if record.machine["file system"] in ("tmpfs", "overlay"):
            say(f"on {record.machine['file system']} a sync may mean nothing; --folder names another place")
        stores = Stores(folder, options.quick)
        for workload in options.workloads:
            record.tables.append(_Comparison(workload, options, record.engines, stores, folder).run())
            keep(record)
    return record


def measured(names: Sequence[str]) -> dict[str, Measured]:
    """The engines, and which of them are not there."""
    found = {}
    for name in names:
        engine = engines.load(name)
        missing = engine.missing() or ""
        if missing:
            say(f"{engine.title}: {missing}")
        version = "" if missing else engine.version()
        found[name] = Measured(engine.title, version, engine.settings, list(engine.notes), missing)
    return found


class Stores:
    """The prepared stores: written at their first use, and read by every workload of the same recipe."""

    def __init__(self, folder: str, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self._answers: dict[str, Answer] = {}

    def get(self, workload: Workload, contender: str) -> tuple[str, Answer]:
        """(its folder, what preparing it said)."""
        name, engine = contender.partition(":")[0], engines.load(contender)
        variant = engine.stored_as(contender.partition(":")[2])
        sized = workload.sized(engine, quick=self.quick)
        sizes = {key: sized[key] for key in sized if key in ("events", "streams", "each", "block")}
        shown = [f"{sizes[size]:g}" for size in sorted(sizes)]
        key = "-".join([workload.prepare, workload.kind, name, variant, *shown])
        path = os.path.join(self.folder, key.replace(" ", "_"))
        if path not in self._answers:
            say(f"    {contender} writes {workload.prepare}")
            os.makedirs(path)
            stored = f"{name}:{variant}" if variant else name
            answer = self._answers[path] = ask(Task("prepare", workload.key, stored, path, dict(sizes)))
            if answer.error or answer.unsupported:
                say(f"    {answer.error or answer.unsupported}")
        return path, self._answers[path]


class _Comparison:
    """One workload of a run."""

    def __init__(
        self, workload: Workload, options: Options, known: dict[str, Measured], stores: Stores, folder: str
    ) -> None:
        self.workload, self.options, self.known, self.stores, self.folder = workload, options, known, stores, folder
        self.table = Table(
            workload.key,
            workload.title,
            workload.note,
            dict(workload.figures),
            workload.more_is_better,
            dict(workload.quick if options.quick else workload.sizes),
        )

    def run(self) -> Table:
        """All rounds; each begins with another contender."""
        say(f"{self.workload.key}: {self.workload.title}")
        able = [contender for contender in self.workload.contenders if self._begin(contender)]
        rounds = min(self.options.rounds, self.workload.rounds or self.options.rounds)
        for number in range(rounds):
            for contender in [*able[number % len(able) :], *able[: number % len(able)]] if able else []:
                if not self.table.cells[contender].error and not self.table.cells[contender].unsupported:
                    self._measure(contender, number)
        return self.table

    def _begin(self, contender: str) -> bool:
        """Whether it takes part, and its place in the table."""
        name = contender.partition(":")[0]
        if name not in self.known:
            return False
        engine = engines.load(name)
        why_not = self.known[name].missing or engine.unsupported.get(self.workload.key, "")
        cell = self.table.cells[contender] = Cell(unsupported=why_not)
        if self.workload.prepare and not why_not:
            _, answer = self.stores.get(self.workload, contender)
            cell.error, cell.unsupported = answer.error, answer.unsupported
        return not cell.error and not cell.unsupported

    def _measure(self, contender: str, number: int) -> None:
        workload, cell = self.workload, self.table.cells[contender]
        with self._place(contender) as path:
            os.sync()  # What others wrote is not to be written back in this one's time.
            begin = time.monotonic()
            sizes = workload.sized(engines.load(contender), quick=self.options.quick)
            answer = ask(Task("measure", workload.key, contender, path, sizes, number))
        if answer.figures:
            cell.rounds.append(answer.figures)
        cell.error, cell.unsupported = answer.error, answer.unsupported
        shown = ", ".join(f"{heading} {answer.figures.get(name, 0):.6g}" for name, heading in workload.figures.items())
        text = answer.error or answer.unsupported or shown
        say(f"  {number + 1} {contender}: {text}  ({time.monotonic() - begin:.1f} s)")

    @contextmanager
    def _place(self, contender: str) -> Iterator[str]:
        """The folder of a store: the prepared one, or a fresh one."""
        if self.workload.prepare:
            yield self.stores.get(self.workload, contender)[0]
            return
        path = os.path.join(self.folder, "fresh")
        Path(path).mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
