"""The comparison: engines take turns round by round, each measurement in a fresh process; figures go into a record."""

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

from bench.engines.registry import load_engine
from bench.harness.engine import Task
from bench.harness.machine import machine
from bench.harness.process import Result, run_task
from bench.harness.workload import Workload
from bench.report.record import Cell, EngineInfo, Record, Table


@dataclass(frozen=True)
class Options:
    """The choices of a run. Stores go into a temporary folder below `folder`."""

    workloads: Sequence[Workload]
    engines: Sequence[str]
    rounds: int
    quick: bool
    folder: str | None


def log_progress(text: str) -> None:
    """Print a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def temporary_folder(parent: str | None) -> Iterator[str]:
    """Yield a folder for stores, and delete it at the end."""
    with tempfile.TemporaryDirectory(prefix="hangarlog-bench-", dir=parent, ignore_cleanup_errors=True) as path:
        yield path


def compare(options: Options, save_progress: Callable[[Record], None]) -> Record:
    """Run the workloads, and call `save_progress` with the record after each of them."""
    with temporary_folder(options.folder) as folder:
        sizes = "quick: too small to mean anything" if options.quick else "full"
        shown = {"rounds": str(options.rounds), "sizes": sizes}
        record = Record(time.strftime("%Y-%m-%d"), machine(folder), shown, describe_engines(options.engines))
        if record.machine["file system"] in ("tmpfs", "overlay"):
            log_progress(
                f"a sync may mean nothing on {record.machine['file system']}; use --folder to choose another place"
            )
        stores = PreparedStores(folder, options.quick)
        for workload in options.workloads:
            record.tables.append(_Comparison(workload, options, record.engines, stores, folder).run())
            save_progress(record)
    return record


def describe_engines(names: Sequence[str]) -> dict[str, EngineInfo]:
    """Return the description of each engine, and report the missing ones."""
    found = {}
    for name in names:
        engine = load_engine(name)
        missing = engine.missing() or ""
        if missing:
            log_progress(f"{engine.title}: {missing}")
        version = "" if missing else engine.version()
        found[name] = EngineInfo(engine.title, version, engine.settings, list(engine.notes), missing)
    return found


class PreparedStores:
    """The prepared stores: written at their first use, and read by all workloads of the same recipe."""

    def __init__(self, folder: str, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self._results: dict[str, Result] = {}

    def get(self, workload: Workload, contender: str) -> tuple[str, Result]:
        """Return (folder of the store, result of preparing it)."""
        name, engine = contender.partition(":")[0], load_engine(contender)
        variant = engine.prepared_variant(contender.partition(":")[2])
        chosen = workload.sizes_for(engine, quick=self.quick)
        sizes = {key: chosen[key] for key in chosen if key in ("events", "streams", "each", "block")}
        shown = [f"{sizes[size]:g}" for size in sorted(sizes)]
        key = "-".join([workload.recipe, workload.payload_kind, name, variant, *shown])
        path = os.path.join(self.folder, key.replace(" ", "_"))
        if path not in self._results:
            log_progress(f"    {contender} writes {workload.recipe}")
            os.makedirs(path)
            writer = f"{name}:{variant}" if variant else name
            result = self._results[path] = run_task(Task("prepare", workload.key, writer, path, dict(sizes)))
            if result.error or result.unsupported:
                log_progress(f"    {result.error or result.unsupported}")
        return path, self._results[path]


class _Comparison:
    """One workload of a run."""

    def __init__(
        self, workload: Workload, options: Options, known: dict[str, EngineInfo], stores: PreparedStores, folder: str
    ) -> None:
        self.workload, self.options, self.known, self.stores, self.folder = workload, options, known, stores, folder
        self.table = Table(
            workload.key,
            workload.title,
            workload.note,
            dict(workload.figures),
            workload.more_is_better,
            dict(workload.quick_sizes if options.quick else workload.sizes),
        )

    def run(self) -> Table:
        """Run all rounds; each starts with a different contender."""
        log_progress(f"{self.workload.key}: {self.workload.title}")
        able = [contender for contender in self.workload.contenders if self._admit(contender)]
        rounds = min(self.options.rounds, self.workload.max_rounds or self.options.rounds)
        for number in range(rounds):
            for contender in [*able[number % len(able) :], *able[: number % len(able)]] if able else []:
                if not self.table.cells[contender].error and not self.table.cells[contender].unsupported:
                    self._measure(contender, number)
        return self.table

    def _admit(self, contender: str) -> bool:
        """Add a chosen contender to the table and prepare its store. True if it can be measured."""
        name = contender.partition(":")[0]
        if name not in self.known:
            return False
        engine = load_engine(name)
        reason = self.known[name].missing or engine.unsupported.get(self.workload.key, "")
        cell = self.table.cells[contender] = Cell(unsupported=reason)
        if self.workload.recipe and not reason:
            _, result = self.stores.get(self.workload, contender)
            cell.error, cell.unsupported = result.error, result.unsupported
        return not cell.error and not cell.unsupported

    def _measure(self, contender: str, number: int) -> None:
        workload, cell = self.workload, self.table.cells[contender]
        with self._store_folder(contender) as path:
            os.sync()  # The kernel must not write back another engine's data during this measurement.
            begin = time.monotonic()
            sizes = workload.sizes_for(load_engine(contender), quick=self.options.quick)
            result = run_task(Task("measure", workload.key, contender, path, sizes, number))
        if result.figures:
            cell.rounds.append(result.figures)
        cell.error, cell.unsupported = result.error, result.unsupported
        shown = ", ".join(f"{heading} {result.figures.get(name, 0):.6g}" for name, heading in workload.figures.items())
        text = result.error or result.unsupported or shown
        log_progress(f"  {number + 1} {contender}: {text}  ({time.monotonic() - begin:.1f} s)")

    @contextmanager
    def _store_folder(self, contender: str) -> Iterator[str]:
        """Yield the folder of the prepared store, or a fresh one that is deleted at the end."""
        if self.workload.recipe:
            yield self.stores.get(self.workload, contender)[0]
            return
        path = os.path.join(self.folder, "fresh")
        Path(path).mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
