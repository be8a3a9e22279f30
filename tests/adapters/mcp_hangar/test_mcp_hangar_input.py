"""Events of every class are read as MCP Hangar's serializer reads them; what comes from outside is right or refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
import typing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mcp_hangar.domain.contracts.event_store import BEGINNING, ConcurrencyError
from mcp_hangar.domain.events import DomainEvent, McpServerStarted, McpServerStopped
from mcp_hangar.domain.events.producer import UNKNOWN_PRODUCER, current_instance_id
from mcp_hangar.domain.exceptions import CompactionError
from mcp_hangar.infrastructure.persistence import event_serializer as theirs
from mcp_hangar.infrastructure.persistence.event_upcaster import IEventUpcaster, UpcasterChain
from mcp_hangar.infrastructure.persistence.registry import REQUIRED_CONCERNS, create_backend

from hangarlog import EncodedEvent, FileEventStore, StreamIdError
from hangarlog.integrations.mcp_hangar import HangarlogEventStore


@pytest.fixture
def store(tmp_path: Path) -> HangarlogEventStore:
    return HangarlogEventStore(tmp_path / "store", durability="relaxed")


def started(name: str = "math", tools: int = 3) -> McpServerStarted:
    return McpServerStarted(mcp_server_id=name, mode="subprocess", tools_count=tools, startup_duration_ms=1.5)


def sample(hint: Any) -> Any:
    """Return a value of a type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return sample(parts[0])
    if origin is typing.Literal:
        return parts[0]
    plain = {str: "text é", int: 7, float: 2.5, bool: True, type(None): None, Any: {"any": [1, None]}}
    plain |= {datetime: datetime(2026, 11, 27, 14, 0, 0, 123456, UTC)}
    if hint in plain:
        return plain[hint]
    if (origin or hint) is dict:
        return {"key": sample(parts[1]) if parts else 1}
    if (origin or hint) in (list, tuple, set, frozenset):
        return (origin or hint)([sample(parts[0]) if parts else "item"])
    pytest.skip(f"no sample of {hint}")


def events_of_all_classes() -> list[Any]:
    classes = {each.__name__: each for each in theirs._iter_event_classes()}
    return [pytest.param(classes[name], id=name) for name in sorted(classes)]


def made(event_class: type[DomainEvent]) -> DomainEvent:
    hints = typing.get_type_hints(event_class)
    given = {each.name: sample(hints[each.name]) for each in dataclasses.fields(event_class) if each.init}
    return event_class(**given)


@pytest.mark.parametrize("event_class", events_of_all_classes())
def test_every_class_is_read_as_mcp_hangar_reads_it(store: HangarlogEventStore, event_class: type[DomainEvent]) -> None:
    event = made(event_class)
    store.append("a:1", [event, event], -1)
    needed = {each.name for each in dataclasses.fields(event) if each.default is each.default_factory}
    identity = {"_version": theirs.get_current_version(event_class.__name__), "event_id": "one", "occurred_at": 1.0}
    event_type, text = theirs.EventSerializer().serialize(event)
    least = {key: value for key, value in json.loads(text).items() if key in needed} | identity
    stored(store, event_type, least)
    expected = [theirs.EventSerializer().deserialize(event_type, each) for each in (text, text, json.dumps(least))]
    for read in (store.read_stream("a:1"), [each for _, _, each in store.read_all()]):
        assert list(map(type, read)) == list(map(type, expected))
        assert list(map(typed, read)) == list(map(typed, expected))


def test_most_classes_are_read_natively(store: HangarlogEventStore) -> None:
    native = {twin._event_class for twin in store._reader.serializer.registry.types.values()}  # type: ignore[attr-defined]
    assert len(native) > 0.9 * len(theirs.EVENT_TYPE_MAP)


def typed(event: Any) -> dict[str, Any]:
    """Return the attributes of an event with their types."""
    return {key: (type(value), value) for key, value in vars(event).items()}


def stored(store: HangarlogEventStore, event_type: str, payload: dict[str, Any]) -> None:
    store.log.append_at_end("a:1", [EncodedEvent(event_type, json.dumps(payload).encode())])


PAYLOAD = {"mcp_server_id": "math", "mode": "subprocess", "tools_count": 3, "startup_duration_ms": 1.5}


def test_a_row_without_a_producer_is_of_an_unknown_one(store: HangarlogEventStore) -> None:
    store.append("a:1", [started()], -1)
    stored(store, "McpServerStarted", {**PAYLOAD, "event_id": "one", "occurred_at": 1.0})
    assert [each.produced_by for each in store.read_stream("a:1")] == [current_instance_id(), UNKNOWN_PRODUCER]
    assert [each.event_id for each in store.read_stream("a:1")][1] == "one"


def test_old_names_newer_payloads_and_odd_values_are_read(store: HangarlogEventStore) -> None:
    stored(store, "ProviderStarted", PAYLOAD)
    stored(store, "McpServerStarted", {**PAYLOAD, "_version": 9, "not_known_yet": [1]})
    stored(store, "McpServerStarted", {**PAYLOAD, "tools_count": "many", "startup_duration_ms": 2})
    read = store.read_stream("a:1")
    assert [type(each) for each in read] == [McpServerStarted] * 3
    assert [each.tools_count for each in read] == [3, 3, "many"]  # type: ignore[attr-defined]
    assert [each for _, _, each in store.read_all()] == read


@pytest.mark.parametrize(
    ("event_type", "payload"),
    [("NeverHeardOf", {}), ("McpServerStarted", {"mcp_server_id": "math"})],
)
def test_what_mcp_hangar_cannot_read_is_its_own_error(
    store: HangarlogEventStore, event_type: str, payload: dict[str, Any]
) -> None:
    store.append("a:1", [started()], -1)
    stored(store, event_type, payload)
    for read in (store.read_stream, lambda _: list(store.read_all()), lambda _: store.read_since(BEGINNING)):
        with pytest.raises(theirs.EventSerializationError, match=event_type):
            read("a:1")


def test_a_class_and_an_upcaster_that_come_later_count(
    store: HangarlogEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(store, "ComesLater", {"text": "a"})
    stored(store, "McpServerStopped", {"mcp_server_id": "math", "reason": "old"})
    with pytest.raises(theirs.EventSerializationError):
        store.read_stream("a:1")
    later = dataclasses.make_dataclass("ComesLater", [("text", str)], bases=(DomainEvent,))

    class Upcaster(IEventUpcaster):
        event_type, from_version, to_version = "McpServerStopped", 1, 2

        def upcast(self, data: dict[str, Any]) -> dict[str, Any]:
            return {**data, "reason": "upcast"}

    monkeypatch.setitem(theirs.EVENT_VERSION_MAP, "McpServerStopped", 2)
    store._serializer._upcaster_chain.register(Upcaster())
    first, second = store.read_stream("a:1")
    assert type(first) is later
    assert type(second) is McpServerStopped
    assert second.reason == "upcast"
    theirs.EVENT_TYPE_MAP.pop("ComesLater")


def test_a_serializer_of_another_class_reads_everything(tmp_path: Path) -> None:
    class Loud(theirs.EventSerializer):
        def deserialize(self, event_type: str, data: str) -> DomainEvent:
            return super().deserialize(event_type, data.replace("math", "MATH"))

    store = HangarlogEventStore(tmp_path / "store", serializer=Loud(UpcasterChain()))
    store.append("a:1", [started()], -1)
    assert [each.mcp_server_id for each in store.read_stream("a:1")] == ["MATH"]  # type: ignore[attr-defined]


def test_what_cannot_be_stored_is_refused_and_nothing_is_written(store: HangarlogEventStore) -> None:
    bad = started()
    for value in (float("nan"), "\ud800", object):
        bad.startup_duration_ms = value  # type: ignore[assignment]
        with pytest.raises(theirs.EventSerializationError):
            store.append("a:1", [started(), bad], -1)
    for stream_id in ("", "../../etc/passwd", "a\nb", "x" * 2000):
        with pytest.raises(StreamIdError):
            store.append_at_end(stream_id, [started()])
    assert (store.get_event_count(), store.list_streams()) == (0, [])


def test_the_same_event_twice_is_two_events_and_a_stale_claim_conflicts(store: HangarlogEventStore) -> None:
    event = started()
    assert [store.append_at_end("a:1", [event]) for _ in range(2)] == [0, 1]
    with pytest.raises(ConcurrencyError) as conflict:
        store.append("a:1", [event], 0)
    assert (conflict.value.expected, conflict.value.actual) == (0, 1)
    with pytest.raises(CompactionError):
        store.compact_stream("a:1")


def test_snapshots_may_be_ahead_and_an_older_one_does_not_replace_a_newer_one(store: HangarlogEventStore) -> None:
    store.save_snapshot("a:1", 5, {"n": 5})
    store.append("a:1", [started()] * 3, -1)
    store.save_snapshot("a:1", 2, {"n": 2})
    assert store.load_snapshot("a:1") == {"version": 5, "state": {"n": 5}}


def test_a_tail_yields_each_event_once(store: HangarlogEventStore) -> None:
    store.append("a:1", [started(tools=n) for n in range(25)], -1)
    cursor, seen = BEGINNING, []
    while batch := store.read_since(cursor, limit=10):
        events, cursor = batch
        if not events:
            break
        seen += [event.tools_count for _, event in events]  # type: ignore[attr-defined]
    assert seen == list(range(25))
    assert cursor == store.tail_head()


def test_the_backend_serves_every_concern(tmp_path: Path) -> None:
    backend = create_backend("hangarlog", {"data_dir": str(tmp_path), "durability": "relaxed"})
    assert all(getattr(backend, concern)() is getattr(backend, concern)() for concern in REQUIRED_CONCERNS)
    log, mark = backend.event_store(), backend.dispatch_checkpoint()
    assert (log.log.durability, mark.read()) == ("relaxed", 0)
    log.append_at_end("a:1", [started()] * 3)
    mark.advance(2)
    mark.advance(1)
    assert mark.read() == 2
    backend.close()
    with FileEventStore.untyped(tmp_path / "events") as again:
        assert again.cursor("mcp-hangar:dispatch").position == 2


WRITER = """
import sys
from hangarlog.integrations.mcp_hangar import HangarlogEventStore
from test_mcp_hangar_input import started
store = HangarlogEventStore(sys.argv[1])
for number in range(100):
    store.append_at_end("a:1", [started(sys.argv[2], number)])
"""


def test_two_processes_append_to_one_stream(store: HangarlogEventStore) -> None:
    folder = str(Path(__file__).parent)
    script = f"import sys; sys.path.insert(0, {folder!r}){WRITER}"
    writers = [subprocess.Popen([sys.executable, "-c", script, store.log.path, name]) for name in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]
    read = store.read_stream("a:1")
    for name in ("one", "two"):
        mine = [each.tools_count for each in read if each.mcp_server_id == name]  # type: ignore[attr-defined]
        assert mine == list(range(100))
