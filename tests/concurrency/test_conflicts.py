"""A conflict that can be seen is told without the lock; where there is any doubt, whoever has the lock decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Added

from hangarlog import ConcurrencyError, FileEventStore, LockTimeoutError, UntypedEvent
from hangarlog.system.file_lock import held
from hangarlog.testing.probe import shared_state, write_session


@pytest.fixture
def one(tmp_path: Path) -> Iterator[FileEventStore]:
    """A store that has appended to a:1 before others did."""
    with FileEventStore(tmp_path / "s", durability="relaxed", lock_timeout=0.05) as store:
        store.append("a:1", [Added(0)], -1)
        yield store


@pytest.fixture
def other(one: FileEventStore) -> Iterator[FileEventStore]:
    with FileEventStore(one.path, durability="relaxed") as store:
        yield store


@pytest.mark.parametrize("between", [1, 2, 7, 300])
def test_a_conflict_is_told_while_another_holds_the_lock(
    one: FileEventStore, other: FileEventStore, between: int
) -> None:
    """And so is the next one, at the version that the first one told."""
    for number in range(between):
        other.append("a:1", [Added(number)], number)
    with held(write_session(other).write_lock):
        with pytest.raises(ConcurrencyError) as first:
            one.append("a:1", [Added(9)], 0)
        assert (first.value.expected, first.value.actual) == (0, between)
        with pytest.raises(LockTimeoutError):  # Nobody has come since: the lock is needed to say more.
            one.append("a:1", [Added(9)], between)
    other.append("a:1", [Added(1), Added(2)], between)
    with held(write_session(other).write_lock):
        with pytest.raises(ConcurrencyError) as second:
            one.append("a:1", [Added(9)], between)
        assert second.value.actual == between + 2
    assert one.append("a:1", [Added(9)], between + 2) == between + 3


def test_a_retry_is_not_taken_for_a_conflict(one: FileEventStore, other: FileEventStore) -> None:
    """The event stands where it was to come: the lock is waited for, and it succeeds without writing."""
    event = UntypedEvent("Noted", {}, event_id="mine")
    other.append("a:1", [event], 0)
    other.append("a:1", [Added(1)], 1)
    with held(write_session(other).write_lock), pytest.raises(LockTimeoutError):
        one.append("a:1", [event], 0)
    assert one.append("a:1", [event], 0) == 1
    assert one.get_event_count() == 3


def test_what_is_not_committed_is_no_conflict_yet(one: FileEventStore, other: FileEventStore) -> None:
    """Another's line that is in the stream but not published may still be taken back."""
    stream = Path(one.path, "streams/a/1.jsonl")
    before = stream.read_bytes()
    other.append("a:1", [Added(1)], 0)
    committed = stream.read_bytes()
    other.append("a:1", [Added(2)], 1)
    state = shared_state(other)
    with held(write_session(other).write_lock):
        published = state.published()
        assert published
        state.publish(state.raw(), published[0] - 1, published[1], published[2], 0)  # As it was before the last one.
        with pytest.raises(ConcurrencyError) as told:
            one.append("a:1", [Added(9)], 0)
        assert told.value.actual == 1
        state.publish(state.raw(), published[0] - 2, published[1], published[2], 0)
        write_session(one).streams.seen("a:1").seen = (-1, 0)
        with pytest.raises(LockTimeoutError):
            one.append("a:1", [Added(9)], 0)
        state.publish(state.raw(), *published, 0)
    assert stream.read_bytes().startswith(committed)
    assert committed.startswith(before)


def test_a_damaged_line_between_is_left_to_whoever_has_the_lock(one: FileEventStore, other: FileEventStore) -> None:
    """What it says cannot be believed, so nothing is told of it."""
    other.append("a:1", [Added(1)], 0)
    stream = Path(one.path, "streams/a/1.jsonl")
    stream.write_bytes(stream.read_bytes()[:-12] + b'00000000"}\n'[-11:].rjust(12, b"0"))
    with held(write_session(other).write_lock), pytest.raises(LockTimeoutError):
        one.append("a:1", [Added(9)], 0)
