"""The engines by name, each imported only when it is measured."""

from __future__ import annotations

import importlib

from bench.harness.engine import Engine

NAMES = (
    "hangarlog",
    "floor",
    "sqlite3",
    "eventsourcing",
    "mcp_hangar",
    "umadb",
    "salamander",
    "jetstream",
    "node",
    "jsonlog",
)


def load(name: str) -> Engine:
    """The engine of a contender, such as `floor` of `floor:one pass`."""
    made: Engine = importlib.import_module(f"bench.engines.{name.partition(':')[0]}").ENGINE
    return made
