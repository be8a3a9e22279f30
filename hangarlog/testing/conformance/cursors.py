"""Conformance tests of named cursors."""

from __future__ import annotations

import threading
from typing import Any

from hangarlog.errors import ConcurrencyError, CursorConflictError, CursorNameError
from hangarlog.eventstore.expected_version import ANY, NO_STREAM
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, raises


class CursorConformance(Opening):
    """How every event store keeps cursors."""

    def test_a_cursor_begins_at_zero_and_advances(self) -> None:
        """The same position again changes nothing, and every cursor of that name shows it."""
        with self.store() as store:
            self.fill(store)
            cursor = store.cursor("mailer")
            assert (cursor.name, cursor.position) == ("mailer", 0)
            cursor.advance(3)
            cursor.advance(3)
            cursor.advance(30)
            assert cursor.position == store.cursor("mailer").position == 30
            assert store.cursor("other").position == 0
            assert repr(cursor) == "<Cursor 'mailer' at position 30>"

    def test_a_cursor_does_not_go_back_unless_it_is_reset(self) -> None:
        """The error says where it is."""
        with self.store() as store:
            self.fill(store)
            cursor = store.cursor("mailer")
            cursor.advance(20)
            with raises(CursorConflictError) as caught:
                cursor.advance(19)
            conflict = caught.error
            assert (conflict.name, conflict.to, conflict.expected, conflict.actual) == ("mailer", 19, None, 20)
            assert cursor.position == 20
            cursor.reset(5)
            assert cursor.position == 5
            cursor.reset()
            assert cursor.position == 0
            cursor.reset(30)
            assert cursor.position == 30

    def test_of_two_workers_only_one_moves_a_cursor(self) -> None:
        """With `expected`, a cursor that is elsewhere is a conflict, also if it is at the wanted position."""
        with self.store() as store:
            self.fill(store)
            cursor = store.cursor("mailer")
            cursor.advance(10, expected=0)
            for to in (10, 20):
                with raises(CursorConflictError) as caught:
                    cursor.advance(to, expected=0)
                assert (caught.error.expected, caught.error.actual) == (0, 10)
            with raises(CursorConflictError):
                cursor.reset(0, expected=9)
            cursor.advance(20, expected=10)
            cursor.reset(1, expected=20)
            assert cursor.position == 1

    def test_a_cursor_is_never_beyond_the_last_event(self) -> None:
        """A move there is refused, and so is what is no position."""
        with self.store() as store:
            cursor = store.cursor("mailer")
            cursor.advance(0)
            store.append_at_end("a:1", [Counted(1)])
            cursor.advance(1)
            for to in (2, -1):
                with raises(ValueError):
                    cursor.advance(to)
                with raises(ValueError):
                    cursor.reset(to)
            wrong: Any
            for wrong in ("1", 1.0, True, None):
                with raises(TypeError):
                    cursor.advance(wrong)
                with raises(TypeError):
                    cursor.advance(1, expected="1")  # type: ignore[arg-type]
            with raises(ValueError):
                cursor.advance(1, durability="never")  # type: ignore[arg-type]
            assert cursor.position == 1

    def test_cursors_are_listed_with_their_lag(self) -> None:
        """Sorted by name. A deleted one is gone, and begins at 0 again."""
        with self.store() as store:
            self.fill(store)
            assert store.cursors() == []
            for number, name in enumerate(("b", "a", "c:1")):
                store.cursor(name).advance(number * 10)
            assert [(c.name, c.position, c.lag) for c in store.cursors()] == [
                ("a", 10, 20),
                ("b", 0, 30),
                ("c:1", 20, 10),
            ]
            assert all(c.moved_at.tzinfo for c in store.cursors())
            store.cursor("a").delete()
            store.cursor("a").delete()
            store.cursor("none").delete()
            assert [c.name for c in store.cursors()] == ["b", "c:1"]
            assert store.cursor("a").position == 0
            store.cursor("a").advance(1)
            assert [c.name for c in store.cursors()] == ["a", "b", "c:1"]
            assert store.get_event_count() == 30

    def test_a_name_is_checked(self) -> None:
        """The rules are those of stream ids, with a limit of 100 bytes."""
        with self.store() as store:
            store.append_at_end("a:1", [Counted(1)])
            for name in (
                "",
                " ",
                "a\n",
                "a\0b",
                "\ud800",
                "/x",
                "..",
                "$x",
                ":a",
                "x" * 101,
                "\u00e9" * 51,
                7,
                None,
                b"a",
            ):
                with raises(CursorNameError):
                    store.cursor(name)  # type: ignore[arg-type]
            names = [
                "x" * 100,
                "\u00e9" * 50,
                '"\\' * 50,
                'a","position":9,"x":"',
                "A",
                "a",
                "caf\u00e9",
                "cafe\u0301",
                "%41",
            ]
            for name in names:
                store.cursor(name).advance(1)
            assert [c.name for c in store.cursors()] == sorted(names)
            for name in names:
                store.cursor(name).reset(0)
                assert [c.position for c in store.cursors() if c.name == name] == [store.cursor(name).position] == [0]
                store.cursor(name).advance(1)

    def test_a_cursor_moves_with_an_append(self) -> None:
        """Both or neither: a conflict of one of them refuses the other."""
        with self.store() as store:
            store.append("in:1", [Counted(n) for n in range(9)], NO_STREAM)
            cursor = store.cursor("worker")
            assert store.append("out:1", [Counted(1), Counted(2)], NO_STREAM, cursor=cursor.at(3, expected=0)) == 1
            assert cursor.position == 3
            with raises(CursorConflictError):
                store.append("out:1", [Counted(3)], 1, cursor=cursor.at(4, expected=0))
            with raises(CursorConflictError):
                store.append_at_end("out:1", [Counted(3)], cursor=cursor.at(2))
            with raises(ConcurrencyError):
                store.append("out:1", [Counted(3)], 7, cursor=cursor.at(4))
            with raises(ValueError):
                store.append("out:1", [Counted(3)], 1, cursor=cursor.at(12))
            with raises(TypeError):
                store.append("out:1", [Counted(3)], 1, cursor=4)  # type: ignore[arg-type]
            assert (cursor.position, store.get_event_count()) == (3, 11)
            store.append_many(
                [("out:1", [], 1), ("out:2", [Counted(1)], ANY), ("o", [Counted(2)], ANY)], cursor=cursor.at(5)
            )
            assert (cursor.position, store.get_event_count()) == (5, 13)
            cursor.advance(6)
            assert store.append("out:1", [Counted(3)], 1, cursor=cursor.at(7, expected=6)) == 2
            assert [event.number for event in store.read_stream("out:1")] == [1, 2, 3]
            assert cursor.position == 7

    def test_a_retry_moves_no_cursor_twice(self) -> None:
        """It succeeds as before, wherever the cursor has gone since."""
        with self.store() as store:
            store.append("in:1", [Counted(n) for n in range(9)], NO_STREAM)
            cursor, events = store.cursor("worker"), [Counted(1, event_id="x1")]
            assert store.append("out:1", events, NO_STREAM, cursor=cursor.at(3, expected=0)) == 0
            assert store.append("out:1", events, NO_STREAM, cursor=cursor.at(3, expected=0)) == 0
            cursor.advance(8)
            assert store.append("out:1", events, NO_STREAM, cursor=cursor.at(3, expected=0)) == 0
            assert (cursor.position, store.get_event_count()) == (8, 10)

    def test_an_idempotent_retry_moves_no_cursor_twice(self) -> None:
        """Its ids are looked for before the cursor is."""
        with self.store() as store:
            store.append("in:1", [Counted(n) for n in range(9)], NO_STREAM)
            cursor, events = store.cursor("worker"), [Counted(1, event_id="x1")]
            first = store.append_at_end("out:1", events, idempotent=True, cursor=cursor.at(3, expected=0))
            assert (first.written, cursor.position) == (True, 3)
            store.append_at_end("out:1", [Counted(2)])
            again = store.append_at_end("out:1", events, idempotent=True, cursor=cursor.at(3, expected=0))
            assert (again.written, again.first_position) == (False, first.first_position)
            assert (cursor.position, store.get_event_count()) == (3, 11)

    def test_an_append_that_moves_a_cursor_returns_where_its_events_are(self) -> None:
        """Also if it names a stream twice, or its events have metadata of their own."""
        with self.store() as store:
            store.append("in:1", [Counted(n) for n in range(9)], NO_STREAM)
            cursor, own = store.cursor("worker"), [{"n": 0}, None, {"n": 2}]
            events = [Counted(n, event_id=f"x{n}") for n in range(3)]
            one = store.append("out:1", events, NO_STREAM, metadata=own, cursor=cursor.at(3))
            assert (one, one.first_position, one.last_position) == (2, 10, 12)
            assert (one.event_ids, one.written) == (("x0", "x1", "x2"), True)
            assert [record.metadata for record in store.records("out:1")] == own
            appends = [("out:1", [Counted(3)], 2), ("out:2", [Counted(4)], ANY), ("out:1", [Counted(5)], 3)]
            many = store.append_many(appends, cursor=cursor.at(4, expected=3))
            assert (many["out:1"], many["out:1"].first_position, many["out:1"].last_position) == (4, 13, 15)
            assert [event.number for event in store.read_stream("out:1")] == [0, 1, 2, 3, 5]
            assert (cursor.position, store.get_event_count()) == (4, 15)

    def test_cursors_are_no_segments(self) -> None:
        """The statistics count the files of events only."""
        with self.store() as store:
            store.append("a:1", [Counted(1)], NO_STREAM)
            segments = store.stats().segments
            store.cursor("mailer").advance(1)
            assert store.stats().segments == segments

    def test_an_append_of_nothing_moves_the_cursor_too(self) -> None:
        """An event may lead to no other."""
        with self.store() as store:
            store.append("in:1", [Counted(1)], NO_STREAM)
            cursor = store.cursor("worker")
            assert store.append("out:1", [], NO_STREAM, cursor=cursor.at(1, expected=0)) == -1
            assert (cursor.position, store.get_event_count()) == (1, 1)
            with raises(CursorConflictError):
                store.append_many([], cursor=cursor.at(1, expected=0))

    def test_threads_that_race_for_a_cursor_advance_it_one_by_one(self) -> None:
        """Each position is won by one thread."""
        with self.store() as store:
            store.append("in:1", [Counted(n) for n in range(100)], NO_STREAM)
            won: list[int] = []

            def work() -> None:
                cursor = store.cursor("worker")
                while (position := cursor.position) < 100:
                    try:
                        cursor.advance(position + 1, expected=position, durability="relaxed")
                    except CursorConflictError:
                        continue  # Another thread was quicker.
                    won.append(position + 1)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(won) == list(range(1, 101))
