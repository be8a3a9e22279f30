"""The store for tasks beside threads and beside itself alone: `pytest bench/micro/test_aio.py`."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from time import perf_counter, perf_counter_ns, process_time
from typing import Any

import pytest

pytest.importorskip("pytest_benchmark")
anyio = pytest.importorskip("anyio")

import hangarlog.aio  # noqa: E402 - it needs anyio
from hangarlog import ANY, FileEventStore, UntypedEvent  # noqa: E402

_EVENT = UntypedEvent("Noted", {"text": "x" * 100})
_APPENDS, _WORKERS = 1000, 100


def _by_threads(path: Path, durability: Any, workers: int) -> None:
    with FileEventStore.untyped(path, durability=durability) as store:

        def append(worker: int) -> None:
            for number in range(worker, _APPENDS, workers):
                store.append(f"a:{number % _WORKERS}", [_EVENT], ANY)

        threads = [threading.Thread(target=append, args=(worker,)) for worker in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _by_tasks(path: Path, durability: Any, workers: int) -> None:
    async def run() -> None:
        async def append(worker: int) -> None:
            for number in range(worker, _APPENDS, workers):
                await store.append(f"a:{number % _WORKERS}", [_EVENT], ANY)

        inner = FileEventStore.untyped(path, durability=durability)
        async with hangarlog.aio.AsyncEventStore(inner) as store, anyio.create_task_group() as tasks:
            for worker in range(workers):
                tasks.start_soon(append, worker)

    anyio.run(run)


@pytest.mark.parametrize("durability", ["always", "relaxed"])
@pytest.mark.parametrize(
    ("by", "workers"), [(_by_threads, 1), (_by_threads, _WORKERS), (_by_tasks, 1), (_by_tasks, _WORKERS)]
)
def test_append(benchmark: Any, by: Any, workers: int, durability: str, tmp_path: Path) -> None:
    """A thousand appends to a hundred streams, with opening and closing the store."""
    benchmark.group = f"1,000 appends, {durability}"
    paths = (tmp_path / str(number) for number in range(1000))
    benchmark.pedantic(by, setup=lambda: ((next(paths), durability, workers), {}), rounds=5)


_WRITER = """
import sys
from time import perf_counter, perf_counter_ns, process_time, sleep
from hangarlog import ANY, FileEventStore, UntypedEvent
path, durability, rate, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
with FileEventStore.untyped(path, durability=durability) as store:
    count, start, cpu = 0, perf_counter(), process_time()
    while perf_counter() - start < seconds:
        store.append("a:1", [UntypedEvent("Noted", {"at": perf_counter_ns(), "text": "x" * 100})], ANY)
        count += 1
        if rate and (left := start + count / rate - perf_counter()) > 0:
            sleep(left)
    print(count / (perf_counter() - start), (process_time() - cpu) / count * 1e6)
    store.append("a:1", [UntypedEvent("Last", {})], ANY)
"""


def _followed(path: Path, durability: Any, rate: int, subscriptions: int) -> tuple[float, float, float, list[int]]:
    """Follow a writer in another process.

    Return (its appends a second, its processor time per append in µs, this process's per delivery, the ns from before
    each append to its delivery).
    """
    delays: list[int] = []
    command = [sys.executable, "-c", _WRITER, str(path), durability, str(rate), "2"]

    async def follow(store: Any, number: int, task_status: Any) -> None:
        async with store.subscribe("end") as subscription:
            task_status.started()
            async for record in subscription:
                if record.event_type == "Last":
                    return
                if number % 10 == 0:
                    delays.append(perf_counter_ns() - record.event.data["at"])

    async def run() -> tuple[float, ...]:
        inner = FileEventStore.untyped(path, durability=durability)
        async with hangarlog.aio.AsyncEventStore(inner) as store:
            async with anyio.create_task_group() as tasks:
                for number in range(subscriptions):
                    await tasks.start(_Following(follow, store, number))
                writer, cpu = subprocess.Popen(command, stdout=subprocess.PIPE), process_time()
            used = process_time() - cpu
            return *map(float, (await anyio.to_thread.run_sync(writer.communicate))[0].split()), used * 1e6

    rate_seen, append_us, used_us = anyio.run(run)
    return rate_seen, append_us, used_us / max(1, min(subscriptions, 10) * len(delays)), sorted(delays)


class _Following:
    """A task that tells when it has begun, as `TaskGroup.start` wants it."""

    __name__ = "follow"

    def __init__(self, follow: Any, *arguments: Any) -> None:
        self._follow, self._arguments = follow, arguments

    async def __call__(self, *, task_status: Any) -> None:
        await self._follow(*self._arguments, task_status)


@pytest.mark.parametrize("subscriptions", [0, 1, 100])
@pytest.mark.parametrize(("durability", "rate"), [("relaxed", 1000), ("always", 0), ("relaxed", 0)])
def test_follow(benchmark: Any, durability: str, rate: int, subscriptions: int, tmp_path: Path) -> None:
    """The writer's rate, and the delays, stand under `extra_info`. The rate with no subscription is "alone"."""
    benchmark.group = f"follow a writer, {durability}, {rate or 'all it can'} a second"
    found: list[tuple[float, float, float, list[int]]] = []
    paths = iter([tmp_path / str(number) for number in range(3)])
    start = perf_counter()
    benchmark.pedantic(lambda: found.append(_followed(next(paths), durability, rate, subscriptions)), rounds=3)
    benchmark.extra_info["appends a second"] = round(max(one[0] for one in found))
    # On a busy machine, this says what the subscriptions cost the writer.
    benchmark.extra_info["µs of processor per append"] = round(min(one[1] for one in found), 1)
    benchmark.extra_info["µs of processor per delivery"] = round(min(one[2] for one in found), 2)
    for share in (50, 99):
        delays = [each[len(each) * share // 100] / 1e6 for *_, each in found if each]
        benchmark.extra_info[f"p{share} in ms"] = round(min(delays), 2) if delays else None
    benchmark.extra_info["seconds"] = round(perf_counter() - start)
