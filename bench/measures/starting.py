"""The time to start: `import hangarlog` and `hangarlog --version`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from bench.harness.engine import Figures, Run
from bench.harness.process import child_environment

_PROGRAMS = {
    "nothing": ["-c", "pass"],
    "import": ["-c", "import hangarlog"],
    "version": ["-m", "hangarlog", "--version"],
}


def starting(run: Run) -> Figures:
    """Return the milliseconds of an import, above an interpreter that does nothing, and of the quickest command."""
    taken_ms: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    for _ in range(run.size("runs")):
        for name, arguments in _PROGRAMS.items():
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments],
                stdout=subprocess.DEVNULL,
                env={**child_environment(), "PYTHONDONTWRITEBYTECODE": ""},
                cwd=os.path.dirname(run.folder),
                check=True,
            )
            taken_ms[name].append((time.perf_counter() - begin) * 1e3)
    median_ms = {name: statistics.median(each) for name, each in taken_ms.items()}
    return {"import": median_ms["import"] - median_ms["nothing"], "version": median_ms["version"]}
