"""Aggregates: loaded from snapshots and the events after them, changed by decisions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hangarlog import EVENT_VERSION_MAP, EventSerializer, FileEventStore, MemoryEventStore, UpcasterChain
from hangarlog.aggregates import AggregateError, Repository
from hangarlog.eventstore.base import EventStore
from hangarlog.testing import registered
from hangarlog.testing.events import Counted, Noted


@pytest.fixture(autouse=True)
def counted_is_registered() -> Iterator[None]:
    with registered(Counted=Counted, Noted=Noted):
        yield


@pytest.fixture(params=["file", "memory"])
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore[Any]]:
    path = tmp_path / "store"
    with FileEventStore(path, durability="relaxed") if request.param == "file" else MemoryEventStore() as store:
        yield store


class Account(msgspec.Struct):
    """An aggregate of the tests, a class of its own."""

    balance: int = 0
    seen: list[int] = []


def apply(account: Account, event: Counted) -> None:
    account.balance += event.number
    account.seen.append(event.number)


def accounts(store: EventStore[Any], **options: Any) -> Repository[Account, Counted]:
    return Repository(store, "account", apply=apply, **{"initial": Account, "snapshot_every": 3, **options})


def deposit(amount: int) -> Any:
    return lambda account, version: [Counted(amount)]


def snapshot_version(store: EventStore[Any], stream_id: str = "account:1") -> int:
    found = store.load_snapshot(stream_id)
    return found["version"] if found else -1


def test_an_aggregate_is_the_fold_of_its_stream(each: EventStore[Any]) -> None:
    """A stream that there is not has the initial state, at version -1."""
    repository = accounts(each)
    assert repository.load("1") == (Account(), -1)
    assert repository.execute("1", deposit(5)) == 0
    seen: list[Any] = []
    repository.execute("1", lambda account, version: seen.append((account, version)))
    assert seen == [(Account(5, [5]), 0)]
    assert repository.load("1") == (Account(5, [5]), 0)
    assert repository.stream_id("1") == "account:1"
    by_stream: Repository[int, Counted] = Repository(
        each, None, apply=lambda state, event: state + event.number, initial=int
    )
    assert by_stream.load("account:1") == (5, 0)


def test_a_snapshot_is_saved_every_so_many_events(each: EventStore[Any]) -> None:
    """And loads begin with it."""
    repository = accounts(each)
    versions = []
    for number in range(1, 8):
        repository.execute("1", deposit(number))
        versions.append(snapshot_version(each))
    assert versions == [-1, -1, 2, 2, 2, 5, 5]
    assert repository.load("1") == (Account(28, [*range(1, 8)]), 6)
    each.compact_stream("account:1")
    assert repository.load("1") == (Account(28, [*range(1, 8)]), 6)
    assert each.load_snapshot("account:1") == {
        "version": 5,
        "state": {"event_types": {"Counted": 1}, "state": {"balance": 21, "seen": [*range(1, 7)]}},
    }


def test_a_snapshot_of_another_schema_is_passed_over(tmp_path: Path) -> None:
    """Of the state, or of an event type that went into it; the next one replaces it."""
    path = tmp_path / "store"
    with FileEventStore(path) as store:
        for number in (1, 2, 3):
            accounts(store).execute("1", deposit(number))
        assert snapshot_version(store) == 2
        newer = accounts(store, state_version=2, initial=lambda: Account(100), state_type=Account)
        assert newer.load("1").state.balance == 106
        assert accounts(store).load("1").state.balance == 6
        newer.execute("1", deposit(4))
        assert newer.load("1") == (Account(110, [1, 2, 3, 4]), 3)
        assert snapshot_version(store) == 3
        assert not accounts(store).save_snapshot("1")  # A program that is still of the older version leaves it.
        assert accounts(store).load("1") == (Account(10, [1, 2, 3, 4]), 3)
    EVENT_VERSION_MAP["Counted"] = 2
    chain = UpcasterChain()
    chain.upcaster("Counted", from_version=1)(lambda data: {**data, "number": 10 * data["number"]})
    with FileEventStore(path, serializer=EventSerializer(chain)) as store:
        newer = accounts(store, state_version=2)
        assert newer.load("1") == (Account(100, [10, 20, 30, 40]), 3)
        newer.execute("1", deposit(5))
        assert newer.load("1") == (Account(105, [10, 20, 30, 40, 5]), 4)
        assert store.load_snapshot("account:1")["state"]["event_types"] == {"Counted": 2}  # type: ignore[index]
    EVENT_VERSION_MAP["Counted"] = 1
    with FileEventStore(path) as store:
        assert not accounts(store, state_version=2).save_snapshot("1")


def test_a_state_that_cannot_be_known_is_an_error(each: EventStore[Any]) -> None:
    """If its first events are compacted, and the snapshot is of another schema."""
    for number in (1, 2, 3, 4):
        accounts(each).execute("1", deposit(number))
    each.compact_stream("account:1")
    assert accounts(each).load("1") == (Account(10, [1, 2, 3, 4]), 3)
    with pytest.raises(AggregateError, match="'account:1' cannot be known: versions up to 2 are compacted"):
        accounts(each, state_version=2).load("1")


def test_a_deleted_aggregate_begins_anew(each: EventStore[Any]) -> None:
    """Its state is the initial one; its version goes on."""
    repository = accounts(each)
    for number in (1, 2, 3, 4):
        repository.execute("1", deposit(number))
    each.delete_stream("account:1")
    assert repository.load("1") == (Account(), 3)
    for number in (5, 6, 7):
        repository.execute("1", deposit(number))
    assert repository.load("1") == (Account(18, [5, 6, 7]), 6)
    assert snapshot_version(each) == 6


def test_decisions_of_many_threads_lose_nothing(each: EventStore[Any]) -> None:
    """Each sees the state that its events are appended to."""
    repository = accounts(each, snapshot_every=10)

    def decide(account: Account, version: int) -> list[Counted]:
        assert len(account.seen) == version + 1
        return [Counted(account.balance + 1)]

    threads = [threading.Thread(target=lambda: [repository.execute("1", decide) for _ in range(15)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert repository.load("1").state.seen == [2**n for n in range(60)]


def test_what_is_compacted_between_load_and_decision_is_noticed(each: EventStore[Any]) -> None:
    """A stream that is deleted while a decision is under way has its initial state in the next attempt."""
    repository = accounts(each, snapshot_every=None)
    for number in (1, 2, 3):
        repository.execute("1", deposit(number))
    assert repository.save_snapshot("1")
    seen: list[int] = []

    def decide(account: Account, version: int) -> list[Counted]:
        seen.append(account.balance)
        if len(seen) == 1:
            each.delete_stream("account:1")
            each.append_at_end("account:1", [Counted(50)])
        return [Counted(1)]

    repository.execute("1", decide)
    assert seen == [6, 50]
    assert repository.load("1") == (Account(51, [50, 1]), 4)


def test_a_snapshot_that_cannot_be_saved_is_a_warning(each: EventStore[Any]) -> None:
    """The events are appended: an error would have them appended again."""
    numbers: Repository[dict[Any, int], Counted] = Repository(
        each, "n", apply=lambda state, event: {**state, event.number: 1}, snapshot_every=1
    )
    with pytest.warns(RuntimeWarning, match="no snapshot of stream 'n:1' was saved: .*; the events are appended"):
        numbers.execute("1", lambda state, version: [Counted(1)])
    with pytest.raises(AggregateError, match="give state_type"):
        numbers.save_snapshot("1")
    assert numbers.load("1") == ({1: 1}, 0)


def test_what_a_decision_raises_writes_nothing(each: EventStore[Any]) -> None:
    def refuse(account: Account, version: int) -> list[Counted]:
        raise ValueError("overdrawn")

    with pytest.raises(ValueError, match="overdrawn"):
        accounts(each).execute("1", refuse)
    assert each.get_event_count() == 0
    with pytest.raises(ValueError, match="snapshot_every"):
        accounts(each, snapshot_every=0)
