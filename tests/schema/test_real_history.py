"""MCP Hangar's own events of version 0.6, read as what they are called today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from conftest import DATABASE

from hangarlog import EventRegistry, EventSerializer, FileEventStore, UntypedEvent, UpcasterChain
from hangarlog.integrations.mcp_hangar_sqlite import import_database
from hangarlog.schema.check import check
from hangarlog.schema.history import check_store, show_history
from hangarlog.schema.lockfile import SchemaLock
from hangarlog.schema.locking import make_lock, with_gathered


class Identified(msgspec.Struct, kw_only=True):
    event_id: str
    occurred_at: float


class McpServerStateChanged(Identified):
    mcp_server_id: str
    old_state: str
    new_state: str


class McpServerStarted(Identified):
    mcp_server_id: str
    mode: str
    tools_count: int
    startup_duration_ms: float


class McpServerStopped(Identified):
    mcp_server_id: str
    reason: str


class ToolInvocationRequested(Identified):
    mcp_server_id: str
    tool_name: str
    correlation_id: str
    arguments: dict[str, Any]


class ToolInvocationCompleted(Identified):
    mcp_server_id: str
    tool_name: str
    correlation_id: str
    duration_ms: float
    result_size_bytes: int


class BatchInvocationRequested(Identified):
    batch_id: str
    call_count: int
    mcp_servers: list[str]
    max_concurrency: int
    timeout: float
    fail_fast: bool


class BatchCallCompleted(Identified):
    batch_id: str
    call_id: str
    call_index: int
    mcp_server_id: str
    tool_name: str
    success: bool
    elapsed_ms: float
    error_type: str | None


class BatchInvocationCompleted(Identified):
    batch_id: str
    total: int
    succeeded: int
    failed: int
    elapsed_ms: float
    cancelled: int


FORMER = {
    McpServerStateChanged: ["ProviderStateChanged"],
    McpServerStarted: ["ProviderStarted"],
    McpServerStopped: ["ProviderStopped"],
}
RENAMED = {"provider_id": "mcp_server_id", "providers": "mcp_servers"}
CLASSES = [*FORMER, ToolInvocationRequested, ToolInvocationCompleted, BatchInvocationRequested, BatchCallCompleted]


def today() -> EventSerializer:
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(BatchInvocationCompleted)
    for event_class in CLASSES:
        registry.event(event_class, version=2, aliases=FORMER.get(event_class, []))

        @chain.upcaster(event_class.__name__, from_version=1)
        def servers_for_providers(data: dict[str, Any]) -> dict[str, Any]:
            return {RENAMED.get(name, name): value for name, value in data.items()}

    return EventSerializer(chain, registry=registry)


def test_the_real_events_are_read_as_todays_classes_and_nothing_of_them_is_lost(store: FileEventStore) -> None:
    import_database(store, str(DATABASE))
    stored = [envelope for block in store.envelopes() for envelope in block]
    with FileEventStore(store.path, serializer=today()) as opened:
        events = [event for _, _, event in opened.read_all(limit=1000)]
    assert len(events) == len(stored) == 758
    assert sum(type(event) is McpServerStarted for event in events) == 2
    for envelope, event in zip(stored, events, strict=True):
        payload = msgspec.json.decode(envelope.data)
        assert payload.pop("_version") == 1
        assert msgspec.to_builtins(event) == {RENAMED.get(name, name): value for name, value in payload.items()}


def test_the_check_reads_all_of_it_and_names_what_it_cannot_read(store: FileEventStore, tmp_path: Path) -> None:
    """In this process, of an open store; with a lock that was gathered from it."""
    import_database(store, str(DATABASE))
    serializer = today()
    found = check_store(store, serializer)
    assert sum(stored.count for stored in found) == 758
    assert not [stored for stored in found if stored.failed or stored.impure]
    lock = with_gathered(make_lock(serializer, SchemaLock()), show_history(store.path))
    assert lock.events["ProviderStarted"].inferred == [1]
    assert [finding for finding in check(serializer, lock) if finding.fails] == []
    version = store.get_stream_version("provider:math")
    store.append("provider:math", [UntypedEvent("ProviderStarted", {"provider_id": "math"})], version)
    (broken,) = [stored for stored in check_store(store, serializer) if stored.failed]
    (failure,) = broken.failures
    assert (broken.event_type, broken.version, broken.count, broken.failed) == ("ProviderStarted", 1, 3, 1)
    assert (failure.position, failure.stream_id, failure.stream_version) == (759, "provider:math", version + 1)
    assert "missing required field" in failure.cause
