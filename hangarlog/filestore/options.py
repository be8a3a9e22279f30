"""The options of a store in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from hangarlog.eventstore import engine
from hangarlog.eventstore.retention_policy import RetentionPolicy
from hangarlog.system.filesystem import FileSystem

Durability = engine.Durability | float
"""The durability of a store: that of an append, or the seconds between syncs."""


class StoreOptions(TypedDict, total=False):
    """The options of `FileEventStore.untyped`: those of `FileEventStore`, except the serializer."""

    durability: Durability
    segment_bytes: int
    exclusive: bool
    lock_timeout: float | None
    create: bool
    mode: int | None
    unsafe_file_system: str | None
    compress: str | None
    retain: Sequence[RetentionPolicy]
    filesystem: FileSystem | None
