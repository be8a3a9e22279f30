"""A subscription that is stopped has delivered whole batches, and its position says which."""

from __future__ import annotations

from pathlib import Path

import pytest
from subscriber_helpers import opened

from hangarlog import ANY, EventSerializationError, EventSerializer, FileEventStore, UntypedEvent, UpcasterChain
from hangarlog.events.registry import EventRegistry


@pytest.mark.parametrize("reopened", [False, True])
def test_stop_ends_behind_a_batch_in_the_middle_of_a_block(tmp_path: Path, reopened: bool) -> None:
    """Also in a block that is decoded as a whole, as that of a sealed or indexed part is."""
    store = opened(tmp_path / "s")
    for _ in range(300):
        store.append_at_end("a:1", [UntypedEvent("Written", {})] * 10)
    if reopened:
        store.close()
        store = opened(tmp_path / "s")
    for stop_at, expected in ((13, 20), (20, 20), (21, 30)):
        with store.subscribe(timeout=0) as subscription:
            positions = []
            for record in subscription:
                positions.append(record.position)
                if record.position == stop_at:
                    subscription.stop()
            assert positions == list(range(1, expected + 1))
            assert subscription.position == expected
    store.close()


def test_a_batch_of_several_blocks_is_one(tmp_path: Path) -> None:
    """A stop comes after it, and a cursor that moves by itself does not stand within it."""
    with opened(tmp_path / "s") as store:
        for _ in range(2):
            store.append_at_end("a:1", [UntypedEvent("Written", {"text": "x" * 100})] * 5000)
    with opened(tmp_path / "s") as store:
        with store.subscribe(timeout=0) as stopped:
            next(stopped)
            stopped.stop()
            assert (len(list(stopped)), stopped.position) == (4999, 5000)
        with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
            cursor = store.cursor("mailer")
            seen = {(record.position - 1) // 5000: cursor.position for record in subscription}
            assert seen == {0: 0, 1: 5000}
            assert cursor.position == 10_000


def test_stop_ends_behind_a_batch_whose_last_event_is_not_wanted(tmp_path: Path) -> None:
    """The next wanted event is of another batch, and does not come."""
    with opened(tmp_path / "s") as store:
        for _ in range(3):
            store.append_many([("a:1", [UntypedEvent("X", {})] * 2, ANY), ("b:1", [UntypedEvent("X", {})], ANY)])
        with store.subscribe(category="a", timeout=0) as subscription:
            positions = []
            for record in subscription:
                positions.append(record.position)
                subscription.stop()
            assert (positions, subscription.position) == ([1, 2], 3)


def test_an_event_that_cannot_be_read_makes_no_earlier_one_come_twice(tmp_path: Path) -> None:
    """Not even one that became several."""
    chain = UpcasterChain()
    chain.splitter("Twice", 1)(lambda data: [("One", {}), ("Other", {})])
    registry = EventRegistry()
    with opened(tmp_path / "s") as store:
        for name in ("Twice", "Unknown"):
            store.append_at_end("a:1", [UntypedEvent(name, {})])
    serializer = EventSerializer(chain, registry=registry)
    for name in ("One", "Other"):
        registry.drop(name, reason="not needed here")
    with FileEventStore(tmp_path / "s", serializer=serializer, durability="relaxed") as store:
        subscription = store.subscribe(timeout=0)
        for _ in range(2):
            with pytest.raises(EventSerializationError):
                next(subscription)
            assert subscription.position == 1
