"""What careless users of subscriptions do: fork, copy, go on after an error or an interrupt."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from subscriber_helpers import answered, fill, opened

from hangarlog import (
    FileEventStore,
    HandlerError,
    MemoryEventStore,
    NamedSubscription,
    StorageError,
    StoreOpenError,
    UntypedEvent,
)
from hangarlog.eventstore.share import Share
from hangarlog.eventstore.subscription import Subscription

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileEventStore[UntypedEvent]]:
    with opened(tmp_path / "s") as store:
        fill(store, 6)
        yield store


def in_child(function: Callable[[], object]) -> str:
    """What a forked child's call returns, or its error."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            found = repr(function())
        except BaseException as error:
            found = f"{type(error).__name__}: {error}"
        os.write(writing, found.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        found = answer.read()
    os.waitpid(pid, 0)
    return found


@needs_fork
def test_a_forked_child_that_closes_a_subscription_leaves_the_name_to_its_parent(
    store: FileEventStore[UntypedEvent],
) -> None:
    """Neither the lock nor the cursor changes, also when the child only lets go of the subscription."""
    with store.subscribe(name="mailer", batch=3, timeout=0) as subscription:
        assert [next(subscription).position for _ in range(2)] == [1, 2]
        assert in_child(subscription.close) == "None"
        assert in_child(subscription._own.leave) == "None"
        assert [status.owner for status in store.subscribers()] == [os.getpid()]
        assert store.cursor("mailer").position == 0
        assert [record.position for record in subscription] == [3, 4, 5, 6]
    assert store.cursor("mailer").position == 6


@needs_fork
def test_a_forked_child_may_not_move_the_cursor_of_its_parent(store: FileEventStore[UntypedEvent]) -> None:
    """It is told to subscribe itself, and then waits in line."""

    def in_line() -> list[Any]:
        return list(store.subscribe(name="mailer", batch=1, timeout=0))

    with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
        assert next(subscription).position == 1
        for call in (lambda: next(subscription), subscription.advance, subscription.move):
            assert in_child(call).endswith("is at work in the parent process; subscribe in the child")
        assert in_child(in_line) == "[]"
        assert next(subscription).position == 2


@pytest.mark.parametrize("name", [None, "mailer"])
def test_a_subscription_cannot_be_copied_or_pickled(store: FileEventStore[UntypedEvent], name: Any) -> None:
    """A copy would close the same files again, and by then they may be those of others."""
    with store.subscribe(name=name, timeout=0) as subscription:
        for make in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled; subscribe again"):
                make(subscription)


@pytest.mark.parametrize("name", [None, "mailer"])
def test_a_closed_store_refuses_a_subscription(store: FileEventStore[UntypedEvent], name: Any) -> None:
    """As it refuses every other call."""
    store.close()
    with pytest.raises(StoreOpenError, match="it was closed"):
        store.subscribe(name=name)


@pytest.mark.parametrize("workers", ["2", 1.5, True])
def test_a_number_of_workers_that_is_none_is_named(workers: Any) -> None:
    """Not by an error of the arithmetic."""
    with pytest.raises(TypeError, match="workers must be a whole number, not"):
        MemoryEventStore.untyped().subscribe(name="mailer", workers=workers)


class Answering:
    """Answers each event in one append with the cursor's move, and then fails at one."""

    def __init__(self, store: FileEventStore[UntypedEvent], subscription: Any, error: BaseException) -> None:
        self.store, self.subscription, self.error = store, subscription, error
        self.calls: list[int] = []

    def __call__(self, record: Any) -> None:
        self.calls.append(record.position)
        answer = UntypedEvent("Answered", {"position": record.position})
        self.store.append_at_end("out:1", [answer], cursor=self.subscription.move())
        if record.position == 3 and self.calls.count(3) == 1:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("after it"), KeyboardInterrupt(), OSError("no answer")])
def test_a_handler_that_fails_after_its_output_is_written_does_not_write_it_again(
    store: FileEventStore[UntypedEvent], error: BaseException
) -> None:
    """Not by another attempt, and not when the subscription goes on."""
    with store.subscribe(name="answering", category="in", timeout=0) as subscription:
        handler = Answering(store, subscription, error)
        with pytest.raises(HandlerError if isinstance(error, Exception) else KeyboardInterrupt):
            subscription.run(handler, attempts=3)
        assert handler.calls == [1, 2, 3]
        subscription.run(handler)
    assert handler.calls == [1, 2, 3, 4, 5, 6]
    assert answered(store) == dict.fromkeys(range(1, 7), 1)


@pytest.mark.parametrize("on_failure", ["park", "skip"])
def test_a_handler_that_fails_after_its_output_is_written_is_not_tried_again(
    store: FileEventStore[UntypedEvent], on_failure: Any
) -> None:
    """However many attempts there are."""
    with store.subscribe(name="answering", category="in", timeout=0) as subscription:
        handler = Answering(store, subscription, ValueError("after it"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            subscription.run(handler, on_failure=on_failure, attempts=3)
    assert answered(store) == dict.fromkeys(range(1, 7), 1)
    assert len(store.parked("answering")) + len(caught) == 1


class FailsOnce:
    """Stands in for a function, and fails at one call."""

    def __init__(self, function: Callable[..., object], at: int, error: BaseException) -> None:
        self.function, self.left, self.error = function, at, error

    def __call__(self, *arguments: Any, **options: Any) -> object:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.function(*arguments, **options)


def deliver(subscription: Any, seen: list[int], runs: bool) -> None:
    """Iterate, or run a handler, and note the positions."""
    if runs:
        subscription.run(lambda record: seen.append(record.position))
    else:
        seen.extend(record.position for record in subscription)


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize("method", ["move", "deliver"])
@pytest.mark.parametrize("error", [StorageError("s", errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_an_event_that_was_read_when_a_move_failed_is_delivered(
    store: FileEventStore[UntypedEvent],
    monkeypatch: pytest.MonkeyPatch,
    runs: bool,
    workers: Any,
    method: str,
    error: BaseException,
) -> None:
    """A full disk, or an interrupt, between reading it and giving it to the consumer loses nothing."""
    seen: list[int] = []
    with store.subscribe(name="mailer", batch=1, workers=workers, timeout=0) as subscription:
        failing = FailsOnce(getattr(Share, method), 3, error)
        monkeypatch.setattr(Share, method, lambda *arguments, **options: failing(*arguments, **options))
        with pytest.raises(type(error)):
            deliver(subscription, seen, runs)
        deliver(subscription, seen, runs)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_an_interrupt_just_before_the_handler_is_called_loses_nothing(
    store: FileEventStore[UntypedEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a second one while the first one is dealt with."""
    seen: list[int] = []
    with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
        late = FailsOnce(subscription.__next__, 3, KeyboardInterrupt())

        def next_and_late(self: Any) -> object:
            record = Subscription.__next__(self)
            late.function = lambda: record
            return late()

        monkeypatch.setattr(NamedSubscription, "__next__", next_and_late, raising=False)
        again = FailsOnce(subscription._end_iteration, 1, KeyboardInterrupt())
        monkeypatch.setattr(subscription, "_end_iteration", again)
        with pytest.raises(KeyboardInterrupt):
            deliver(subscription, seen, runs=True)
        deliver(subscription, seen, runs=True)
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("method", ["_scan_anew", "_seek", "_handle"])
def test_an_interrupt_at_the_beginning_brings_back_nothing_before_the_cursor(
    store: FileEventStore[UntypedEvent], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Wherever it comes, the next run begins at the cursor."""
    store.cursor("mailer").advance(3)
    seen: list[int] = []
    with store.subscribe(name="mailer", timeout=0) as subscription:
        monkeypatch.setattr(subscription, method, FailsOnce(getattr(subscription, method), 1, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            deliver(subscription, seen, runs=True)
        deliver(subscription, seen, runs=True)
    assert seen == [4, 5, 6]


async def send_later(record: Any) -> None:
    raise AssertionError("nobody awaits it")


@pytest.mark.parametrize("handler", [send_later, lambda record: send_later(record)])
@pytest.mark.parametrize("on_failure", ["stop", "park", "skip"])
def test_a_handler_that_is_a_coroutine_function_is_refused(
    store: FileEventStore[UntypedEvent], handler: Any, on_failure: Any
) -> None:
    """Nobody would await it, and all events would pass as processed. The store for tasks takes it."""
    with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
        with pytest.raises(TypeError, match=r"use hangarlog\.aio"):
            subscription.run(handler, on_failure=on_failure)
        subscription.run(lambda record: 1 // (record.position - 3), on_failure="park")
    with pytest.raises(TypeError, match=r"use hangarlog\.aio"):
        store.replay("mailer", handler, on_failure="stop" if on_failure == "stop" else "park")
    assert [event.position for event in store.parked("mailer")] == [3]
