"""`python -m bench`: hangarlog measured beside floors and peers.

A run of everything writes a dated record to bench/results/, and makes docs/benchmarks.md with its pictures anew.
A run of some workloads or engines, or a quick one, prints its tables, and writes a record where `--json` says. What an
interrupted run had measured is in the record's name with `.part`, and `python -m bench report PATH` prints it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench import curves, engines
from bench.comparison import Options, compare, say
from bench.report import plots
from bench.report.page import page
from bench.report.record import Record, load, save
from bench.workloads import WORKLOADS

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
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
        print(page(load(options.path)))
    else:
        _publish()
    return 0


def _stop(signal_number: int, frame: object) -> None:
    """So that what was started is ended, and folders are removed."""
    sys.exit(128 + signal_number)


def _run(options: argparse.Namespace) -> None:
    whole = not (options.only or options.engines or options.quick)
    path: Path | None = options.json
    if whole and not path:
        path = RESULTS / f"{time.strftime('%Y-%m-%d')}{'-curves' * options.curves}.json"
    part = path.with_name(f"{path.name}.part") if path else None

    def keep(record: Record) -> None:
        if part:
            save(record, part)

    record = curves.draw(options.folder, options.quick, keep) if options.curves else _measure(options, keep)
    if path and part:
        part.replace(path)
        say(f"wrote {path}")
    if whole and not options.json:
        _publish()
    else:
        print(page(record))


def _measure(options: argparse.Namespace, keep: Callable[[Record], None]) -> Record:
    workloads = _chosen(options.only, WORKLOADS, "workload")
    names = list(_chosen(options.engines, {name: name for name in engines.NAMES}, "engine"))
    rounds = options.rounds or (1 if options.quick else 5)
    return compare(Options(list(workloads.values()), names, rounds, options.quick, options.folder), keep)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=["run", "report", "compare"],
        default="run",
        help="run the workloads (the default); make the page anew from the latest records; or run the micro-benchmarks "
        "and compare them with bench/micro/baseline.json (exit code 1: one is worse)",
    )
    parser.add_argument("path", nargs="?", type=Path, help="with report: print the page of this record")
    parser.add_argument("--only", help="workloads, such as W1,W4; a part of a key takes all that begin with it")
    parser.add_argument("--engines", help=f"some of {','.join(engines.NAMES)}")
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round: whether it works, not how fast")
    parser.add_argument("--curves", action="store_true", help="the curves instead of the workloads: up to an hour")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the record there")
    parser.add_argument("--folder", help="make the stores below it (default: the system's temporary folder)")
    parser.add_argument("--update", action="store_true", help="with compare: write the baseline")
    return parser.parse_args()


def _chosen(names: str | None, known: dict[str, T], kind: str) -> dict[str, T]:
    """What is named, with commas between; everything without names."""
    wanted = names.split(",") if names else [""]
    found = {key: value for key, value in known.items() if any(_begins(key, name) for name in wanted)}
    if unknown := [name for name in wanted if not any(_begins(key, name) for key in known)]:
        sys.exit(f"no such {kind}: {', '.join(unknown)}; there are {', '.join(known)}")
    return found


def _begins(key: str, name: str) -> bool:
    """W6 is the beginning of W6a, W1 not that of W10."""
    return key.startswith(name) and not (name and key[len(name) : len(name) + 1].isdigit())


def _publish() -> None:
    """Make the page and its pictures anew from the latest records."""
    records = sorted(RESULTS.glob("*.json"))
    latest = [path for path in records if not path.stem.endswith("-curves")][-1:]
    drawn = [path for path in records if path.stem.endswith("-curves")][-1:]
    if not latest:
        sys.exit("there is no record of a whole run yet")
    record, curve = load(latest[0]), load(drawn[0]) if drawn else None
    pictures = plots.draw(record, curve, PAGE.parent / "plots")
    if not pictures:
        say("matplotlib is not installed: there are no pictures")
    PAGE.write_text(page(record, curve, {title: f"plots/{name}" for title, name in pictures.items()}))
    say(f"wrote {PAGE}")


if __name__ == "__main__":
    sys.exit(main())
