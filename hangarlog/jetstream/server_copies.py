"""Reads the copy of one server at a time. Any server may answer a direct get; its trace says which one does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import Any, NamedTuple

from hangarlog.jetstream.connection import FAILURES, Connection
from hangarlog.jetstream.wire import Message

_ANSWER_SECONDS, _TRACE_SECONDS = 2.0, 1.0
_CLIENT, _SERVERS = 0, (1, 2, 4)  # Kinds in a trace: a client; another server, a gateway, a leaf node.


class Copy(NamedTuple):
    """Messages as one server has them. With `goes_on`, it has more behind them than it gives at once.

    `server` is its name, "" if the server tells no trace.
    """

    server: str
    messages: list[Message]
    goes_on: bool


class _Awaited(NamedTuple):
    messages: list[Message]
    goes_on: asyncio.Future[bool]
    server: asyncio.Future[str]


class Copies:
    """The copies of a JetStream stream."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection, self._subject = connection, f"$JS.API.DIRECT.GET.{stream}"
        self._numbers, self._awaited = itertools.count(), dict[str, _Awaited]()
        self._inbox: str = connection.nc.new_inbox()
        self._subscription = connection.run(connection.nc.subscribe(f"{self._inbox}.*.*", cb=self._heard))

    def close(self) -> None:
        """Hear no answers any more."""
        self._connection.run(self._subscription.unsubscribe())

    def read(self, position: int, count: int, max_bytes: int) -> Copy | None:
        """Return up to `count` messages from a position on, as some server has them; None if none answers in time."""
        return self._connection.run(self._read({"seq": position, "batch": count, "max_bytes": max_bytes}))

    async def _read(self, request: dict[str, int]) -> Copy | None:
        loop, key = asyncio.get_running_loop(), str(next(self._numbers))
        awaited = self._awaited[key] = _Awaited([], loop.create_future(), loop.create_future())
        answer, headers = f"{self._inbox}.answer.{key}", {"Nats-Trace-Dest": f"{self._inbox}.trace.{key}"}
        try:
            await self._connection.nc.publish(self._subject, json.dumps(request).encode(), answer, headers)
            goes_on = await asyncio.wait_for(awaited.goes_on, _ANSWER_SECONDS)
            server = ""
            with contextlib.suppress(asyncio.TimeoutError):
                server = await asyncio.wait_for(awaited.server, _TRACE_SECONDS)
        except FAILURES:
            return None
        finally:
            del self._awaited[key]
        return Copy(server, awaited.messages, goes_on)

    async def _heard(self, message: Any) -> None:
        kind, key = message.subject.split(".")[-2:]
        awaited = self._awaited.get(key)
        if awaited is None:
            return  # It comes too late.
        headers = message.headers or {}
        if kind == "trace":
            server = _answering(message.data)
            if server and not awaited.server.done():
                awaited.server.set_result(server)
        elif "Nats-Sequence" in headers:
            number, subject = int(headers["Nats-Sequence"]), headers["Nats-Subject"]
            awaited.messages.append(Message(number, subject, headers, message.data))
        elif not awaited.goes_on.done():
            awaited.goes_on.set_result(int(headers.get("Nats-Num-Pending", 0)) > 0)


def _answering(trace: bytes) -> str | None:
    """Return the server that a request went to, None if this part of its trace does not say it."""
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        told = json.loads(trace)
        if told["events"][0]["kind"] == _CLIENT:  # From the server that the client is at.
            others = [event["name"] for event in told["events"][1:] if event["kind"] in _SERVERS]
            return str(others[0] if others else told["server"]["name"])
    return None
