"""Conformance tests of named subscriptions."""

from __future__ import annotations

import gc
import threading
import warnings
from typing import Any

from hangarlog.errors import CursorNameError, EventsGoneError
from hangarlog.events.registry import UntypedEvent
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.expected_version import ANY
from hangarlog.eventstore.record import Record
from hangarlog.eventstore.subscriber_errors import HandlerError, SkippedWarning, SubscriptionLostError, WorkersError
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, Noted, raises

_LONG = 60.0
"""Seconds that nothing here takes: a test that waits so long has failed."""


class NamedConformance(Opening):
    """How every event store serves named subscribers."""

    def test_a_named_subscription_goes_on_at_its_cursor(self) -> None:
        """`from_position` counts only where there is no cursor."""
        with self.store() as store:
            self.fill(store)
            with store.subscribe("end", name="late", batch=1, timeout=0) as late:
                assert list(late) == []
            store.append_at_end("a:1", [Counted(31)])
            for expected in ([31], []):
                with store.subscribe(0, name="late", batch=1, timeout=0) as late:
                    assert [record.position for record in late] == expected
            store.cursor("back").reset(0)
            with store.subscribe("end", name="back", timeout=0) as back:
                assert len(list(back)) == 31

    def test_a_batch_moves_the_cursor_behind_what_was_processed(self) -> None:
        """An event is processed when the next one is asked for."""
        with self.store() as store:
            self.fill(store)
            cursor = store.cursor("mailer")
            with store.subscribe(name="mailer", batch=5, timeout=0) as subscription:
                for record in subscription:
                    assert cursor.position == (record.position - 1) // 5 * 5
                    if record.position == 13:
                        break
                assert cursor.position == 10
            assert cursor.position == 12
            with store.subscribe(name="mailer", batch=5, timeout=0) as subscription:
                assert [record.position for record in subscription] == list(range(13, 31))
                assert cursor.position == 30

    def test_a_cursor_does_not_stop_within_a_batch(self) -> None:
        """Neither behind so many events nor when the subscription ends."""
        with self.store() as store:
            for _ in range(4):
                store.append_many([("a:1", [Counted(0), Counted(1)], ANY), ("b:1", [Counted(2)], ANY)])
            cursor = store.cursor("mailer")
            with store.subscribe(name="mailer", batch=2, timeout=0) as subscription:
                assert [cursor.position for _ in subscription] == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9]
            cursor.reset(0)
            with store.subscribe(name="mailer", batch=100, timeout=0) as subscription:
                assert [next(subscription).position for _ in range(5)] == [1, 2, 3, 4, 5]
            assert cursor.position == 3

    def test_without_a_batch_the_caller_moves_the_cursor(self) -> None:
        """With a call, or with an append."""
        with self.store() as store:
            self.fill(store)
            cursor = store.cursor("mailer")
            with store.subscribe(name="mailer", timeout=0) as subscription:
                with raises(ValueError):
                    subscription.advance()
                with raises(ValueError):
                    subscription.move()
                for record in subscription:
                    if record.position == 10:
                        subscription.advance()
                        subscription.advance(4)
                        assert cursor.position == 10
                    if record.position in (15, 16, 17):
                        store.append_at_end("out:1", [Noted("x")], cursor=subscription.move())
                        assert cursor.position == record.position
                    if record.position == 20:
                        with raises(ValueError):
                            subscription.advance(21)
                        break
                subscription.move()
                subscription.advance(19)
            assert cursor.position == 19
            with store.subscribe(name="mailer", timeout=0) as subscription:
                assert next(subscription).position == 20

    def test_a_cursor_passes_over_what_is_not_wanted(self) -> None:
        """Without any event that is, too, and whoever moves it."""
        with self.store() as store:
            self.fill(store)
            for batch in (None, 5):
                name = f"n{batch}"
                with store.subscribe(name=name, batch=batch, category="none", timeout=0) as subscription:
                    assert list(subscription) == []
                    assert store.cursor(name).position == 30
                with store.subscribe(name=f"{name}s", batch=batch, stream_id="a:1", timeout=0) as subscription:
                    assert len(list(subscription)) == 10
                assert store.cursor(f"{name}s").position == (30 if batch else 0)

    def test_one_subscription_of_a_name_delivers_and_the_next_takes_over(self) -> None:
        """It goes on where the first one has moved the cursor to."""
        with self.store() as store:
            self.fill(store)
            first = store.subscribe(name="mailer", batch=1, timeout=0)
            second = store.subscribe(name="mailer", batch=1, timeout=0)
            assert [next(first).position for _ in range(8)] == list(range(1, 9))
            assert list(second) == []
            first.close()
            assert [record.position for record in second] == list(range(8, 31))
            second.close()

    def test_waiting_for_the_ownership_can_be_stopped(self) -> None:
        """And heartbeats come meanwhile."""
        with self.store() as store, store.subscribe(name="mailer", timeout=0) as first:
            self.fill(store)
            next(first)
            with store.subscribe(name="mailer", heartbeat=0.001) as second:
                assert [next(second), next(second)] == [None, None]
            with store.subscribe(name="mailer") as second:
                thread = threading.Thread(target=list, args=(second,))
                thread.start()
                second.stop()
                thread.join(_LONG)
                assert not thread.is_alive()

    def test_a_cursor_moved_by_others_is_an_error(self) -> None:
        """Iterating again goes on from there."""
        with self.store() as store:
            self.fill(store)
            with store.subscribe(name="mailer", batch=10, timeout=0) as subscription:
                next(subscription)
                store.cursor("mailer").advance(25)
                with raises(SubscriptionLostError) as caught:
                    list(subscription)
                assert (caught.error.name, caught.error.expected, caught.error.actual) == ("mailer", 0, 25)
                assert [record.position for record in subscription] == list(range(26, 31))

    def test_handlers_stop_at_a_failure(self) -> None:
        """The error says where, and the next run begins with the same event."""
        with self.store() as store:
            self.fill(store)
            seen: list[int] = []

            def fail(record: Record[Any]) -> None:
                seen.append(record.position)
                if record.position == 7:
                    raise RuntimeError("no")

            with store.subscribe(name="mailer", batch=3, timeout=0) as subscription:
                for _ in range(2):
                    with raises(HandlerError) as caught:
                        subscription.run(fail, attempts=2)
                    error = caught.error
                    assert (error.position, error.stream_id, error.stream_version) == (7, "a:1", 2)
                    assert (error.cause, error.attempts) == ("RuntimeError: no", 2)
                assert seen == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7]
                subscription.run(lambda record: seen.append(record.position))
            assert len(seen) == 10 + 24
            assert store.cursor("mailer").position == 30

    def test_handlers_park_what_fails(self) -> None:
        """With the cause and the number of attempts. A replay processes it, and the position stays."""
        with self.store() as store:
            self.fill(store)

            def fail(record: Record[Any]) -> None:
                if record.position in (7, 9):
                    raise RuntimeError("no")

            with store.subscribe(name="mailer", batch=3, timeout=0) as subscription:
                subscription.run(fail, on_failure="park", attempts=2)
            assert store.cursor("mailer").position == store.get_event_count() == 32
            parked = store.parked("mailer")
            assert [(p.position, p.stream_id, p.cause, p.attempts) for p in parked] == [
                (7, "a:1", "RuntimeError: no", 2),
                (9, "plain", "RuntimeError: no", 2),
            ]
            assert [status.parked for status in store.subscribers()] == [2]
            with raises(HandlerError):
                store.replay("mailer", fail)
            assert store.replay("mailer", fail, on_failure="park") == 0
            assert [p.attempts for p in store.parked("mailer")] == [3, 3]
            replayed: list[Any] = []
            assert store.replay("mailer", replayed.append) == 2
            assert [record.position for record in replayed] == [7, 9]
            assert store.replay("mailer", replayed.append) == 0
            assert store.parked("mailer") == []
            assert store.cursor("mailer").position == 32
            with store.subscribe(name="mailer", batch=3, timeout=0) as subscription:
                assert list(subscription) == []

    def test_a_handler_may_move_the_cursor_itself(self) -> None:
        """With its own append, also if the subscription moves it too, and if it fails after that."""
        with self.store() as store:
            self.fill(store)
            for batch in (None, 1, 4):
                name = f"n{batch}"
                with store.subscribe(name=name, batch=batch, not_category="out", timeout=0) as subscription:

                    def answer(record: Record[Any], subscription: Any = subscription, name: str = name) -> None:
                        if record.position % 3:
                            store.append_at_end(f"out:{name}", [Counted(1)], cursor=subscription.move())
                        if record.position % 5 == 0:
                            raise RuntimeError("no")

                    subscription.run(answer, on_failure="park")
                assert store.get_stream_version(f"out:{name}") == 19
                assert len(store.parked(name)) == 6
                assert store.cursor(name).position >= 29

    def test_workers_park_too(self) -> None:
        """With the cursor of the event's share."""
        with self.store() as store:
            self.fill(store)
            with store.subscribe(name="team", batch=2, workers=3, timeout=0) as subscription:
                subscription.run(lambda record: 1 // (record.position % 7), on_failure="park")
            assert [event.position for event in store.parked("team")] == [7, 14, 21, 28]
            assert sum(status.parked for status in store.subscribers()) == 4
            assert {status.position for status in store.subscribers()} == {34}

    def test_a_subscription_that_is_garbage_owns_nothing(self) -> None:
        """Its places are free for others."""
        with self.store() as store:
            self.fill(store)
            for workers in (None, 2):
                forgotten = store.subscribe(name=f"n{workers}", workers=workers, timeout=0)
                assert len(list(forgotten)) == 30
                del forgotten
                gc.collect()
                with store.subscribe(name=f"n{workers}", workers=workers, timeout=0) as subscription:
                    assert len(list(subscription)) == 30

    def test_handlers_park_a_whole_stream(self) -> None:
        """Until the replay, so that its order is kept."""
        with self.store() as store:
            self.fill(store)
            seen: list[int] = []

            def fail(record: Record[Any]) -> None:
                if record.position == 7:
                    raise RuntimeError("no")
                seen.append(record.position)

            with store.subscribe(name="mailer", batch=3, timeout=0) as subscription:
                subscription.run(fail, on_failure="park_stream")
                later = list(range(7, 31, 3))
                assert seen == [number for number in range(1, 31) if number not in later]
                assert [p.position for p in store.parked("mailer")] == later
                seen.clear()
                assert store.replay("mailer", lambda record: seen.append(record.position)) == 8
                assert seen == later
                store.append_at_end("a:1", [Counted(1)])
                subscription.run(fail, on_failure="park_stream")
                assert seen == [*later, store.get_event_count()]

    def test_handlers_skip_what_fails(self) -> None:
        """With a warning."""
        with self.store() as store:
            self.fill(store)
            with (
                store.subscribe(name="mailer", batch=3, timeout=0) as subscription,
                warnings.catch_warnings(record=True) as caught,
            ):
                warnings.simplefilter("always")
                subscription.run(lambda record: 1 // (record.position - 7), on_failure="skip")
            assert [warning.category for warning in caught] == [SkippedWarning]
            assert store.cursor("mailer").position == 30

    def test_an_event_that_cannot_be_read_can_be_parked(self) -> None:
        """Other readers of the store can read the note of it."""
        with self.store() as store:
            store.append_at_end("a:1", [Counted(1)])
            store.append_at_end("a:1", [UntypedEvent("Unknown", {})])
            store.append_at_end("a:1", [Counted(2)])
            seen: list[Any] = []
            with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
                with raises(HandlerError) as caught:
                    subscription.run(seen.append)
                assert (caught.error.position, caught.error.attempts) == (2, 0)
                subscription.run(seen.append, on_failure="park")
            assert [record.position for record in seen] == [1, 3]
            assert [p.event_type for p in store.parked("mailer")] == ["Unknown"]
            assert [event.event_type for event in store.read_stream("parked:mailer")] == ["hangarlog.Parked"]
            with raises(HandlerError):
                store.replay("mailer", seen.append)

    def test_an_event_that_becomes_several_is_processed_as_a_whole(self) -> None:
        """The cursor moves past all of its parts, or none; if one of them fails, the event is parked once."""
        chain = UpcasterChain()
        chain.splitter("Twice", 1)(
            lambda data: [("Counted", {"number": data["a"]}), ("Counted", {"number": data["b"]})]
        )
        with self.store(chain) as store:
            for number in range(0, 6, 2):
                store.append_at_end("a:1", [UntypedEvent("Twice", {"a": number, "b": number + 1})])
            store.append_at_end("a:1", [UntypedEvent("Unknown", {})])
            cursor, seen = store.cursor("mailer"), list[Any]()
            with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
                for _ in range(3):
                    seen.append((next(subscription).position, cursor.position))
                assert seen == [(1, 0), (1, 0), (2, 1)]
                subscription.advance()
                assert cursor.position == 1

            def fail(record: Record[Any]) -> None:
                if record.event.number == 2:
                    raise RuntimeError("no")
                seen.append(record.event.number)

            seen.clear()
            with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
                subscription.run(fail, on_failure="park")
            assert seen == [4, 5]
            assert [(event.position, event.attempts) for event in store.parked("mailer")] == [(2, 1), (4, 0)]
            with raises(HandlerError):
                store.replay("mailer", lambda record: seen.append(record.event.number))
            assert seen == [4, 5, 2, 3]
            assert [event.position for event in store.parked("mailer")] == [4]

    def test_workers_share_the_streams(self) -> None:
        """Each stream's events come in order, to one of them; each event once."""
        with self.store() as store:
            found: list[tuple[int, str, int]] = []
            members = [store.subscribe(name="team", batch=3, workers=4, timeout=0.5) for _ in range(3)]

            def work(number: int) -> None:
                with members[number] as member:
                    found.extend((number, record.stream_id, record.stream_version) for record in member)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
            for thread in threads:
                thread.start()
            for number in range(40):
                store.append_many([(f"s:{stream}", [Counted(number)], ANY) for stream in range(20)])
            for thread in threads:
                thread.join(_LONG)
            for stream in range(20):
                versions = [version for _, stream_id, version in found if stream_id == f"s:{stream}"]
                assert versions == list(range(40))
            assert {status.position for status in store.subscribers()} == {800}
            assert [status.name for status in store.subscribers()] == [f"team#{number}/4" for number in range(1, 5)]

    def test_the_number_of_workers_changes_where_all_are_at_one_position(self) -> None:
        """Elsewhere it is refused."""
        with self.store() as store:
            self.fill(store)
            with store.subscribe(name="team", batch=1, workers=2, timeout=0) as member:
                for record in member:
                    if record.position == 20:
                        break
                for other in (3, None):
                    with store.subscribe(name="team", workers=other, timeout=0) as refused, raises(WorkersError):
                        list(refused)
            with store.subscribe(name="team", workers=3, timeout=0) as refused:
                self.read_or_refuse(store, refused)
            with store.subscribe(name="team", batch=1, workers=2, timeout=0) as member:
                list(member)
            store.append_at_end("a:1", [Counted(31)])
            for workers, expected in ((3, [31]), (None, []), (2, [])):
                with store.subscribe(name="team", batch=1, workers=workers, timeout=0) as member:
                    assert [record.position for record in member] == expected
                assert len(store.subscribers()) == (workers or 1)

    def read_or_refuse(self, store: EventStore, subscription: Any) -> None:
        """What it may do depends on whether the cursors of the two shares differ."""
        if len({status.position for status in store.subscribers()}) > 1:
            with raises(WorkersError):
                list(subscription)

    def test_subscribers_are_listed_with_their_lag_and_owner(self) -> None:
        """The lag is in events and in seconds."""
        with self.store() as store:
            self.fill(store)
            with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
                for _ in range(11):
                    next(subscription)
                (status,) = store.subscribers()
                assert (status.name, status.position, status.lag, status.parked) == ("mailer", 10, 20, 0)
                assert status.lag_seconds > 0
                assert status.owner
                list(subscription)
                assert [(s.lag, s.lag_seconds) for s in store.subscribers()] == [(0, 0.0)]
            assert [s.owner for s in store.subscribers()] == [None]

    def test_a_named_subscriber_is_told_of_what_is_gone(self) -> None:
        """Its cursor can be set behind it."""
        with self.store() as store:
            self.fill(store)
            store.save_snapshot("a:1", 4, {})
            store.compact_stream("a:1")
            with store.subscribe(name="mailer", batch=1, stream_id="a:1", timeout=0) as subscription:
                with raises(EventsGoneError) as caught:
                    list(subscription)
                store.cursor("mailer").reset(caught.error.first_position - 1)
                assert list(subscription) == list(store.records("a:1"))

    def test_wrong_arguments_of_named_subscriptions_are_named(self) -> None:
        """A wrong kind is a TypeError, a wrong value a ValueError."""
        with self.store() as store:
            cases: list[tuple[type[Exception], dict[str, Any]]] = [
                (TypeError, {"batch": 1}),
                (TypeError, {"workers": 1}),
                (TypeError, {"name": "a", "batch": "1"}),
                (ValueError, {"name": "a", "batch": 0}),
                (ValueError, {"name": "a", "workers": 0}),
                (CursorNameError, {"name": ""}),
                (CursorNameError, {"name": "a#1/4"}),
                (CursorNameError, {"name": "x" * 98, "workers": 4}),
            ]
            for kind, options in cases:
                with raises(kind):
                    store.subscribe(**options)
            with store.subscribe(name="a", timeout=0) as subscription:
                with raises(ValueError):
                    subscription.run(print, on_failure="ignore")  # type: ignore[arg-type]
                with raises(ValueError):
                    subscription.run(print, attempts=0)
