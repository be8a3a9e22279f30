"""A connection to NATS: an event loop in a thread of its own, which calls from any thread use."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from math import inf
from time import monotonic, sleep
from typing import Any, TypeVar

import msgspec
import nats
import nats.errors

from hangarlog.errors import StorageError, StoreOpenError
from hangarlog.eventstore.server_errors import UnavailableError
from hangarlog.jetstream.address import Address
from hangarlog.jetstream.confirming import is_followed
from hangarlog.jetstream.wire import (
    CLOSED,
    Answer,
    Client,
    Heard,
    Message,
    Outgoing,
    counted,
    ended,
    greeting_of,
    head_of,
    headers_of,
    is_nobody,
    is_status,
    message_of,
)

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
        self._thread = threading.Thread(target=_serve, args=(self._loop,), name="hangarlog-nats", daemon=True)
        self._thread.start()
        self._closed = False
        self._denied = ""
        self._last_error = ""
        self.losses = 0
        """How often the connection was lost. What came meanwhile was missed, and the server may have begun anew."""
        self._looking: Future[None] | None = None
        self._failing_since: dict[str, float] = {}  # By the kind of a request.
        self._numbers = itertools.count()
        self._hearing: dict[bytes, Callable[[Heard], None]] = {}  # By the last token of the subject of an answer.
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

    def post(self, work: Callable[..., object], *arguments: object) -> None:
        """Call a function in the loop, from any thread, and do not wait for it."""
        if not self._closed:
            self._loop.call_soon_threadsafe(work, *arguments)

    def close(self) -> None:
        """End the connection, and every call that still runs with `StoreOpenError`."""
        if self._closed:
            return
        self.abandon()
        if threading.current_thread() is not self._thread:
            self._thread.join()

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
        for hear in list(self._hearing.values()):
            hear(CLOSED)
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
        self.nc = Client()
        await self.nc.connect(
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
        self.nc.hear = self._hear
        self.nc.own = (await self.nc.subscribe(f"{self._inbox}.*", cb=_ignored))._id

    async def _why_not(self, server: str, options: dict[str, Any]) -> Exception | None:
        """Return why no connection to a server can be made, None if it can. A `StoreOpenError` is final."""
        host, _, port = server.partition("://")[2].rpartition(":")
        where = f"{host}:{port}"
        if not options.get("tls_handshake_first"):
            try:
                greeting = await asyncio.wait_for(greeting_of(host.strip("[]"), int(port)), _ATTEMPT_SECONDS)
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
            await ended(probe)
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

    def publish(self, *commands: bytes) -> bool:
        """Send commands at once, in the loop. Return False if there is no connection.

        nats-py sends what it holds at its next turn, or when it has a connection again.
        """
        nc = self.nc
        if not nc.is_connected:
            return False
        nc._transport.writelines([*nc._pending, *commands])
        nc._pending, nc._pending_data_size = [], 0
        return True

    def _hear(self, subject: bytes, heard: Heard) -> None:
        hear = self._hearing.get(subject.rpartition(b".")[2])
        if hear:  # Else the answer came too late.
            hear(heard)

    def _reply(self, hear: Callable[[Heard], None]) -> tuple[bytes, str]:
        """Return the key, and the subject, of answers that are to be heard. The key must be taken out of `_hearing`."""
        key = str(next(self._numbers))
        self._hearing[key.encode()] = hear
        return key.encode(), f"{self._inbox}.{key}"

    def ask(self, messages: Sequence[Outgoing], then: Callable[[bytes], None], until: float = inf) -> dict[str, Any]:
        """Send messages from any thread, the last one as a request, and return its answer.

        `then` is given it in the loop if it is no error. After `until` (monotonic) nothing is sent.
        Raises `NotSentError` and `NoReplyError`.
        """
        answer = Answer(then)
        key, reply = self._reply(answer.hear)
        *others, last = messages
        commands = [*(message.command() for message in others), last.command(reply)]
        try:
            self.post(self._send, commands, answer, until)
            answer.wait(_ATTEMPT_SECONDS)
        finally:
            self._hearing.pop(key, None)
        if answer.heard is CLOSED:
            raise StoreOpenError(self.path, "it was closed")
        if answer.why_not:
            sleep(_PAUSE_SECONDS)
            raise NotSentError(answer.why_not)
        return self._judged(last.subject, answer.heard)

    def _send(self, commands: list[bytes], answer: Answer, until: float) -> None:
        if monotonic() > until:
            answer.refuse("the offer to move the cursor took too long")
        elif not self.publish(*commands):
            answer.refuse(self._last_error or "there is no connection")

    async def send(self, subject: str, payload: bytes, headers: Mapping[str, str] = {}) -> dict[str, Any]:
        """Send a request once, and return its answer. Raises `NotSentError` and `NoReplyError`."""
        heard = await self._heard(Outgoing(subject, head_of(headers), payload), lambda _: True)
        return self._judged(subject, heard[0] if heard else None)

    async def _heard(self, message: Outgoing, is_last: Callable[[Heard], bool]) -> list[Heard]:
        """Send a request once, and return its answers up to the last one, [] if that did not come.

        Raises `NotSentError`.
        """
        found: list[Heard] = []
        done: asyncio.Future[None] = self._loop.create_future()

        def hear(heard: Heard) -> None:
            found.append(heard)
            if is_last(heard) and not done.done():
                done.set_result(None)

        key, reply = self._reply(hear)
        try:
            if not self.publish(message.command(reply)):
                await asyncio.sleep(_PAUSE_SECONDS)
                raise NotSentError(self._last_error or "there is no connection")
            await asyncio.wait_for(done, _ATTEMPT_SECONDS)
        except TimeoutError:
            return []
        finally:
            self._hearing.pop(key, None)
        return found

    def _judged(self, subject: str, heard: Heard | None) -> dict[str, Any]:
        """Return the answer that was heard. Raises `NotSentError` and `NoReplyError`."""
        if heard is None:
            self._raise_denied(subject)
            self._move_on(subject)
            raise NoReplyError(f"no answer came within {_ATTEMPT_SECONDS:g} seconds")
        if is_nobody(heard):
            self._move_on(subject)
            raise NotSentError("nobody answers for JetStream: no leader, or JetStream is not enabled")
        answer: dict[str, Any] = msgspec.json.decode(heard[0])
        flaw = answer.get("error") or {}
        # A leader that is cut off says the first for ever, and a server without one the second.
        if flaw.get("err_code") == _IN_FLIGHT or flaw.get("code", 0) >= 500:
            self._move_on(subject)
        else:
            self._failing_since.pop(_kind(subject), None)
        return answer

    async def hear(self, subject: str, heard: Callable[[Any], Awaitable[None]]) -> None:
        """Call `heard` with every message of a subject from now on, also after the connection was made anew."""
        await self.nc.subscribe(subject, cb=heard)
        with contextlib.suppress(*FAILURES):  # Then the connection is lost, which its user notices.
            await self.nc.flush()

    def _raise_denied(self, subject: str) -> None:
        if any(f'"{part.lower()}' in self._denied.lower() for part in (f'{subject}"', self._inboxes)):
            raise StorageError(self.path, None, f"a permission is missing: {self._denied.removeprefix('nats: ')}")

    def _move_on(self, subject: str) -> None:
        """If this server has done nothing for a while, look for a better one: nats-py stays at one that is cut off.

        Such a server may still answer some questions, so they do not count for others, nor for writes.
        """
        now = monotonic()
        if now - self._failing_since.setdefault(_kind(subject), now) > _MOVE_SECONDS:
            self.doubt()

    def doubt(self) -> None:
        """Look for a better server, from any thread: this one fails, or answers with what is old."""
        if len(self.nc.servers) > 1 and (self._looking is None or self._looking.done()):
            self._looking = self.soon(self._look_elsewhere())

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
            await ended(client)
        cluster = answer.get("cluster") or {}
        return bool("config" in answer and cluster.get("leader") and is_followed(cluster))

    async def api(self, what: str, request: object = None) -> dict[str, Any]:
        """Ask JetStream for something that changes nothing if it is asked again, until it answers.

        Return the answer, which may have an `error`. Raises `UnavailableError`.
        """
        payload = b"" if request is None else msgspec.json.encode(request)
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
        headers = headers_of(base64.b64decode(found.get("hdrs", "")))
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
            self.doubt()
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
        payload, subject = msgspec.json.encode(request), f"{_API}DIRECT.GET.{stream}"
        begun = monotonic()
        while True:
            try:
                heard = await self._heard(Outgoing(subject, head_of({}), payload), is_status)
            except NotSentError as error:
                heard, cause = [], str(error)
            else:
                cause = f"no answer came within {_ATTEMPT_SECONDS:g} seconds"
            if heard:
                status = headers_of(heard.pop()[1]).get("Status")
                if status in ("204", "404"):
                    self._failing_since.pop(_kind(subject), None)
                    return [message_of(*each) for each in heard]
                cause = f"a direct get was refused with status {status}"
                await asyncio.sleep(_PAUSE_SECONDS)
            self._raise_denied(subject)
            self._move_on(subject)
            if monotonic() - begun > self.seconds:
                raise UnavailableError(self.path, cause, self.seconds, reading=True)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _kind(subject: str) -> str:
    """Return what a request asks for: a leader's answer, any server's, or a write."""
    if not subject.startswith(_API):
        return "write"
    return "get" if subject.startswith(f"{_API}DIRECT.") else "ask"


async def _ignored(_: Exception) -> None:
    pass
