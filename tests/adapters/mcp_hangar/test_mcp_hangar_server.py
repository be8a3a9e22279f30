"""The real server with `persistence.backend: hangarlog`: driven, tailed live, killed under load, restarted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from hangarlog import FileEventStore
from hangarlog.integrations.mcp_hangar import HangarlogEventStore
from hangarlog.maintenance.verify import verify_folder

TOOLS = """
from mcp.server.mcpserver import MCPServer

server = MCPServer("tiny")

@server.tool()
def add(a: int, b: int) -> int:
    return a + b

server.run()
"""
CONFIG = """
persistence:
  backend: hangarlog
  hangarlog:
    data_dir: ./data
mcp_servers:
  tiny:
    mode: subprocess
    command: [{python}, tiny.py]
"""
DONE = "ToolInvocationCompleted"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.py").write_text(TOOLS)
    (tmp_path / "config.yaml").write_text(CONFIG.format(python=sys.executable))
    return tmp_path


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the server until it is killed or the block ends, and yield it with its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Path(sys.executable).parent / "mcp-hangar"
    command = [server, "--config", "config.yaml", "serve", "--http", "--port", str(port)]
    environment = {**os.environ, "MCP_RATE_LIMIT_RPS": "100000", "MCP_RATE_LIMIT_BURST": "100000"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if b"session manager started" in line:
                break
        else:
            pytest.fail(b"".join(said).decode())
        reading = threading.Thread(target=process.stdout.read)  # So that its log never blocks it.
        reading.start()
        while process.poll() is None:  # It listens a moment after it has said so.
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
        try:
            yield process, f"http://127.0.0.1:{port}/mcp"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            reading.join()


async def call(address: str, times: int, answers: list[Any]) -> None:
    """Call a tool again and again, and note each answer."""
    async with streamable_http_client(address) as streams, ClientSession(*streams[:2]) as session:
        await session.initialize()
        for number in range(times):
            one = {"mcp_server": "tiny", "tool": "add", "arguments": {"a": number, "b": 1}}
            answer: Any = await session.call_tool("hangar_call", {"calls": [one]})
            answers.append(json.loads(answer.content[0].text)["succeeded"])


def test_the_server_is_driven_tailed_killed_and_restarted(folder: Path) -> None:
    answers: list[Any] = []
    with serving(folder) as (_, address), FileEventStore.untyped(folder / "data/events") as log:
        calls = threading.Thread(target=asyncio.run, args=(call(address, 10, answers),))
        calls.start()
        with log.subscribe(event_types=[DONE]) as tail:  # Live, in another process than the server.
            seen = [next(tail).stream_id for _ in range(10)]
        calls.join()
        assert seen == ["mcp_server:tiny"] * 10
    assert answers == [1] * 10

    def until_killed(address: str) -> None:
        with contextlib.suppress(BaseException):  # However the client puts it that its server has died.
            asyncio.run(call(address, 1_000_000, answers))

    with serving(folder) as (process, address), FileEventStore.untyped(folder / "data/events") as log:
        load = [threading.Thread(target=until_killed, args=(address,)) for _ in range(3)]
        with log.subscribe("end", event_types=[DONE]) as tail:
            for thread in load:
                thread.start()
            for _ in range(60):
                next(tail)
        process.send_signal(signal.SIGKILL)
        for thread in load:
            thread.join()

    with HangarlogEventStore(folder / "data/events").log as log:
        counted = Counter(record.event_type for record in log.records())
        last, mark = log.get_event_count(), log.cursor("mcp-hangar:dispatch").position
    assert counted[DONE] >= sum(answers) >= 60
    assert not list(verify_folder(folder / "data/events"))

    with serving(folder) as (_, address), FileEventStore.untyped(folder / "data/events") as log:
        asyncio.run(call(address, 3, answers))
        with log.subscribe(last, event_types=[DONE]) as tail:
            assert [next(tail).stream_version for _ in range(3)]
        # With a backend selected, MCP Hangar hands over nothing again at its start: the mark may stay behind the end.
        assert log.cursor("mcp-hangar:dispatch").position > mark
