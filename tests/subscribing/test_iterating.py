"""Iterating over a subscription: where it ends, where it goes on, and who may use it."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from following import LONG, Follower, opened, put

from hangarlog import ANY, EncodedEvent, FileEventStore, StoreOpenError, UntypedEvent
from hangarlog.system import waking
from hangarlog.system.read_only import ReadOnly

EVENT = EncodedEvent("Added", b"{}")


@contextlib.contextmanager
def signalled(subscription: Any, handler: Any) -> Iterator[None]:
    """Let a signal come a moment after the subscription has begun to wait."""
    waiting, waited = threading.Event(), subscription._tail.wait

    def wait(seconds: float) -> None:
        waiting.set()
        waited(seconds)

    def send() -> None:
        waiting.wait(LONG)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    before, thread = signal.signal(signal.SIGUSR1, handler), threading.Thread(target=send)
    subscription._tail.wait = wait
    thread.start()
    try:
        yield
    finally:
        thread.join()
        del subscription._tail.wait
        signal.signal(signal.SIGUSR1, before)


def numbers(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


def test_a_stop_within_a_batch_that_several_blocks_hold_delivers_all_of_it(tmp_path: Path) -> None:
    """At the end and while it catches up; after it, `position` is the batch's end."""
    with opened(tmp_path / "s") as store:
        put(store)
        put(store, 2000, 1000)  # 2 MB: many blocks.
        put(store)
        for attached in (False, True):
            subscription = store.subscribe(0, timeout=LONG)
            if attached:
                assert len([next(subscription) for _ in range(2002)]) == 2002
                put(store, 2000, 1000)
                put(store)
            first = 2003 if attached else 1
            found = []
            for record in subscription:
                found.append(record.position)
                if record.position == first + 4:
                    subscription.stop()
            assert found == numbers(first, 4002 if attached else 2001)
            assert subscription.position == found[-1]
            assert [r.position for r in store.subscribe(subscription.position, timeout=0)][:1] == [found[-1] + 1]


def test_a_stop_between_two_blocks_of_a_batch_delivers_all_of_it(tmp_path: Path) -> None:
    """It comes from another thread while a block is read of which nothing is wanted."""
    with opened(tmp_path / "s") as store:
        large = EncodedEvent("Added", b'{"text":"%s"}' % (b"x" * 1000))
        store.append_many([("a:1", [EVENT], ANY), ("b:1", [large] * 2000, ANY), ("a:2", [EVENT], ANY)])
        put(store)
        subscription: Any = store.subscribe(category="a", timeout=LONG)
        step, steps = subscription._tail.step, 0

        def stopping() -> Any:
            nonlocal steps
            steps += 1
            subscription._stopped = steps >= 3
            return step()

        subscription._tail.step = stopping
        assert [record.position for record in subscription] == [1, 2002]


@pytest.mark.parametrize("filters", [{"stream_id": "a:1"}, {"category": "a"}, {"event_types": "Wanted"}])
def test_a_stop_counts_for_the_batch_also_if_its_last_events_are_not_wanted(
    tmp_path: Path, filters: dict[str, Any]
) -> None:
    """What comes after the batch is left for the next subscription."""
    with opened(tmp_path / "s") as store:
        for _ in range(3):
            wanted = [EncodedEvent("Wanted", b"{}")] * 2
            store.append_many([("a:1", wanted, ANY), ("b:1", [EVENT], ANY)])
        subscription = store.subscribe(timeout=LONG, **filters)
        found = []
        for record in subscription:
            found.append(record.position)
            subscription.stop()
        assert (found, subscription.position) == ([1, 2], 3)
        assert [r.position for r in store.subscribe(3, timeout=0, **filters)] == [4, 5, 7, 8]


def test_a_subscription_that_was_stopped_stays_stopped(tmp_path: Path) -> None:
    """Also if the stop came before it was iterated over for the first time."""
    with opened(tmp_path / "s") as store:
        put(store, 3)
        subscription = store.subscribe()
        subscription.stop()
        assert list(subscription) == [] == list(subscription)
        assert subscription.position == 0


def test_events_that_are_not_wanted_do_not_hold_up_the_heartbeat(tmp_path: Path) -> None:
    """While it catches up, too."""
    with opened(tmp_path / "s") as store:
        for _ in range(20):
            put(store, 300, 1000, "b:1")
        put(store)
        beats = 0
        for record in store.subscribe(stream_id="a:1", heartbeat=0):
            if record:
                assert record.position == 6001
                break
            beats += 1
        assert beats > 3


@pytest.mark.parametrize("method", ["_catch_up", "_at_end"])
def test_an_interrupt_between_reading_and_noting_it_loses_nothing(tmp_path: Path, method: str) -> None:
    """The tail has read on, and the subscription does not know of it."""
    with opened(tmp_path / "s") as store:
        put(store, 5000, 100)
        subscription: Any = store.subscribe(timeout=0)
        found = [next(subscription).position]
        if method == "_at_end":
            found = [*found, *(record.position for record in subscription)]
            put(store, 10)
        tail = subscription._tail
        original: Callable[..., Any] = getattr(tail, method)
        left = 2

        def interrupted(*arguments: Any) -> Any:
            nonlocal left
            position = tail.position
            block = original(*arguments)
            left -= 1
            if left >= 0:
                tail.position = position if left else tail.position
                raise KeyboardInterrupt
            return block

        setattr(tail, method, interrupted)
        for _ in range(4):
            try:
                for record in subscription:
                    found.append(record.position)
            except KeyboardInterrupt:
                continue
        assert left < 2
        assert found == numbers(1, store.get_event_count())


def test_a_keyboard_interrupt_ends_a_wait_and_iterating_goes_on_after_it(tmp_path: Path) -> None:
    """At the futex, and while it polls."""
    with opened(tmp_path / "s") as store:
        put(store)
    for options in ({}, {"filesystem": ReadOnly()}):
        with opened(tmp_path / "s", **options) as store, store.subscribe("end") as subscription:
            with signalled(subscription, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
                next(subscription)
            with opened(tmp_path / "s") as other:
                put(other)
                last = other.get_event_count()
            assert next(subscription).position == last


@pytest.mark.parametrize("reading", [False, True])
def test_a_signal_handler_may_stop_a_subscription_while_it_waits(tmp_path: Path, reading: bool) -> None:
    """At the futex, and while it polls: nothing that `stop` needs is held meanwhile."""
    with opened(tmp_path / "s") as store:
        put(store)
    with opened(tmp_path / "s", **({"filesystem": ReadOnly()} if reading else {})) as store:
        for _ in range(20):
            subscription = store.subscribe("end")
            with signalled(subscription, lambda *_, stopped=subscription: stopped.stop()):
                assert list(subscription) == []


def test_two_threads_cannot_iterate_over_one_subscription_at_once(tmp_path: Path) -> None:
    """The second one is refused; the first goes on."""
    with opened(tmp_path / "s") as store:
        subscription = store.subscribe()
        first = Follower(subscription, 1)
        while subscription._running is None:
            pass
        running = subscription._running
        while not running.gi_running:
            pass
        with pytest.raises(ValueError, match="already executing"):
            next(running)
        subscription._running = None
        with pytest.raises(RuntimeError, match="another thread"):
            next(subscription)
        subscription._running = running
        put(store)
        assert first.end() == [1]


def test_another_thread_may_close_a_subscription_while_it_waits(tmp_path: Path) -> None:
    """The waiting thread ends, and then everything is released."""
    with opened(tmp_path / "s") as store:
        put(store, 3)
        before = held()
        subscription = store.subscribe()
        thread = Follower(subscription)
        while len(thread.found) < 3:
            pass
        subscription.close()
        subscription.close()
        assert thread.end() == [1, 2, 3]
        assert held() == before
        assert list(subscription) == []


def test_another_thread_may_close_a_subscription_between_two_events(tmp_path: Path) -> None:
    """It ends there, and everything is released at once."""
    with opened(tmp_path / "s") as store:
        put(store, 3)
        before = held()
        subscription = store.subscribe()
        iterator = iter(subscription)
        assert next(iterator).position == 1
        thread = threading.Thread(target=subscription.close)
        thread.start()
        thread.join(LONG)
        assert held() == before
        assert list(iterator) == []


def test_a_subscription_may_be_closed_by_its_own_loop(tmp_path: Path) -> None:
    """Within the body, and by what it calls while it decodes."""
    with opened(tmp_path / "s") as store:
        put(store, 3)
        subscription = store.subscribe()
        found = []
        for record in subscription:
            found.append(record.position)
            subscription.close()
        assert (found, subscription.position) == ([1], 1)


def held() -> tuple[int, int]:
    """How many descriptors and how many mapped states this process has."""
    gc.collect()
    with open("/proc/self/maps") as maps:
        mapped = sum(line.rstrip().endswith("/state") for line in maps)
    return len(os.listdir("/proc/self/fd")), mapped


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="it looks into /proc")
def test_a_subscription_that_nobody_closes_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither one that was never iterated over, nor one that was left in the middle, or at the end."""
    with opened(tmp_path / "s") as store:
        put(store, 3)
        before = held()
        for count in (0, 1, 3):
            subscription = store.subscribe(timeout=0)
            for _ in range(count):
                next(subscription)
            if count == 3:
                assert list(subscription) == []
                assert held() > before
            gone = weakref.ref(subscription._tail)
            del subscription
            gc.collect()
            assert gone() is None
            assert held() == before


@pytest.mark.parametrize("polls", [False, True])
def test_closing_the_store_ends_the_wait_in_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, polls: bool
) -> None:
    """With an error, because events may come that it will not see; it does not wait for its patience to end."""
    monkeypatch.setattr("hangarlog.filestore.tail.PATIENCE_SECONDS", 1e6)
    monkeypatch.setattr("hangarlog.filestore.tail._LOOKS_SECONDS", ())
    if polls:
        monkeypatch.setattr(waking, "has_futex", lambda: False)
    store = opened(tmp_path / "s")
    put(store)
    thread = Follower(store.subscribe())
    while not thread.found:
        pass
    threading.Event().wait(0.05)
    store.close()
    with pytest.raises(StoreOpenError):
        thread.end()


def test_a_subscription_of_a_closed_store_touches_no_file_that_has_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it could not map the shared state before."""
    with monkeypatch.context() as patched:
        patched.setattr(waking, "has_futex", lambda: False)
        store = opened(tmp_path / "s")
        put(store)
        subscription = store.subscribe(timeout=0)
        assert len(list(subscription)) == 1
    store.close()
    foreign = tmp_path / "foreign"
    foreign.write_bytes(bytes(4096))
    files = [foreign.open("r+b") for _ in range(50)]
    subscription.stop()
    subscription.close()
    with pytest.raises(StoreOpenError):
        _ = subscription.lag
    assert foreign.read_bytes() == bytes(4096)
    for file in files:
        file.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_may_go_on_with_a_subscription(tmp_path: Path) -> None:
    """So may its parent: each has all events."""
    with opened(tmp_path / "s") as store:
        put(store, 3)
        subscription = store.subscribe(timeout=LONG)
        assert next(subscription).position == 1
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                found = [next(subscription).position for _ in range(5)]
                os.write(writing, repr(found).encode())
            finally:
                os._exit(0)
        put(store, 3)
        assert [next(subscription).position for _ in range(5)] == numbers(2, 6)
        assert os.read(reading, 1000) == repr(numbers(2, 6)).encode()
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


def test_blocks_are_followed_once_they_are_durable(tmp_path: Path) -> None:
    with FileEventStore.untyped(tmp_path / "store") as store:
        store.append("a:1", [UntypedEvent("One", {})], -1)
        store.append("a:1", [UntypedEvent("Two", {})], 0, durability="relaxed")
        with store.follow_envelopes(0, stream_id=None, heartbeat=0.0) as committed:
            assert [each.event_type for each in next(committed) or ()] == ["One", "Two"]
        with store.follow_envelopes(0, stream_id=None, heartbeat=0.0, durable=True) as durable:
            assert [each.event_type for each in next(durable) or ()] == ["One"]
            store.sync()
            assert [each.event_type for each in next(each for each in durable if each) or ()] == ["Two"]
