"""Both stores keep the promises that the suite states; the file store in every way it can be opened."""

from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import Added

from hangarlog import EventSerializer, FileEventStore, MemoryEventStore
from hangarlog.testing import EventStoreConformance


class TestMemoryEventStore(EventStoreConformance):
    def open_store(self, serializer: EventSerializer) -> MemoryEventStore:
        return MemoryEventStore(serializer=serializer)


class TestFileEventStore(EventStoreConformance):
    options: ClassVar[dict[str, Any]] = {"durability": "relaxed"}

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._paths = (tmp_path / f"store-{number}" for number in count())

    def open_store(self, serializer: EventSerializer) -> FileEventStore:
        return FileEventStore(next(self._paths), serializer=serializer, **self.options)


class TestFileEventStoreThatRollsAllTheTime(TestFileEventStore):
    options: ClassVar[dict[str, Any]] = {"durability": "relaxed", "segment_bytes": 700}


class TestExclusiveFileEventStore(TestFileEventStore):
    options: ClassVar[dict[str, Any]] = {"durability": "relaxed", "exclusive": True}


class TestDurableFileEventStore(TestFileEventStore):
    options: ClassVar[dict[str, Any]] = {"durability": "always"}


@pytest.mark.parametrize(
    "kind", [tuple, iter, lambda events: (event for event in events)], ids=["tuple", "iter", "generator"]
)
def test_events_may_come_in_anything_that_gives_one_after_the_other(kind: Any) -> None:
    with MemoryEventStore() as store:
        assert store.append("a:1", kind([Added(0), Added(1)]), -1) == 1
        assert store.append("a:1", kind([]), 1) == 1
        assert store.read_stream("a:1") == [Added(0), Added(1)]
