"""Some of the bugs: `python -m … "part of a name" …`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ..harness import SEED
from .campaign import BUGS, run_bugs

if __name__ == "__main__":
    chosen = [bug for bug in BUGS if any(part in bug.name for part in sys.argv[1:])]
    print(run_bugs(Path(tempfile.mkdtemp(prefix="hangarlog-bugs-")), chosen, SEED))
