"""`python -m tests.faults [--release] [--row N …] [--size N] [--seed S]`: the fault campaigns, at any size.

What a run counted goes into docs/reliability.md with `--record`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from .campaigns.harness import SEED, campaigns
from .campaigns.table import record


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--release", action="store_true", help="the release size of each row instead of the CI size")
    parser.add_argument("--row", type=int, action="append", help="only this row (may be given again)")
    parser.add_argument("--size", type=int, help="this size instead")
    parser.add_argument("--seed", type=int, default=SEED, help="replays what was run with it")
    parser.add_argument("--record", action="store_true", help="put what was counted into docs/reliability.md")
    options = parser.parse_args()
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
        folder = Path(tempfile.mkdtemp(prefix="hangarlog-faults-"))
        began = time.monotonic()
        try:
            figures = campaign.run(folder, size, options.seed)
        except AssertionError as error:
            failed += 1
            print(
                f"  BROKEN: {error}\n  again: python -m tests.faults --row {campaign.row} --size {size} "
                f"--seed {options.seed}"
            )
        else:
            seconds = time.monotonic() - began
            print(f"  {figures} in {seconds:.0f} s", flush=True)
            if options.record:
                record(campaign, size, options.seed, seconds, figures)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
