"""The two sides of each comparison: the store, and a bare loop of nats-py with the same messages.

The bare loop is given its messages ready: it encodes nothing, checks nothing, and remembers only the last sequence.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Coroutine, Iterator
from time import perf_counter_ns
from typing import Any, TypeVar

import msgspec
import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

import hangarlog
from bench.harness.payload import ProviderStarted, events, first_number
from hangarlog import NO_STREAM, ConcurrencyError
from hangarlog.jetstream.settings import stream_settings
from hangarlog.jetstream.subjects import stream_tokens

_Result = TypeVar("_Result")
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_CONFLICT = 10071


class Place(msgspec.Struct):
    """Where both sides keep their events: the servers, how many they are, and the name of the store."""

    servers: str
    replicas: int
    name: str

    @property
    def address(self) -> str:
        """The address of the store. The bare side has a JetStream stream of its own beside it."""
        return f"{self.servers}/{self.name}?replicas={self.replicas}&synced=yes"

    @property
    def bare(self) -> str:
        """The name of the bare side's JetStream stream."""
        return f"{self.name}-bare"


class Store:
    """The store's side."""

    name = "store"

    def __init__(self, place: Place) -> None:
        self.place, self.store = place, hangarlog.open(place.address)
        self._versions: dict[str, int] = {}

    def appends(self, stream: str, count: int) -> list[int]:
        """Append single events at their expected versions; return when each began, and when the last ended."""
        given, version, times = events(count, first=_fresh(count)), self._versions.get(stream, NO_STREAM), []
        append = self.store.append
        for event in given:
            times.append(perf_counter_ns())
            version = append(stream, [event], version)
        self._versions[stream] = version
        return [*times, perf_counter_ns()]

    def batch(self, stream: str, size: int) -> float:
        """Append a batch, and return how many nanoseconds it took."""
        given, version, begin = (
            events(size, first=_fresh(size)),
            self._versions.get(stream, NO_STREAM),
            perf_counter_ns(),
        )
        self._versions[stream] = self.store.append(stream, given, version)
        return perf_counter_ns() - begin

    def contend(self, stream: str) -> None:
        """Append an event at the last version known, and again after each conflict."""
        version = self._versions.get(stream, NO_STREAM)
        given = events(1, first=_fresh(1))
        while True:
            try:
                self._versions[stream] = self.store.append(stream, given, version)
                return
            except ConcurrencyError as conflict:
                version = conflict.actual

    def read(self, stream: str) -> int:
        """Read a stream into typed events, and return how many."""
        return len(self.store.read_stream(stream))

    def position(self) -> int:
        """Return the position of the last event."""
        return self.store.get_event_count()

    def follow(self, position: int) -> Iterator[None]:
        """Yield as each typed event comes."""
        for _ in self.store.subscribe(position):
            yield None

    def close(self) -> None:
        """Close the store."""
        self.store.close()


_fresh_numbers = [first_number()]


def _fresh(count: int) -> int:
    """Return the first of as many numbers that no other event of this run has."""
    _fresh_numbers[0] += count
    return _fresh_numbers[0] - count


class Line(msgspec.Struct):
    """What is typed of a line."""

    data: ProviderStarted


_decode = msgspec.json.Decoder(Line).decode
_BODY = b'{"position":1,"stream_id":"bench:1","stream_version":100000,"event_id":"%b","event_type":"ProviderStarted",'
_BODY += b'"schema_version":1,"recorded_at":"2026-11-27T20:00:00.000000Z","data":%b,"metadata":{},"crc":"0a1b2c3d"}'


class Bare:
    """The bare side. Each call is one run of its event loop."""

    name = "bare"

    def __init__(self, place: Place) -> None:
        self.place, self._loop = place, asyncio.new_event_loop()
        self._last: dict[str, int] = {}
        self._run(self._connect())

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return self._loop.run_until_complete(work)

    async def _connect(self) -> None:
        servers = self.place.servers.removeprefix("nats://").split(",")
        self.nc = await nats.connect([f"nats://{each}" for each in servers], pending_size=64 << 20)
        settings = stream_settings(self.place.bare, self.place.replicas)
        answer = json.loads((await self._ask(f"$JS.API.STREAM.CREATE.{self.place.bare}", settings)).data)
        if answer.get("error"):
            raise RuntimeError(answer["error"]["description"])

    async def _ask(self, subject: str, request: object) -> Any:
        return await self.nc.request(subject, json.dumps(request).encode(), timeout=30)

    def _messages(self, count: int) -> list[tuple[bytes, dict[str, str]]]:
        given = [(msgspec.json.encode(event), event.event_id) for event in events(count, first=_fresh(count))]
        return [
            (_BODY % (event_id.encode(), data), {"Hl-Version": "100000", "Hl-Event-Id": event_id})
            for data, event_id in given
        ]

    def _subject(self, stream: str) -> str:
        return f"{self.place.bare}.e.{stream_tokens(stream)}"

    def appends(self, stream: str, count: int) -> list[int]:
        """As `Store.appends`."""
        return self._run(self._appends(self._subject(stream), self._messages(count)))

    async def _appends(self, subject: str, messages: list[tuple[bytes, dict[str, str]]]) -> list[int]:
        last, times, request = self._last.get(subject, 0), [], self.nc.request
        for body, headers in messages:
            times.append(perf_counter_ns())
            headers[_EXPECTED] = str(last)
            last = int(json.loads((await request(subject, body, timeout=30, headers=headers)).data)["seq"])
        self._last[subject] = last
        return [*times, perf_counter_ns()]

    def batch(self, stream: str, size: int) -> float:
        """As `Store.batch`."""
        messages, begin = self._messages(size), perf_counter_ns()
        self._run(self._batch(self._subject(stream), messages))
        return perf_counter_ns() - begin

    async def _batch(self, subject: str, messages: list[tuple[bytes, dict[str, str]]]) -> None:
        batch, publish = uuid.uuid4().hex, self.nc.publish
        messages[0][1][_EXPECTED] = str(self._last.get(subject, 0))
        for number, (body, headers) in enumerate(messages, 1):
            headers["Nats-Batch-Id"], headers["Nats-Batch-Sequence"] = batch, str(number)
            if number < len(messages):
                await publish(subject, body, headers=headers)
        headers["Nats-Batch-Commit"] = "1"
        answer = json.loads((await self.nc.request(subject, body, timeout=60, headers=headers)).data)
        self._last[subject] = int(answer["seq"])

    def contend(self, stream: str) -> None:
        """As `Store.contend`: the server's refusal says where the subject ends."""
        self._run(self._contend(self._subject(stream), *self._messages(1)))

    async def _contend(self, subject: str, message: tuple[bytes, dict[str, str]]) -> None:
        body, headers = message
        while True:
            headers[_EXPECTED] = str(self._last.get(subject, 0))
            answer = json.loads((await self.nc.request(subject, body, timeout=30, headers=headers)).data)
            error = answer.get("error")
            if not error:
                self._last[subject] = int(answer["seq"])
                return
            if error["err_code"] == _CONFLICT:
                self._last[subject] = int(error["description"].rpartition(" ")[2])

    def read(self, stream: str) -> int:
        """As `Store.read`, by an ordered consumer of the store's own messages."""
        return self._run(self._read(f"{self.place.name}.e.{stream_tokens(stream)}"))

    async def _read(self, subject: str) -> int:
        stream = self.nc.jetstream(timeout=30)
        state = (await stream.stream_info(self.place.name, subjects_filter=subject)).state
        subscription = await stream.subscribe(subject, stream=self.place.name, ordered_consumer=True)
        wait = subscription.next_msg
        found = [_decode((await wait(timeout=30)).data).data for _ in range(sum((state.subjects or {}).values()))]
        await subscription.unsubscribe()
        return len(found)

    def position(self) -> int:
        """As `Store.position`."""
        return int(self._run(self.nc.jetstream(timeout=30).stream_info(self.place.bare)).state.last_seq)

    def follow(self, position: int) -> Iterator[None]:
        """As `Store.follow`, by an ordered consumer."""
        config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=position + 1)
        stream = self.nc.jetstream(timeout=30)
        subject = f"{self.place.bare}.e.>"
        consumer = self._run(stream.subscribe(subject, stream=self.place.bare, ordered_consumer=True, config=config))
        while True:
            _decode(self._run(consumer.next_msg(timeout=30)).data)
            yield None

    def close(self) -> None:
        """Close the connection."""
        self._run(self.nc.close())
        self._loop.close()


Side = Store | Bare
SIDES: dict[str, type[Store] | type[Bare]] = {each.name: each for each in (Store, Bare)}
