"""Opens a store by its address."""

from __future__ import annotations

import os
from typing import Any

from hangarlog.errors import StoreOpenError
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.base import EventStore
from hangarlog.filestore.store import FileEventStore
from hangarlog.system.import_lock import importing

_SERVERS = ("nats", "tls")


def open(  # noqa: A001 - `hangarlog.open`
    address: str | os.PathLike[str], *, serializer: EventSerializer | None = None, **options: Any
) -> EventStore[Any]:
    """Open the store at an address: the path of a folder, or `nats://host:port/name`.

    The options are those of `FileEventStore` or `JetStreamEventStore`. The address of a server may have some itself:
    `nats://host:4222/orders?replicas=1&synced=yes`.

    Raises:
        StoreOpenError: the address is a URL of a kind that this version does not know.
        ModuleNotFoundError: the address is that of a server, and `hangarlog[jetstream]` is not installed.
        What `FileEventStore` or `JetStreamEventStore` raises.
    """
    place = os.fspath(address)
    if not (isinstance(place, str) and is_on_servers(place)):
        return FileEventStore(address, serializer=serializer, **options)
    if place.partition("://")[0] not in _SERVERS:
        cause = "a store is a folder, nats://host:port/name or tls://…; for a folder of this name, put ./ first"
        raise StoreOpenError(shown_address(place), cause)
    with importing:
        from hangarlog.jetstream import JetStreamEventStore
    return JetStreamEventStore(place, serializer=serializer, **options)


def is_on_servers(address: str) -> bool:
    """True if an address is a URL, not the path of a folder."""
    scheme, separator, _ = address.partition("://")
    return bool(separator) and scheme.isalpha()


def folder_path(where: str | os.PathLike[str]) -> str:
    """Return the path of a folder, as a caller needs it that keeps stores in folders only.

    Raises `StoreOpenError` for the address of a server.
    """
    path = os.fspath(where)
    if is_on_servers(path):
        raise StoreOpenError(shown_address(path), "this needs a store in a folder: give a path, not an address")
    return path


def shown_address(address: str) -> str:
    """Return an address without the user and the password that it may have."""
    if not is_on_servers(address):
        return address
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
