"""Stores for the tests of cursors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import Added

from hangarlog import ANY, FileEventStore


def filled(path: Path, count: int = 20, **options: Any) -> FileEventStore:
    store = FileEventStore(path, **{"durability": "relaxed", **options})
    store.append("in:1", [Added(n) for n in range(count)], ANY)
    return store
