"""The parts of an append and of a read in microseconds: `python -m bench.measures.parts`.

Each part runs by itself in a loop with warm caches, and its figure is the least of several runs. The rest of the whole
is calls in between, memory, and colder caches.
"""

from __future__ import annotations

import os
import tempfile
import timeit
from collections.abc import Callable
from typing import Any

from bench.harness.machine import machine
from bench.harness.payload import event
from hangarlog import ANY, FileEventStore
from hangarlog.events.block_reader import TypedBlocks, _only_version
from hangarlog.eventstore.pending import pending
from hangarlog.filestore.shared_state import STANDING
from hangarlog.record.batch import encode_batch
from hangarlog.record.checksum import crc32
from hangarlog.record.timestamp import now
from hangarlog.record.verified_block import VerifiedBlock
from hangarlog.system.file_lock import enter
from hangarlog.testing.probe import shared_state, write_session

_STREAM = "provider:math"
_ROUNDS = 9


def microseconds(work: Callable[[], Any], count: int) -> float:
    """Return the microseconds of one call in the best round."""
    return min(timeit.repeat(work, number=count, repeat=_ROUNDS)) / count * 1e6


def print_table(title: str, parts_us: dict[str, float], whole_us: float) -> None:
    """Print the parts and the rest of the whole."""
    print(f"\n| {title} | µs |\n| --- | --- |")
    for name, cost_us in parts_us.items():
        print(f"| {name} | {cost_us:.2f} |")
    print(f"| the rest | {whole_us - sum(parts_us.values()):.2f} |\n| **all** | **{whole_us:.2f}** |")


def append_parts(store: FileEventStore) -> None:
    """Print the parts of one relaxed append of one event to an open stream."""
    one = [event(0)]
    version = store.append(_STREAM, one, ANY)
    writer: Any = write_session(store)
    state, filesystem = shared_state(store), writer.filesystem
    one_pending = pending(store.serializer, _STREAM, one, version, None)
    moment = now()
    fd = os.open(store.path + "/scratch", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    data, _, _, _ = encode_batch([(one_pending, 1)], 1, now())
    raw = state.raw()
    committed, first, size = state.committed, state.journal_first, state.journal_size
    never = float("-inf")  # The stream's file was just looked up, so `get` does not look again.

    def locked() -> None:
        lock = writer.write_lock
        if enter(lock.threads, None) and lock.take():
            lock.threads.release()
        lock.since = 0  # The shared state says that no process waits.
        lock.release()

    def append() -> None:
        nonlocal version
        version = store.append(_STREAM, one, version)

    count = 5000
    parts_us = {
        "check the arguments, encode and check the event": microseconds(
            lambda: pending(store.serializer, _STREAM, one, version, None), count
        ),
        "write lock: two `flock`": microseconds(locked, count),
        "read the shared state: `pread`": microseconds(lambda: state.raw()[:STANDING] != b"", count),
        "check the journal's size: `lseek`": microseconds(lambda: filesystem.size(fd) != 0, count),
        "check the stream's size and version: `lseek`": microseconds(
            lambda: writer.streams.get(_STREAM, never, committed), count
        ),
        "read the clock": microseconds(now, count),
        "encode the line and its checksum": microseconds(lambda: encode_batch([(one_pending, 1)], 1, moment), count),
        "`write` to the journal": microseconds(lambda: filesystem.write(fd, data), count),
        "`write` to the stream": microseconds(lambda: filesystem.write(fd, data), count),
        "the stream's version into the catalog: `pwrite`": microseconds(
            lambda: writer.catalog.put(_STREAM, version, committed), count
        ),
        "publish the commit: `pwrite`": microseconds(lambda: state.publish(raw, committed, first, size, 0), count),
    }
    print_table("relaxed append of one event", parts_us, microseconds(append, count))
    os.close(fd)
    end = writer.streams.get(_STREAM, never, committed)
    watched_us = {
        "check for changes of the store's folder": microseconds(writer._watch.changed, count),
        "check that the stream's file is at its path": microseconds(lambda: end.active.is_in_place, count),
    }
    print_table("once a millisecond at most", watched_us, sum(watched_us.values()))


def read_parts(store: FileEventStore) -> None:
    """Print the parts of one event of many, in an indexed block of a stream."""
    store.append("provider:read", [event(number) for number in range(20_000)], ANY)
    with open(store.path + "/streams/provider/read.jsonl", "rb") as file:
        lines = file.read(256 << 10).split(b"\n")[:-1]
    text, size = b"".join(line + b"\n" for line in lines), len(lines)
    blocks = TypedBlocks(store.serializer, None, ())
    block = VerifiedBlock(text, size, "", "", 0)
    list(blocks.events(block))
    plan = blocks._plans._last
    assert plan is not None
    fd = os.open(store.path + "/streams/provider/read.jsonl", os.O_RDONLY)
    rows = plan.decode(text)
    block_us = {
        "`pread` of the text": microseconds(lambda: os.pread(fd, len(text), 0), 20),
        "checksum of the block": microseconds(lambda: crc32(text), 20),
        "proof of the schema version": microseconds(lambda: _only_version(block), 20),
        "decode envelope and payload: one call of msgspec": microseconds(lambda: plan.decode(text), 20),
        "return the events": microseconds(lambda: list(plan.events(rows)[1]), 20),
    }
    whole_us = microseconds(lambda: store.read_stream("provider:read"), 2) / 20_000
    print_table("one event of `read_stream`", {name: cost / size for name, cost in block_us.items()}, whole_us)
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
