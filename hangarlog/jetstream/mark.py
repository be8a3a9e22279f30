"""The mark of the store's last position, outside of the events: it shows if their tail was cut off.

It is written a moment after appends, so it may be behind by what came in that moment.
"""

from __future__ import annotations

import asyncio

import msgspec

from hangarlog.errors import HangarlogError
from hangarlog.jetstream.bucket import Bucket
from hangarlog.record.checked_json import with_crc

MARK_SECONDS = 0.25
"""From the first append after a mark to the next mark."""
_KEY = "m"


class _Mark(msgspec.Struct, frozen=True):
    position: int


_decode = msgspec.json.Decoder(_Mark).decode


class Mark:
    """The mark of a store. `note` and `write` run in the connection's loop."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._position = self._written = 0
        self._timer: asyncio.Task[None] | None = None

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
        """Note that an append has reached a position."""
        self._position = max(self._position, position)
        if self._timer is None or self._timer.done():
            self._timer = asyncio.get_running_loop().create_task(self._later())

    async def _later(self) -> None:
        await asyncio.sleep(MARK_SECONDS)
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
