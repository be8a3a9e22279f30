"""The async store keeps the promises of all stores, on asyncio and on trio."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from adapter import SyncStore

from hangarlog import EventSerializer, EventStore, FileEventStore, MemoryEventStore
from hangarlog.testing import EventStoreConformance
from hangarlog.testing.conformance import (
    AppendConformance,
    ExecuteConformance,
    NamedConformance,
    SubscribeConformance,
    WaitConformance,
)


class AsyncStores:
    """Opens async stores: files, on asyncio."""

    backend = "asyncio"
    options: ClassVar[dict[str, Any]] = {"durability": "relaxed"}

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._paths = (tmp_path / f"store-{number}" for number in count())

    def make(self, serializer: EventSerializer) -> EventStore:
        return FileEventStore(next(self._paths), serializer=serializer, **self.options)

    def open_store(self, serializer: EventSerializer) -> Any:
        return SyncStore(lambda: self.make(serializer), self.backend)


class TestAsyncFileEventStore(AsyncStores, EventStoreConformance):
    pass


class EventLoopConformance(
    AsyncStores, AppendConformance, ExecuteConformance, NamedConformance, SubscribeConformance, WaitConformance
):
    """What an event loop has a part in. The other calls pass through a thread, whatever the store and the loop."""


class TestAsyncFileEventStoreOnTrio(EventLoopConformance):
    backend = "trio"


class TestAsyncFileEventStoreThatRolls(EventLoopConformance):
    options: ClassVar[dict[str, Any]] = {"durability": "always", "segment_bytes": 700}


class TestExclusiveAsyncFileEventStore(EventLoopConformance):
    options: ClassVar[dict[str, Any]] = {"durability": "relaxed", "exclusive": True}


class TestAsyncMemoryEventStore(EventLoopConformance):
    def make(self, serializer: EventSerializer) -> EventStore:
        return MemoryEventStore(serializer=serializer)


class TestAsyncMemoryEventStoreOnTrio(TestAsyncMemoryEventStore):
    backend = "trio"
