"""Processes that append to one stream at once take turns; whoever breaks the rules costs time, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import nats
import pytest
from nats_servers import Cluster, cluster  # noqa: F401

from hangarlog import ANY, ConcurrencyError, EncodedEvent
from hangarlog.jetstream import JetStreamEventStore

_NAMES = (f"store-{number}" for number in count())
STORES, LEAST, MOST_TIMES = 6, 40, 20


@pytest.fixture
def stores(cluster: Cluster) -> Iterator[list[JetStreamEventStore[Any]]]:
    """Several stores at one address: each is to the others as if it were in a process of its own."""
    name = next(_NAMES)
    opened = [JetStreamEventStore(cluster.address, name, **cluster.options) for _ in range(STORES)]
    yield opened
    for store in opened:
        store.close()
    cluster.delete(name)


def event(event_id: str) -> EncodedEvent:
    return EncodedEvent("Added", b'{"number":1}', event_id=event_id)


def say(cluster: Cluster, store: JetStreamEventStore[Any], *bodies: bytes) -> None:
    async def publish() -> None:
        client = await nats.connect(cluster.address)
        for body in bodies:
            await client.publish(f"{store.name}.turn", body)
        await client.close()

    asyncio.run(publish())


class Contenders:
    """Threads that append to one stream at the versions they know, each through its store, until all have enough."""

    def __init__(self, stores: list[JetStreamEventStore[Any]], least: int = LEAST) -> None:
        self.done = [0] * len(stores)
        self.acknowledged: list[tuple[int, str]] = []
        self._least = least
        self._threads = [threading.Thread(target=self._append, args=each) for each in enumerate(stores)]
        for thread in self._threads:
            thread.start()

    def _append(self, number: int, store: JetStreamEventStore[Any]) -> None:
        version = store.get_stream_version("a:1")
        while min(self.done) < self._least:
            event_id = f"{number}-{self.done[number]}"
            try:
                version = int(store.append("a:1", [event(event_id)], version))
            except ConcurrencyError as conflict:
                version = conflict.actual
            else:
                self.acknowledged.append((version, event_id))
                self.done[number] += 1

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("cluster", [1, 3], indirect=True, scope="session")
def test_none_of_several_starves_and_each_append_is_there_once(stores: list[JetStreamEventStore[Any]]) -> None:
    contenders = Contenders(stores)
    contenders.join()
    assert max(contenders.done) < MOST_TIMES * min(contenders.done)
    stored = [(each.stream_version, each.event_id) for block in stores[0].envelopes("a:1") for each in block]
    assert stored == sorted(contenders.acknowledged)
    assert [version for version, _ in stored] == list(range(len(stored)))


def test_words_that_are_none_or_lie_change_nothing(stores: list[JetStreamEventStore[Any]], cluster: Cluster) -> None:
    subject = stores[0]._reader.subject("a:1")
    lies = [
        {"sender": "x", "subject": subject, "to": ["nobody"]},
        {"sender": "x", "subject": subject},
        {"sender": "x", "subject": subject, "to": [str(number) for number in range(5000)]},
        {"sender": stores[0]._appending._me, "subject": subject, "to": ["nobody"]},
        {"sender": "x", "subject": "", "to": [stores[0]._appending._me]},
    ]
    words = [b"", b"null", b"\xff", b"[" * 10_000, os.urandom(99), *(json.dumps(lie).encode() for lie in lies)]
    contenders = Contenders(stores[:3], 10)
    say(cluster, stores[0], *words)
    contenders.join()
    versions = [each.stream_version for block in stores[5].envelopes("a:1") for each in block]
    assert versions == list(range(len(contenders.acknowledged)))


def test_whoever_has_the_turn_and_is_gone_is_not_waited_for(
    stores: list[JetStreamEventStore[Any]], cluster: Cluster
) -> None:
    contenders = Contenders(stores[:2], 5)
    contenders.join()
    word = {"sender": "x", "subject": stores[0]._reader.subject("a:1"), "to": ["dead", "dead too"]}
    say(cluster, stores[0], json.dumps(word).encode())
    for number, store in enumerate(stores[:2]):
        store.append("a:1", [event(f"late-{number}")], ANY)
    assert [each.event_id for block in stores[2].envelopes("a:1", reverse=True, limit=2) for each in block] == [
        "late-1",
        "late-0",
    ]


def test_threads_of_one_store_take_turns_too(stores: list[JetStreamEventStore[Any]]) -> None:
    contenders = Contenders(stores[:1] * 4)
    contenders.join()
    assert max(contenders.done) < MOST_TIMES * min(contenders.done)
    assert stores[1].get_stream_version("a:1") == len(contenders.acknowledged) - 1
