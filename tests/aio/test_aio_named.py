"""Named subscriptions and waits of tasks: back-pressure, cancellation, handlers, what is left behind."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from conftest import Added

import hangarlog.aio
from hangarlog import ANY, FileEventStore, HandlerError
from hangarlog.aio import cursor_waits

pytestmark = pytest.mark.anyio


async def filled(store: Any, count: int) -> None:
    await store.append("a:1", [Added(number) for number in range(count)], ANY)


async def test_an_event_is_processed_when_the_next_one_is_asked_for(tmp_path: Path) -> None:
    """Also if the task awaits meanwhile: no thread reads ahead of it."""
    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        for _ in range(5):
            await filled(store, 1)
        cursor = store.cursor("mailer")
        async with store.subscribe(name="mailer", batch=1, timeout=0) as events:
            async for record in events:
                await anyio.wait_all_tasks_blocked()
                assert await cursor.position() == record.position - 1
        assert await cursor.position() == 5


async def test_a_cancelled_owner_leaves_the_name_to_the_next(tmp_path: Path) -> None:
    """Whether it waits for an event, or works at one. What it had not processed comes again."""
    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        await filled(store, 3)
        for waits in (True, False):
            owns = anyio.Event()

            async def follow(owns: anyio.Event = owns, waits: bool = waits) -> None:
                async with store.subscribe(name="mailer", batch=1, heartbeat=0.01) as events:
                    async for record in events:
                        if waits == (record is None):
                            owns.set()
                            if not waits:
                                await anyio.sleep_forever()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await owns.wait()
                assert [status.owner is not None for status in await store.subscribers()] == [True]
                tasks.cancel_scope.cancel()
            assert [status.owner for status in await store.subscribers()] == [None]
            await store.cursor("mailer").reset(0)
        async with store.subscribe(name="mailer", timeout=0) as events:
            assert [record.position async for record in events] == [1, 2, 3]


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_a_cancelled_named_iteration_loses_nothing(tmp_path: Path, steps: int) -> None:
    """Wherever it is cancelled, iterating again goes on behind the last event that was delivered."""
    found: list[int] = []

    async def follow() -> None:
        async for record in subscription:
            found.append(record.position)  # noqa: PERF401 - one by one

    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        async with store.subscribe(name="mailer", batch=2) as subscription, anyio.create_task_group() as tasks:
            tasks.start_soon(one_by_one, store, 30)
            while len(found) < 30:
                async with anyio.create_task_group() as following:
                    following.start_soon(follow)
                    for _ in range(steps + 1):
                        await anyio.lowlevel.checkpoint()
                    following.cancel_scope.cancel()
        assert found == list(range(1, 31))
        assert await store.cursor("mailer").position() in (29, 30)  # Was the next one asked for?


async def one_by_one(store: Any, count: int) -> None:
    for _ in range(count):
        await filled(store, 1)


async def test_a_handler_that_is_cancelled_gets_the_event_again(tmp_path: Path) -> None:
    """A coroutine function, or a plain one."""
    begun = anyio.Event()
    seen: list[int] = []

    async def handle(record: Any) -> None:
        seen.append(record.position)
        if record.position == 2 and not begun.is_set():
            begun.set()
            await anyio.sleep_forever()

    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        await filled(store, 3)
        async with store.subscribe(name="mailer", batch=1, timeout=0) as events:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(events.run, handle)
                await begun.wait()
                tasks.cancel_scope.cancel()
            await events.run(handle)
            await filled(store, 1)
            await events.run(lambda record: seen.append(record.position))
        assert seen == [1, 2, 2, 3, 4]


async def test_a_coroutine_that_fails_is_tried_again_parked_and_replayed(tmp_path: Path) -> None:
    """In the event loop, as often as asked for."""
    calls: list[int] = []

    async def fail(record: Any) -> None:
        assert threading.current_thread() is here
        calls.append(record.position)
        await anyio.lowlevel.checkpoint()
        if record.position == 2:
            raise RuntimeError("no")

    here = threading.current_thread()
    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        await filled(store, 3)
        async with store.subscribe(name="mailer", batch=1, timeout=0) as events:
            await events.run(fail, on_failure="park", attempts=3)
        assert calls == [1, 2, 2, 2, 3]
        with pytest.raises(HandlerError):
            await store.replay("mailer", fail)
        assert [event.position for event in await store.parked("mailer")] == [2]
        assert await store.replay("mailer", lambda record: calls.append(record.position)) == 1
        assert await store.parked("mailer") == []


async def test_a_named_subscription_that_waits_holds_no_thread_of_its_own(tmp_path: Path) -> None:
    """Those that wait for events share one; those in line have none."""
    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        subscriptions = [store.subscribe(name=f"n{number % 10}") for number in range(20)]
        async with anyio.create_task_group() as tasks:
            for subscription in subscriptions:
                tasks.start_soon(stays, subscription)
            while not store._hubs[False]._waiting or len(store._hubs[False]._waiting) < 10:
                await anyio.lowlevel.checkpoint()
            busy = [thread for thread in threading.enumerate() if thread.name == "hangarlog-follow"]
            assert len(busy) == 1
            assert await store.get_event_count() == 0
            tasks.cancel_scope.cancel()
        for subscription in subscriptions:
            await subscription.aclose()


async def stays(subscription: Any) -> None:
    async for _ in subscription:
        pass


async def test_a_forgotten_subscription_owns_nothing(tmp_path: Path) -> None:
    """No thread keeps it, and a closed one takes nothing again."""
    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        forgotten = store.subscribe(name="mailer")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stays, forgotten)
            while not store._hubs[False]._waiting:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        inner = weakref.ref(forgotten._subscription)
        del forgotten
        gc.collect()
        while inner() is not None:  # The thread of the last call may not have let go of it yet.
            await anyio.lowlevel.checkpoint()
        assert [status.owner for status in await store.subscribers()] == [None]
        closed = store.subscribe(name="mailer")
        await closed.aclose()
        assert [record async for record in closed] == []
        assert [status.owner for status in await store.subscribers()] == [None]


async def test_waits_share_a_thread_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that is cancelled ends at once, and holds no thread of the calls."""
    monkeypatch.setattr(cursor_waits, "_PATIENCE_SECONDS", 0.01)
    found: list[bool] = []

    async def wait(number: int) -> None:
        found.append(await store.wait(f"n{number % 3}", 5))

    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        await filled(store, 5)
        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(wait, number)
            while len(store._cursor_waits._waiting) < 60:
                await anyio.lowlevel.checkpoint()
            (thread,) = (each for each in threading.enumerate() if each.name == "hangarlog-cursors")
            with anyio.move_on_after(0.01) as scope:
                await store.wait("n0", 5)
            assert scope.cancelled_caught
            assert not await store.wait("n0", 5, 0.01)
            for name in ("n0", "n1", "n2"):
                await store.cursor(name).advance(5)
        assert found == [True] * 60
        await to_thread.run_sync(thread.join)
        assert await store.wait("n0", 5, 0)


async def test_a_move_in_another_process_ends_a_wait(tmp_path: Path) -> None:
    """It is woken: it does not look by itself."""
    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        await filled(store, 5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.wait, "n", 5)
            while not store._cursor_waits._waiting:
                await anyio.lowlevel.checkpoint()
            with FileEventStore(tmp_path / "s", durability="relaxed") as other:
                other.cursor("n").advance(5)


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_handler_whose_output_is_written_does_not_write_it_again(tmp_path: Path, cancelled: bool) -> None:
    """Whether it is cancelled after that, or fails and may be tried again."""
    written = anyio.Event()

    async def answer(record: Any) -> None:
        await store.append("out:1", [Added(record.position)], ANY, cursor=events.move())
        if record.position == 2 and not written.is_set():
            written.set()
            if cancelled:
                await anyio.sleep_forever()
            raise ValueError("after it")

    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        await filled(store, 3)
        async with store.subscribe(name="answering", category="a", timeout=0) as events:
            if cancelled:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(events.run, answer)
                    await written.wait()
                    tasks.cancel_scope.cancel()
            else:
                with pytest.raises(HandlerError):
                    await events.run(answer, attempts=3)
            await events.run(answer)
        assert [event.number for event in await store.read_stream("out:1")] == [1, 2, 3]
