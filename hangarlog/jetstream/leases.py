"""Who owns a name: a lease in the bucket, which goes away if its process does not renew it.

The first to ask gets a free name; there is no queue. A process that stands still for longer than its lease may believe
that it owns what another one has taken: the moves of its cursors are then refused.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, wait
from typing import Any
from uuid import uuid4

import msgspec

from hangarlog.errors import HangarlogError
from hangarlog.eventstore.queue import Place
from hangarlog.jetstream.bucket import Bucket
from hangarlog.jetstream.connection import Connection
from hangarlog.jetstream.subjects import token

LEASE_SECONDS = 10
_RENEW_SECONDS = 2.5


class _Owner(msgspec.Struct, frozen=True):
    lease: str
    pid: int


_encode, _decode = msgspec.json.encode, msgspec.json.Decoder(_Owner).decode


class Leases:
    """The leases of a store, and those that this process holds."""

    def __init__(self, connection: Connection, bucket: Bucket) -> None:
        self._connection, self._bucket = connection, bucket
        self._held: dict[str, Lease] = {}
        self._ending: set[Future[Any]] = set()
        self._renewing = False

    def place(self, name: str) -> Lease:
        """Return a place among those who want to own a name."""
        self._await_ends()
        return Lease(self, name)

    def owner_of(self, name: str) -> int | None:
        """Return the process id of a name's owner, None if nobody owns it."""
        self._await_ends()
        owner, _ = self._connection.run(self._look(name))
        return owner.pid if owner else None

    def take(self, lease: Lease) -> bool:
        """Take a name if it is free. True if this lease has it."""
        self._await_ends()
        return self._connection.run(self._taking(lease))

    def give_up(self, lease: Lease) -> None:
        """Free a name. It does not wait: a finalizer may call this, in the connection's own thread."""
        if self._held.pop(lease.lease, None) and (ending := self._connection.soon(self._freeing(lease))):
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def _await_ends(self) -> None:
        """Wait for the names that this process gives up."""
        if self._ending:
            wait(list(self._ending), self._connection.seconds)

    async def _look(self, name: str) -> tuple[_Owner | None, int]:
        content, revision = await self._bucket.getting(_key(name))
        try:
            return (_decode(content) if content else None), revision
        except msgspec.MsgspecError:
            return None, revision

    async def _taking(self, lease: Lease) -> bool:
        owner, revision = await self._look(lease.name)
        if owner and owner.lease != lease.lease:
            return False
        if not await self._bucket.putting(_key(lease.name), lease.content, revision, LEASE_SECONDS):
            return False
        self._held[lease.lease] = lease
        if not self._renewing:
            self._renewing = True
            self._connection.soon(self._renew())
        return True

    async def _freeing(self, lease: Lease) -> None:
        owner, revision = await self._look(lease.name)
        if owner and owner.lease == lease.lease:
            await self._bucket.putting(_key(lease.name), None, revision)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            for lease in list(self._held.values()):
                try:
                    if not await self._taking(lease):
                        self._held.pop(lease.lease, None)
                    elif lease.left:  # It was given up meanwhile.
                        self._held.pop(lease.lease, None)
                        await self._freeing(lease)
                except HangarlogError:
                    continue  # It is tried again while the lease lasts.

    async def close(self) -> None:
        """Free all names."""
        await asyncio.gather(*(self._freeing(lease) for lease in self._held.values()), return_exceptions=True)


class Lease(Place):
    """A wish to own a name."""

    def __init__(self, leases: Leases, name: str) -> None:
        self._leases, self.name, self.lease = leases, name, uuid4().hex
        self.content = _encode(_Owner(self.lease, os.getpid()))
        self.left = False

    def is_first(self) -> bool:
        """As `Place.is_first`."""
        return self.lease in self._leases._held or self._leases.take(self)

    def leave(self) -> None:
        """As `Place.leave`."""
        self.left = True
        self._leases.give_up(self)


def _key(name: str) -> str:
    return f"o.{token(name)}"
