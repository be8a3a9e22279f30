"""A connection to NATS: an event loop in a thread of its own, which calls from any thread use."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import nats
import nats.errors

from hangarlog.errors import StorageError, StoreOpenError
from hangarlog.eventstore.server_errors import UnavailableError
from hangarlog.jetstream.address import Address
from hangarlog.jetstream.confirming import is_followed

_Result = TypeVar("_Result")
Ask = Callable[[str, int], Awaitable[dict[str, Any]]]
"""Returns the state of a JetStream stream, given which subjects to count and how many to pass over."""
_ATTEMPT_SECONDS = 2.0
"""For one request. Then it is sent again, or to another server."""
_PAUSE_SECONDS = 0.05
_FIRST_SECONDS = 5.0
"""For servers none of which answers at all: the address is probably wrong."""
_API = "$JS.API."
_MOVE_SECONDS, _LOOK_SECONDS = 2.0, 0.5
"""For a server that is there and cannot do it: it may be cut off from the others. Then between two looks at these."""
_NOT_FOUND, _IN_FLIGHT, _FINAL = 10037, 10164, (10039, 10074, 10076)
_ONCE = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0}
FAILURES = (nats.errors.Error, asyncio.TimeoutError, OSError)


class NotSentError(Exception):
    """A server refused to do it now, or there is none: nothing was done."""


class NoReplyError(Exception):
    """No answer came: it may be done, or be done later."""


class Message(NamedTuple):
    """A stored message. `headers` has the names as they were written."""

    seq: int
    subject: str
    headers: Mapping[str, str]
    data: bytes


class Connection:
    """A connection to the servers of a store.

    Args:
        address: the servers, and who asks.
        options: for `nats.connect`.
        seconds: the most that a call takes.
    """

    def __init__(self, address: Address, options: Mapping[str, Any], seconds: float) -> None:
        self.path, self._name, self.seconds = address.shown, address.name, seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hangarlog-nats", daemon=True)
        self._thread.start()
        self._closed = False
        self._denied = ""
        self._last_error = ""
        self.losses = 0
        """How often the connection was lost. What came meanwhile was missed, and the server may have begun anew."""
        self._looking: asyncio.Task[None] | None = None
        self._failing_since: dict[str, float] = {}  # By the kind of a request.
        self._numbers = itertools.count()
        self._collecting: dict[str, tuple[list[Message], asyncio.Future[int]]] = {}
        try:
            self.run(self._connect(address, dict(options)))
        except BaseException:
            self.close()
            raise

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine in the loop and return its result. Raises what it raises."""
        if self._closed:
            work.close()
            raise StoreOpenError(self.path, "it was closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise StoreOpenError(self.path, "it was closed") from None
        except BaseException:
            future.cancel()
            raise

    def soon(self, work: Coroutine[Any, Any, Any]) -> Future[Any] | None:
        """Begin a coroutine in the loop, from any thread, and do not wait for it."""
        if self._closed:
            work.close()
            return None
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End the connection, and every call that still runs with `StoreOpenError`."""
        if self._closed:
            return
        self.abandon()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            self._loop.close()

    def abandon(self) -> None:
        """End the connection, and do not wait for that: a finalizer may call this, in any thread."""
        if not self._closed:
            self._closed = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    async def _end(self) -> None:
        with contextlib.suppress(*FAILURES, AttributeError):
            await asyncio.wait_for(self.nc.close(), _ATTEMPT_SECONDS)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._loop.stop()

    # Connecting

    async def _connect(self, address: Address, options: dict[str, Any]) -> None:
        options = self._options = {"connect_timeout": _ATTEMPT_SECONDS, **address.credentials, **options}
        begun = monotonic()
        while True:
            failures = [await self._why_not(server, options) for server in address.servers]
            if None in failures:
                break
            refused = [failure for failure in failures if isinstance(failure, StoreOpenError)]
            if len(refused) == len(failures):
                raise refused[0]
            if monotonic() - begun > min(_FIRST_SECONDS, self.seconds):
                causes = "; ".join(dict.fromkeys(str(failure) for failure in failures))
                raise UnavailableError(self.path, causes, monotonic() - begun, reading=True)
            await asyncio.sleep(_PAUSE_SECONDS)
        good = [server for server, failure in zip(address.servers, failures, strict=True) if failure is None]
        self.nc = await nats.connect(
            good + [server for server in address.servers if server not in good],
            **{
                "pending_size": 64 << 20,
                "max_reconnect_attempts": -1,
                "reconnect_time_wait": 0.1,
                "ping_interval": 2,
                "max_outstanding_pings": 2,
                "dont_randomize": True,
                **options,
                "error_cb": self._note_error,
                "disconnected_cb": self._note_loss,
            },
        )
        if not (self.nc._server_info.get("jetstream") or self.nc._server_info.get("cluster")):
            raise StoreOpenError(self.path, "JetStream is not enabled: the server's configuration needs jetstream {}")
        self._inbox, self._inboxes = self.nc.new_inbox(), options.get("inbox_prefix", "_INBOX")
        await self.nc.subscribe(f"{self._inbox}.*", cb=self._collect)

    async def _why_not(self, server: str, options: dict[str, Any]) -> Exception | None:
        """Return why no connection to a server can be made, None if it can. A `StoreOpenError` is final."""
        host, _, port = server.partition("://")[2].rpartition(":")
        where = f"{host}:{port}"
        if not options.get("tls_handshake_first"):
            try:
                greeting = await asyncio.wait_for(_greeting(host.strip("[]"), int(port)), _ATTEMPT_SECONDS)
            except TimeoutError:
                return OSError(f"{where} does not answer as a NATS server does")
            except (OSError, ValueError) as error:
                return OSError(f"{where} cannot be reached ({error})")
            if not greeting.startswith(b"INFO "):
                return StoreOpenError(self.path, f"what listens at {where} is no NATS server: it does not greet as one")
        said: list[str] = []

        async def note(error: Exception) -> None:
            said.append(str(error))

        probe = nats.NATS()
        try:
            await probe.connect(server, **{**options, **_ONCE, "error_cb": note})
        except (TimeoutError, OSError, nats.errors.Error, ValueError) as error:
            text = "; ".join([*dict.fromkeys(said), str(error) or type(error).__name__])
            if "uthorization" in text or "uthentication" in text:
                return StoreOpenError(self.path, f"{where} refuses the user, password, token or key that was given")
            return OSError(f"{where} does not let a client in ({text})")
        finally:
            await _closed(probe)
        return None

    async def _note_error(self, error: Exception) -> None:
        self._last_error = text = str(error) or type(error).__name__
        if "permissions violation" in text:
            self._denied = text

    async def _note_loss(self) -> None:
        self.losses += 1

    @property
    def server_version(self) -> str:
        """The version of the server that is connected."""
        return str(self.nc._server_info.get("version", ""))

    @property
    def max_bytes(self) -> int:
        """The most bytes of a message, with its headers."""
        return int(self.nc.max_payload)

    # Requests

    async def send(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Send a request once, and return its answer. Raises `NotSentError` and `NoReplyError`."""
        if not self.nc.is_connected:  # Otherwise it would wait in the client, and be sent whenever that is possible.
            await asyncio.sleep(_PAUSE_SECONDS)
            raise NotSentError(self._last_error or "there is no connection")
        try:
            message = await self.nc.request(subject, payload, timeout=_ATTEMPT_SECONDS, headers=headers)
        except nats.errors.NoRespondersError:
            await self._move_on(subject)
            raise NotSentError("nobody answers for JetStream: no leader, or JetStream is not enabled") from None
        except FAILURES as error:
            self._raise_denied(subject)
            await self._move_on(subject)
            raise NoReplyError(str(error) or type(error).__name__) from error
        answer: dict[str, Any] = json.loads(message.data)
        flaw = answer.get("error") or {}
        # A leader that is cut off says the first for ever, and a server without one the second.
        if flaw.get("err_code") == _IN_FLIGHT or flaw.get("code", 0) >= 500:
            await self._move_on(subject)
        else:
            self._failing_since.pop(_kind(subject), None)
        return answer

    async def begin(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Publish a message whose answer comes with a later one. Raises `NotSentError`."""
        try:
            await self.nc.publish(subject, payload, headers=headers)
        except FAILURES as error:
            raise NotSentError(str(error) or type(error).__name__) from error

    async def hear(self, subject: str, heard: Callable[[Any], Awaitable[None]]) -> None:
        """Call `heard` with every message of a subject from now on, also after the connection was made anew."""
        await self.nc.subscribe(subject, cb=heard)
        with contextlib.suppress(*FAILURES):  # Then the connection is lost, which its user notices.
            await self.nc.flush()

    def _raise_denied(self, subject: str) -> None:
        if any(f'"{part.lower()}' in self._denied.lower() for part in (f'{subject}"', self._inboxes)):
            raise StorageError(self.path, None, f"a permission is missing: {self._denied.removeprefix('nats: ')}")

    async def _move_on(self, subject: str) -> None:
        """If this server has done nothing for a while, look for a better one: nats-py stays at one that is cut off.

        Such a server may still answer some questions, so they do not count for others, nor for writes.
        """
        now = monotonic()
        fails = now - self._failing_since.setdefault(_kind(subject), now) > _MOVE_SECONDS
        if fails:
            await self.doubt()

    async def doubt(self) -> None:
        """Look for a better server: this one fails, or answers with what is old."""
        if len(self.nc.servers) > 1 and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_elsewhere())

    async def _look_elsewhere(self) -> None:
        """Go to a server that sees a leader with most of its followers. While there is none, stay."""
        here, known = self.nc.connected_url, self.nc.servers
        if here is None or await self._sees_leader(here.geturl()):
            known = []
        others = [url for url in known if url != here]
        seen = await asyncio.gather(*(self._sees_leader(url.geturl()) for url in others))
        for url, sees in zip(others, seen, strict=True):
            if sees:
                self._failing_since.clear()
                self.nc.set_server_pool([url.geturl(), *(each.geturl() for each in known if each != url)])
                await self.nc.force_reconnect()
                return
        await asyncio.sleep(_LOOK_SECONDS)

    async def _sees_leader(self, server: str) -> bool:
        client = nats.NATS()
        try:
            await client.connect(server, **{**self._options, **_ONCE, "error_cb": _ignored, "connect_timeout": 1})
            answer = json.loads((await client.request(f"{_API}STREAM.INFO.{self._name}", timeout=1)).data)
        except (*FAILURES, ValueError):
            return False
        finally:
            await _closed(client)
        cluster = answer.get("cluster") or {}
        return bool("config" in answer and cluster.get("leader") and is_followed(cluster))

    async def api(self, what: str, request: object = None) -> dict[str, Any]:
        """Ask JetStream for something that changes nothing if it is asked again, until it answers.

        Return the answer, which may have an `error`. Raises `UnavailableError`.
        """
        payload = b"" if request is None else json.dumps(request).encode()
        begun = monotonic()
        while True:
            try:
                answer = await self.send(f"{_API}{what}", payload)
            except (NotSentError, NoReplyError) as error:
                cause = str(error)
            else:
                error_ = answer.get("error")
                if not error_ or error_["code"] < 500 or error_["err_code"] in _FINAL:
                    return answer
                cause = str(error_.get("description"))
            if monotonic() - begun > self.seconds:
                raise UnavailableError(self.path, cause, self.seconds, reading=True)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def stored(self, stream: str, **which: object) -> Message | None:
        """Return a message from the leader of a JetStream stream: the last of a subject, the next, or one by number."""
        answer = await self.api(f"STREAM.MSG.GET.{stream}", which)
        if error := answer.get("error"):
            if error["err_code"] == _NOT_FOUND:
                return None
            raise StorageError(self.path, None, str(error["description"]), reading=True)
        found = answer["message"]
        headers = _headers(base64.b64decode(found.get("hdrs", "")))
        return Message(found["seq"], found["subject"], headers, base64.b64decode(found.get("data", "")))

    async def count(self, stream: str, subject: str) -> int:
        """Return how many messages the leader of a JetStream stream counts for one subject."""
        return counted(await self.state(stream, subject), subject)

    async def account(self) -> str:
        """Return the name of the account that this connection belongs to."""
        try:
            answer = await self.send("$SYS.REQ.USER.INFO", b"")
        except (NotSentError, NoReplyError) as error:
            raise UnavailableError(self.path, str(error), _ATTEMPT_SECONDS, reading=True) from error
        return str((answer.get("data") or {}).get("account", ""))

    async def state(self, stream: str, subjects: str | None = None, offset: int = 0) -> dict[str, Any]:
        """Return the state of a JetStream stream as its leader has it, with a page of the subjects asked for.

        A leader that has not heard of most of its followers lately is not believed: there may be a newer one.
        """
        request = None if subjects is None else {"subjects_filter": subjects, "offset": offset}
        begun = monotonic()
        while True:
            answer = await self.api(f"STREAM.INFO.{stream}", request)
            if error := answer.get("error"):
                raise StorageError(self.path, None, str(error["description"]), reading=True)
            more = {name: answer.get(name) or {} for name in ("config", "cluster")}
            if is_followed(more["cluster"]):
                return {**answer["state"], "total": answer.get("total", 0), **more}
            if monotonic() - begun > self.seconds:
                cause = f"{more['cluster'].get('leader')!r} leads, and has not heard of most other servers lately"
                raise UnavailableError(self.path, cause, self.seconds, reading=True)
            await self.doubt()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def subjects(self, stream: str, wanted: str, ask: Ask | None = None) -> list[str]:
        """Return the subjects of a JetStream stream that match. `ask` is how to ask for its state."""
        found: list[str] = []
        while True:
            state = await (ask(wanted, len(found)) if ask else self.state(stream, wanted, len(found)))
            page = state.get("subjects") or {}
            found += page
            if not page or len(found) >= state["total"]:
                return found

    # Reading many messages at once, from any replica

    async def fetch(self, stream: str, request: dict[str, Any]) -> list[Message]:
        """Return the messages that one direct batch get gives: from any replica, which may be behind.

        Raises `UnavailableError`.
        """
        payload, subject = json.dumps(request).encode(), f"{_API}DIRECT.GET.{stream}"
        begun = monotonic()
        while True:
            key = str(next(self._numbers))  # An answer that comes too late has another one.
            found: list[Message] = []
            done: asyncio.Future[int] = self._loop.create_future()
            self._collecting[key] = (found, done)
            try:
                await self.nc.publish(subject, payload, reply=f"{self._inbox}.{key}")
                status = await asyncio.wait_for(done, _ATTEMPT_SECONDS)
                if status in (204, 404):
                    self._failing_since.pop(_kind(subject), None)
                    return found
                cause = f"a direct get was refused with status {status}"
                await asyncio.sleep(_PAUSE_SECONDS)
            except FAILURES as error:
                self._raise_denied(subject)
                cause = str(error) or type(error).__name__
                await asyncio.sleep(0 if isinstance(error, asyncio.TimeoutError) else _PAUSE_SECONDS)
            finally:
                self._collecting.pop(key, None)
            await self._move_on(subject)
            if monotonic() - begun > self.seconds:
                raise UnavailableError(self.path, cause, self.seconds, reading=True)

    async def _collect(self, message: Any) -> None:
        collected = self._collecting.get(message.subject.rpartition(".")[2])
        if collected is None:
            return  # The answer came too late.
        found, done = collected
        headers = message.headers or {}
        if "Nats-Sequence" in headers:
            found.append(Message(int(headers["Nats-Sequence"]), headers["Nats-Subject"], headers, message.data))
        elif not done.done():
            done.set_result(int(headers.get("Status", 500)))


def _kind(subject: str) -> str:
    """Return what a request asks for: a leader's answer, any server's, or a write."""
    if not subject.startswith(_API):
        return "write"
    return "get" if subject.startswith(f"{_API}DIRECT.") else "ask"


def counted(state: dict[str, Any], subject: str) -> int:
    """Return how many messages of a subject a JetStream stream has in this state, which was asked for it."""
    return int((state.get("subjects") or {}).get(subject, 0))


async def _closed(client: Any) -> None:
    await client.close()
    if client._transport:  # It stays open if the server refused the client.
        client._transport.close()


async def _ignored(_: Exception) -> None:
    pass


async def _greeting(host: str, port: int) -> bytes:
    """Return the first line that a server sends by itself."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        return await reader.readline()
    finally:
        writer.close()


def _headers(text: bytes) -> dict[str, str]:
    lines = text.decode("utf-8", "replace").split("\r\n")[1:]
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
