"""`python -m bench compare`: the micro-benchmarks as ratios to their floors, beside those of bench/micro/baseline.json.

A baseline is valid on one machine. Write it there with `--update` before the change to judge.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.harness.paths import ROOT
from bench.harness.process import child_environment

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 0.3
"""The part by which a ratio may exceed the baseline: somewhat more than runs of the same code differ by."""

_RUNS = 3


def compare_with_baseline(*, update: bool) -> int:
    """Run the micro-benchmarks, print the ratios, and return the exit code: 1 if one exceeds the tolerance."""
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
    """Run all once, and return for each group the median of hangarlog / the median of its floor."""
    with tempfile.TemporaryDirectory(prefix="hangarlog-bench-") as folder:
        path = Path(folder) / "micro.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable-gc"]
        command += ["--benchmark-warmup=on", f"--benchmark-json={path}", f"--basetemp={folder}/stores"]
        command += [str(Path(__file__).with_name("test_micro.py"))]
        done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        entries = json.loads(path.read_text())["benchmarks"]
    pairs: dict[str, dict[str, float]] = {}
    for entry in entries:
        side = "ours" if entry["params"]["side"].startswith("hangarlog") else "floor"
        pairs.setdefault(entry["group"], {})[side] = entry["stats"]["median"]
    return {group: pair["ours"] / pair["floor"] for group, pair in pairs.items()}
