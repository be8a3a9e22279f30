"""Damage in the files of a server: an error, or read from another server; never silence."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import every_byte
import pytest
from conftest import Added
from nats_servers import Cluster

from hangarlog import NO_STREAM, ConcurrencyError, CorruptionError, CorruptionWarning
from hangarlog.jetstream import JetStreamEventStore

STREAMS = ("a:1", "b:1", "plain")
COUNT = 13


def opened(cluster: Cluster) -> JetStreamEventStore[Any]:
    return JetStreamEventStore(cluster.address, "orders", timeout=10, **cluster.options)


def fill(cluster: Cluster) -> None:
    with opened(cluster) as store:
        for number in range(COUNT):
            store.append_at_end(STREAMS[number % 3] if number < COUNT - 1 else "alone", [Added(number)])


def looks(store: JetStreamEventStore[Any]) -> list[tuple[str, Callable[[], Any], Any]]:
    """Every way to look at the store, and what a whole one says."""
    whole = list(range(COUNT))
    found: list[tuple[str, Callable[[], Any], Any]] = [
        ("forwards", lambda: [record.event.number for record in store.records()], whole),
        ("backwards", lambda: [record.event.number for record in store.records(reverse=True)], whole[::-1]),
        ("followed", lambda: [record.event.number for record in store.subscribe(timeout=0)], whole),
        ("alone", lambda: [event.number for event in store.read_stream("alone")], whole[-1:]),
    ]
    for first, stream_id in enumerate(STREAMS):
        numbers = whole[first:-1:3]
        found.append((stream_id, lambda of=stream_id: [each.number for each in store.read_stream(of)], numbers))
    return found


def test_flipped_bytes_of_a_lone_server(tmp_path: Path) -> None:
    """One of 211 is flipped. A read tells the truth or raises, and no version is given again."""
    with Cluster(tmp_path, 1) as cluster:
        fill(cluster)
        (server,) = cluster.servers
        server.stop()
        (block,) = server.store.rglob("orders/msgs/1.blk")
        text, index = block.read_bytes(), next(iter(server.store.rglob("orders/msgs/index.db"))).read_bytes()
        raised = 0
        for at in range(0, len(text), 211):
            block.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
            block.with_name("index.db").write_bytes(index)
            cluster.start()
            try:
                with opened(cluster) as store:
                    for name, look, truth in looks(store):
                        try:
                            assert look() == truth, (at, name)
                        except CorruptionError:
                            raised += 1
                    for stream_id in (*STREAMS, "alone"):
                        with pytest.raises((ConcurrencyError, CorruptionError)):
                            store.append(stream_id, [Added(99)], NO_STREAM)
            except CorruptionError:
                raised += 1
            server.kill()
        assert raised > len(text) // 211


def test_a_tail_that_was_cut_off_is_no_shorter_store(tmp_path: Path) -> None:
    """As a lone server cuts it off after a kill: without its index, it ends before the damaged message."""
    with Cluster(tmp_path, 1) as cluster:
        fill(cluster)
        (server,) = cluster.servers
        store = opened(cluster)
        server.kill()
        (block,) = server.store.rglob("orders/msgs/1.blk")
        text = bytearray(block.read_bytes())
        text[len(text) // 2] ^= 1
        block.write_bytes(text)
        cluster.start()
        for call in (store.get_event_count, lambda: list(store.read_all()), lambda: store.read_stream("plain")):
            with pytest.raises(CorruptionError):
                call()
        with pytest.raises(CorruptionError):
            store.append_at_end("plain", [Added(99)])
        store.close()
        with pytest.raises(CorruptionError) as caught:
            opened(cluster)
        assert "accept_loss=True" in str(caught.value)
        options = {**cluster.options, "accept_loss": True}
        with JetStreamEventStore(cluster.address, "orders", **options) as left:
            count = left.get_event_count()
            assert 0 < count < COUNT
            assert [event.number for _, _, event in left.read_all()] == list(range(count))
            left.append_at_end("a:1", [Added(99)])
        with opened(cluster) as after:
            assert after.get_event_count() == count + 1


def test_a_damaged_event_can_be_skipped(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        fill(cluster)
        (server,) = cluster.servers
        server.stop()
        (block,) = server.store.rglob("orders/msgs/1.blk")
        text = bytearray(block.read_bytes())
        text[text.index(b'"number":4') + 9] ^= 1
        block.write_bytes(text)
        cluster.start()
        with opened(cluster) as store, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            left = [number for number in range(COUNT) if number != 4]
            assert [record.event.number for record in store.records(on_damage="skip")] == left
            assert [each.number for each in store.read_stream("b:1", on_damage="skip")] == [1, 7, 10]
            assert {warning.category for warning in caught} == {CorruptionWarning}
            with pytest.raises(CorruptionError) as raised:
                store.read_stream("b:1")
            assert (raised.value.stream_id, raised.value.stream_version) == ("b:1", 2)


@pytest.mark.parametrize("at", [0, 0.3, 0.6, 0.99])
def test_damage_on_one_of_three_servers_is_read_from_another(at: float, tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        fill(cluster)
        server = cluster.servers[0]
        server.stop()
        (block,) = server.store.rglob("orders/msgs/1.blk")
        text = bytearray(block.read_bytes())
        text[int(at * len(text))] ^= 1
        block.write_bytes(text)
        cluster.start()
        with opened(cluster) as store:
            for name, look, truth in looks(store) * 3:
                assert look() == truth, name
            with pytest.raises(ConcurrencyError):
                store.append("alone", [Added(99)], NO_STREAM)


def test_bytes_flipped_in_every_file_of_one_of_three_servers(tmp_path: Path) -> None:
    """One of 397. `every_byte.py` flips all."""
    figures = every_byte.run(tmp_path, 397)
    assert {"bytes of 1.blk", "bytes of meta.inf"} <= figures.keys()


def test_a_server_that_comes_back_empty_gets_everything_again(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        fill(cluster)
        cluster.servers[1].kill()
        shutil.rmtree(cluster.servers[1].store)
        cluster.start()
        cluster.servers[0].kill()
        with opened(cluster) as store:
            for name, look, truth in looks(store):
                assert look() == truth, name
            assert store.append_at_end("alone", [Added(99)]) == 1
