"""Conformance tests of what a read selects: its ends, times, types and categories, and what its limit counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Union

import msgspec

from hangarlog.events.encoded_event import EncodedEvent
from hangarlog.events.registry import EventRegistry, UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.expected_version import ANY, NO_STREAM
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, Noted, raises

BEGIN = datetime(2026, 11, 27, 12, 0, 0, 1, tzinfo=UTC)


class Gauged(msgspec.Struct):
    """An event whose former name is Measured, and a part of the split type Moved."""

    number: int


class Paused(msgspec.Struct):
    """Another part of the split type."""

    number: int


class SelectConformance(Opening):
    """How every event store selects what a read returns."""

    def test_a_read_ends_at_a_version(self) -> None:
        """The version is inclusive, in the direction of reading; a read that ends before it begins is empty."""
        with self.store() as store:
            store.append("a:1", [Counted(n) for n in range(10)], NO_STREAM)
            for first in range(-1, 11):
                for last in range(-1, 12):
                    wanted = [n for n in range(10) if first <= n <= last]
                    assert store.read_stream("a:1", first, to_version=last) == [Counted(n) for n in wanted]
                    found = store.records("a:1", from_version=first, to_version=last)
                    assert [r.stream_version for r in found] == wanted
                    found = store.records("a:1", from_version=last, to_version=first, reverse=True)
                    assert [r.stream_version for r in found] == wanted[::-1]
            assert [r.stream_version for r in store.records("a:1", to_version=7, reverse=True)] == [9, 8, 7]
            assert [r.stream_version for r in store.records("a:1", to_version=7, limit=2)] == [0, 1]
            assert store.read_stream("a:none", to_version=3) == []

    def test_a_stream_is_read_as_some_types(self) -> None:
        """A union names several. Other events are left out, also those that could not be read."""
        registry = _registry()
        registry.event(Counted)
        with self.store(_splitting(), registry=registry) as store:
            moved = UntypedEvent("Moved", {"number": 1, "into": ["Gauged", "Paused"]})
            _append_untyped(store, [moved, UntypedEvent("Measured", {"number": 3}), UntypedEvent("Unheard", {})])
            store.append("a:1", [Counted(4), Gauged(5)], ANY)
            assert store.read_stream("a:1", type=Gauged) == [Gauged(1), Gauged(3), Gauged(5)]
            assert store.read_stream("a:1", type=Gauged | Counted) == [Gauged(1), Gauged(3), Counted(4), Gauged(5)]
            assert store.read_stream("a:1", type=Paused) == [Paused(1)]
            assert store.read_stream("a:1", type=Union[Paused, Counted], from_version=4) == []  # noqa: UP007
            assert store.read_stream("a:1", 3, type=Counted, to_version=3) == [Counted(4)]
            for wrong in ("Gauged", 7, dict[str, int], Gauged | None, [Gauged], Noted):
                with raises(TypeError):
                    store.read_stream("a:1", type=wrong)  # type: ignore[arg-type]

    def test_a_read_ends_at_a_position(self) -> None:
        """The position is inclusive, in the direction of reading, for all streams and for one."""
        with self.store() as store:
            self.fill(store)
            of_b = [r.position for r in store.records("b:1")]
            for first in range(0, 32, 3):
                for last in range(-1, 33, 2):
                    wanted = [n for n in range(1, 31) if first < n <= last]
                    assert [r.position for r in store.records(from_position=first, to_position=last)] == wanted
                    of_stream = store.records("b:1", from_position=first, to_position=last)
                    assert [r.position for r in of_stream] == [n for n in of_b if n in wanted]
                    wanted = [n for n in range(30, 0, -1) if first > n >= last]
                    found = store.records(from_position=first, to_position=last, reverse=True)
                    assert [r.position for r in found] == wanted
                    of_stream = store.records("b:1", from_position=first, to_position=last, reverse=True)
                    assert [r.position for r in of_stream] == [n for n in wanted if n in of_b]
            assert [r.position for r in store.records(to_position=28, reverse=True)] == [30, 29, 28]
            assert [r.position for block in store.envelopes(to_position=2) for r in block] == [1, 2]

    def test_a_read_between_two_times(self) -> None:
        """`since` is inclusive, `until` exclusive, also where the clock was set back."""
        minutes = [0, 1, 2, 3, 1, 2, 4, 0]
        with self.store() as store:
            for number, minute in enumerate(minutes):
                _record_at(store, f"a:{number % 2}", number, BEGIN + timedelta(minutes=minute))
            moments = [None, *(BEGIN + timedelta(minutes=minute) for minute in range(-1, 6))]
            for since in moments:
                for until in moments:
                    wanted = [
                        number
                        for number, minute in enumerate(minutes)
                        if (since is None or BEGIN + timedelta(minutes=minute) >= since)
                        and (until is None or BEGIN + timedelta(minutes=minute) < until)
                    ]
                    assert [r.event.number for r in store.records(since=since, until=until)] == wanted
                    of_stream = [r.event.number for r in store.records("a:1", since=since, until=until)]
                    assert of_stream == [number for number in wanted if number % 2]
                    backward = [r.event.number for r in store.records(since=since, until=until, reverse=True)]
                    assert backward == wanted[::-1]
            found = store.records(since=BEGIN, limit=2, from_position=1)
            assert [r.event.number for r in found] == [1, 2]

    def test_a_time_is_aware_or_rfc_3339(self) -> None:
        """Both forms, in any zone, say the same moment; a time between two microseconds counts as the later one."""
        with self.store() as store:
            _record_at(store, "a:1", 0, BEGIN)
            for at in (
                BEGIN.astimezone(timezone(timedelta(hours=2))),
                "2026-11-27T12:00:00.000001Z",
                "2026-11-27t13:30:00.000001+01:30",
                "2026-11-27T12:00:00.0000009999Z",
            ):
                assert len(list(store.records(since=at))) == 1
                assert len(list(store.records(until=at))) == 0
            assert len(list(store.records(since="2026-11-27T12:00:00.0000010001Z"))) == 0
            assert len(list(store.records(until="2026-11-27T12:00:00.0000010001Z"))) == 1
            assert len(list(store.records(since="0001-01-01T00:00:00Z", until="9999-12-31T23:59:59Z"))) == 1
            for value in ("2026-11-27", "2026-11-27T12:00:00", "now", "2026-13-01T00:00:00Z", datetime(2026, 11, 27)):
                with raises(ValueError):
                    store.records(since=value)

    def test_a_name_among_the_types_is_the_stored_name(self) -> None:
        """Exactly: not a class's other names."""
        with self.store(_splitting(), registry=_registry()) as store:
            _fill_renamed(store)
            assert [r.position for r in store.records(event_types="Measured")] == [1]
            assert [r.position for r in store.records(event_types=["Gauged"])] == [2]
            assert [(r.position, r.event) for r in store.records(event_types=("Moved",))] == [
                (3, Gauged(3)),
                (3, Paused(3)),
                (4, Paused(4)),
            ]

    def test_a_class_among_the_types_is_all_that_is_read_as_it(self) -> None:
        """Its name, its former names, and its parts of split events, without the other parts."""
        with self.store(_splitting(), registry=_registry()) as store:
            _fill_renamed(store)
            found = [(r.position, r.event) for r in store.records(event_types=Gauged)]
            assert found == [(1, Gauged(1)), (2, Gauged(2)), (3, Gauged(3))]
            found = [(r.position, r.event) for r in store.records(event_types=[Paused], reverse=True)]
            assert found == [(5, Paused(5)), (4, Paused(4)), (3, Paused(3))]
            found = [(r.position, r.event) for r in store.records("a:1", event_types={Gauged, "Moved"}, limit=3)]
            assert found == [(1, Gauged(1)), (2, Gauged(2)), (3, Gauged(3)), (3, Paused(3))]
            blocks = store.envelopes(event_types=[Gauged])
            assert [envelope.position for block in blocks for envelope in block] == [1, 2, 3]

    def test_categories_are_wanted_or_not(self) -> None:
        """One text or several; "" is that of ids without a category."""
        with self.store() as store:
            self.fill(store)
            assert {r.stream_id for r in store.records(category=["a", "b"])} == {"a:1", "b:1"}
            assert {r.stream_id for r in store.records(not_category="a")} == {"b:1", "plain"}
            assert {r.stream_id for r in store.records(not_category=("a", ""))} == {"b:1"}
            assert {r.stream_id for r in store.records(category={"a", "b"}, not_category={"b"})} == {"a:1"}
            assert list(store.records(category=[])) == list(store.records(event_types=[])) == []
            assert len(list(store.records(not_category=[]))) == 30

    def test_a_wrong_kind_of_argument_is_an_error_at_the_call(self) -> None:
        """A `TypeError`, before anything is read."""
        wrong: list[dict[str, Any]] = [
            *({name: value} for name in ("from_position", "to_position", "limit") for value in ("1", True, 1.0)),
            *(
                {name: value}
                for name in ("since", "until")
                for value in (5, 1.5, b"2026-11-27T12:00:00Z", BEGIN.date())
            ),
            *({"event_types": value} for value in (5, b"Counted", [5], Gauged, ["Counted", Gauged])),
            *({name: value} for name in ("category", "not_category") for value in (7, b"a", ["a", 7])),
            *({name: "no"} for name in ("reverse", "durable")),
            {"event_type": "Counted"},
        ]
        with self.store() as store:
            self.fill(store)
            untyped: Any = store  # As a program that no type checker has seen.
            for options in wrong:
                with raises(TypeError):
                    untyped.records(**options)
                with raises(TypeError):
                    untyped.envelopes(**options)
            for value in ("1", True, 1.0):
                for name in ("from_version", "to_version"):
                    with raises(TypeError):
                        untyped.records("a:1", **{name: value})
                    with raises(TypeError):
                        untyped.read_stream("a:1", **{name: value})
                with raises(TypeError):
                    untyped.read_all(value)
                with raises(TypeError):
                    untyped.read_all(limit=value)
            for call in (untyped.records, untyped.envelopes, untyped.read_stream):
                with raises(TypeError):
                    call(["a:1"])
            for name in ("from_version", "to_version"):
                with raises(ValueError):
                    untyped.records(**{name: 1})

    def test_a_limit_counts_what_is_yielded(self) -> None:
        """So who reads on from the last position passes dropped events, however many there are."""
        registry = _registry()
        registry.drop("Debugged", reason="noise")
        with self.store(registry=registry) as store:
            events = [("Gauged", 1), *(("Debugged", n) for n in range(300)), ("Gauged", 2), ("Gauged", 3)]
            _append_untyped(store, [UntypedEvent(name, {"number": number}) for name, number in events])
            for limit in (1, 2, 3, 1000):
                seen, position, polls = [], 0, 0
                while found := list(store.read_all(position, limit)):
                    seen += [event.number for _, _, event in found]
                    position, polls = found[-1][0], polls + 1
                assert (seen, polls) == ([1, 2, 3], -(-3 // limit))
                numbers = [1, 2, 3][:limit]
                assert [r.event.number for r in store.records(limit=limit)] == numbers
                assert [r.event.number for r in store.records("a:1", limit=limit)] == numbers
                backward = store.records("a:1", limit=limit, reverse=True)
                assert [r.event.number for r in backward] == [3, 2, 1][:limit]
            assert sum(map(len, store.envelopes(limit=10))) == 10

    def test_the_parts_of_an_event_stay_together(self) -> None:
        """The last one may exceed the limit, so who reads on from its position misses no part."""
        with self.store(_splitting(), registry=_registry()) as store:
            _fill_renamed(store)
            assert [(p, event) for p, _, event in store.read_all(2, 1)] == [(3, Gauged(3)), (3, Paused(3))]
            assert [(p, event) for p, _, event in store.read_all(2, 2)] == [(3, Gauged(3)), (3, Paused(3))]
            assert [p for p, _, _ in store.read_all(2, 3)] == [3, 3, 4]
            assert [r.position for r in store.records(limit=3)] == [1, 2, 3, 3]

    def test_an_event_beyond_the_limit_is_not_read(self) -> None:
        """Nor is one that cannot be read as its class."""
        with self.store() as store:
            _append_untyped(store, [UntypedEvent("Counted", {"number": 1}), UntypedEvent("Unheard", {})])
            assert [event.number for _, _, event in store.read_all(limit=1)] == [1]
            assert [r.event.number for r in store.records(limit=1)] == [1]
            assert [r.event.number for r in store.records(event_types=["Counted", "Unheard"], limit=1)] == [1]
            assert [r.event.number for r in store.records(to_position=1)] == [1]


def _record_at(store: EventStore, stream_id: str, number: int, at: datetime) -> None:
    data = b'{"_version":1,"number":%d}' % number
    store.append(stream_id, [EncodedEvent("Counted", data, recorded_at=at)], ANY, durability="relaxed")


def _append_untyped(store: EventStore, events: list[UntypedEvent]) -> None:
    """Append to a:1 what the store's own serializer would not write."""
    serializer, store.serializer = store.serializer, EventSerializer(registry=EventRegistry(), unknown="untyped")
    store.append("a:1", events, ANY)
    store.serializer = serializer


def _registry() -> EventRegistry:
    registry = EventRegistry()
    registry.event(Gauged, aliases=["Measured"])
    registry.event(Paused)
    return registry


def _splitting() -> UpcasterChain:
    """Return a chain that splits the type Moved."""
    chain = UpcasterChain()

    @chain.splitter("Moved", from_version=1)
    def split(data: dict[str, Any]) -> Sequence[tuple[str, dict[str, Any]]]:
        return [(name, {"number": data["number"]}) for name in data["into"]]

    return chain


def _fill_renamed(store: EventStore) -> None:
    """Append a Measured, a Gauged, a Moved of two parts, one of one part, a Paused, and a Moved without parts."""
    _append_untyped(store, [UntypedEvent("Measured", {"number": 1}), UntypedEvent("Gauged", {"number": 2})])
    _append_untyped(store, [UntypedEvent("Moved", {"number": 3, "into": ["Gauged", "Paused"]})])
    _append_untyped(store, [UntypedEvent("Moved", {"number": 4, "into": ["Paused"]})])
    _append_untyped(store, [UntypedEvent("Paused", {"number": 5}), UntypedEvent("Moved", {"number": 6, "into": []})])
