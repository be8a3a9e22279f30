"""Where the microseconds of an append and of a read go: `python -m bench.parts`.

Each part is timed by itself, in a loop with warm caches: the least of several runs. What the whole takes beyond the sum
is calls in between, memory, and caches that are less warm.
"""

from __future__ import annotations

import os
import tempfile
import timeit
from collections.abc import Callable
from typing import Any

from bench.machine import machine
from bench.payload import event
from hangarlog import ANY, FileEventStore
from hangarlog.events.block_reader import TypedBlocks, _only_version
from hangarlog.filestore.shared_state import STANDING
from hangarlog.record.batch import encode_batch
from hangarlog.record.checksum import crc32
from hangarlog.record.timestamp import now
from hangarlog.record.verified_block import VerifiedBlock
from hangarlog.system.file_lock import enter

_STREAM = "provider:math"
_ROUNDS = 9


def micros(work: Callable[[], Any], count: int) -> float:
    """Of one call, at best."""
    return min(timeit.repeat(work, number=count, repeat=_ROUNDS)) / count * 1e6


def table(title: str, parts: dict[str, float], whole: float) -> None:
    """Print the parts, and what is left of the whole."""
    print(f"\n| {title} | µs |\n| --- | --- |")
    for name, cost in parts.items():
        print(f"| {name} | {cost:.2f} |")
    print(f"| the rest | {whole - sum(parts.values()):.2f} |\n| **all** | **{whole:.2f}** |")


def append_parts(store: FileEventStore) -> None:
    """One relaxed append of one event to a warm stream."""
    one = [event(0)]
    version = store.append(_STREAM, one, ANY)
    writer: Any = store._writer
    state, filesystem = store._state, writer._filesystem
    pending = store._pending(_STREAM, one, version, None)
    moment = now()
    fd = os.open(store.path + "/scratch", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    data, _, _, _ = encode_batch([(pending, 1)], 1, now())
    raw = state.raw()
    committed, first, size = state.committed, state.journal_first, state.journal_size
    never = float("-inf")  # Within the millisecond in which the stream's file was looked for at its path.

    def locked() -> None:
        lock = writer._lock
        if enter(lock.threads, None) and lock.take():
            lock.threads.release()
        lock.since = 0  # Nobody waits, as the state's words say.
        lock.release()

    def append() -> None:
        nonlocal version
        version = store.append(_STREAM, one, version)

    count = 5000
    parts = {
        "check the arguments, encode and check the event": micros(
            lambda: store._pending(_STREAM, one, version, None), count
        ),
        "write lock: two `flock`": micros(locked, count),
        "the state's words": micros(lambda: state.raw()[:STANDING] != b"", count),
        "is the journal as it was left: `lseek` of it": micros(lambda: filesystem.size(fd) != 0, count),
        "is the stream: `lseek` of it, its version": micros(
            lambda: writer._streams.get(_STREAM, never, committed), count
        ),
        "the time": micros(now, count),
        "the line, its checksum": micros(lambda: encode_batch([(pending, 1)], 1, moment), count),
        "`write` to the journal": micros(lambda: filesystem.write(fd, data), count),
        "`write` to the stream": micros(lambda: filesystem.write(fd, data), count),
        "the stream's version into the catalog: `pwrite`": micros(
            lambda: writer._catalog.put(_STREAM, version, committed), count
        ),
        "publish: `pwrite`": micros(lambda: state.publish(raw, committed, first, size, 0), count),
    }
    table("relaxed append of one event", parts, micros(append, count))
    os.close(fd)
    end = writer._streams.get(_STREAM, never, committed)
    watched = {
        "has the store's folder changed": micros(writer._watch.changed, count),
        "is the stream's file at its path": micros(lambda: end.live.is_in_place, count),
    }
    table("once a millisecond at most", watched, sum(watched.values()))


def read_parts(store: FileEventStore) -> None:
    """One event of many, in a block of a stream that an index covers."""
    store.append("provider:read", [event(number) for number in range(20_000)], ANY)
    with open(store.path + "/streams/provider/read.jsonl", "rb") as file:
        lines = file.read(256 << 10).split(b"\n")[:-1]
    text, size = b"".join(line + b"\n" for line in lines), len(lines)
    blocks = TypedBlocks(store.serializer.reader, None, ())
    run = VerifiedBlock(text, size, "", "", 0)
    plan = blocks._plan(run, examine=False)
    fd = os.open(store.path + "/streams/provider/read.jsonl", os.O_RDONLY)
    rows = plan.decode(text)
    each = {
        "`pread` of the text": micros(lambda: os.pread(fd, len(text), 0), 20),
        "checksum of the block": micros(lambda: crc32(text), 20),
        "proof of the schema version": micros(lambda: _only_version(run), 20),
        "envelope and payload, in one call of msgspec": micros(lambda: plan.decode(text), 20),
        "hand the events over": micros(lambda: list(plan.events(rows)), 20),
    }
    whole = micros(lambda: store.read_stream("provider:read"), 2) / 20_000
    table("one event of `read_stream`", {name: cost / size for name, cost in each.items()}, whole)
    os.close(fd)


def main() -> None:
    """Print the tables."""
    print(", ".join(f"{name} {value}" for name, value in machine(tempfile.gettempdir()).items()))
    with (
        tempfile.TemporaryDirectory(prefix="hangarlog-bench-") as folder,
        FileEventStore(folder + "/s", durability="relaxed") as store,
    ):
        append_parts(store)
        read_parts(store)


if __name__ == "__main__":
    main()
