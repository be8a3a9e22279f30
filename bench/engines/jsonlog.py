"""A script that keeps its events in a file: json.dumps, write, flush."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from typing import Any

import msgspec

from bench.harness.engine import Engine, Session
from bench.harness.payload import ProviderStarted


class _File(Session):
    def __init__(self, folder: str, *, durable: bool) -> None:
        self.path = os.path.join(folder, "events.jsonl")
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        self.durable = durable

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        for event in events:
            line = {"stream": stream, "type": type(event).__name__, "data": msgspec.structs.asdict(event)}
            self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.durable:
            os.fdatasync(self.file.fileno())
        return expected + len(events)

    def version(self, stream: str) -> int:
        return -1

    def read_stream(self, stream: str) -> Sequence[Any]:
        with open(self.path, encoding="utf-8") as lines:
            return [ProviderStarted(**row["data"]) for row in map(json.loads, lines) if row["stream"] == stream]

    def read_all(self) -> int:
        with open(self.path, encoding="utf-8") as lines:
            return sum(ProviderStarted(**json.loads(line)["data"]) is not None for line in lines)

    def close(self) -> None:
        self.file.close()


class _JsonLog(Engine):
    title = "json.dumps, write, flush"
    settings = "one file for all streams, opened for appending; flush, and fdatasync if durable"
    notes = ("no expected version, no checks", "one file: reading a stream reads everything")
    unsupported = dict.fromkeys(("W7", "W7 read"), "one file for all streams")

    def version(self) -> str:
        return platform.python_version()

    def open(self, target: str, *, durable: bool, variant: str = "", payload_kind: str = "") -> Session:
        return _File(target, durable=durable)


ENGINE = _JsonLog()
