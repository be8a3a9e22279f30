"""Servers that die, stand still or answer late; writers that race. Nothing acknowledged is lost, nothing doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from nats_servers import Cluster, cluster  # noqa: F401

from hangarlog import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    AppendUnknownError,
    BatchLimitError,
    ConcurrencyError,
    CursorConflictError,
    EncodedEvent,
    StreamDeletedError,
    TooLargeError,
    UnavailableError,
)
from hangarlog.eventstore.stream_id import why_not_an_id
from hangarlog.jetstream import JetStreamEventStore, cursors
from hangarlog.jetstream.cursors import Offer, new_move_id
from hangarlog.jetstream.subjects import stream_id_of, stream_tokens
from hangarlog.record.cursor_move import CursorMove

_NAMES = (f"store-{number}" for number in count())
_LONG = 60.0


@pytest.fixture
def store(cluster: Cluster) -> Iterator[JetStreamEventStore[Any]]:
    with opened(cluster, next(_NAMES)) as store:
        yield store
    cluster.delete(store.name)


def opened(cluster: Cluster, name: str = "orders", **options: Any) -> JetStreamEventStore[Any]:
    return JetStreamEventStore(cluster.address, name, **{**cluster.options, **options})


def event(event_id: str) -> EncodedEvent:
    return EncodedEvent("Added", b'{"number":1}', event_id=event_id)


def ids(store: JetStreamEventStore[Any], stream_id: str | None = None) -> list[str]:
    return [envelope.event_id for block in store.envelopes(stream_id) for envelope in block]


# Answers that are late or lost


@pytest.mark.parametrize("expected", [NO_STREAM, ANY])
def test_an_append_is_written_once_though_its_answer_comes_late(tmp_path: Path, expected: int) -> None:
    """The server stands still for longer than a request waits, so the append is sent more than once."""
    with Cluster(tmp_path, 1) as cluster, opened(cluster) as store:
        (server,) = cluster.servers
        store.append_at_end("other:1", [event("y")])
        server.signal(signal.SIGSTOP)
        waking = threading.Timer(3, server.signal, (signal.SIGCONT,))
        waking.start()
        result = store.append("a:1", [event("x0"), event("x1")], expected)
        waking.join()
        assert (result, result.first_position, result.last_position, result.written) == (1, 2, 3, True)
        assert result.event_ids == ("x0", "x1")
        assert ids(store) == ["y", "x0", "x1"]


def test_an_outcome_that_stays_unknown_is_settled_at_its_place(tmp_path: Path) -> None:
    """The error says where, and the same append there succeeds whether the first one arrived or not."""
    with Cluster(tmp_path, 1) as cluster, opened(cluster, timeout=1) as store:
        (server,) = cluster.servers
        store.append_many([("a:1", [event("x0")], NO_STREAM), ("b:1", [event("y0"), event("y1")], NO_STREAM)])
        server.signal(signal.SIGSTOP)
        again = {"a:1": [event("x1"), event("x2")], "b:1": [event("y2")]}
        with pytest.raises(AppendUnknownError) as caught:
            store.append_many([(stream_id, events, ANY) for stream_id, events in again.items()])
        server.signal(signal.SIGCONT)
        assert caught.value.tried == {"a:1": (0, ("x1", "x2")), "b:1": (1, ("y2",))}
        assert "'a:1' with expected_version=0" in str(caught.value)
        tried = [(stream_id, again[stream_id], before) for stream_id, (before, _) in caught.value.tried.items()]
        assert store.append_many(tried) == {"a:1": 2, "b:1": 2}
        assert ids(store) == ["x0", "y0", "y1", "x1", "x2", "y2"]


def test_what_cannot_be_done_in_time_is_an_error_that_says_so(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster, opened(cluster, timeout=1) as store:
        store.append("a:1", [event("x0")], NO_STREAM)
        cluster.stop()
        calls: list[Callable[[], Any]] = [
            lambda: store.append("a:1", [event("x1")], 0),
            lambda: store.read_stream("a:1"),
            lambda: list(store.read_all()),
            lambda: store.cursor("mailer").advance(1),
            lambda: store.save_snapshot("a:1", 0, {}),
            lambda: next(iter(store.subscribe(timeout=0))),
            store.list_streams,
        ]
        for call in calls:
            with pytest.raises(UnavailableError):
                call()
        cluster.start()
        assert store.append("a:1", [event("x1")], 0) == 1
        assert ids(store) == ["x0", "x1"]


# Servers that are killed


class Writers:
    """Threads that append to streams of their own, and one that follows; they keep what they know."""

    def __init__(self, store: JetStreamEventStore[Any], threads: int) -> None:
        self.store, self.acknowledged, self.followed = store, list[tuple[str, str, int, int]](), list[str]()
        self._stop = threading.Event()
        self._grown = threading.Condition()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(threads)]
        self._following = store.subscribe(timeout=_LONG)
        self._threads.append(threading.Thread(target=self._follow))

    def _write(self, number: int) -> None:
        for each in count():
            if self._stop.is_set():
                return
            stream_id, event_id = f"a:{number}", f"{number}-{each}"
            result = self.store.append_many(
                [(stream_id, [event(event_id)], ANY), (f"b:{number}", [event(f"{event_id}-b")], ANY)]
            )[stream_id]
            with self._grown:
                self.acknowledged.append((event_id, stream_id, int(result), result.first_position))
                self._grown.notify_all()

    def _follow(self) -> None:
        for record in self._following:
            self.followed.append(record.event_id)

    def await_more(self, more: int) -> None:
        with self._grown:
            wanted = len(self.acknowledged) + more
            assert self._grown.wait_for(lambda: len(self.acknowledged) >= wanted, _LONG)

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads[:-1]:
            thread.join()
        last = self.store.last_position
        while self._following.position < last and self._threads[-1].is_alive():
            self._following.wait(0.01)
        self._following.stop()
        self._threads[-1].join()

    def check(self) -> None:
        """Every acknowledged append is there once, at its place; every stream and the follower are whole."""
        stored = {
            each.event_id: (each.stream_id, each.stream_version, each.position)
            for block in self.store.envelopes()
            for each in block
        }
        assert len(stored) == self.store.get_event_count()
        assert not [one for one in self.acknowledged if stored.get(one[0]) != one[1:]]
        assert not [one for one in self.acknowledged if f"{one[0]}-b" not in stored]
        for stream_id in self.store.list_streams():
            versions = [record.stream_version for record in self.store.records(stream_id)]
            assert versions == list(range(len(versions)))
        assert self.followed == list(stored)


def test_a_lone_server_that_is_killed_under_writers(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster, opened(cluster) as store:
        with Writers(store, 3) as writers:
            for _ in range(4):
                writers.await_more(100)
                cluster.servers[0].kill()
                cluster.start()
            writers.await_more(20)
        writers.check()


def test_a_leader_that_is_killed_under_writers(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster, opened(cluster) as store:
        with Writers(store, 2) as writers:
            writers.await_more(50)
            cluster.leader("orders").kill()
            writers.await_more(20)
            cluster.start()
            writers.await_more(20)
        writers.check()


def test_all_servers_that_are_killed_under_writers(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster, opened(cluster) as store:
        with Writers(store, 2) as writers:
            writers.await_more(50)
            for server in cluster.servers:
                server.kill()
            cluster.start()
            writers.await_more(20)
        writers.check()


# Writers that race

RACER = """
import sys
from hangarlog import ANY, ConcurrencyError, EncodedEvent
from hangarlog.jetstream import JetStreamEventStore
address, name, own, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
with JetStreamEventStore.untyped(address, name, replicas=int(sys.argv[5]), synced=True) as store:
    for number in range(rounds):
        while True:
            version = store.get_stream_version("hot:1")
            events = [EncodedEvent("Added", b'{"number":1}', event_id=f"{own}-{number}")]
            try:
                store.append("hot:1", events, version)
                break
            except ConcurrencyError:
                continue
"""


@pytest.mark.parametrize("cluster", [1, 3], indirect=True)
def test_processes_that_race_on_one_stream(cluster: Cluster, store: JetStreamEventStore[Any]) -> None:
    arguments = [sys.executable, "-c", RACER, cluster.address, store.name]
    racers = [
        subprocess.Popen([*arguments, str(own), "60", str(cluster.size)], env={**os.environ, "PYTHONPATH": str(ROOT)})
        for own in range(2)
    ]
    for racer in racers:
        assert racer.wait() == 0
    found = ids(store, "hot:1")
    assert sorted(found) == sorted(f"{own}-{number}" for own in range(2) for number in range(60))
    for own in range(2):
        assert [each for each in found if each.startswith(f"{own}-")] == [f"{own}-{number}" for number in range(60)]


def test_two_stores_see_each_others_appends(cluster: Cluster, store: JetStreamEventStore[Any]) -> None:
    """What one remembers of a stream's end is old then."""
    with opened(cluster, store.name) as other:
        for number in range(0, 20, 2):
            assert store.append("a:1", [event(f"x{number}")], number - 1) == number
            assert other.append("a:1", [event(f"x{number + 1}")], number) == number + 1
            with pytest.raises(ConcurrencyError):
                store.append("a:1", [event("late")], number)
        store.delete_stream("a:1")
        assert other.append("a:1", [event("new")], NO_STREAM) == 20
        assert ids(store, "a:1") == ["new"]
        store.delete_stream("a:1", permanent=True)
        with pytest.raises(StreamDeletedError):
            other.append("a:1", [event("newer")], STREAM_EXISTS)


# Limits and names


def test_a_batch_beyond_the_limit_is_refused_as_a_whole(store: JetStreamEventStore[Any]) -> None:
    assert store.append("a:1", [event(f"x{n}") for n in range(1000)], NO_STREAM) == 999
    with pytest.raises(BatchLimitError) as caught:
        store.append("a:1", [event(f"y{n}") for n in range(1001)], 999)
    assert caught.value.events == 1001
    with pytest.raises(BatchLimitError):
        store.append_many([(f"b:{n}", [event("z")], ANY) for n in range(1001)])
    assert store.get_event_count() == 1000
    assert store.append("a:1", [event("last")], 999) == 1000
    assert [record.stream_version for record in store.records("a:1", reverse=True)] == list(range(1000, -1, -1))
    assert [record.event_id for record in store.records("a:1", from_version=995)][:2] == ["x995", "x996"]


def test_a_message_beyond_the_limit_is_refused(store: JetStreamEventStore[Any]) -> None:
    large = EncodedEvent("Added", b'{"number":1,"text":"%s"}' % (b"x" * (9 << 20)))
    with pytest.raises(TooLargeError) as caught:
        store.append_at_end("a:1", [event("x"), large])
    assert caught.value.limit == 8 << 20
    store.append_at_end("a:1", [event("x")])
    with pytest.raises(TooLargeError):
        store.save_snapshot("a:1", 0, {"text": "x" * (9 << 20)})
    assert store.get_event_count() == 1


def hostile_ids() -> list[str]:
    parts = [
        "a",
        "A",
        ".",
        "*",
        ">",
        " ",
        "%",
        "%2E",
        "%3A",
        "é",
        "e\u0301",
        "\u2028",
        "😀",
        "$JS",
        "-",
        "_",
        "\\",
        "/",
        '"',
        ":",
    ]
    found = [f"{one}{two}{three}" for one in parts for two in parts for three in ("", "x", ":", ".")]
    found += ["x" * 1024, "é" * 512, "c:" + "*" * 1000]
    return [stream_id for stream_id in dict.fromkeys(found) if why_not_an_id(stream_id) is None]


def test_no_two_ids_share_a_subject() -> None:
    ids = hostile_ids()
    subjects = {stream_tokens(stream_id): stream_id for stream_id in ids}
    assert len(subjects) == len(ids)
    for subject, stream_id in subjects.items():
        assert stream_id_of(f"orders.e.{subject}") == stream_id
        assert not set(subject) & set(" *>\t\r\n")
        assert all(subject.split("."))
        assert subject.count(".") == 1


def test_hostile_ids_are_stored_and_listed(store: JetStreamEventStore[Any]) -> None:
    """Of streams, events and cursors."""
    valid = [*hostile_ids()[:-3:7], "x" * 1024, "c:" + "*" * 1000]
    assert len(valid) > 50
    for stream_id in valid:
        store.append(stream_id, [event(f"{stream_id}\r\nNats-Rollup: all")], NO_STREAM)
    assert store.list_streams() == sorted(valid)
    assert store.get_stream_count() == len(valid)
    for stream_id in valid:
        assert ids(store, stream_id) == [f"{stream_id}\r\nNats-Rollup: all"]


# Cursors that move with an append


def offered(store: JetStreamEventStore[Any], to: int, stream_id: str, after: int) -> None:
    """Begin an append that moves a cursor, as a process does that dies before it sends the event."""
    store._cursors.offer(CursorMove("worker", to), Offer(new_move_id(), to, stream_id, after))


def test_a_move_that_was_offered_and_never_made_does_not_count(
    store: JetStreamEventStore[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait for it, then go on."""
    monkeypatch.setattr(cursors, "OFFER_SECONDS", 0.1)
    store.append("in:1", [event(f"x{n}") for n in range(9)], NO_STREAM)
    offered(store, 5, "out:1", 0)
    cursor = store.cursor("worker")
    assert cursor.position == 0
    cursor.advance(3, expected=0)
    assert cursor.position == 3
    offered(store, 7, "out:1", 0)
    assert store.append("out:2", [event("y")], NO_STREAM, cursor=cursor.at(6, expected=3)) == 0
    assert [(status.name, status.position) for status in store.cursors()] == [("worker", 6)]


def test_a_move_is_void_once_another_event_has_its_place(store: JetStreamEventStore[Any]) -> None:
    """So nobody waits for it."""
    store.append("in:1", [event(f"x{n}") for n in range(9)], NO_STREAM)
    offered(store, 5, "out:1", 0)
    store.append("out:1", [event("other")], NO_STREAM)
    cursor = store.cursor("worker")
    cursor.advance(3, expected=0)
    assert cursor.position == 3


def test_two_workers_that_answer_the_same_event_write_one_answer(
    cluster: Cluster, store: JetStreamEventStore[Any]
) -> None:
    """Into one stream or into different ones."""
    store.append("in:1", [event(f"x{n}") for n in range(20)], NO_STREAM)
    written: list[int] = []

    def work(own: int, name: str) -> None:
        with opened(cluster, name) as mine:
            cursor = mine.cursor("worker")
            while (position := cursor.position) < 20:
                move = cursor.at(position + 1, expected=position)
                try:
                    mine.append_at_end(f"out:{own if position % 2 else 0}", [event(f"{own}-{position}")], cursor=move)
                except CursorConflictError:
                    continue
                written.append(position)

    threads = [threading.Thread(target=work, args=(own, store.name)) for own in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == list(range(20))
    answers = [each.partition("-")[2] for each in ids(store) if "-" in each]
    assert sorted(map(int, answers)) == list(range(20))


OWNER = """
import sys
from hangarlog.jetstream import JetStreamEventStore, leases
leases.LEASE_SECONDS, leases._RENEW_SECONDS = 1, 0.3
store = JetStreamEventStore.untyped(sys.argv[1], sys.argv[2], replicas=1, synced=True)
subscription = store.subscribe(name="mailer", batch=1)
next(subscription)
print("owner", flush=True)
sys.stdin.read()
"""


def test_the_name_of_a_dead_process_goes_to_another(cluster: Cluster, store: JetStreamEventStore[Any]) -> None:
    store.append("a:1", [event("x0"), event("x1")], NO_STREAM)
    command = [sys.executable, "-c", OWNER, cluster.address, store.name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"owner\n"
        with store.subscribe(name="mailer", batch=1, timeout=2) as second:
            assert list(second) == []
        assert store.subscribers()[0].owner == owner.pid
        owner.kill()
        with store.subscribe(name="mailer", batch=1, timeout=_LONG) as second:
            assert next(second).event_id == "x0"
