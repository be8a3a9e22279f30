"""How a user's program looks to a strict type checker: this file is checked by mypy, and run by test_style.py."""

from __future__ import annotations

import dataclasses
import tempfile
from typing import Any, assert_type

import msgspec

from hangarlog import (
    ANY,
    EVENT_TYPE_MAP,
    EVENT_VERSION_MAP,
    NO_STREAM,
    STREAM_EXISTS,
    AppendResult,
    ConcurrencyError,
    EncodedEvent,
    EventSerializer,
    EventStore,
    FileEventStore,
    IEventUpcaster,
    MemoryEventStore,
    Record,
    UntypedEvent,
    UpcasterChain,
    get_current_version,
    register_event_type,
)
from hangarlog.aggregates import Repository
from hangarlog.projections import Projection


@register_event_type
class Opened(msgspec.Struct):
    owner: str
    limit: int


@register_event_type(version=1, name="closed")
@dataclasses.dataclass
class Closed:
    reason: str


class OpenedV1ToV2(IEventUpcaster):
    @property
    def event_type(self) -> str:
        return "Opened"

    @property
    def from_version(self) -> int:
        return 1

    @property
    def to_version(self) -> int:
        return 2

    def upcast(self, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "limit": 0}


def use(store: EventStore) -> None:
    version: int = store.append("account:1", [Opened("ann", 3)], NO_STREAM)
    version = store.append("account:1", [Closed("done")], version, metadata={"correlation_id": "c"})
    where: tuple[str, int, int] = ("", 0, 0)
    try:
        store.append("account:1", [Closed("again")], NO_STREAM)
    except ConcurrencyError as conflict:
        where = (conflict.stream_id, conflict.expected, conflict.actual)
    assert where == ("account:1", -1, 1)
    results: dict[str, AppendResult] = store.append_many(
        [("a:1", [Closed("x")], ANY), ("account:1", [], STREAM_EXISTS)]
    )
    assert results == {"a:1": 0, "account:1": 1}
    store.append("old:1", [UntypedEvent("Opened", {"owner": "bob"})], ANY)
    assert store.read_stream("old:1") == [Opened("bob", 0)]
    for position, stream_id, event in store.read_all(from_position=0, limit=10):
        assert position > 0
        assert stream_id
        assert event
    records: list[Record] = list(store.records("account:1", reverse=True, event_types=["closed"]))
    assert records[0].metadata == {"correlation_id": "c"}
    closed = store.records(since="2026-01-01T00:00:00Z", event_types=Closed, not_category=["a", "old"], to_position=9)
    assert {record.stream_id for record in closed} == {"account:1"}
    store.save_snapshot("account:1", version, {"open": False})
    snapshot = store.load_snapshot("account:1")
    assert snapshot
    assert snapshot["state"] == {"open": False}
    assert store.compact_stream("account:1") == 2


def use_typed(path: str, serializer: EventSerializer) -> None:
    """A store of known events: reads are typed, and so is a stream read as some of them."""
    store: FileEventStore[Opened | Closed] = FileEventStore(path, serializer=serializer)
    with store:
        store.append("account:2", [Opened("ann", 3), Closed("done")], NO_STREAM)
        assert_type(store.read_stream("account:2"), list[Opened | Closed])
        assert_type(store.read_stream("account:2", type=Closed), list[Closed])
        assert_type(store.read_stream("account:2", type=Opened | Closed), list[Opened | Closed])
        for _, _, event in store.read_all():
            assert_type(event, Opened | Closed)
        for record in store.records("account:2"):
            assert_type(record, Record[Opened | Closed])
            assert_type(record.event, Opened | Closed)
            position, stream_id, *_, unpacked = record
            assert (position, stream_id, unpacked) == (record.position, "account:2", record.event)
            match record:
                case Record(event=Closed(reason), stream_version=version):
                    assert (reason, version) == ("done", 1)
                case _:
                    assert record.stream_version == 0

        def decide(events: list[Opened | Closed], version: int) -> list[Opened | Closed]:
            return [Opened("bob", len(events))] if version == 1 else []

        assert_type(store.execute("account:2", decide), AppendResult)
        with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
            for record in subscription:
                assert_type(record, Record[Opened | Closed])
            subscription.advance()
        with store.subscribe(name="mailer", heartbeat=1.0, timeout=0) as beating:
            assert_type(next(beating, None), Record[Opened | Closed] | None)

        def total(totals: dict[str, int], record: Record[Opened | Closed]) -> None:
            totals[record.stream_id] = totals.get(record.stream_id, 0) + 1

        totals = Projection("totals", total)
        totals.run(store, timeout=0)
        assert_type(totals.load(store).state, dict[str, int])
        assert totals.load(store).position == store.get_event_count()
        assert store.wait("totals", store.get_event_count(), timeout=0)

        def count(state: int, happened: Opened | Closed) -> int:
            return state + 1

        accounts = Repository(store, "account", apply=count, initial=int)
        assert_type(accounts.load("2").state, int)
        assert_type(accounts.execute("2", lambda state, version: []), AppendResult)
    with FileEventStore.untyped(path) as untyped:
        assert_type(untyped.read_stream("account:2"), list[UntypedEvent])
        found = [envelope for block in untyped.envelopes("account:2") for envelope in block]
        copies = [EncodedEvent(e.event_type, e.data, e.event_id, e.metadata, e.recorded_at) for e in found]
        with MemoryEventStore.untyped() as memory:
            assert memory.append("account:2", copies, NO_STREAM) == untyped.get_stream_version("account:2")
            assert_type(memory.read_stream("account:2"), list[UntypedEvent])
            assert memory.read_stream("account:2") == untyped.read_stream("account:2")


def main() -> None:
    EVENT_VERSION_MAP["Opened"] = 2
    assert get_current_version("Opened") == 2
    assert EVENT_TYPE_MAP["closed"] is Closed
    chain = UpcasterChain()
    chain.register(OpenedV1ToV2())
    serializer = EventSerializer(upcaster_chain=chain)
    with MemoryEventStore(serializer=serializer) as memory:
        use(memory)
    with (
        tempfile.TemporaryDirectory() as folder,
        FileEventStore(folder, serializer=serializer, durability=0.5, segment_bytes=64 << 20, exclusive=False) as files,
    ):
        use(files)
    with tempfile.TemporaryDirectory() as folder:
        use_typed(folder, serializer)


if __name__ == "__main__":
    main()
