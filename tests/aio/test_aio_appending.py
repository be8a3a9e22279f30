"""Appends of tasks: one sync for many, and what a cancellation leaves."""

from __future__ import annotations

import asyncio
import errno
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from conftest import ROOT, Added

import hangarlog.aio
from hangarlog import ANY, AppendResult, ConcurrencyError, FileEventStore, MemoryEventStore, StoreOpenError, SyncError
from hangarlog.aio import AsyncEventStore
from hangarlog.system.filesystem import FileSystem

pytestmark = pytest.mark.anyio


class GatedStore(MemoryEventStore):
    """A store whose commits wait for `gate`."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.gate = threading.Event(), threading.Event()

    def _commit(self, *args: Any) -> Any:
        self.reached.set()
        self.gate.wait()
        return super()._commit(*args)


class FailingSyncs(FileSystem):
    """Every sync of data fails, once told so."""

    fails = False

    def sync_data(self, fd: int) -> None:
        if self.fails:
            raise OSError(errno.EIO, "made up")
        super().sync_data(fd)


async def test_the_error_of_one_append_is_its_own(tmp_path: Path) -> None:
    """Half of a hundred tasks expect a wrong version; the others' events are written."""
    results: dict[int, Any] = {}

    async def append(number: int) -> None:
        try:
            results[number] = await store.append(f"a:{number}", [Added(number)], -1 if number % 2 else 7)
        except ConcurrencyError as error:
            results[number] = error

    async with hangarlog.aio.open(tmp_path / "s") as store:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(append, number)
        assert [type(results[number]) for number in range(100)] == [ConcurrencyError, AppendResult] * 50
        assert await store.durable_position() == await store.get_event_count() == 50


async def test_a_hundred_appends_share_their_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come while one sync runs are in the next."""
    syncs = []
    from_here = FileEventStore._sync_from_here
    monkeypatch.setattr(FileEventStore, "_sync_from_here", lambda self: syncs.append(1) or from_here(self))
    async with hangarlog.aio.open(tmp_path / "s") as store:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(store.append, "a:1", [Added(number)], ANY)
        assert 1 <= len(syncs) <= 50
        assert await store.durable_position() == 100


async def test_the_appends_of_one_task_keep_their_order(tmp_path: Path) -> None:
    """Also relaxed ones between durable ones."""
    async with hangarlog.aio.open(tmp_path / "s") as store:
        for number in range(20):
            durability: Any = "relaxed" if number % 2 else "always"
            assert await store.append("a:1", [Added(number)], number - 1, durability=durability) == number
        assert await store.append("a:1", [], 19) == 19
        with pytest.raises(ValueError, match="durability"):
            await store.append("a:1", [Added(0)], 19, durability="never")  # type: ignore[arg-type]


async def test_a_failed_sync_is_told_to_all_whom_it_was_for(tmp_path: Path) -> None:
    filesystem = FailingSyncs()
    errors = []

    async def append(number: int) -> None:
        with pytest.raises(SyncError) as caught:
            await store.append("a:1", [Added(number)], ANY)
        errors.append(caught.value)

    async with hangarlog.aio.open(tmp_path / "s", filesystem=filesystem) as store:
        await store.append("a:1", [Added(0)], ANY, durability="relaxed")
        filesystem.fails = True
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(append, number)
        assert len(errors) == 10
        filesystem.fails = False
        assert await store.append("b:1", [Added(0)], -1) == 0


async def test_a_cancelled_append_that_waits_writes_nothing() -> None:
    """It has not begun while another one is being written."""
    inner = GatedStore()
    async with AsyncEventStore(inner) as store, anyio.create_task_group() as tasks:
        tasks.start_soon(store.append, "a:1", [Added(0)], -1)
        await to_thread.run_sync(inner.reached.wait)
        with anyio.move_on_after(0) as scope:
            await store.append("b:1", [Added(1)], -1)
        assert scope.cancelled_caught
        inner.gate.set()
        assert await store.get_stream_version("b:1") == -1


async def test_a_cancelled_append_that_has_begun_returns_its_result() -> None:
    """The cancellation comes at the next await."""
    inner = GatedStore()
    results = []

    async def append() -> None:
        results.append(await store.append("a:1", [Added(0)], -1))
        await anyio.sleep_forever()

    async with AsyncEventStore(inner) as store:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(append)
            await to_thread.run_sync(inner.reached.wait)
            tasks.cancel_scope.cancel()
            inner.gate.set()
        assert results == [0]


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancellation_at_any_moment_leaves_the_append_whole(tmp_path: Path, steps: int) -> None:
    """It raises, and nothing was written; or it has written, and returned its result."""
    results = []

    async def append(number: int) -> None:
        results.append((number, int(await store.append(f"a:{number}", [Added(number)], -1))))

    async with hangarlog.aio.open(tmp_path / "s") as store:
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(append, len(results) + 100 * number)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        assert await store.list_streams() == sorted({f"a:{number}" for number, _ in results})


async def test_close_makes_the_appends_that_were_asked_for() -> None:
    inner = GatedStore()
    store = AsyncEventStore(inner)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.append, "a:1", [Added(0)], -1)
        await to_thread.run_sync(inner.reached.wait)
        tasks.start_soon(store.append, "a:1", [Added(1)], 0)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(store.close)
        await anyio.wait_all_tasks_blocked()
        inner.gate.set()
    assert len(inner._journal) == 2
    with pytest.raises(StoreOpenError):
        await store.append("a:1", [Added(2)], 1)
    with pytest.raises(StoreOpenError):
        await store.get_event_count()
    await store.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hangarlog")]


async def test_tasks_that_decide_take_turns(tmp_path: Path) -> None:
    """Each sees what the others have appended, also if it awaits while it decides."""

    async def decide(events: list[Any], version: int) -> list[Added]:
        await anyio.lowlevel.checkpoint()
        return [Added(len(events))]

    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(store.execute, "a:1", decide)
        assert await store.read_stream("a:1") == [Added(number) for number in range(20)]
        assert not store._turns._locks


async def test_a_task_that_is_cancelled_while_it_decides_gives_its_turn_back(tmp_path: Path) -> None:
    deciding = anyio.Event()

    async def decide(events: list[Any], version: int) -> list[Added]:
        if not deciding.is_set():
            await store.append("a:1", [Added(0)], version)  # A conflict, so that it gets the turn.
            deciding.set()
            return [Added(1)]
        return await anyio.sleep_forever()  # type: ignore[return-value]

    async with hangarlog.aio.open(tmp_path / "s", durability="relaxed") as store:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.execute, "a:1", decide)
            await deciding.wait()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert await store.execute("a:1", lambda events, version: [Added(len(events))]) == 1


WRITER = """
import sys, anyio
import hangarlog.aio
from hangarlog import ANY, FileEventStore, UntypedEvent

async def append(store, task):
    for number in range(100_000):
        await store.append(f"a:{task}", [UntypedEvent("Noted", {})], number - 1)
        print(task, number, flush=True)

async def run():
    async with hangarlog.aio.AsyncEventStore(FileEventStore.untyped(sys.argv[1])) as store:
        async with anyio.create_task_group() as tasks:
            for task in range(20):
                tasks.start_soon(append, store, task)

anyio.run(run, backend=sys.argv[2])
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_what_tasks_were_told_survives_a_kill(tmp_path: Path, backend: str, anyio_backend: str) -> None:
    """In each stream, what was acknowledged and at most one event more."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "s"), backend]
    for kill in range(1, 3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
            assert writer.stdout
            lines = [writer.stdout.readline() for _ in range(300 * kill)]
            writer.kill()
            lines += writer.stdout.readlines()
        told = dict(tuple(map(int, line.split())) for line in lines if line.endswith("\n"))
        with FileEventStore.untyped(tmp_path / "s") as store:
            for task, number in told.items():
                assert number <= store.get_stream_version(f"a:{task}") <= number + 1
        shutil.rmtree(tmp_path / "s")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestAsyncio:
    """The cancellations of asyncio, which come once and know no shield."""

    async def test_task_cancel_waits_for_an_append_that_has_begun(self) -> None:
        inner = GatedStore()
        results = []

        async def append() -> None:
            results.append(await store.append("a:1", [Added(0)], -1))
            await asyncio.sleep(3600)

        async with AsyncEventStore(inner) as store:
            task = asyncio.create_task(append())
            await to_thread.run_sync(inner.reached.wait)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            inner.gate.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert results == [0]

    async def test_a_timeout_that_comes_too_late_cancels_nothing_else(self) -> None:
        inner = GatedStore()
        async with AsyncEventStore(inner) as store:

            async def append() -> int:
                async with asyncio.timeout(None) as limit:
                    reached.callback = limit
                    result = await store.append("a:1", [Added(0)], -1)
                for _ in range(10):
                    await asyncio.sleep(0)
                return result

            class reached:
                callback: asyncio.Timeout

            task = asyncio.create_task(append())
            await to_thread.run_sync(inner.reached.wait)
            reached.callback.reschedule(0)
            for _ in range(3):
                await asyncio.sleep(0)
            inner.gate.set()
            assert await task == 0

    @pytest.mark.parametrize("steps", range(12))
    async def test_task_cancel_at_any_moment_leaves_the_append_whole(self, tmp_path: Path, steps: int) -> None:
        results = []

        async def append(number: int) -> None:
            results.append((number, int(await store.append(f"a:{number}", [Added(number)], -1))))

        async with hangarlog.aio.open(tmp_path / "s") as store:
            for turn in range(5):
                tasks = [asyncio.create_task(append(10 * turn + number)) for number in range(10)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert await store.list_streams() == sorted(f"a:{number}" for number, _ in results)
