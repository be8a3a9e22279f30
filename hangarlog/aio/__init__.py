"""The event store for asyncio and trio. Install `hangarlog[aio]`: it needs anyio."""

from __future__ import annotations

import os
from typing import Any

try:
    import anyio as _anyio  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hangarlog.aio needs anyio, which is not installed; run: pip install 'hangarlog[aio]'", name="anyio"
    ) from error

from hangarlog.aio.async_cursor import AsyncCursor
from hangarlog.aio.async_named import AsyncNamedSubscription
from hangarlog.aio.async_reading import AsyncReading
from hangarlog.aio.async_store import AsyncEventStore, Opening
from hangarlog.aio.async_subscription import AsyncSubscription
from hangarlog.events.serializer import EventSerializer

__all__ = ["AsyncCursor", "AsyncEventStore", "AsyncNamedSubscription", "AsyncReading", "AsyncSubscription", "open"]


def open(  # noqa: A001 - `hangarlog.aio.open`
    address: str | os.PathLike[str], *, serializer: EventSerializer | None = None, **options: Any
) -> Opening[Any]:
    """Open a store: `store = await hangarlog.aio.open(path)`, or `async with … as store`.

    The addresses, the options and the errors are those of `hangarlog.open`.
    """
    return Opening(address, {"serializer": serializer, **options})
