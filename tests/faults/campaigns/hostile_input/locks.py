"""Schema locks."""

from __future__ import annotations

from .lock_cases import refused, tries
from .part import Part


def locks(part: Part) -> None:
    """A check of each ends, with findings or a refusal."""
    for name, lock in tries(part.rng, part.size):
        with part.case(f"lock: {name}"):
            part.figures["locks refused"] += refused(part.folder / "lock.json", lock)
