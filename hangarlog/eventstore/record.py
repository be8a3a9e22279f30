"""An event as `records` yields it, and the type of a store's events."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic

import msgspec

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Event = TypeVar("Event", default=Any)
    """The type of a store's events, for type checkers: `store: FileEventStore[Opened | Closed] = …`."""
else:
    from typing import TypeVar

    Event = TypeVar("Event")


class Record(msgspec.Struct, Generic[Event], frozen=True, gc=False):
    """An event with its envelope. `position` counts from 1 in the store, `stream_version` from 0 in the stream.

    It unpacks into its fields, in this order, and matches by position or by name in a `case`.
    """

    position: int
    stream_id: str
    stream_version: int
    event_type: str
    event_id: str
    recorded_at: datetime
    metadata: dict[str, Any] | None
    event: Event

    def __iter__(self) -> Iterator[Any]:
        return iter(msgspec.structs.astuple(self))
