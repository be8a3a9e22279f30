"""Encoded events that are checked together are stored as each would be by itself."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangarlog import EncodedEvent, EventRegistry, EventSerializationError, EventSerializer
from hangarlog.events.encoded_event import encode_given, encode_given_all

PLAIN = EncodedEvent("Plain", b'{"n":1}')
ODD: list[Any] = [
    EncodedEvent("A", b'{"n": 1}'),
    EncodedEvent("A", b'{"n":1,"n":2}'),
    EncodedEvent("A", b'{"n":1}\n{"n":2}'),
    EncodedEvent("A", b"{}\n"),
    EncodedEvent("A", b""),
    EncodedEvent("A", b'{"n":['),
    EncodedEvent("A", b"1]}"),
    EncodedEvent("A", b"[1]"),
    EncodedEvent("A", b'{"n":NaN}'),
    EncodedEvent("A", b'{"n":1.0e5}'),
    EncodedEvent("A", b'{"n":123456789012345678901234567890}'),
    EncodedEvent("A", b'{"n":"\xff"}'),
    EncodedEvent("A", b'{"n":%b}' % (b"[" * 2000 + b"]" * 2000)),
    EncodedEvent("A", b'{"_version":3}'),
    EncodedEvent("A", b'{"_version":0}'),
    EncodedEvent("A", b'{"_version":"x"}'),
    EncodedEvent("", b"{}"),
    EncodedEvent(["A"], b"{}"),  # type: ignore[arg-type]
    EncodedEvent("A", "{}"),  # type: ignore[arg-type]
    EncodedEvent("A", b"{}", event_id="one"),
    EncodedEvent("A", b"{}", event_id=UUID(int=7)),
    EncodedEvent("A", b"{}", event_id=""),
    EncodedEvent("A", b"{}", metadata={"by": "me"}),
    EncodedEvent("A", b"{}", metadata=b'{"by": 1}'),
    EncodedEvent("A", b"{}", metadata=b"["),
    EncodedEvent("A", b"{}", recorded_at="2026-11-27T14:00:00+01:00"),
    EncodedEvent("A", b"{}", recorded_at="soon"),
]


def outcome(encode: Any) -> Any:
    try:
        return encode()
    except EventSerializationError as error:
        return str(error)


@given(st.lists(st.sampled_from([PLAIN, *ODD]), min_size=2, max_size=4))
def test_together_is_as_one_by_one(events: list[EncodedEvent]) -> None:
    serializer = EventSerializer(registry=EventRegistry())
    assert outcome(lambda: serializer.encode_all(events)) == outcome(lambda: [encode_given(each) for each in events])


def test_usual_events_are_checked_together() -> None:
    events = [EncodedEvent("A", b'{"n":%d}' % n) for n in range(3)]
    assert encode_given_all(events) == [encode_given(each) for each in events]


def test_a_type_that_is_registered_is_proved_one_by_one() -> None:
    registry = EventRegistry()

    @registry.event
    class Opened(msgspec.Struct):
        number: int

    serializer = EventSerializer(registry=registry)
    with pytest.raises(EventSerializationError, match="number"):
        serializer.encode_all([EncodedEvent("Opened", b'{"number":1}'), EncodedEvent("Opened", b'{"number":"x"}')])
