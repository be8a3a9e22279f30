"""The async store keeps the promises of all stores, on asyncio and on trio."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from adapter import SyncStore

from hangarlog import EventSerializer, EventStore, FileEventStore, MemoryEventStore
from hangarlog.testing import EventStoreConformance


class TestAsyncFileEventStore(EventStoreConformance):
    backend = "asyncio"
    options: ClassVar[dict[str, Any]] = {"durability": "relaxed"}

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._paths = (tmp_path / f"store-{number}" for number in count())

    def make(self, serializer: EventSerializer) -> EventStore:
        return FileEventStore(next(self._paths), serializer=serializer, **self.options)

    def open_store(self, serializer: EventSerializer) -> Any:
        return SyncStore(lambda: self.make(serializer), self.backend)


class TestAsyncFileEventStoreOnTrio(TestAsyncFileEventStore):
    backend = "trio"


class TestDurableAsyncFileEventStore(TestAsyncFileEventStore):
    options: ClassVar[dict[str, Any]] = {"durability": "always", "segment_bytes": 700}


class TestExclusiveAsyncFileEventStore(TestAsyncFileEventStore):
    options: ClassVar[dict[str, Any]] = {"durability": "relaxed", "exclusive": True}


class TestAsyncMemoryEventStore(TestAsyncFileEventStore):
    def make(self, serializer: EventSerializer) -> EventStore:
        return MemoryEventStore(serializer=serializer)
