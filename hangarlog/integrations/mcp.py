"""Resumable HTTP of the MCP Python SDK: `ResumableEvents(path)`. Install `hangarlog[mcp]`.

A client that lost its connection needs what was sent in the last minutes. So the folder holds two stores at most, one
for each span of `keep_seconds`, and an older one is deleted as a whole.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from time import time
from types import FrameType
from uuid import uuid4
from weakref import WeakKeyDictionary

import msgspec

try:
    from mcp.server.streamable_http import EventCallback, EventMessage, EventStore, StreamableHTTPServerTransport
    from mcp_types import JSONRPCMessage, jsonrpc_message_adapter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hangarlog.integrations.mcp needs mcp 2 or newer, which is not installed; run: pip install 'hangarlog[mcp]'",
        name="mcp",
    ) from error

from hangarlog.aio.threads import Threads
from hangarlog.errors import HangarlogError, StoreOpenError
from hangarlog.eventstore.expected_version import ANY
from hangarlog.integrations.sessions import Opened, append, event, member, not_known
from hangarlog.opening import folder_path
from hangarlog.record.envelope import Envelope

_log = logging.getLogger(__name__)

_STREAM, _SENT = "mcp:events", "Sent"
_NAME = re.compile("mcp-events-([0-9]{1,12})")
_EVENT_ID = re.compile("([0-9]{1,12})-([0-9]{1,15})")


class _Sent(msgspec.Struct, frozen=True):
    """What was sent to a client on one of a session's streams; nothing, for the event that only opens a stream."""

    session: str
    stream: str
    message: msgspec.Raw = msgspec.Raw()
    message_json: str = ""
    """The message, if it is JSON of Python's kind only, with NaN."""

    @property
    def text(self) -> bytes:
        """The message as JSON, b"" without one."""
        return bytes(self.message) or self.message_json.encode()


_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(_Sent).decode


def _sent_in(envelope: Envelope) -> _Sent:
    if envelope.event_type != _SENT:
        raise not_known(envelope)
    try:
        return _decode(envelope.data)
    except msgspec.MsgspecError as error:
        raise not_known(envelope, str(error)) from error


class ResumableEvents(EventStore):
    """Keeps what an MCP server sends for at least `keep_seconds`, for clients that connect again.

    `where` is a folder, which is created if it is missing. Several server processes may share it. A client gets only
    what was sent in its own session: the SDK gives the streams of all sessions the same names.

    Raises `ValueError` if `keep_seconds` is less than 1, and what `FileEventStore` raises.
    """

    def __init__(self, where: str | os.PathLike[str], *, keep_seconds: float = 600) -> None:
        if not keep_seconds >= 1:
            raise ValueError(f"keep_seconds must be 1 or more, not {keep_seconds!r}")
        self._folder, self._keep_seconds = Path(folder_path(where)), keep_seconds
        self._open: dict[int, Opened] = {}
        self._lock, self._threads = threading.Lock(), Threads()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._now()

    def session(self, name: str) -> EventStore:
        """Return an event store for the session `name` alone, for a caller that is not the SDK's own transport."""
        return _SessionEvents(self, name)

    def close(self) -> None:
        """Close the stores; closing twice is fine."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Keep a message, and return its id. It survives the death of the process, not a power cut.

        If the store fails, the error is logged, and the message has no id: an error would end the SDK's session. Before
        a request is taken (`message` is None), the store's error is raised, and the client gets it.
        """
        session = _session_of(sys._getframe(1))
        try:
            return await self._put(session, stream_id, message)
        except (HangarlogError, OSError):
            if message is None:
                raise
            _log.exception("a message is sent, but not kept for a client that comes back")
            return ""

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send what a stream of this session was sent after an event, and return the stream's id.

        Return None if the event is not known: it is too old, of another session, or none at all.
        """
        return await self._replay(_session_of(sys._getframe(1)), last_event_id, send_callback)

    # The stores

    def _now(self) -> tuple[int, Opened]:
        """Return the number of the current store, and the store."""
        number = int(time() / self._keep_seconds)
        with self._lock:
            if number not in self._open:
                self._open[number] = Opened(self._path(number), "relaxed")
                self._drop_old(number)
            return number, self._open[number]

    def _path(self, number: int) -> Path:
        return self._folder / f"mcp-events-{number}"

    def _drop_old(self, current: int) -> None:
        for number in [number for number in self._open if number < current - 1]:
            self._open.pop(number).close()
        for path in self._folder.iterdir():
            name = _NAME.fullmatch(path.name)
            if name and int(name[1]) < current - 1:
                shutil.rmtree(path, ignore_errors=True)  # Another process may be doing the same.

    def _at(self, number: int) -> Opened | None:
        """Return the store of a number, None if it is gone."""
        with self._lock:
            if number not in self._open and self._path(number).is_dir():
                try:
                    self._open[number] = Opened(self._path(number), "relaxed")
                except StoreOpenError:  # It is being deleted.
                    return None
            return self._open.get(number)

    # Keeping and replaying

    async def _put(self, session: str, stream_id: str, message: JSONRPCMessage | None) -> str:
        text = None if message is None else message.model_dump_json(by_alias=True, exclude_unset=True).encode()
        return await self._threads.run(self._append, _as_sent(session, stream_id, text))

    def _append(self, data: bytes) -> str:
        number, opened = self._now()
        try:
            result = append(opened.store, _STREAM, [event(_SENT, data)], ANY)
        except StoreOpenError:  # Its folder was moved or deleted.
            self._forget(number, opened)
            number, opened = self._now()
            result = append(opened.store, _STREAM, [event(_SENT, data)], ANY)
        return f"{number}-{int(result)}"

    def _forget(self, number: int, opened: Opened) -> None:
        with self._lock:
            if self._open.get(number) is opened:
                self._open.pop(number).close()

    async def _replay(self, session: str, last_event_id: str, send: EventCallback) -> str | None:
        found = _EVENT_ID.fullmatch(last_event_id)
        if not found:
            return None
        stream_id, sent = await self._threads.run(self._after, session, int(found[1]), int(found[2]))
        for event_id, text in sent:
            await send(EventMessage(jsonrpc_message_adapter.validate_json(text, by_name=False), event_id))
        return stream_id

    def _after(self, session: str, number: int, version: int) -> tuple[str | None, list[tuple[str, bytes]]]:
        """Return the stream of an event, None if it is not the session's, and the (id, message) of later events."""
        stream_id: str | None = None
        later: list[tuple[str, bytes]] = []
        for at, place, sent in self._read(number, version):
            if stream_id is None:
                if (at, place, sent.session) != (number, version, session):
                    break
                stream_id = sent.stream
            elif (sent.session, sent.stream) == (session, stream_id) and (text := sent.text):
                later.append((f"{at}-{place}", text))
        return stream_id, later

    def _read(self, number: int, version: int) -> Iterator[tuple[int, int, _Sent]]:
        """Yield (number of the store, version, what was sent) from an event on, nothing if its store is too old."""
        current, _ = self._now()
        for at in range(number, current + 1) if number >= current - 1 else ():
            opened = self._at(at)
            # From the end: most clients come back soon.
            blocks: Sequence[Sequence[Envelope]] = ()
            with suppress(StoreOpenError):  # It was moved or deleted meanwhile.
                blocks = [*opened.store.envelopes(_STREAM, reverse=True, to_version=version)] if opened else ()
            for block in reversed(blocks):
                for envelope in reversed(block):
                    yield at, envelope.stream_version, _sent_in(envelope)
            version = 0


class _SessionEvents(EventStore):
    """The events of one session."""

    def __init__(self, events: ResumableEvents, name: str) -> None:
        self._events, self._session = events, _hidden(name)

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        return await self._events._put(self._session, stream_id, message)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        return await self._events._replay(self._session, last_event_id, send_callback)


def _as_sent(session: str, stream_id: str, text: bytes | None) -> bytes:
    """Return an event's payload."""
    where = _encode({"session": session, "stream": stream_id})
    return where if text is None else b"%b,%b}" % (where[:-1], member("message", text))


# Whose call it is

_unnamed: WeakKeyDictionary[StreamableHTTPServerTransport, str] = WeakKeyDictionary()


def _session_of(caller: FrameType) -> str:
    """Return the session of the SDK's transport that calls.

    The SDK names no session in these calls, and gives one event store to all its transports. Raises `RuntimeError` if
    the caller cannot be told: to guess would send a client what was meant for another.
    """
    transport = caller.f_locals.get("self")
    if not isinstance(transport, StreamableHTTPServerTransport):
        raise RuntimeError(
            f"{caller.f_code.co_qualname} in {caller.f_code.co_filename} is no transport of the MCP SDK, so its "
            "session is not known; give it ResumableEvents.session(name) with a name for each session"
        )
    return _hidden(transport.mcp_session_id or _unnamed.setdefault(transport, uuid4().hex))


def _hidden(name: str) -> str:
    """Return what stands for a session in the store: its id would let others join it."""
    return sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
