"""The key-value bucket of a store: everything that is no event. `nats kv` reads it.

Every value is written with the revision of the one it replaces, so of two writers one conflicts. A key's first letter
says what it is: s a snapshot, h that a stream hides events, c a cursor, p a projection's state, o who owns a name, m
the mark of the store's last position.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import NamedTuple

from hangarlog.errors import CorruptionError, StorageError, TooLargeError
from hangarlog.eventstore.server_errors import UnavailableError
from hangarlog.jetstream.connection import Connection, NoReplyError, NotSentError
from hangarlog.jetstream.messages import EXPECTED
from hangarlog.jetstream.settings import bucket_of, key_prefix
from hangarlog.record.checked_json import without_crc
from hangarlog.record.envelope import LineError

_CONFLICT, _IN_FLIGHT = 10071, 10164
_PAUSE_SECONDS = 0.02
_HEADER_BYTES = 256
_OPERATION = "KV-Operation"


class Value(NamedTuple):
    """A value, None if there is none, and its revision."""

    content: bytes | None
    revision: int


class Bucket:
    """The keys and values of a store. The coroutines are for the connection's loop, the other methods for threads."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self.path = connection, connection.path
        self._stream, self._prefix = bucket_of(name), key_prefix(name)

    def get(self, key: str, *, rare: bool = False) -> Value:
        """Return a value as the leader has it. Raises `CorruptionError` if it is there and cannot be read.

        `rare`: there seldom is one, so first ask whether there is.
        """
        return self._connection.run(self.getting(key, rare=rare))

    def put(self, key: str, content: bytes | None, revision: int) -> bool:
        """Replace the value that has this revision (0: there is none); None deletes it. False if it has another one."""
        return self._connection.run(self.putting(key, content, revision))

    def keys(self, beginning: str) -> list[str]:
        """Return the keys that begin so, also of values that were deleted."""
        found = self._connection.run(self._connection.subjects(self._stream, f"{self._prefix}{beginning}>"))
        return [subject.removeprefix(self._prefix) for subject in found]

    async def getting(self, key: str, *, rare: bool = False) -> Value:
        """Do what `get` does."""
        subject = f"{self._prefix}{key}"
        if rare and not await self._connection.count(self._stream, subject):
            return Value(None, 0)
        message = await self._connection.stored(self._stream, last_by_subj=subject)
        if message is None:
            if await self._connection.count(self._stream, subject):
                message = await self._connection.stored(self._stream, last_by_subj=subject)
                if message is None:
                    raise self.damage(key, "it is counted and cannot be read")
            else:
                return Value(None, 0)
        return Value(None if message.headers.get(_OPERATION) else message.data, message.seq)

    async def putting(self, key: str, content: bytes | None, revision: int, seconds: int = 0) -> bool:
        """Do what `put` does. With `seconds`, the value goes away by itself after that time."""
        headers = {EXPECTED: str(revision)}
        if content is None:
            headers[_OPERATION] = "DEL"
        if seconds:
            headers["Nats-TTL"] = f"{seconds}s"
        limit = self._connection.max_bytes
        if len(content or b"") + _HEADER_BYTES + len(key) > limit:
            raise TooLargeError("event", len(content or b""), limit)
        begun, sent = monotonic(), False
        while True:
            try:
                answer = await self._connection.send(f"{self._prefix}{key}", content or b"", headers)
                error = answer.get("error")
                if not error:
                    return True
                if error["err_code"] == _CONFLICT:
                    return sent and (await self.getting(key)).content == content
                cause = str(error.get("description"))
                if error["err_code"] != _IN_FLIGHT and error["code"] not in (429, 503) and error["code"] < 500:
                    raise StorageError(self.path, None, cause)
            except NotSentError as failure:
                cause = str(failure)
            except NoReplyError as failure:
                cause, sent = str(failure), True  # To be sent again: at most one of them has that revision.
            if monotonic() - begun > self._connection.seconds:
                raise UnavailableError(self.path, cause, self._connection.seconds)
            await asyncio.sleep(_PAUSE_SECONDS)

    def checked(self, key: str, content: bytes) -> bytes:
        """Return a value that has a checksum, without its newline. Raises `CorruptionError`."""
        try:
            return without_crc(content)
        except LineError as error:
            raise self.damage(key, str(error)) from error

    def damage(self, key: str, cause: str) -> CorruptionError:
        """Return the error for a value that is not as it was written."""
        return CorruptionError(self.path, f"{self._prefix}{key}", 0, cause, mendable=False)
