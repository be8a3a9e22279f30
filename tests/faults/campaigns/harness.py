"""A campaign is one row of docs/reliability.md: a fault, what is promised under it, and the run that shows it.

Each module of this package that has a `CAMPAIGN` is one. CI runs them at their CI size (test_campaigns.py), and
`python -m tests.faults` at any size.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SEED = int(os.environ.get("HANGARLOG_SEED", "20261123"))

Figures = dict[str, int | float | str]


def _nothing_is_needed() -> str | None:
    return None


@dataclass(frozen=True)
class Campaign:
    """One row. `run(folder, size, seed)` gets an empty folder, raises `AssertionError` where a promise is broken, and
    returns what it counted, in the order the table shows it. `missing()` says why it cannot run here, or None.
    """

    row: int
    fault: str
    promise: str
    how: str
    ci: int
    release: int
    unit: str  # What a size counts.
    run: Callable[[Path, int, int], Figures]
    missing: Callable[[], str | None] = _nothing_is_needed
    in_memory: bool = False  # Its many small stores need no disk, which would only be slower.

    def scratch(self) -> Path:
        """A new folder for a run."""
        memory = "/dev/shm" if self.in_memory and os.access("/dev/shm", os.W_OK) else None
        return Path(tempfile.mkdtemp(prefix="hangarlog-faults-", dir=memory))


def campaigns() -> list[Campaign]:
    """All of them, by row."""
    found = [
        importlib.import_module(".".join([str(__package__), *path.relative_to(HERE).with_suffix("").parts])).CAMPAIGN
        for path in HERE.rglob("*.py")
        if "\nCAMPAIGN = " in path.read_text()
    ]
    return sorted(found, key=lambda campaign: campaign.row)
