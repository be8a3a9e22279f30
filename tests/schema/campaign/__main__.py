"""`python -m tests.schema.campaign [--events N] [--seed S] [--history SEED]`: the check, held against stored events.

What a run counted goes into docs/schema-changes.md with `--record`.
"""

from __future__ import annotations

import argparse
import sys
import time

from .campaign import figures, record, run, run_in_processes, show


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.schema.campaign", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000, help="events to make, at least")
    parser.add_argument("--seed", type=int, default=0, help="replays what was run with it")
    parser.add_argument("--history", type=int, help="only the history of this seed, which a failure names")
    parser.add_argument("--record", action="store_true", help="put what was counted into docs/schema-changes.md")
    options = parser.parse_args()
    began = time.monotonic()
    if options.history is not None:
        counts, wrong = run(1, [options.history])
    else:
        counts, wrong = run_in_processes(options.events, options.seed)
    seconds = time.monotonic() - began
    if options.record:
        command = f"`python -m tests.schema.campaign --events {options.events} --seed {options.seed}`"
        record(f"The last large run, {command}: {figures(counts, wrong, seconds)}.")
    return show(counts, wrong, seconds)


if __name__ == "__main__":
    sys.exit(main())
