"""`hangarlog demo`: import real events, read them as typed objects, show a conflict, and leave a store to explore."""

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
from hangarlog.cli.app import STORE_VARIABLE, hangarlog, note_done, refuse_servers
from hangarlog.cli.terminal import progress, say, styled
from hangarlog.integrations.imported import Imported
from hangarlog.integrations.mcp_hangar_sqlite import count_events, import_database, list_streams
from hangarlog.maintenance.verify import verify

_DATABASE_NAME = "mcp-hangar-events.db"


class _HangarEvent(msgspec.Struct, kw_only=True):
    event_id: str
    occurred_at: float


class ProviderStateChanged(_HangarEvent):
    """A provider changed its state."""

    provider_id: str
    old_state: str
    new_state: str


class ProviderStarted(_HangarEvent):
    """A provider has started; version 2 adds `tags`, which no stored event has."""

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
    """A call of a tool was requested."""

    provider_id: str
    tool_name: str
    correlation_id: str
    arguments: dict[str, Any]


class ToolCallCompleted(_HangarEvent):
    """A call of a tool is done; stored events have the former name ToolInvocationCompleted."""

    provider_id: str
    tool_name: str
    correlation_id: str
    duration_ms: float
    result_size_bytes: int


class BatchInvocationRequested(_HangarEvent):
    """A batch of calls was requested."""

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


def _sample_database() -> str:
    """Return the path of the sample database, in the installed package or in the test data of the source tree."""
    here = Path(__file__).resolve().parent
    for path in (here / _DATABASE_NAME, here.parent.parent / "tests" / "data" / _DATABASE_NAME):
        if path.is_file():
            return str(path)
    raise click.UsageError("the sample events are not installed; name an MCP Hangar database with --source")


@hangarlog.command(short_help="Import real events of MCP Hangar and show what works.")
@click.argument("store", required=False)
@click.option(
    "--source", metavar="DB", help="An MCP Hangar database. The default is a sample that comes with hangarlog."
)
def demo(store: str | None, source: str | None) -> None:
    """Import real events of MCP Hangar into STORE (default: demo-store), and show what hangarlog does with them.

    A store that has other events is refused.
    """
    path = store or os.environ.get(STORE_VARIABLE) or "demo-store"
    refuse_servers(path, "demo", "`hangarlog copy STORE ADDRESS` takes the one that it makes there")
    database = source or _sample_database()
    with FileEventStore(path, serializer=_serializer()) as event_store:
        _refuse_others(event_store, path, database)
        _say_heading(f"1. Import {database} into {path}")
        report = Imported()
        try:
            with progress("importing", count_events(database)) as advance:
                import_database(event_store, database, advance, report)
        except BaseException:
            if report.taken:
                say(f"hangarlog: {report.taken} events were imported before this", err=True)
            raise
        note_done(f"the events are in the store {path}")
        say(
            f"   {report.taken} events imported, {report.already} were there already, in {report.streams} streams; "
            f"the store holds {event_store.get_event_count()}"
        )
        _show_types(event_store)
        _show_conflict(event_store)
        damages = list(verify(event_store))
        _say_heading("5. Verify both copies of every event")
        say(f"   {len(damages)} damaged")
    folder = shlex.quote(path)
    _say_heading("Explore the store with standard tools")
    say(f"   tail -n 3 {folder}/journal.jsonl")
    say(f"""   grep '"event_type":"ProviderStarted"' {folder}/streams/provider/math.jsonl""")
    say(f"   jq -r '[.position, .stream_id, .event_type] | @tsv' {folder}/journal.jsonl | tail -n 3")


def _refuse_others(store: FileEventStore, path: str, database: str) -> None:
    """Raise `UsageError` if the store has a stream that the database lacks: what is imported stays there for ever."""
    known = set(list_streams(database))
    other = next((stream_id for stream_id in store.folder.stream_ids("") if stream_id not in known), None)
    if other is not None:
        cause = f"{path} has other events, such as those of the stream {other!r}"
        raise click.UsageError(f"{cause}; name a new folder, as in `hangarlog demo demo-store`")


def _show_types(store: FileEventStore) -> None:
    counts: Counter[str] = Counter()
    started = renamed = None
    for _, _, event in store.read_all():
        counts[type(event).__name__] += 1
        if isinstance(event, ProviderStarted) and "from-v1" in event.tags:
            started = event
        if isinstance(event, ToolCallCompleted):
            renamed = event
    _say_heading("2. Read every event back as a typed object")
    for name, count in counts.most_common():
        say(f"   {count:6,}  {name}")
    _say_heading("3. Old lines, today's classes")
    if started:
        say(f"   ProviderStarted was stored as version 1; an upcaster gives it tags: {started}")
    if renamed:
        say(f"   ToolInvocationCompleted was renamed since: {renamed}")


def _show_conflict(store: FileEventStore) -> None:
    stream_id = store.list_streams()[0]
    version = store.get_stream_version(stream_id)
    event = ProviderStopped(event_id="demo", occurred_at=0.0, provider_id="math", reason="demo")
    _say_heading(f"4. Append to {stream_id} as if it were still at version {version - 1}")
    try:
        store.append(stream_id, [event], version - 1)
    except ConcurrencyError as conflict:
        say(f"   refused: {conflict}")


def _say_heading(text: str) -> None:
    say(styled(text, bold=True))
