"""Snapshots in the bucket, and the streams that hide events.

An append and a read must know whether their stream hides events. To ask the bucket each time would double their cost,
so every process keeps the ids of such streams, and hears of new ones. It may learn of one a moment late: an append
asks again before it reports a conflict.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.jetstream.bucket import Bucket
from hangarlog.jetstream.connection import Connection
from hangarlog.jetstream.settings import key_prefix
from hangarlog.jetstream.subjects import stream_id_of, stream_tokens
from hangarlog.record.checked_json import with_crc

_decode = msgspec.json.Decoder(Snapshot).decode
Change = Callable[[Snapshot | None], Snapshot | None]


def _key(stream_id: str) -> str:
    return f"s.{stream_tokens(stream_id)}"


def _hint(stream_id: str) -> str:
    return f"h.{stream_tokens(stream_id)}"


class Snapshots:
    """The snapshots of a store."""

    def __init__(self, connection: Connection, bucket: Bucket, name: str) -> None:
        self._connection, self._bucket = connection, bucket
        self._hints = f"{key_prefix(name)}h.>"
        self._hiding: set[str] = set()
        self._losses = 0
        connection.run(connection.hear(self._hints, self._heard))
        self._learn()

    async def _heard(self, message: Any) -> None:
        with contextlib.suppress(ValueError):  # Somebody else has written it.
            self._hiding.add(stream_id_of(message.subject))

    def _learn(self) -> None:
        self._losses = self._connection.losses
        self._hiding.update(map(stream_id_of, self._bucket.keys("h.")))

    def hiding(self) -> set[str]:
        """Return the streams that may hide events."""
        if self._connection.losses != self._losses:  # Some may not have been heard of.
            self._learn()
        return self._hiding

    def of_hiding(self, stream_id: str) -> Snapshot | None:
        """Return a stream's snapshot if it may hide events."""
        return self.load(stream_id) if stream_id in self.hiding() else None

    def load(self, stream_id: str) -> Snapshot | None:
        """Return a stream's snapshot, None if there is none. Raises `CorruptionError`."""
        return self._load(stream_id)[0]

    def _load(self, stream_id: str) -> tuple[Snapshot | None, int]:
        key = _key(stream_id)
        content, revision = self._bucket.get(key, rare=True)
        return (None if content is None else self._decoded(key, stream_id, content)), revision

    def _decoded(self, key: str, stream_id: str, content: bytes) -> Snapshot:
        try:
            snapshot = _decode(self._bucket.checked(key, content))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._bucket.damage(key, f"it is no snapshot: {error}") from error
        if snapshot.stream_id != stream_id:
            raise self._bucket.damage(key, f"it is of stream {snapshot.stream_id!r}")
        return snapshot

    def change(self, stream_id: str, change: Change) -> None:
        """Replace a stream's snapshot with what `change` returns for it; keep it if that is None."""
        while True:
            before, revision = self._load(stream_id)
            after = change(before)
            if after is None or after == before:
                return
            hides = after.compacted_through >= 0
            if hides and (before is None or before.compacted_through < 0):
                self._note_hiding(stream_id)
            content = None if after.says_nothing else with_crc(after)
            if self._bucket.put(_key(stream_id), content, revision):
                return

    def _note_hiding(self, stream_id: str) -> None:
        """Note it first: whoever looks for the snapshot then in vain loses nothing."""
        while not self._bucket.put(_hint(stream_id), b"hides", self._bucket.get(_hint(stream_id)).revision):
            pass
        self._hiding.add(stream_id)

    def all(self, prefix: str) -> list[Snapshot]:
        """Return the snapshots of the streams whose ids begin with `prefix`."""
        ids = [stream_id for stream_id in map(stream_id_of, self._bucket.keys("s.")) if stream_id.startswith(prefix)]
        return [snapshot for stream_id in ids if (snapshot := self.load(stream_id))]
