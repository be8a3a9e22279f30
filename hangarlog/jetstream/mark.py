"""The mark of the store's last position, outside of the events: it shows if their tail was cut off.

It is written a moment after appends, so it may be behind by what came in that moment.
"""

from __future__ import annotations

import asyncio

import msgspec

from hangarlog.errors import HangarlogError
from hangarlog.jetstream.bucket import Bucket
from hangarlog.jetstream.connection import Connection
from hangarlog.record.checked_json import with_crc

MARK_SECONDS = 0.25
"""From the first append after a mark to the next mark."""
_KEY = "m"


class _Mark(msgspec.Struct, frozen=True):
    position: int


_decode = msgspec.json.Decoder(_Mark).decode


class Mark:
    """The mark of a store. `write` and `lower` run in the connection's loop."""

    def __init__(self, connection: Connection, bucket: Bucket) -> None:
        self._connection, self._bucket = connection, bucket
        self._position = self._written = 0
        self._is_due = False

    def read(self) -> int:
        """Return the position that was noted, 0 if none was. Raises `CorruptionError`."""
        content, _ = self._bucket.get(_KEY)
        return self._decoded(content)

    def _decoded(self, content: bytes | None) -> int:
        if content is None:
            return 0
        try:
            return _decode(self._bucket.checked(_KEY, content)).position
        except msgspec.MsgspecError as error:
            raise self._bucket.damage(_KEY, f"it is no mark: {error}") from error

    def note(self, position: int) -> None:
        """Note, in any thread, that an append has reached a position."""
        self._position = max(self._position, position)
        if not self._is_due:
            self._is_due = True
            self._connection.soon(self._later())

    async def _later(self) -> None:
        await asyncio.sleep(MARK_SECONDS)
        self._is_due = False
        try:
            await self.write()
        except HangarlogError:
            self._written = 0  # The next append tries again.

    async def write(self, *, lower: bool = False) -> None:
        """Write the mark, unless a higher one stands there."""
        while self._written < self._position or lower:
            position = self._position
            content, revision = await self._bucket.getting(_KEY)
            if not lower and self._decoded(content) >= position:
                self._written = position
            elif await self._bucket.putting(_KEY, with_crc(_Mark(position)), revision):
                self._written, lower = position, False

    async def lower(self, position: int) -> None:
        """Write a mark that may be lower than the one that stands there."""
        self._position = position
        await self.write(lower=True)
