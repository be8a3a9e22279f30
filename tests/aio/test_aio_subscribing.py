"""Subscriptions of tasks: shared reading, back-pressure, cancellation, the end of the store."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio import to_thread
from conftest import ROOT, Added

import hangarlog.aio
from hangarlog import ANY, EncodedEvent, FileEventStore, StoreOpenError, UnknownEventTypeError, UntypedEvent
from hangarlog.aio import hub as hub_module
from hangarlog.testing import registered

pytestmark = pytest.mark.anyio


class Removed(msgspec.Struct, frozen=True):
    """Another event."""

    number: int


def followers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hangarlog-follow"]


async def test_a_hundred_subscriptions_share_one_thread(tmp_path: Path) -> None:
    """Each gets what it wants, once and in order: some from the beginning, some what comes."""
    found: list[list[int]] = [[] for _ in range(100)]
    most = 0

    async def follow(number: int) -> None:
        nonlocal most
        filters: Any = [{}, {"category": "a"}, {"event_types": Removed}, {"stream_id": "b:1"}][number % 4]
        async for record in store.subscribe(**filters):
            found[number].append(record.position)
            most = max(most, len(followers()))
            if record.position >= 399:
                return

    with registered(Removed=Removed):
        async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
            await append(store, 0, 100)
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(follow, number)
                await append(store, 100, 402)
            assert found[0] == list(range(1, 400))
            assert found[1] == [n for n in range(1, 403) if n % 2][: len(found[1])]
            assert found[2] == [n for n in range(1, 403) if n % 3 == 0][: len(found[2])]
            assert found[3] == [n for n in range(1, 403) if not n % 2][: len(found[3])]
            assert all(found[number] == found[number % 4] for number in range(100))
            assert most == 1


async def append(store: Any, start: int, end: int) -> None:
    for number in range(start + 1, end + 1):
        event = Added(number) if number % 3 else Removed(number)
        await store.append("a:1" if number % 2 else "b:1", [event], ANY)


async def test_a_slow_subscription_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for it has a limit; it reads the rest by itself, and misses nothing."""
    monkeypatch.setattr(hub_module, "_MAX_RECORDS", 50)
    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        slow, quick = store.subscribe(), store.subscribe()
        await store.append("a:1", [Added(0)], ANY)
        assert [(await each.__anext__()).position for each in (slow, quick)] == [1, 1]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one_by_one, store, 500)
            async for record in quick:
                hub = store._hubs[False]
                assert hub._records <= 50 or len(hub._chunks) == 1
                if record.position == 501:
                    break
        positions = [1]
        async for record in slow:
            positions.append(record.position)
            if record.position == 501:
                break
        assert positions == list(range(1, 502))
        await slow.aclose()
        await quick.aclose()


async def one_by_one(store: Any, count: int) -> None:
    for number in range(count):
        await store.append("a:1", [Added(number)], ANY)


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_a_cancelled_iteration_loses_nothing(tmp_path: Path, steps: int) -> None:
    """Wherever it is cancelled, iterating again goes on behind the last event that was delivered."""
    found: list[int] = []

    async def follow() -> None:
        async for record in subscription:
            found.append(record.position)  # noqa: PERF401 - one by one

    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        subscription = store.subscribe()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one_by_one, store, 60)
            while len(found) < 60:
                async with anyio.create_task_group() as following:
                    following.start_soon(follow)
                    for _ in range(steps + 1):
                        await anyio.lowlevel.checkpoint()
                    following.cancel_scope.cancel()
        assert found == list(range(1, 61))
        await subscription.aclose()


async def test_a_cancelled_subscription_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiter, and no thread after its patience."""
    monkeypatch.setattr(hub_module, "_PATIENCE_SECONDS", 0.01)
    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        subscription = store.subscribe()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(subscription.__anext__)
            while not store._hubs[False]._waiting:
                await anyio.lowlevel.checkpoint()
            (thread,) = followers()
            tasks.cancel_scope.cancel()
        assert not store._hubs[False]._waiting
        await to_thread.run_sync(thread.join)
        await store.append("a:1", [Added(0)], -1)
        assert (await subscription.__anext__()).position == 1
        await subscription.aclose()


async def test_closing_the_store_ends_all_subscriptions(tmp_path: Path) -> None:
    """With an error, as nothing may be missed in silence. No thread is left."""
    errors = []

    async def follow() -> None:
        with pytest.raises(StoreOpenError) as caught:
            await store.subscribe().__anext__()
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks, hangarlog.aio.open(tmp_path / "s") as store:
        for _ in range(10):
            tasks.start_soon(follow)
        while not store._hubs or len(store._hubs[True]._waiting) < 10:
            await anyio.lowlevel.checkpoint()
    assert len(errors) == 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hangarlog")]


async def test_stop_ends_a_subscription_that_waits(tmp_path: Path) -> None:
    """From another thread; the batch that is being delivered comes whole."""
    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        await store.append("a:1", [Added(0), Added(1)], -1)
        async with store.subscribe() as subscription, anyio.create_task_group() as tasks:
            positions = []
            async for record in subscription:
                positions.append(record.position)
                if record.position == 1:
                    tasks.start_soon(to_thread.run_sync, subscription.stop)
                    while not subscription.stopped:
                        await anyio.lowlevel.checkpoint()
            assert positions == [1, 2]
        async with anyio.create_task_group() as tasks:
            waiting = store.subscribe("end")
            tasks.start_soon(stop_when_waiting, store, waiting)
            assert [record async for record in waiting] == []


async def stop_when_waiting(store: Any, subscription: Any) -> None:
    while not store._hubs[False]._waiting:
        await anyio.lowlevel.checkpoint()
    await to_thread.run_sync(subscription.stop)


async def test_an_event_that_cannot_be_read_stops_those_who_want_it(tmp_path: Path) -> None:
    """At its place, and again if they go on. The others pass over it."""
    async with (
        hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store,
        store.subscribe("end") as one,
        store.subscribe("end", category="b") as other,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(append_unreadable, store)
            assert [(await other.__anext__()).position for _ in range(2)] == [2, 4]
        assert [(await one.__anext__()).position for _ in range(2)] == [1, 2]
        for _ in range(2):
            with pytest.raises(UnknownEventTypeError):
                await one.__anext__()
        assert one.position == 2


async def append_unreadable(store: Any) -> None:
    while len(store._hubs[False]._waiting) < 1:
        await anyio.lowlevel.checkpoint()
    events = [("a:1", Added(0)), ("b:1", Added(1)), ("a:1", EncodedEvent("Unheard", b"{}")), ("b:1", Added(2))]
    await store.append_many([(stream_id, [event], ANY) for stream_id, event in events])


WRITER = """
import sys
from hangarlog import ANY, FileEventStore, UntypedEvent
store = FileEventStore.untyped(sys.argv[1], durability="relaxed")
print("ready", flush=True)
while True:
    store.append_many([("a:1", [UntypedEvent("Noted", {})] * 3, ANY), ("b:1", [UntypedEvent("Noted", {})], ANY)])
"""


async def test_a_writer_that_is_killed_leaves_no_gap(tmp_path: Path) -> None:
    """What it has committed is delivered, once; then what others append."""
    inner = FileEventStore.untyped(tmp_path / "s", durability="relaxed")
    async with hangarlog.aio.AsyncEventStore(inner) as store:
        found: list[list[int]] = [[], []]

        async def follow(number: int) -> None:
            async for record in store.subscribe():
                found[number].append(record.position)
                if record.event_type == "Last":
                    return

        command = [sys.executable, "-c", WRITER, str(tmp_path / "s")]
        async with anyio.create_task_group() as tasks:
            for number in range(2):
                tasks.start_soon(follow, number)
            for _ in range(3):
                with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as writer:
                    assert writer.stdout
                    await to_thread.run_sync(writer.stdout.readline)
                    before = len(found[0])
                    while len(found[0]) < before + 1000:
                        await anyio.lowlevel.checkpoint()
                    writer.send_signal(signal.SIGKILL)
                    await to_thread.run_sync(writer.wait)
            await store.append("c:1", [UntypedEvent("Last", {})], -1)
        count = await store.get_event_count()
        assert found[0] == found[1] == list(range(1, count + 1))


def test_an_event_loop_that_ends_leaves_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if nobody has closed the store. It can be closed in another one."""
    monkeypatch.setattr(hub_module, "_PATIENCE_SECONDS", 0.01)
    stores = []

    async def run() -> None:
        store = await hangarlog.aio.open(tmp_path / "s", durability="relaxed")
        stores.append(store)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.subscribe().__anext__)
            while not store._hubs or not store._hubs[False]._waiting:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    for backend in ("asyncio", "trio"):
        anyio.run(run, backend=backend)
    for thread in followers():
        thread.join()
    for store in stores:
        anyio.run(store.close)
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hangarlog")]


async def test_an_async_read_is_that_of_the_store(tmp_path: Path) -> None:
    """Many events, a few of them, blocks, and none."""
    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        for start in range(0, 5000, 1000):
            await store.append("a:1", [Added(number) for number in range(start, start + 1000)], ANY)
        inner = store.store
        assert [each async for each in store.records()] == list(inner.records())
        assert [each async for each in store.read_all(17, 200)] == list(inner.read_all(17, 200))
        blocks = [list(each) async for each in store.envelopes("a:1")]
        assert blocks == [list(each) for each in inner.envelopes("a:1")]
        assert [each async for each in store.records("none:1")] == []
        some = store.records()
        async for record in some:
            if record.position == 100:
                break
        assert (await some.__anext__()).position == 101
        await some.aclose()
        with pytest.raises(StopAsyncIteration):
            await some.__anext__()
        with pytest.raises(TypeError):
            store.records(colour="red")  # type: ignore[call-arg]


def test_without_anyio_the_error_says_what_to_install() -> None:
    program = "import sys; sys.modules['anyio'] = None; import hangarlog.aio"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "pip install 'hangarlog[aio]'" in done.stderr
