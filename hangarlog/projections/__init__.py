"""Projections: read models that are built from a store's events, and follow it."""

from typing import TYPE_CHECKING

from hangarlog.projections.errors import (
    ProjectionBusyError,
    ProjectionError,
    ProjectionStateError,
    ProjectionVersionError,
)
from hangarlog.projections.follower import Follower
from hangarlog.projections.projection import Loaded, Projection

if TYPE_CHECKING:
    from hangarlog.projections.sqlite import SqliteProjection

__all__ = [
    "Follower",
    "Loaded",
    "Projection",
    "ProjectionBusyError",
    "ProjectionError",
    "ProjectionStateError",
    "ProjectionVersionError",
    "SqliteProjection",
]


def __getattr__(name: str) -> "type[SqliteProjection]":
    """Import `SqliteProjection` on first use: it needs sqlite3."""
    if name != "SqliteProjection":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hangarlog.projections.sqlite import SqliteProjection

    return SqliteProjection
