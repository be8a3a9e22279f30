"""Compressed stores beside plain ones: `pytest bench/micro/test_compression.py`. The figures are in `extra_info`."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import msgspec
import pytest

pytest.importorskip("pytest_benchmark")

from hangarlog import ANY, EncodedEvent, FileEventStore

_EVENTS, _TRANSCRIPT_BYTES, _STREAMS = 1_000_000, 160 << 20, 4
_POINTS = 200


def events() -> Iterator[list[EncodedEvent]]:
    """Batches of small events with ids and figures that are random."""
    rng = random.Random(1)
    for _ in range(_EVENTS // 100):
        yield [
            EncodedEvent(
                "ToolInvocationCompleted",
                msgspec.json.encode(
                    {
                        "provider_id": f"p{rng.randrange(50)}",
                        "tool_name": rng.choice(["add", "search", "fetch"]),
                        "duration_ms": round(rng.random() * 900, 3),
                        "correlation_id": f"{rng.getrandbits(64):016x}",
                        "ok": True,
                    }
                ),
            )
            for _ in range(100)
        ]


def transcripts() -> Iterator[list[EncodedEvent]]:
    """What an agent writes: encrypted reasoning, files that are read again, and the whole history now and then."""
    rng, size = random.Random(2), 0
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randrange(2, 9))) for _ in range(3000)]
    files = [" ".join(rng.choices(words, k=rng.randrange(300, 4000))) for _ in range(40)]
    while size < _TRANSCRIPT_BYTES:
        history: list[dict[str, Any]] = []
        for turn in range(rng.randrange(100, 260)):
            items = [
                {"type": "reasoning", "encrypted": b64encode(rng.randbytes(rng.randrange(600, 3000))).decode()},
                {"type": "message", "content": " ".join(rng.choices(words, k=rng.randrange(20, 120)))},
                {"type": "output", "content": files[rng.randrange(40)]},
            ]
            history += items
            batch = [EncodedEvent("Item", msgspec.json.encode(item)) for item in items]
            if turn % 20 == 19:
                batch.append(EncodedEvent("Compacted", msgspec.json.encode({"history": history})))
            size += sum(len(event.data) for event in batch)
            yield batch


@pytest.mark.parametrize("make", [events, transcripts])
def test_compression(benchmark: Any, make: Any, tmp_path: Path) -> None:
    """Compress a store once; reads of it beside those of the plain one."""
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for number, batch in enumerate(make()):
            store.append(f"a:{number % _STREAMS}", batch, ANY)
        plain = _bytes(tmp_path / "s") / 2
        figures = {"plain": _reads(store)}
        began = process_time()
        done = benchmark.pedantic(store.compress, kwargs={"seal": True}, rounds=1)
        seconds = process_time() - began
        figures["compressed"] = _reads(store)
        benchmark.extra_info |= {
            "text / compressed": done.text_bytes / done.file_bytes,
            "both copies / one plain copy": _bytes(tmp_path / "s") / plain,
            "MB of text a second of processor time": done.text_bytes / seconds / 1e6,
            "speed of reading all / plain": figures["plain"]["all"] / figures["compressed"]["all"],
            **{f"one event, {name}, µs": figures[kind]["one"] for kind in figures for name in [kind]},
        }


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if ".jsonl" in file.name or file.suffix == ".index")


def _reads(store: FileEventStore[Any]) -> dict[str, float]:
    """Seconds of processor time to read all, and the median µs to read one event at a random position."""
    rng, count = random.Random(3), store.get_event_count()
    for _ in range(2):
        began = process_time()
        assert sum(1 for _ in store.read_all()) == count
        seconds = process_time() - began
    times = []
    for _ in range(_POINTS):
        position = rng.randrange(count - 1)
        began = perf_counter()
        (record,) = store.records(from_position=position, limit=1)
        times.append(perf_counter() - began)
        assert record.position == position + 1
    return {"all": seconds, "one": sorted(times)[_POINTS // 2] * 1e6}
