"""Flips every byte of one server's files of a small store, one at a time: `python tests/jetstream/every_byte.py`.

The server is one of three. After each flip it comes back, and every read by way of it must tell the truth: what it has
damaged is read from another one. A number behind it takes only each so many bytes.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import pytest  # noqa: E402
from nats_servers import Cluster, Server  # noqa: E402

from hangarlog import NO_STREAM, ConcurrencyError, UntypedEvent  # noqa: E402
from hangarlog.jetstream import JetStreamEventStore  # noqa: E402

STREAMS, COUNT = ("a:1", "b:1"), 5
_SOON = 5.0


def opened(cluster: Cluster, first: Server) -> JetStreamEventStore[Any]:
    """The store, by way of one server."""
    addresses = sorted(cluster.servers, key=lambda server: server is not first)
    url = f"nats://{','.join(server.address for server in addresses)}/orders"
    return JetStreamEventStore.untyped(url, timeout=20, **cluster.options)


def made(number: int) -> UntypedEvent:
    return UntypedEvent("Added", {"number": number})


def look(store: JetStreamEventStore[Any]) -> None:
    numbers = list(range(COUNT))
    assert [record.event.data["number"] for record in store.records()] == numbers
    assert [record.event.data["number"] for record in store.subscribe(timeout=0)] == numbers
    for first, stream_id in enumerate(STREAMS):
        own = numbers[first :: len(STREAMS)]
        assert [event.data["number"] for event in store.read_stream(stream_id)] == own
        with pytest.raises(ConcurrencyError) as conflict:
            store.append(stream_id, [made(99)], NO_STREAM)
        assert conflict.value.actual == len(own) - 1


def flips(folder: Path, every: int) -> Iterator[tuple[Path, int]]:
    """Yield (file, place) of each byte to flip."""
    number = 0
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        for at in range(file.stat().st_size):
            if number % every == 0:
                yield file, at
            number += 1


def is_well(server: Server) -> bool:
    """False if a server that came back does not say soon that it is well: it may never be, with such a file."""
    until = time.monotonic() + _SOON
    while not server.is_ready():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def run(folder: Path, every: int) -> dict[str, int]:
    """Return how many bytes were flipped in files of each name."""
    figures: Counter[str] = Counter()
    with Cluster(folder, 3) as cluster:
        server = cluster.servers[0]
        with opened(cluster, server) as store:
            for number in range(COUNT):
                store.append_at_end(STREAMS[number % len(STREAMS)], [made(number)])
        server.stop()
        (files,) = server.store.rglob("streams/orders")
        whole = folder / "whole"
        shutil.copytree(server.store, whole)
        for file, at in flips(whole / files.relative_to(server.store), every):
            shutil.rmtree(server.store)
            shutil.copytree(whole, server.store)
            text = bytearray(file.read_bytes())
            text[at] ^= 1 << at % 8
            (server.store / file.relative_to(whole)).write_bytes(text)
            server.start()
            figures["the server was not well"] += not is_well(server)
            try:
                with opened(cluster, server) as store:
                    look(store)
            except Exception as error:
                raise AssertionError(f"{file.name}, byte {at}: {error!r}") from error
            server.kill()
            figures[f"bytes of {file.name}"] += 1
            print(file.name, at, figures["the server was not well"], file=sys.stderr)
    return dict(figures)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="hangarlog-jetstream-") as temporary:
        print(json.dumps(run(Path(temporary), int(sys.argv[1]) if sys.argv[1:] else 1)))
