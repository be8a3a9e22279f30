"""`python -m tests.faults [--release] [--row N …] [--size N] [--seed S]`: the fault campaigns, at any size.

What a run counted goes into docs/reliability.md with `--record`. With `--parts FILE` a long run is done in parts, each
with a seed of its own. FILE keeps what they counted, so that an interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from .campaigns.harness import SEED, Campaign, Figures, campaigns
from .campaigns.jobs import ring_at_once
from .campaigns.table import record

PART = 2  # A part has this many times the CI size.


def run(campaign: Campaign, size: int, seed: int) -> tuple[Figures, float]:
    """Return what one run counted, and the seconds it took."""
    folder = campaign.scratch()
    began = time.monotonic()
    try:
        return campaign.run(folder, size, seed), time.monotonic() - began
    except AssertionError as error:
        again = f"again: python -m tests.faults --row {campaign.row} --size {size} --seed {seed}"
        raise AssertionError(f"{error}\n  {again}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_parts(campaign: Campaign, size: int, seed: int, file: Path) -> tuple[Figures, float]:
    """Return the sum of all parts, those of earlier runs included. The seeds follow on `seed`."""
    all_parts = json.loads(file.read_text()) if file.exists() else {}
    parts = all_parts.setdefault(f"row {campaign.row}, {size}, seed {seed}", [])
    while (left := size - sum(part["size"] for part in parts)) > 0:
        part = min(left, PART * campaign.ci)
        figures, seconds = run(campaign, part, seed + len(parts))
        parts.append({"size": part, "seconds": seconds, "figures": figures})
        file.write_text(json.dumps(all_parts, indent=1))
        print(f"  {size - left + part} of {size}", flush=True)
    total: Figures = {}
    for name, first in parts[0]["figures"].items():
        values = [part["figures"].get(name, 0) for part in parts]
        total[name] = first if isinstance(first, str) else sum(values)
    return total, sum(part["seconds"] for part in parts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--release", action="store_true", help="the release size of each row instead of the CI size")
    parser.add_argument("--row", type=int, action="append", help="only this row (may be given again)")
    parser.add_argument("--size", type=int, help="this size instead")
    parser.add_argument("--seed", type=int, default=SEED, help="replays what was run with it")
    parser.add_argument("--record", action="store_true", help="put what was counted into docs/reliability.md")
    parser.add_argument("--parts", type=Path, metavar="FILE", help="run in parts, and continue those of FILE")
    options = parser.parse_args()
    ring_at_once()
    failed = 0
    for campaign in campaigns():
        if options.row and campaign.row not in options.row:
            continue
        size = options.size or (campaign.release if options.release else campaign.ci)
        missing = campaign.missing()
        print(f"row {campaign.row}: {campaign.fault}: {size} {campaign.unit}, seed {options.seed}", flush=True)
        if missing:
            print(f"  skipped: {missing}")
            continue
        try:
            if options.parts:
                figures, seconds = run_parts(campaign, size, options.seed, options.parts)
            else:
                figures, seconds = run(campaign, size, options.seed)
        except AssertionError as error:
            failed += 1
            print(f"  BROKEN: {error}")
        else:
            print(f"  {figures} in {seconds:.0f} s", flush=True)
            if options.record:
                record(campaign, size, options.seed, seconds, figures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
