"""NATS servers on loopback, for the tests: one, or a cluster of three, that may be killed and come back."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

MAX_PAYLOAD = 8 << 20
READY_SECONDS = 60.0


def program() -> str | None:
    """The server that is installed beside this Python, or on the path."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Server:
    """One server: its folder, its ports, and its process while it runs."""

    def __init__(self, folder: Path, number: int, ports: list[int], text: str) -> None:
        self.name, self.folder = f"n{number}", folder / f"n{number}"
        self.folder.mkdir(parents=True)
        self.port, self.monitor, route = ports
        self.config, self.store = self.folder / "server.conf", self.folder / "store"
        for name, value in {
            "NAME": self.name,
            "PORT": self.port,
            "MONITOR": self.monitor,
            "ROUTE": route,
            "STORE": self.store,
        }.items():
            text = text.replace(name, str(value))
        self.config.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    host = "127.0.0.1"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        server = program()
        assert server, "nats-server is not installed"
        self.process = subprocess.Popen([server, "-c", self.config, "-l", self.folder / "log"])

    def signal(self, number: int) -> None:
        assert self.process
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """As a power cut of the process: kill -9."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait()
            self.process = None

    def is_ready(self) -> bool:
        assert self.process
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {(self.folder / 'log').read_text()}")
        asking = http.client.HTTPConnection(self.host, self.monitor, timeout=2)
        try:
            asking.request("GET", "/healthz")
            return asking.getresponse().status == 200
        except OSError:
            return False
        finally:
            asking.close()


_CONFIG = """
server_name: NAME
listen: "127.0.0.1:PORT"
http: "127.0.0.1:MONITOR"
max_payload: %d
jetstream { store_dir: "STORE", sync_interval: %s }
"""
_CLUSTER = """
cluster { name: tests, listen: "127.0.0.1:ROUTE", routes: [%s] }
"""


class Cluster:
    """Servers that keep stores together."""

    def __init__(
        self, folder: Path, size: int, *, syncs: str = "always", rest: str = "", without: str = "nothing"
    ) -> None:
        self.size = size
        ports = [free_ports(3) for _ in range(size)]
        text = _CONFIG % (MAX_PAYLOAD, syncs) + rest
        text = "\n".join(line for line in text.splitlines() if not line.startswith(without))
        if size > 1:
            text += _CLUSTER % ", ".join(f'"nats://127.0.0.1:{route}"' for _, _, route in ports)
        self.servers = [Server(folder, number, own, text) for number, own in enumerate(ports, 1)]

    @property
    def address(self) -> str:
        return "nats://" + ",".join(server.address for server in self.servers)

    @property
    def monitor(self) -> list[str]:
        return [f"http://127.0.0.1:{server.monitor}" for server in self.servers]

    @property
    def options(self) -> dict[str, object]:
        """The options with which a store can be opened there."""
        return {"replicas": self.size, "monitor": self.monitor}

    def start(self) -> None:
        for server in self.servers:
            if server.process is None:
                server.start()
        self.await_ready()

    def await_ready(self) -> None:
        """Until all servers say that they are well."""
        until = time.monotonic() + READY_SECONDS
        while not all(server.is_ready() for server in self.servers):
            assert time.monotonic() < until, "the servers did not become ready"
            time.sleep(0.02)

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def api(self, what: str, request: object = None) -> dict[str, Any]:
        """Ask JetStream directly."""
        until = time.monotonic() + READY_SECONDS

        async def ask() -> dict[str, Any]:
            client = await nats.connect([f"nats://{server.address}" for server in self.servers if server.process])
            try:
                payload = b"" if request is None else json.dumps(request).encode()
                while True:
                    try:
                        found = await client.request(f"$JS.API.{what}", payload, timeout=10)
                    except nats.errors.TimeoutError:  # Nobody led, perhaps.
                        if time.monotonic() > until:
                            raise
                    else:
                        answer: dict[str, Any] = json.loads(found.data)
                        return answer
            finally:
                await client.close()

        return asyncio.run(ask())

    def made(self, settings: dict[str, Any]) -> None:
        """Make a JetStream stream."""
        answer = self.api(f"STREAM.CREATE.{settings['name']}", settings)
        assert "error" not in answer, answer

    def leader(self, name: str) -> Server:
        """The server that leads a JetStream stream."""
        name = self.api(f"STREAM.INFO.{name}")["cluster"]["leader"]
        return next(server for server in self.servers if server.name == name)

    def delete(self, name: str) -> None:
        """Delete a store."""
        for stream in (name, f"KV_{name}_state"):
            self.api(f"STREAM.DELETE.{stream}")

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Running servers; a test's parameter says how many."""
    with Cluster(tmp_path_factory.mktemp("servers"), getattr(request, "param", 1)) as cluster:
        yield cluster
