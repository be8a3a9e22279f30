"""Messages as the servers send and take them, and what a thread waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import nats

_NO_RESPONDERS = b"NATS/1.0 503"


class Message(NamedTuple):
    """A stored message. `headers` has the names as they were written."""

    seq: int
    subject: str
    headers: Mapping[str, str]
    data: bytes


class Outgoing(NamedTuple):
    """A message to send. `head` is what `head_of` returns."""

    subject: str
    head: bytes
    body: bytes

    def command(self, reply: str = "") -> bytes:
        """Return what the server is sent for it; its answer comes to the subject `reply`."""
        size = len(self.head)
        begin = f"HPUB {self.subject} {reply} {size} {size + len(self.body)}\r\n".encode()
        return b"%b%b%b\r\n" % (begin, self.head, self.body)


def head_of(headers: Mapping[str, str]) -> bytes:
    """Return headers as they are sent."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"NATS/1.0\r\n{lines}\r\n".encode()


Heard = tuple[bytes, bytes]
"""What came: the body, and the headers."""
CLOSED: Heard = b"", b"closed"


class Answer:
    """What a thread waits for. `heard` is None until an answer came; `why_not` says why nothing was sent.

    `then` is given an answer that is no error.
    """

    def __init__(self, then: Callable[[bytes], None]) -> None:
        self.heard: Heard | None = None
        self.why_not = ""
        self._then, self._came = then, threading.Lock()
        self._came.acquire()

    def hear(self, heard: Heard) -> None:
        """Note an answer. In the loop: once the waiting thread is awake, what waits for the event is told."""
        if self.heard is None and not self.why_not:
            self.heard = heard
            self._came.release()
            if b'"error"' not in heard[0]:
                self._then(heard[0])

    def refuse(self, why_not: str) -> None:
        """Note that nothing was sent."""
        self.why_not = why_not
        self._came.release()

    def wait(self, seconds: float) -> None:
        """Wait until one of both happens, or the time is over."""
        self._came.acquire(timeout=seconds)


class Client(nats.NATS):  # type: ignore[misc]
    """nats-py, but what comes to one subscription is heard at once: else it goes through a queue and a task."""

    own = -1
    hear: Callable[[bytes, Heard], None]

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if sid == self.own:
            self.hear(subject, (data, headers or b""))
        else:
            await super()._process_msg(sid, subject, reply, data, headers)


def headers_of(text: bytes) -> dict[str, str]:
    """Return the headers that were sent, with the `Status` if there is one."""
    first, *lines = text.decode("utf-8", "replace").split("\r\n")
    named = {name.strip(): value.strip() for name, _, value in [line.partition(":") for line in lines] if name}
    return {"Status": first[9:12], **named} if len(first) > 9 else named


def is_status(heard: Heard) -> bool:
    """True if it is no message, but ends an answer of several messages."""
    return b"Nats-Sequence:" not in heard[1]


def is_nobody(heard: Heard) -> bool:
    """True if the answer is that nobody takes such messages."""
    return heard[1].startswith(_NO_RESPONDERS)


def message_of(data: bytes, text: bytes) -> Message:
    """Return the message that came in answer to a direct get."""
    headers = headers_of(text)
    return Message(int(headers["Nats-Sequence"]), headers["Nats-Subject"], headers, data)


async def ended(client: Any) -> None:
    """Close a client of nats-py."""
    await client.close()
    if client._transport:  # It stays open if the server refused the client.
        client._transport.close()


async def greeting_of(host: str, port: int) -> bytes:
    """Return the first line that a server sends by itself."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        return await reader.readline()
    finally:
        writer.close()


def counted(state: dict[str, Any], subject: str) -> int:
    """Return how many messages of a subject a JetStream stream has in this state, which was asked for it."""
    return int((state.get("subjects") or {}).get(subject, 0))
