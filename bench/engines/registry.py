"""The engines by name, each imported at its first use."""

from __future__ import annotations

import importlib

from bench.harness.engine import Engine

ENGINE_NAMES = (
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


def load_engine(name: str) -> Engine:
    """Return the engine of a contender, such as `floor` for `floor:one pass`."""
    engine: Engine = importlib.import_module(f"bench.engines.{name.partition(':')[0]}").ENGINE
    return engine
