"""eventsourcing's recorders: hangarlog's beside its SQLite's, and an application with each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import StoredEvent

from bench.adapters.__main__ import Row

STATE = (
    b'{"timestamp":{"_type_":"datetime_iso","_data_":"2026-11-27T14:00:00.000000+00:00"},'
    b'"provider_id":"math-0001","mode":"subprocess","tools_count":12,"startup_duration_ms":153.25}'
)


class Account(Aggregate):
    """A usual aggregate."""

    def __init__(self, owner: str) -> None:
        self.owner, self.balance = owner, 0

    @event("Deposited")
    def deposit(self, amount: int) -> None:
        """Add to the balance."""
        self.balance += amount


def stored(one: UUID, first: int, events: int) -> list[StoredEvent]:
    """Return events of an aggregate."""
    return [StoredEvent(one, first + n, "bank.domain:Account.Deposited", STATE) for n in range(events)]


def batches(recorder: Any, calls: int, events: int, *, new: bool = False) -> Callable[[], int]:
    """Return what appends batches, to one aggregate or each to a new one."""
    one, versions = uuid4(), count(1, events)

    def work() -> int:
        for _ in range(calls):
            recorder.insert_events(stored(uuid4(), 1, events) if new else stored(one, next(versions), events))
        return calls * events

    return work


def pages(recorder: Any, size: int, most: int) -> Callable[[], int]:
    """Return what reads the notifications page by page, as a follower does."""

    def work() -> int:
        last = 0
        while last < most and (page := recorder.select_notifications(last + 1, size)):
            last = page[-1].id
        return last

    return work


def lasts(recorder: Any, ids: list[UUID]) -> Callable[[], int]:
    """Return what reads the last event of each aggregate, as the repository reads a snapshot."""
    return lambda: sum(len(recorder.select_events(one, desc=True, limit=1)) for one in ids)


def reads(recorder: Any, ids: list[UUID]) -> Callable[[], int]:
    """Return what reads whole aggregates."""
    return lambda: sum(len(recorder.select_events(one)) for one in ids)


def saves(app: Any, calls: int) -> Callable[[], int]:
    """Return what makes aggregates, saves them, gets them again, and saves again."""

    def work() -> int:
        for _ in range(calls):
            account = Account("somebody")
            app.save(account)
            again: Any = app.repository.get(account.id)
            again.deposit(10)
            app.save(again)
        return 2 * calls

    return work


def rows(folder: Path) -> Iterator[Row]:
    """Yield the rows."""
    apps = [
        Application[UUID](
            {"PERSISTENCE_MODULE": "hangarlog.integrations.eventsourcing", "HANGARLOG_PATH": str(folder / "hangarlog")}
        ),
        Application[UUID]({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(folder / "events.db")}),
    ]
    both = [app.recorder for app in apps]

    def row(title: str, work: Callable[..., Callable[[], int]], *arguments: Any, **options: Any) -> Row:
        return Row(title, *(work(each, *arguments, **options) for each in both))

    yield row("append one event to an aggregate", batches, 300, 1)
    yield row("append 10 events to an aggregate", batches, 100, 10)
    yield row("append 1,000 events to an aggregate", batches, 20, 1000)
    yield row("append the first event of a new aggregate", batches, 300, 1, new=True)
    ids = [uuid4() for _ in range(200)]
    for recorder in both:
        for one in ids:
            recorder.insert_events(stored(one, 1, 10))
    long = [uuid4()]
    for recorder in both:
        recorder.insert_events(stored(long[0], 1, 10_000))
    yield row("read aggregates of 10 events", reads, ids)
    yield row("read an aggregate of 10,000 events", reads, long)
    yield row("read the last event of aggregates", lasts, ids)
    yield row("read notifications, 10 a page", pages, 10, 5_000)
    yield row("read notifications, 1,000 a page", pages, 1_000, 50_000)
    yield Row("an application: make, save, get, change and save an aggregate", *(saves(app, 100) for app in apps))
    for app in apps:
        app.close()
