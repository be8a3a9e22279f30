"""Opens the store that a conformance test uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hangarlog.events.serializer import EventSerializer
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.eventstore.base import EventStore
from hangarlog.testing.events import Counted, Noted, registered


class Opening:
    """The base of the conformance tests. Each test opens a new store."""

    def open_store(self, serializer: EventSerializer) -> EventStore:
        """Return a new, empty store that uses `serializer`."""
        raise TypeError("a conformance test class must define open_store(serializer)")

    @contextlib.contextmanager
    def store(self, chain: UpcasterChain | None = None, **options: Any) -> Iterator[EventStore]:
        """Open a store for the block, with the events of the suite registered."""
        with registered(Counted=Counted, Noted=Noted), self.open_store(EventSerializer(chain, **options)) as store:
            yield store

    def fill(self, store: EventStore) -> None:
        """Append 30 events to three streams, one by one in turn."""
        for number in range(30):
            stream_id = ("a:1", "b:1", "plain")[number % 3]
            event = Noted(f"n{number}") if number % 2 else Counted(number)
            store.append_at_end(stream_id, [event])
