"""The MCP SDK's event store on hangarlog: real sessions that are cut and resumed on loopback, each message once."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from hostile import NAMES, VALUES, deep, killed_after
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventMessage
from mcp_types import JSONRPCNotification, JSONRPCResponse, jsonrpc_message_adapter
from pages import run_page

from hangarlog import ANY, EventSerializationError, FileEventStore, StoreOpenError, UntypedEvent
from hangarlog.integrations import mcp as adapter
from hangarlog.integrations.mcp import ResumableEvents

HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
STEPS = 12


class Gates:
    """Lets a tool go on when the test says so, and tells the test how far it is."""

    def __init__(self) -> None:
        self.go: dict[str, asyncio.Event] = {}
        self.sent = {name: threading.Event() for name in "ab"}
        self.loop: asyncio.AbstractEventLoop | None = None

    def gate(self, name: str) -> asyncio.Event:
        self.loop = asyncio.get_running_loop()
        return self.go.setdefault(name, asyncio.Event())

    def open(self, name: str) -> None:
        assert self.loop
        self.loop.call_soon_threadsafe(lambda: self.gate(name).set())


def server(gates: Gates) -> MCPServer:
    made = MCPServer("slow")

    @made.tool()
    async def slow(who: str, ctx: Context) -> str:
        for step in range(STEPS):
            if step == 4:
                await gates.gate(f"{who} cut").wait()
            if step == 8:
                gates.sent[who].set()
                await gates.gate(f"{who} resumed").wait()
            await ctx.report_progress(step, STEPS, f"{who} {step}")
        return f"done {who}"

    @made.tool()
    async def polled(ctx: Context) -> str:
        for step in range(6):
            if step in (2, 4):
                await ctx.close_sse_stream()
            await ctx.report_progress(step, 6, f"step {step}")
        return "done"

    return made


@contextmanager
def serving(events: Any, gates: Gates) -> Iterator[str]:
    """Run a server on a free port of the loopback interface, and yield its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = server(gates).streamable_http_app(event_store=events, retry_interval=1)
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    finally:
        running.should_exit = True
        thread.join()
        listening.close()


async def lines(texts: AsyncIterator[str], until: Any) -> list[dict]:
    """Read the events of a response until one of them is the last that is wanted."""
    found: list[dict] = []
    current: dict = {}
    async for line in texts:
        if line:
            key, _, value = line.partition(":")
            current[key] = value.strip()
        elif current:
            found.append(current)
            if until(found):
                break
            current = {}
    return found


def is_result(found: list[dict]) -> bool:
    return '"result"' in found[-1].get("data", "")


async def begin(client: httpx2.AsyncClient, url: str) -> dict:
    """Open a session and return the headers of its requests."""
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "0"}}
    opening = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about}
    answer = await client.post(url, headers=HEADERS, json=opening)
    session = {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
    headers = {**HEADERS, **session}
    await client.post(url, headers=headers, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
    return headers


async def cut_and_resumed(client: httpx2.AsyncClient, url: str, who: str, gates: Gates) -> tuple[dict, list[dict]]:
    """Call the slow tool, lose the connection after four steps, and come back after eight."""
    headers = await begin(client, url)
    params = {"name": "slow", "arguments": {"who": who}, "_meta": {"progressToken": "p"}}
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    async with client.stream("POST", url, headers=headers, json=call) as response:
        first = await lines(response.aiter_lines(), lambda found: len(found) == 5)  # The opening event and four steps.
    gates.open(f"{who} cut")
    await asyncio.to_thread(gates.sent[who].wait)
    async with client.stream("GET", url, headers={**headers, "last-event-id": first[-1]["id"]}) as response:
        events = aiter(response.aiter_lines())
        missed = await lines(events, lambda found: len(found) == 5)  # Four steps, then the SDK is ready for more.
        assert not missed[-1].get("data")
        gates.open(f"{who} resumed")
        rest = await lines(events, is_result)
    return headers, first + missed + rest


def test_two_sessions_are_cut_and_resumed_and_each_gets_its_own_messages_once(tmp_path: Path) -> None:
    """Both use the same request id, so their streams have one name. What was sent meanwhile comes, and in order."""
    events, gates = ResumableEvents(tmp_path / "events"), Gates()

    async def main(url: str) -> None:
        async with httpx2.AsyncClient(timeout=60) as client:
            both = await asyncio.gather(*(cut_and_resumed(client, url, who, gates) for who in "ab"))
            for who, (_, found) in zip("ab", both, strict=True):
                messages = [json.loads(each["data"]) for each in found if each.get("data")]
                told = [each["params"]["message"] for each in messages if "params" in each]
                assert told == [f"{who} {step}" for step in range(STEPS)]
                assert messages[-1]["result"]["content"][0]["text"] == f"done {who}"
                ids = [each["id"] for each in found if each.get("id")]
                assert len(set(ids)) == len(ids)
            # Nobody gets the messages of another session, whatever event it names.
            (headers, _), (_, others) = both
            stolen = {**headers, "last-event-id": others[0]["id"]}
            async with client.stream("GET", url, headers=stolen) as response:
                assert await lines(response.aiter_lines(), lambda found: True) == []

    with serving(events, gates) as url:
        asyncio.run(main(url))
    events.close()


def test_the_sdks_own_client_resumes_by_itself(tmp_path: Path) -> None:
    """The server closes the stream twice within a call; each step is told once, in order."""
    events, told = ResumableEvents(tmp_path / "events"), []

    async def main(url: str) -> None:
        async def progress(step: float, total: float | None, message: str | None) -> None:
            told.append(message)

        async with Client(url) as client:
            result = await client.call_tool("polled", {}, progress_callback=progress)
            assert result.content[0].text == "done"

    with serving(events, Gates()) as url:
        asyncio.run(main(url))
    assert told == [f"step {step}" for step in range(6)]
    events.close()


def test_a_session_goes_on_while_the_store_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its messages come without ids, as nobody gets them again; a new request is refused; then all is as before."""
    events, gates, folder = ResumableEvents(tmp_path / "events"), Gates(), tmp_path / "events"
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
    call["params"] = {"name": "slow", "arguments": {"who": "a"}, "_meta": {"progressToken": "p"}}

    async def main(url: str) -> None:
        async with httpx2.AsyncClient(timeout=60) as client:
            headers = await begin(client, url)
            async with client.stream("POST", url, headers=headers, json=call) as response:
                texts = response.aiter_lines()
                first = await lines(texts, lambda found: len(found) == 5)
                folder.rename(tmp_path / "away")
                folder.write_text("")
                gates.open("a cut")
                gates.open("a resumed")
                rest = await lines(texts, is_result)
                refused = await client.post(url, headers=headers, json={**call, "id": 8})
            assert refused.status_code == 500
            assert all(each.get("id") for each in first)
            assert [each.get("id") for each in rest] == [None] * (STEPS - 4 + 1)
            folder.unlink()
            async with client.stream("POST", url, headers=headers, json={**call, "id": 9}) as response:
                again = await lines(response.aiter_lines(), is_result)
            assert len(again) == STEPS + 2
            assert all(each.get("id") for each in again)

    with serving(events, gates) as url:
        asyncio.run(main(url))
    assert "a message is sent, but not kept" in caplog.text
    events.close()


def notification(number: object) -> JSONRPCNotification:
    return JSONRPCNotification(jsonrpc="2.0", method="n", params={"number": number})


async def replayed(events: Any, last: str) -> tuple[str | None, list[EventMessage]]:
    got: list[EventMessage] = []

    async def take(message: EventMessage) -> None:
        got.append(message)

    return await events.replay_events_after(last, take), got


def test_old_events_are_deleted_with_their_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least the last span is there, at most two; a resumption goes over the border between them."""
    now = [960_000.0]
    monkeypatch.setattr(adapter, "time", lambda: now[0])
    everything = ResumableEvents(tmp_path / "events", keep_seconds=60)
    events = everything.session("s")

    async def main() -> None:
        first = await events.store_event("1", None)
        ids = []
        for number in range(5):
            ids.append(await events.store_event("1", notification(number)))
            now[0] += 20
        stream, got = await replayed(events, first)
        assert (stream, [each.event_id for each in got]) == ("1", ids)
        now[0] += 60
        await events.store_event("2", notification("late"))
        assert (await replayed(events, first)) == (None, [])
        assert (await replayed(events, ids[-1])) == ("1", [])
        now[0] += 10_000
        await events.store_event("2", notification("much later"))
        assert (await replayed(events, ids[-1])) == (None, [])

    asyncio.run(main())
    assert len([*(tmp_path / "events").iterdir()]) == 1
    everything.close()


def test_nothing_else_in_the_folder_is_touched(tmp_path: Path) -> None:
    """Only folders with the adapter's own names are deleted."""
    for name in ("mcp-events-x", "123", "mcp-events-1", "mcp-events-99999999999"):
        (tmp_path / name).mkdir()
    ResumableEvents(tmp_path).close()
    assert {"mcp-events-x", "123", "mcp-events-99999999999"} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "mcp-events-1").exists()


@pytest.mark.parametrize(
    "last", ["", "x", "1-1", "-1-1", "0-0", "9" * 400, "1-" + "9" * 400, "../..", "\uff11-1", "7\n"]
)
def test_an_event_id_that_is_none_finds_nothing(last: str, tmp_path: Path) -> None:
    """It comes from a client, so it may be anything."""
    events = ResumableEvents(tmp_path)
    asyncio.run(events.session("s").store_event("1", notification(1)))
    assert asyncio.run(replayed(events.session("s"), last)) == (None, [])
    events.close()


def test_streams_and_sessions_of_any_name_are_kept_apart(tmp_path: Path) -> None:
    """Also those that are no text that a file can hold."""
    events = ResumableEvents(tmp_path)
    names = [name for name in NAMES if name != "\ud83d"]

    async def main() -> None:
        firsts = {}
        for session in names:
            for stream in names:
                firsts[session, stream] = await events.session(session).store_event(stream, None)
        for session in names:
            for stream in names:
                await events.session(session).store_event(stream, notification(f"{session} {stream}"))
        for session, stream in [(a, b) for a in names for b in (names[0], a)]:
            found, got = await replayed(events.session(session), firsts[session, stream])
            assert (found, [each.message.params["number"] for each in got]) == (stream, [f"{session} {stream}"])

    asyncio.run(main())
    events.close()


def test_any_message_comes_back_as_it_was_sent(tmp_path: Path) -> None:
    """With the JSON that only Python has, and with fields that are set to null or not at all."""
    events = ResumableEvents(tmp_path).session("s")
    values = [value for value in [*VALUES, deep(100)] if value != "half a pair \ud83d"]
    sent: list[Any] = [notification(value) for value in values]
    sent += [JSONRPCResponse(jsonrpc="2.0", id=7, result={"a": None}), JSONRPCNotification(jsonrpc="2.0", method="x")]
    sent.append(jsonrpc_message_adapter.validate_python({"jsonrpc": "2.0", "method": "n", "newer": {"field": 1}}))

    async def main() -> None:
        first = await events.store_event("1", None)
        for message in sent:
            await events.store_event("1", message)
        _, got = await replayed(events, first)
        shown = [each.message.model_dump_json(by_alias=True, exclude_unset=True) for each in got]
        assert shown == [each.model_dump_json(by_alias=True, exclude_unset=True) for each in sent]

    asyncio.run(main())


def test_a_caller_whose_session_is_unknown_is_refused(tmp_path: Path) -> None:
    """The error says what to do: a guess could send a client what was meant for another."""
    events = ResumableEvents(tmp_path)
    with pytest.raises(RuntimeError, match=r"ResumableEvents\.session\(name\)"):
        asyncio.run(events.store_event("1", None))
    with pytest.raises(RuntimeError, match=r"ResumableEvents\.session\(name\)"):
        asyncio.run(replayed(events, "1-1"))
    events.close()


def test_an_event_of_a_newer_version_is_an_error_that_names_it(tmp_path: Path) -> None:
    """It is not passed over."""
    events = ResumableEvents(tmp_path)
    first = asyncio.run(events.session("s").store_event("1", None))
    (folder,) = tmp_path.iterdir()
    with FileEventStore.untyped(folder) as store:
        store.append("mcp:events", [UntypedEvent("OfTomorrow", {})], ANY)
    with pytest.raises(EventSerializationError, match=r"OfTomorrow.*update"):
        asyncio.run(replayed(events.session("s"), first))
    events.close()


def test_a_forked_child_keeps_what_it_sends(tmp_path: Path) -> None:
    """The threads of its parent are not in it."""
    events = ResumableEvents(tmp_path).session("s")
    asyncio.run(events.store_event("1", notification(0)))
    child = os.fork()
    if child == 0:
        asyncio.run(events.store_event("1", notification(1)))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    number = next(tmp_path.iterdir()).name.rpartition("-")[2]
    _, got = asyncio.run(replayed(events, f"{number}-0"))
    assert [each.message.params["number"] for each in got] == [1]


WRITER = """
import asyncio, sys
from mcp_types import JSONRPCNotification
from hangarlog.integrations.mcp import ResumableEvents
async def main():
    events = ResumableEvents(sys.argv[1]).session("s")
    for number in range(10**6):
        message = JSONRPCNotification(jsonrpc="2.0", method="n", params={"number": number})
        print(await events.store_event("1", message) + ".", flush=True)
asyncio.run(main())
"""


def test_what_was_stored_before_a_kill_can_be_replayed(tmp_path: Path) -> None:
    """By another process that shares the folder: as behind a proxy."""
    said = [line.strip(".") for line in killed_after(WRITER, 30, tmp_path)]
    events = ResumableEvents(tmp_path)
    stream, got = asyncio.run(replayed(events.session("s"), said[0]))
    assert stream == "1"
    assert [each.event_id for each in got][: len(said) - 1] == said[1:]
    assert [each.message.params["number"] for each in got] == [*range(1, len(got) + 1)]
    events.close()


def test_the_pages_programs_run(tmp_path: Path) -> None:
    """The lines that somebody copies."""
    run_page("mcp.md", tmp_path)


def test_an_address_is_refused_and_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreOpenError, match="give a path, not an address"):
        ResumableEvents("nats://host:4222/orders")
    assert not list(tmp_path.iterdir())
