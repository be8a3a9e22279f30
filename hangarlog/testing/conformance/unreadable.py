"""Conformance tests of stored events that cannot be read as their class."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from hangarlog.errors import EventSerializationError, UnknownEventTypeError, UnreadableWarning, UpcastingError
from hangarlog.events.registry import EVENT_TYPE_MAP, EVENT_VERSION_MAP, UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.expected_version import ANY
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, raises, registered

_PADDING = "x" * 200  # With it, 400 events are more than a store reads line by line.
_BAD = {
    "does not fit": UntypedEvent("Counted", {"number": 1.5, "padding": _PADDING}, 2),
    "Unheard": UntypedEvent("Unheard", {"number": 1}),
    "Upcaster": UntypedEvent("Counted", {"old": 1, "padding": _PADDING}),
    "newer": UntypedEvent("Counted", {"number": 1, "padding": _PADDING}, 9),
    "Splitter": UntypedEvent("Split", {"into": 1}),
}
_KINDS = {"Unheard": UnknownEventTypeError, "does not fit": EventSerializationError}


class UnreadableConformance(Opening):
    """What every event store does at an event that it cannot read."""

    def test_an_unreadable_event_says_where_it_is(self) -> None:
        """In its turn, with stream, version, position, field and the way past it; the error can be pickled."""
        for count in 1, 400:
            for cause in _BAD:
                with self._with_bad(cause, count, "error") as store:
                    seen: list[Any] = []
                    for read in _reads(store):
                        with raises(_KINDS.get(cause, UpcastingError)) as caught:
                            list(read())
                        error = caught.error
                        assert (error.stream_id, error.stream_version, error.position) == ("a:1", count, count + 1)
                        for said in cause, "'a:1'", f"from_version={count + 1}", f"from_position={count + 1}", "skip":
                            assert said in str(error), error
                        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
                        assert (str(again), vars(again)) == (str(error), vars(error))
                    assert cause != "does not fit" or "`$.number`" in str(error)
                    with raises(_KINDS.get(cause, UpcastingError)):
                        seen.extend(record.event for record in store.records())
                    assert seen == [Counted(n) for n in range(count)]
                    assert store.read_stream("a:1", count + 1) == [Counted(n) for n in range(count)]
                    with raises(_KINDS.get(cause, UpcastingError)) as caught:
                        store.serializer.deserialize_all(_BAD[cause].event_type, _json(_BAD[cause]))
                    assert (caught.error.stream_id, caught.error.position) == (None, None)
                    assert "from_version" not in str(caught.error)

    def test_an_unreadable_event_may_be_read_untyped(self) -> None:
        """As stored, in its place: forwards, backwards and under a limit."""
        for count in 1, 400:
            for cause, bad in _BAD.items():
                with self._with_bad(cause, count, "untyped") as store:
                    whole = [*(Counted(n) for n in range(count)), bad, *(Counted(n) for n in range(count))]
                    assert store.read_stream("a:1") == whole
                    assert [event for _, _, event in store.read_all(limit=2 * count)] == whole[: 2 * count]
                    assert [record.event for record in store.records(reverse=True)] == whole[::-1]
                    one = [record.event for record in store.records("a:1", from_version=count, limit=1)]
                    assert one == [bad]

    def test_an_unreadable_event_may_be_skipped(self) -> None:
        """With a warning that names its place."""
        for count in 1, 400:
            for cause in _BAD:
                with self._with_bad(cause, count, "skip") as store, warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    rest = [Counted(n) for n in range(count)] * 2
                    assert store.read_stream("a:1") == rest
                    (warning,) = caught
                    assert issubclass(warning.category, UnreadableWarning)
                    assert f"version {count}, position {count + 1}" in str(warning.message)
                    assert [event for _, _, event in store.read_all()] == rest
                    records = list(store.records("a:1", reverse=True))
                    assert [record.stream_version for record in records if record.stream_version == count] == []
                    assert len(records) == 2 * count

    @contextmanager
    def _with_bad(self, cause: str, count: int, unreadable: Any) -> Iterator[EventStore]:
        """Open a store with a bad event between `count` good ones on each side."""
        chain = UpcasterChain()
        chain.upcaster("Counted", 1)(lambda data: {"number": data["n"]})
        chain.splitter("Split", 1)(lambda data: [("Counted", part) for part in data["into"]])
        loose: Any = msgspec.defstruct("Counted", [("number", int), ("padding", str)])
        with registered():
            with registered(Counted=loose):
                EVENT_VERSION_MAP["Counted"] = 2
                store = self.open_store(EventSerializer(chain, unreadable=unreadable, validate=False))
                good = [loose(n, _PADDING) for n in range(count)]
                store.append("a:1", good, ANY)
            with registered():
                EVENT_TYPE_MAP.pop("Counted", None)
                store.append("a:1", [_BAD[cause]], ANY)
            EVENT_TYPE_MAP["Counted"], EVENT_VERSION_MAP["Counted"] = loose, 2
            store.append("a:1", good, ANY)
            EVENT_TYPE_MAP["Counted"] = Counted
            with store:
                yield store


def _reads(store: EventStore) -> list[Callable[[], Any]]:
    return [lambda: store.read_stream("a:1"), store.read_all, lambda: store.records("a:1", reverse=True)]


def _json(event: UntypedEvent) -> bytes:
    return msgspec.json.encode({"_version": event.schema_version, **event.data})
