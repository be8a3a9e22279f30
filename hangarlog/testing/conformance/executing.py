"""Conformance tests of `execute`, which decides on the events of a stream and appends, and of `stats`."""

from __future__ import annotations

import threading
from typing import Any

from hangarlog.errors import ConcurrencyError, CursorConflictError, StoreOpenError
from hangarlog.eventstore.expected_version import ANY, NO_STREAM
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, raises


class ExecuteConformance(Opening):
    """How every event store decides and appends, and counts what it holds."""

    def test_a_decision_sees_the_stream_and_its_events_are_appended(self) -> None:
        """The version is -1 for a new stream. Nothing, or None, appends nothing."""
        with self.store() as store:
            seen: list[Any] = []

            def decide(events: list[Any], version: int) -> list[Any] | None:
                seen.append((events, version))
                return [Counted(len(events)), Counted(len(events) + 1)] if version < 1 else None

            result = store.execute("a:1", decide, metadata={"n": 1})
            assert (result, result.first_version, result.written) == (1, 0, True)
            assert [record.metadata for record in store.records()] == [{"n": 1}, {"n": 1}]
            result = store.execute("a:1", decide)
            assert (result, result.written) == (1, False)
            assert seen == [([], -1), ([Counted(0), Counted(1)], 1)]

    def test_a_decision_is_made_again_after_a_conflict(self) -> None:
        """It sees the events that came between. An error of its own ends the call."""
        with self.store() as store:
            seen: list[int] = []

            def decide(events: list[Any], version: int) -> list[Any]:
                if len(seen) < 2:
                    store.append("a:1", [Counted(100)], version)
                seen.append(version)
                return [Counted(len(events))]

            assert store.execute("a:1", decide) == 2
            assert seen == [-1, 0, 1]
            assert store.read_stream("a:1") == [Counted(100), Counted(100), Counted(2)]

            def fail(events: list[Any], version: int) -> list[Any]:
                raise KeyError("mine")

            with raises(KeyError):
                store.execute("a:1", fail)
            assert store.get_event_count() == 3

    def test_attempts_are_bounded(self) -> None:
        """The last conflict is raised. A conflict of the decision's own appends is not repeated."""
        with self.store() as store:
            calls: list[int] = []

            def overtaken(events: list[Any], version: int) -> list[Any]:
                calls.append(version)
                store.append("a:1", [Counted(1)], ANY)
                return [Counted(2)]

            with raises(ConcurrencyError) as caught:
                store.execute("a:1", overtaken, attempts=3)
            assert (calls, caught.error.stream_id) == ([-1, 0, 1], "a:1")

            def conflicting(events: list[Any], version: int) -> list[Any]:
                calls.append(version)
                store.append("a:1", [Counted(1)], NO_STREAM)
                return []

            with raises(ConcurrencyError):
                store.execute("a:1", conflicting)
            assert len(calls) == 4
            for attempts, error in ((0, ValueError), (-1, ValueError), ("3", TypeError), (None, TypeError)):
                with raises(error):
                    store.execute("a:1", conflicting, attempts=attempts)  # type: ignore[arg-type]
            assert len(calls) == 4

    def test_a_decision_may_execute_another_one(self) -> None:
        """Also in the same stream after a conflict, where its own caller has the turn that others wait for."""
        with self.store() as store:
            store.append("a:1", [Counted(0)], NO_STREAM)
            calls: list[int] = []

            def outer(events: list[Any], version: int) -> list[Any]:
                calls.append(version)
                if len(calls) == 1:
                    store.append("a:1", [Counted(1)], ANY)
                elif len(calls) == 2:
                    store.execute("a:1", lambda events, version: [Counted(2)])
                    store.execute("b:1", lambda events, version: [Counted(3)])
                return [Counted(4)]

            assert store.execute("a:1", outer) == 3
            assert (calls, store.get_stream_version("b:1")) == ([0, 1, 2], 0)

    def test_a_compacted_stream_gives_the_version_and_what_is_left(self) -> None:
        """Also if nothing is left."""
        with self.store() as store:
            store.append("a:1", [Counted(n) for n in range(4)], NO_STREAM)
            store.save_snapshot("a:1", 3, {})
            store.compact_stream("a:1")
            assert store.execute("a:1", lambda events, version: [Counted(len(events) * 100 + version)]) == 4
            assert store.execute("a:1", lambda events, version: [Counted(len(events) * 100 + version)]) == 5
            assert store.read_stream("a:1") == [Counted(3), Counted(104)]

    def test_a_decision_may_see_only_the_events_after_a_snapshot(self) -> None:
        """The version is that of the stream, also if no event is left to see."""
        with self.store() as store:
            store.append("a:1", [Counted(n) for n in range(3)], NO_STREAM)
            seen: list[Any] = []

            def decide(events: list[Any], version: int) -> list[Any]:
                seen.append((events, version))
                return [Counted(10)]

            for first in (2, 4, 9, -1):
                store.execute("a:1", decide, from_version=first)
            assert seen[:3] == [([Counted(2)], 2), ([], 3), ([], 4)]
            assert len(seen[3][0]) == 6
            with raises(TypeError):
                store.execute("a:1", decide, from_version="1")  # type: ignore[arg-type]

    def test_a_decision_moves_a_cursor(self) -> None:
        """With its events, with none, and not if the cursor is elsewhere: that is no conflict to repeat."""
        with self.store() as store:
            self.fill(store)
            cursor, calls = store.cursor("worker"), 0

            def decide(events: list[Any], version: int) -> list[Any]:
                nonlocal calls
                calls += 1
                return [Counted(1)] if calls == 1 else []

            assert store.execute("out:1", decide, cursor=cursor.at(5, expected=0)) == 0
            assert cursor.position == 5
            store.execute("out:1", decide, cursor=cursor.at(6, expected=5))
            assert (cursor.position, store.get_event_count()) == (6, 31)
            with raises(CursorConflictError):
                store.execute("out:1", decide, cursor=cursor.at(7, expected=5))
            assert (cursor.position, calls) == (6, 3)

    def test_threads_in_contention_need_few_attempts(self) -> None:
        """Four threads count in one stream. Nothing is lost, and each decision is made a few times at most."""
        with self.store() as store:
            most: list[int] = []

            def count() -> None:
                for _ in range(25):
                    calls: list[int] = []

                    def decide(events: list[Any], version: int, calls: list[int] = calls) -> list[Any]:
                        calls.append(version)
                        return [Counted(events[-1].number + 1 if events else 0)]

                    store.execute("a:1", decide)
                    most.append(len(calls))

            threads = [threading.Thread(target=count) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert store.read_stream("a:1") == [Counted(n) for n in range(100)]
            assert len(most) == 100
            assert max(most) <= 8

    def test_stats_say_how_much_there_is(self) -> None:
        """An empty store has no times."""
        with self.store() as store:
            empty = store.stats()
            assert (empty.events, empty.streams, empty.first_recorded_at, empty.last_recorded_at) == (0, 0, None, None)
            self.fill(store)
            stats, records = store.stats(), list(store.records())
            assert (stats.events, stats.streams) == (30, 3)
            assert stats.segments >= 4
            assert stats.bytes > empty.bytes
            assert (stats.first_recorded_at, stats.last_recorded_at) == (
                records[0].recorded_at,
                records[-1].recorded_at,
            )

    def test_a_closed_store_refuses_calls(self) -> None:
        """Reads as well as appends. Closing twice is fine."""
        with self.store() as store:
            store.append("a:1", [Counted(1)], NO_STREAM)
            cursor = store.cursor("c")
            store.close()
            store.close()
            calls: list[Any] = [
                lambda: store.append("a:1", [Counted(2)], ANY),
                lambda: store.read_stream("a:1"),
                lambda: list(store.read_all()),
                lambda: list(store.records()),
                lambda: store.event("x"),
                store.get_event_count,
                store.get_stream_count,
                lambda: store.get_stream_version("a:1"),
                store.list_streams,
                lambda: store.save_snapshot("a:1", 0, {}),
                lambda: store.load_snapshot("a:1"),
                lambda: store.delete_stream("a:1"),
                lambda: store.execute("a:1", lambda events, version: []),
                lambda: cursor.position,
                lambda: cursor.advance(1),
                store.cursors,
                store.stats,
            ]
            for call in calls:
                with raises(StoreOpenError):
                    call()
