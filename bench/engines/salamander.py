"""salamander-db: an embedded store in Rust, through its Python bindings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import msgspec

from bench.harness.engine import Engine, Session


class _Store(Session):
    def __init__(self, folder: str, *, durable: bool) -> None:
        import salamander

        path = os.path.join(folder, "salamander")
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(path, "LOCK"))
        self.store = salamander.open(path)
        self.durability = "sync" if durable else "flush"
        self.as_dict = msgspec.structs.asdict

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        batch = [{"event_type": type(event).__name__, "body": self.as_dict(event)} for event in events]
        revision = "no_stream" if expected < 0 else expected
        done = self.store.append_batch(stream, batch, expected_revision=revision, durability=self.durability)
        return int(done["current_revision"])

    def read_stream(self, stream: str) -> Sequence[Any]:
        return [row["body"] for row in self.store.replay(stream)]

    def read_all(self) -> int:
        head, count = self.store.head(), 0
        with self.store.watch(start=0, timeout=10.0) as rows:
            for row in rows:
                count += 1
                if row["offset"] >= head - 1:
                    break
        return count

    def close(self) -> None:
        self.store.close()


class _Salamander(Engine):
    title = "salamander-db"
    package, module = "salamander-db", "salamander"
    settings = "embedded, defaults; durability sync if durable and flush if relaxed"
    reads_slowly = True
    notes = (
        "one process only",
        "returns dictionaries, not typed objects",
        "a kill leaves a LOCK file to delete by hand; here each opening deletes it",
    )
    unsupported = {  # noqa: RUF012
        **dict.fromkeys(("W6a", "W6b"), "one process only"),
        **dict.fromkeys(("W10 version", "W10 position"), "reads only ranges of offsets in a stream"),
    }

    def load(self) -> None:
        import salamander  # noqa: F401

    def open(self, target: str, *, durable: bool, variant: str = "", payload_kind: str = "") -> Session:
        return _Store(target, durable=durable)


ENGINE = _Salamander()
