"""`hangarlog demo`: real events in, typed events out, a conflict refused; it leaves a store to look into."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import click
import msgspec

from hangarlog import (
    EVENT_TYPE_MAP,
    ConcurrencyError,
    EventSerializer,
    FileEventStore,
    UpcasterChain,
    register_event_type,
)
from hangarlog.cli.app import STORE_VARIABLE, hangarlog
from hangarlog.cli.terminal import progress, say, styled
from hangarlog.integrations.mcp_hangar_sqlite import count_events, import_database
from hangarlog.maintenance.verify import verify

_NAME = "mcp-hangar-events.db"


class _HangarEvent(msgspec.Struct, kw_only=True):
    event_id: str
    occurred_at: float


class ProviderStateChanged(_HangarEvent):
    """A provider went from one state to another."""

    provider_id: str
    old_state: str
    new_state: str


class ProviderStarted(_HangarEvent):
    """Version 2: it has tags, which no stored event has."""

    provider_id: str
    mode: str
    tools_count: int
    startup_duration_ms: float
    tags: list[str]


class ProviderStopped(_HangarEvent):
    """A provider has stopped."""

    provider_id: str
    reason: str


class ToolInvocationRequested(_HangarEvent):
    """A tool is to be called."""

    provider_id: str
    tool_name: str
    correlation_id: str
    arguments: dict[str, Any]


class ToolCallCompleted(_HangarEvent):
    """A tool has answered. It was called ToolInvocationCompleted when the events were stored."""

    provider_id: str
    tool_name: str
    correlation_id: str
    duration_ms: float
    result_size_bytes: int


class BatchInvocationRequested(_HangarEvent):
    """A batch of calls is to be made."""

    batch_id: str
    call_count: int
    providers: list[str]


class BatchCallCompleted(_HangarEvent):
    """A call of a batch is done."""

    batch_id: str
    call_index: int
    provider_id: str
    tool_name: str
    success: bool
    elapsed_ms: float


class BatchInvocationCompleted(_HangarEvent):
    """A batch is done."""

    batch_id: str
    total: int
    succeeded: int
    failed: int
    elapsed_ms: float


def _serializer() -> EventSerializer:
    for event_class in (
        ProviderStateChanged,
        ProviderStopped,
        ToolInvocationRequested,
        ToolCallCompleted,
        BatchInvocationRequested,
        BatchCallCompleted,
        BatchInvocationCompleted,
    ):
        register_event_type(event_class)
    register_event_type(ProviderStarted, version=2)
    EVENT_TYPE_MAP["ToolInvocationCompleted"] = ToolCallCompleted
    chain = UpcasterChain()

    @chain.upcaster("ProviderStarted", from_version=1)
    def with_tags(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "tags": ["from-v1", data["mode"]]}

    return EventSerializer(upcaster_chain=chain)


def _sample() -> str:
    """The real events: shipped in the package, or in the project's test data where it runs from its sources."""
    here = Path(__file__).resolve().parent
    for path in (here / _NAME, here.parent.parent / "tests" / "data" / _NAME):
        if path.is_file():
            return str(path)
    raise click.UsageError("the sample events are not installed; name a MCP Hangar database with --source")


@hangarlog.command()
@click.argument("store", required=False)
@click.option("--source", metavar="DB", help="A MCP Hangar database; by default real events that come with hangarlog.")
def demo(store: str | None, source: str | None) -> None:
    """Import real events of MCP Hangar into STORE (default: demo-store), and show what can be done with them."""
    path = store or os.environ.get(STORE_VARIABLE) or "demo-store"
    database = source or _sample()
    with FileEventStore(path, serializer=_serializer()) as log:
        _say(f"1. Import {database} into {path}")
        with progress("importing", count_events(database)) as advance:
            report = import_database(log, database, advance)
        say(
            f"   {report.taken} events taken, {report.already} were there already, in {report.streams} streams; "
            f"the store holds {log.get_event_count()}"
        )
        _show_types(log)
        _show_conflict(log)
        damages = list(verify(log))
        _say("5. Verify both copies of every event")
        say(f"   {len(damages)} damaged")
    folder = shlex.quote(path)
    _say("Look into the store with the tools you have")
    say(f"   tail -n 3 {folder}/journal.jsonl")
    say(f"""   grep '"event_type":"ProviderStarted"' {folder}/streams/provider/math.jsonl""")
    say(f"   jq -r '[.position, .stream_id, .event_type] | @tsv' {folder}/journal.jsonl | tail -n 3")


def _show_types(log: FileEventStore) -> None:
    counts: Counter[str] = Counter()
    started = renamed = None
    for _, _, event in log.read_all(limit=log.get_event_count()):
        counts[type(event).__name__] += 1
        if isinstance(event, ProviderStarted) and "from-v1" in event.tags:
            started = event
        if isinstance(event, ToolCallCompleted):
            renamed = event
    _say("2. Read every event back as a typed object")
    for name, count in counts.most_common():
        say(f"   {count:6,}  {name}")
    _say("3. Old lines, today's classes")
    if started:
        say(f"   ProviderStarted was stored as version 1; an upcaster gives it tags: {started}")
    if renamed:
        say(f"   ToolInvocationCompleted was renamed since: {renamed}")


def _show_conflict(log: FileEventStore) -> None:
    stream_id = log.list_streams()[0]
    version = log.get_stream_version(stream_id)
    event = ProviderStopped(event_id="demo", occurred_at=0.0, provider_id="math", reason="demo")
    _say(f"4. Append to {stream_id} as if it were still at version {version - 1}")
    try:
        log.append(stream_id, [event], version - 1)
    except ConcurrencyError as conflict:
        say(f"   refused: {conflict}")


def _say(text: str) -> None:
    say(styled(text, bold=True))
