"""`python -m bench`: hangarlog measured beside floors and peers.

A run of everything writes a dated record to bench/results/, the page docs/benchmarks.md and pictures in docs/plots/.
A run of some workloads or engines, or a quick one, prints its tables, and writes a record where `--json` says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TypeVar

from bench import engines
from bench.comparison import Options, compare, say
from bench.record import Record, save
from bench.report import page
from bench.workloads import WORKLOADS

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """Run the command."""
    options = _arguments()
    workloads = _chosen(options.only, WORKLOADS, "workload")
    names = list(_chosen(options.engines, {name: name for name in engines.NAMES}, "engine").values())
    rounds = options.rounds or (1 if options.quick else 5)
    record = compare(Options(list(workloads.values()), names, rounds, options.quick, options.folder))
    whole = not (options.only or options.engines or options.quick)
    if options.json or whole:
        path = options.json or RESULTS / f"{record.date}.json"
        save(record, path)
        say(f"wrote {path}")
    if whole and not options.json:
        _publish(record)
    else:
        print(page(record))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", help="workloads, such as W1,W4; a part of a key takes all that begin with it")
    parser.add_argument("--engines", help=f"some of {','.join(engines.NAMES)}")
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round: whether it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the record there")
    parser.add_argument("--folder", help="make the stores below it (default: the system's temporary folder)")
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
    return key.startswith(name) and not key[len(name) : len(name) + 1].isdigit()


def _publish(record: Record) -> None:
    """Make the page anew."""
    PAGE.write_text(page(record))
    say(f"wrote {PAGE}")


if __name__ == "__main__":
    sys.exit(main())
