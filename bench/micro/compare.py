"""`python -m bench compare`: the micro-benchmarks as ratios to their floors, against bench/micro/baseline.json.

A baseline is of one machine: write it there with `--update` before the change that is to be judged.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.child import ROOT, environment

BASELINE = ROOT / "bench" / "micro" / "baseline.json"
TOLERANCE = 0.3
"""By so much a ratio may be worse than the baseline's: what runs of the same code differ by here, and some more."""

_RUNS = 3


def compare_with_baseline(*, update: bool) -> int:
    """Run, print the ratios, and return 1 if one is worse than the baseline by more than the tolerance."""
    runs = [_ratios() for _ in range(_RUNS)]
    found = {group: statistics.median(run[group] for run in runs) for group in runs[0]}
    if update:
        BASELINE.write_text(
            json.dumps({group: float(f"{value:.3g}") for group, value in found.items()}, indent=1) + "\n"
        )
        print(f"wrote {BASELINE}")
        return 0
    before: dict[str, float] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    worse = [group for group in before if found.get(group, float("inf")) > before[group] * (1 + TOLERANCE)]
    print("| times the floor | baseline | now | |\n| --- | --- | --- | --- |")
    for group, value in found.items():
        known = f"{before[group]:.3g}" if group in before else "none"
        print(f"| {group} | {known} | {value:.3g} | {'**worse**' if group in worse else ''} |")
    return 1 if worse else 0


def _ratios() -> dict[str, float]:
    """Group -> the median of hangarlog's part over the floor's, in one run of all."""
    with tempfile.TemporaryDirectory(prefix="hangarlog-bench-") as folder:
        path = Path(folder) / "micro.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable-gc"]
        command += [
            "--benchmark-warmup=on",
            f"--benchmark-json={path}",
            str(ROOT / "bench" / "micro" / "test_micro.py"),
        ]
        command += [f"--basetemp={folder}/stores"]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        entries = json.loads(path.read_text())["benchmarks"]
    pairs: dict[str, dict[str, float]] = {}
    for entry in entries:
        side = "ours" if entry["params"]["side"].startswith("hangarlog") else "floor"
        pairs.setdefault(entry["group"], {})[side] = entry["stats"]["median"]
    return {group: pair["ours"] / pair["floor"] for group, pair in pairs.items()}
