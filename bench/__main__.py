"""`python -m bench`: compare hangarlog with floors and peers.

A full run writes a dated record to bench/results/ and updates docs/benchmarks.md with its plots. A run of some
workloads or engines, or a quick one, prints its tables, and writes its record to the path of `--json`. An interrupted
run leaves its figures beside the record in a file that ends with `.part`; `python -m bench report PATH` prints it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench.comparison import Options, compare, log_progress
from bench.curves import measure_curves
from bench.engines.registry import ENGINE_NAMES
from bench.harness.paths import ROOT
from bench.report.page import render_page
from bench.report.plots import write_plots
from bench.report.record import Record, load, save
from bench.workloads import WORKLOADS

_T = TypeVar("_T")
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """Run the command."""
    options = _arguments()
    signal.signal(signal.SIGTERM, _stop)
    if options.command == "compare":
        from bench.micro.compare import compare_with_baseline

        return compare_with_baseline(update=options.update)
    if options.command == "run":
        _run(options)
    elif options.path:
        print(render_page(load(options.path)))
    else:
        _write_page()
    return 0


def _stop(signal_number: int, frame: object) -> None:
    """Exit by an exception, so that children end and folders are deleted."""
    sys.exit(128 + signal_number)


def _run(options: argparse.Namespace) -> None:
    full = not (options.only or options.engines or options.quick)
    path: Path | None = options.json
    if full and not path:
        path = RESULTS / f"{time.strftime('%Y-%m-%d')}{'-curves' * options.curves}.json"
    part = path.with_name(f"{path.name}.part") if path else None

    def save_progress(record: Record) -> None:
        if part:
            save(record, part)

    record = _measure(options, save_progress)
    if path and part:
        part.replace(path)
        log_progress(f"wrote {path}")
    if full and not options.json:
        _write_page()
    else:
        print(render_page(record))


def _measure(options: argparse.Namespace, save_progress: Callable[[Record], None]) -> Record:
    if options.curves:
        return measure_curves(options.folder, options.quick, save_progress)
    workloads = _select(options.only, WORKLOADS, "workload")
    names = list(_select(options.engines, {name: name for name in ENGINE_NAMES}, "engine"))
    rounds = options.rounds or (1 if options.quick else 5)
    return compare(Options(list(workloads.values()), names, rounds, options.quick, options.folder), save_progress)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=["run", "report", "compare"],
        default="run",
        help="run the workloads (the default); report: write the page from the latest records; compare: run the "
        "micro-benchmarks and compare them with bench/micro/baseline.json (exit code 1 if one is worse)",
    )
    parser.add_argument("path", nargs="?", type=Path, help="with report: print the page of this record instead")
    parser.add_argument("--only", help="workloads, such as W1,W4; a prefix selects every workload that begins with it")
    parser.add_argument("--engines", help=f"engines, out of {','.join(ENGINE_NAMES)}")
    parser.add_argument("--rounds", type=int, help="number of rounds, 5 by default")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes and one round, to check that the benchmarks work"
    )
    parser.add_argument(
        "--curves", action="store_true", help="measure the curves instead of the workloads; takes up to an hour"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the record to this file")
    parser.add_argument(
        "--folder", help="create the stores below this folder; the default is the system's temporary folder"
    )
    parser.add_argument("--update", action="store_true", help="with compare: write the baseline instead")
    return parser.parse_args()


def _select(names: str | None, known: dict[str, _T], kind: str) -> dict[str, _T]:
    """Return the items that comma-separated names select; all of them without names."""
    wanted = names.split(",") if names else [""]
    found = {key: value for key, value in known.items() if any(_matches(key, name) for name in wanted)}
    if unknown := [name for name in wanted if not any(_matches(key, name) for key in known)]:
        sys.exit(f"no such {kind}: {', '.join(unknown)}; there are {', '.join(known)}")
    return found


def _matches(key: str, name: str) -> bool:
    """True if `name` is a prefix of `key` and splits no number: W6 matches W6a, but W1 does not match W10."""
    return key.startswith(name) and not (name and key[len(name) : len(name) + 1].isdigit())


def _write_page() -> None:
    """Write the page and its plots from the latest records."""
    records = sorted(RESULTS.glob("*.json"))
    latest = [path for path in records if not path.stem.endswith("-curves")][-1:]
    drawn = [path for path in records if path.stem.endswith("-curves")][-1:]
    if not latest:
        sys.exit(f"no record of a full run in {RESULTS}; run `python -m bench` first")
    record, curve = load(latest[0]), load(drawn[0]) if drawn else None
    plots = write_plots(record, curve, PAGE.parent / "plots")
    if not plots:
        log_progress("matplotlib is not installed, so the page has no plots")
    PAGE.write_text(render_page(record, curve, {title: f"plots/{name}" for title, name in plots.items()}))
    log_progress(f"wrote {PAGE}")


if __name__ == "__main__":
    sys.exit(main())
