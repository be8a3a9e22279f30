"""What the adapters of agent frameworks share: names, payloads, an open store, what is known of a stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from hangarlog import ANY, ConcurrencyError, EventSerializationError, FileEventStore, StoreOpenError, StreamIdError
from hangarlog.eventstore.stream_id import why_not_an_id
from hangarlog.integrations.sessions import (
    Known,
    Opened,
    Recent,
    Streams,
    append,
    as_json,
    event,
    from_json,
    member,
    names_of,
    not_known,
    stream_id,
)
from hangarlog.record.envelope import Envelope

TEXT = some.text(some.characters(exclude_categories=[]), max_size=20)
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | TEXT,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(some.lists(TEXT, min_size=1, max_size=3), some.lists(TEXT, min_size=1, max_size=3))
def test_any_names_have_a_stream_of_their_own(one: list[str], two: list[str]) -> None:
    """Its id is valid, and leads back to the names."""
    stream = stream_id("c", *one)
    assert why_not_an_id(stream) is None
    assert names_of(stream) == one
    assert (stream == stream_id("c", *two)) == (one == two)


def test_names_that_are_too_long_are_refused() -> None:
    with pytest.raises(StreamIdError, match="limit is 1024"):
        stream_id("c", "x" * 600, "y" * 600)
    with pytest.raises(TypeError):
        stream_id("c", 7)  # type: ignore[arg-type]


@given(JSON)
def test_what_pythons_json_gives_back_comes_back(value: Any) -> None:
    """Also NaN, half a surrogate pair and integers of any size, as UTF-8 that any JSON parser takes."""
    data = as_json("value", value)
    data.decode()
    assert repr(from_json("value", data)) == repr(json.loads(json.dumps(value)))
    assert msgspec.json.decode(data).keys() <= {"value", "value_json"}


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), 1j, [msgspec.Raw(b"1")]])
def test_what_python_has_no_json_for_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        as_json("value", value)


def test_text_of_another_library_is_checked() -> None:
    """What a line cannot hold is kept as text."""
    assert member("m", b'{"a":1}') == b'"m":{"a":1}'
    assert member("m", b'{"a":NaN}') == b'"m_json":"{\\"a\\":NaN}"'
    assert member("m", b"[" * 200 + b"]" * 200).startswith(b'"m_json":')
    assert member("m", b'{"a":1,"a":2}').startswith(b'"m_json":')


def fold(state: list[Any], envelope: Envelope) -> None:
    if envelope.event_type != "Said":
        raise not_known(envelope)
    state.append(from_json("n", envelope.data))


def said(n: int) -> Any:
    return event("Said", as_json("n", n))


def test_what_is_known_follows_the_stream(tmp_path: Path) -> None:
    """Appends of others, deletions, a stream that begins anew; what is not known is an error each time."""
    opened = Opened(tmp_path / "s", "relaxed")
    streams: Streams[list[Any]] = Streams(opened, list, fold)
    other = FileEventStore.untyped(tmp_path / "s", durability="relaxed")

    def now() -> list[Any]:
        with streams.of("a:1") as known:
            return [*known.state]

    assert now() == []
    append(other, "a:1", [said(1), said(2)], ANY)
    assert now() == [1, 2]
    with streams.of("a:1") as known:
        append(other, "a:1", [said(3)], ANY)
        with pytest.raises(ConcurrencyError):
            streams.append("a:1", known, [said(9)])
    with streams.of("a:1") as known:
        other.delete_stream("a:1")
        with pytest.raises(ConcurrencyError):
            streams.append("a:1", known, [said(9)])
    assert now() == []
    with streams.of("a:1") as known:
        streams.append("a:1", known, [said(4)])
        known.state.append(4)
    assert now() == [4]
    append(other, "a:1", [said(5)], ANY)
    other.truncate_stream("a:1", 4)
    assert now() == [5]
    append(other, "a:1", [event("OfTomorrow", b"{}"), said(6)], ANY)
    for _ in range(2):
        with pytest.raises(EventSerializationError, match="OfTomorrow"):
            now()
    other.close()
    opened.close()
    with pytest.raises(StoreOpenError):
        now()


def test_a_deletion_between_two_own_appends_is_noticed(tmp_path: Path) -> None:
    """Though the last event that is known is still there."""
    opened = Opened(tmp_path / "s", "relaxed")
    streams: Streams[list[Any]] = Streams(opened, list, fold)
    other = FileEventStore.untyped(tmp_path / "s", durability="relaxed")
    with streams.of("a:1") as known:
        streams.append("a:1", known, [said(1)])
        known.state.append(1)
    with streams.of("a:1") as known:
        other.delete_stream("a:1")
        result = append(opened.store, "a:1", [said(2)], ANY)
        known.state.append(2)
        known.took(result)
    with streams.of("a:1") as known:
        assert known.state == [2]
    other.close()
    opened.close()


def test_what_is_at_hand_is_lent_without_reading(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "s", "relaxed")
    streams: Streams[list[Any]] = Streams(opened, list, fold)

    def at_hand() -> Known[list[Any]] | None:
        with streams.at_once("a:1") as known:
            return known

    assert at_hand() is None
    with streams.of("a:1"):
        assert at_hand() is None  # It is lent.
    assert at_hand()
    append(opened.store, "b:1", [said(1)], ANY)
    assert at_hand() is None
    opened.close()


def test_a_folder_that_was_moved_is_opened_anew(tmp_path: Path) -> None:
    """Adapters of one path share a store, as long as it is the one at that path."""
    one = Opened(tmp_path / "s", "relaxed")
    assert Opened(tmp_path / "s", "relaxed").store is one.store
    (tmp_path / "s").rename(tmp_path / "moved")
    two = Opened(tmp_path / "s", "relaxed")
    assert two.store is not one.store
    assert two.store.get_event_count() == 0
    two.close()


def test_recent_events_are_bounded() -> None:
    recent = Recent(100)
    for version in range(30):
        recent.add(version, b"x" * 10)
    assert recent.at([28, 29]) == [b"x" * 10] * 2
    assert recent.at([0, 29]) is None
