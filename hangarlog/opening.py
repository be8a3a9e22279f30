"""Opens a store by its address."""

from __future__ import annotations

import os
from typing import Any, Unpack

from hangarlog.errors import StoreOpenError
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.base import EventStore
from hangarlog.filestore.options import StoreOptions
from hangarlog.filestore.store import FileEventStore


def open(  # noqa: A001 - `hangarlog.open`
    address: str | os.PathLike[str], *, serializer: EventSerializer | None = None, **options: Unpack[StoreOptions]
) -> EventStore[Any]:
    """Open the store at an address: the path of a folder. The options are those of `FileEventStore`.

    Raises:
        StoreOpenError: the address is a URL of a kind that this version does not know.
        What `FileEventStore` raises.
    """
    scheme, separator, _ = os.fspath(address).partition("://")
    if separator and scheme.isalpha():
        raise StoreOpenError(f"{scheme}://…", "this version opens only paths; for a folder of this name, put ./ first")
    return FileEventStore(address, serializer=serializer, **options)
