"""Conformance tests of subscriptions."""

from __future__ import annotations

import threading
from typing import Any

from hangarlog.errors import EventsGoneError, PositionError, StoreOpenError
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.expected_version import ANY
from hangarlog.eventstore.record import Record
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, Noted, raises

_LONG = 60.0
"""Seconds that nothing here takes: a test that waits so long has failed."""


class SubscribeConformance(Opening):
    """How every event store is followed."""

    def test_a_subscription_delivers_what_is_there(self) -> None:
        """It yields what `records` yields, and ends after its timeout."""
        with self.store() as store:
            self.fill(store)
            expected = list(store.records())
            assert list(store.subscribe(timeout=0)) == expected
            assert list(store.subscribe(12, timeout=0)) == expected[12:]
            assert list(store.subscribe("end", timeout=0)) == []
            with store.subscribe(-3, timeout=0) as subscription:
                assert [record.position for record in subscription] == list(range(1, 31))
                assert subscription.position == 30
                assert subscription.lag == 0

    def test_a_subscription_goes_on_where_it_ended(self) -> None:
        """Each time it is iterated, also in the middle of what was read at once."""
        with self.store() as store:
            self.fill(store)
            with store.subscribe(timeout=0) as subscription:
                assert [next(subscription).position for _ in range(3)] == [1, 2, 3]
                for record in subscription:
                    if record.position == 7:
                        break
                assert subscription.position == 7
                assert [record.position for record in subscription] == list(range(8, 31))
                store.append_at_end("a:1", [Counted(31), Counted(32)])
                assert [record.position for record in subscription] == [31, 32]
                assert list(subscription) == []

    def test_a_subscription_delivers_what_comes(self) -> None:
        """From another thread, each event once, in the order of positions."""
        with self.store() as store:
            self.fill(store)
            following, found = threading.Event(), list[int]()

            def follow() -> None:
                with store.subscribe("end", timeout=_LONG) as subscription:
                    following.set()
                    for record in subscription:
                        found.append(record.position)
                        if record.position == 230:
                            return

            thread = threading.Thread(target=follow)
            thread.start()
            assert following.wait(_LONG)
            for number in range(100):
                store.append_many([("a:1", [Counted(number)], ANY), ("b:1", [Counted(number)], ANY)])
            thread.join(_LONG)
            assert found == list(range(31, 231))

    def test_a_subscription_passes_over_what_is_not_wanted(self) -> None:
        """Its position goes on, also behind the last event that it delivered."""
        with self.store() as store:
            self.fill(store)
            cases: list[dict[str, Any]] = [
                {"stream_id": "a:1"},
                {"category": ["a", "b"]},
                {"not_category": "a"},
                {"event_types": Noted},
                {"event_types": "None"},
            ]
            for filters in cases:
                with store.subscribe(timeout=0, **filters) as subscription:
                    assert list(subscription) == list(store.records(**filters)), filters
                    assert subscription.position == 30, filters

    def test_stop_ends_a_subscription_after_the_batch(self) -> None:
        """It may come from another thread, while it waits or while events come. Iterating again goes on."""
        with self.store() as store:
            store.append_many([("a:1", [Counted(0), Counted(1)], ANY), ("b:1", [Counted(2)], ANY)])
            store.append_at_end("a:1", [Counted(3)])
            with store.subscribe(timeout=_LONG) as subscription:
                positions = []
                for record in subscription:
                    positions.append(record.position)
                    subscription.stop()
                assert positions == [1, 2, 3]
                assert subscription.stopped
            waiting = store.subscribe("end")
            thread = threading.Thread(target=list, args=(waiting,))
            thread.start()
            waiting.stop()
            thread.join(_LONG)
            assert not thread.is_alive()

    def test_a_heartbeat_comes_while_nothing_else_does(self) -> None:
        """As None. Events come before it."""
        with self.store() as store:
            self.fill(store)
            with store.subscribe(28, heartbeat=0.001) as subscription:
                assert [
                    record.position if record else None for record, _ in zip(subscription, range(4), strict=False)
                ] == [
                    29,
                    30,
                    None,
                    None,
                ]

    def test_a_position_beyond_the_end_is_refused(self) -> None:
        """Its events were lost, or it belongs to another store."""
        with self.store() as store:
            self.fill(store)
            with raises(PositionError) as caught:
                store.subscribe(31)
            assert (caught.error.position, caught.error.last) == (31, 30)

    def test_a_compacted_stream_is_not_passed_over_in_silence(self) -> None:
        """Who follows the stream is told what is left; who follows the store gets the events, which it keeps."""
        with self.store() as store:
            self.fill(store)
            store.save_snapshot("a:1", 4, {})
            store.compact_stream("a:1")
            left = next(iter(store.records("a:1"))).position
            with store.subscribe(stream_id="a:1", timeout=0) as subscription, raises(EventsGoneError) as caught:
                list(subscription)
            assert (caught.error.source, caught.error.position, caught.error.first_position) == ("a:1", 0, left)
            records: list[Record[Any]] = list(store.subscribe(left - 1, stream_id="a:1", timeout=0))
            assert records == list(store.records("a:1"))
            assert len(list(store.subscribe(timeout=0))) == 30

    def test_closing_the_store_ends_a_subscription(self) -> None:
        """It raises, because nothing may be missed in silence."""
        with self.store() as store:
            self.fill(store)
            subscription = store.subscribe()
            assert next(subscription).position == 1
            self.drain(subscription, 30)
            store.close()
            with raises(StoreOpenError):
                next(subscription)

    def drain(self, subscription: Any, last: int) -> None:
        """Read up to position `last`."""
        while subscription.position < last:
            next(subscription)

    def test_wrong_arguments_are_named(self) -> None:
        """A wrong kind is a TypeError, a wrong value a ValueError."""
        with self.store() as store:
            self.refuses(store, TypeError, from_position="now")
            self.refuses(store, TypeError, from_position=True)
            self.refuses(store, TypeError, timeout="1")
            self.refuses(store, ValueError, heartbeat=-1)
            self.refuses(store, TypeError, durable=1)
            self.refuses(store, TypeError, category=7)
            self.refuses(store, ValueError, on_damage="ignore")

    def refuses(self, store: EventStore, kind: type[Exception], **options: Any) -> None:
        """It raises before anything is read."""
        with raises(kind):
            store.subscribe(**options)
