"""UmaDB: its server on the loopback, its synchronous client, its append condition as the version check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from bench.engines.servers import free_port, listens, program, running
from bench.harness.engine import Conflict, Engine, Session
from bench.harness.payload import ProviderStarted

_decode = msgspec.json.Decoder(ProviderStarted).decode


class _Client(Session):
    """A stream is a tag, and its version is the position of its last event."""

    def __init__(self, url: str) -> None:
        import umadb

        self.umadb, self.client = umadb, umadb.Client(url)
        self.encode = msgspec.json.Encoder().encode

    def _query(self, stream: str) -> Any:
        return self.umadb.Query([self.umadb.QueryItem(tags=[stream])])

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        batch = [self.umadb.Event(type(event).__name__, self.encode(event), [stream]) for event in events]
        condition = self.umadb.AppendCondition(self._query(stream), None if expected < 0 else expected)
        try:
            return int(self.client.append(batch, condition))
        except self.umadb.IntegrityError as conflict:
            raise Conflict(self.version(stream)) from conflict

    def expected_version(self, version: int, position: int) -> int:
        return position

    def version(self, stream: str) -> int:
        last = list(self.client.read(self._query(stream), backwards=True, limit=1))
        return int(last[0].position) if last else -1

    def read_stream(self, stream: str) -> Sequence[Any]:
        return [_decode(each.event.data) for each in self.client.read(self._query(stream))]

    def read_all(self) -> int:
        count = 0
        for each in self.client.read():
            _decode(each.event.data)
            count += 1
        return count

    def read_new(self, position: int) -> int:
        for each in self.client.read(start=position + 1):
            _decode(each.event.data)
            position = int(each.position)
        return position

    def read_by_position(self, position: int) -> Any:
        (each,) = self.client.read(start=position, limit=1)
        return _decode(each.event.data)

    def close(self) -> None:
        self.client.close()


class _UmaDb(Engine):
    title = "UmaDB"
    package = module = "umadb"
    settings = "its server with defaults on the loopback, the synchronous client, payloads by msgspec"
    notes = (
        "a server: every call is a request, and opening times include its start",
        "always durable, so without relaxed figures",
        "the version check is a condition: no event with the stream's tag after the last seen position",
    )
    unsupported = dict.fromkeys(("W2", "W3 relaxed"), "always durable")

    def load(self) -> None:
        import umadb  # noqa: F401

    def missing(self) -> str | None:
        return super().missing() or (None if program("umadb") else "not installed: umadb program not found")

    @contextmanager
    def serve(self, folder: str, *, durable: bool) -> Iterator[str]:
        port = free_port()
        command = [program("umadb") or "umadb", "--listen", f"127.0.0.1:{port}", "--db-path", f"{folder}/uma.db"]
        with running(command, lambda: listens(port)):
            yield f"http://127.0.0.1:{port}"

    def open(self, target: str, *, durable: bool, variant: str = "", payload_kind: str = "") -> Session:
        return _Client(target)


ENGINE = _UmaDb()
