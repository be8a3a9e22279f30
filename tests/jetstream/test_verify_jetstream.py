"""`hangarlog verify` of a store on servers reads the copy of each, and says which one is damaged."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nats
import pytest
from conftest import ROOT
from nats_servers import Cluster, Server, cluster  # noqa: F401

from hangarlog import CorruptionError, UntypedEvent
from hangarlog.jetstream import JetStreamEventStore, server_copies, value_copies, verifying
from hangarlog.jetstream.verifying import Verification
from hangarlog.jetstream.wire import Message

EVENTS = 13


def opened(cluster: Cluster, **options: Any) -> JetStreamEventStore[Any]:
    return JetStreamEventStore.untyped(cluster.address, "orders", **{**cluster.options, **options})


def fill(store: JetStreamEventStore[Any]) -> None:
    for number in range(EVENTS - 2):
        store.append_at_end(f"a:{number % 2}", [UntypedEvent("Added", {"number": number})])
    store.append_at_end("b:1", [UntypedEvent("Added", {"number": number}) for number in (EVENTS - 2, EVENTS - 1)])


def found(store: JetStreamEventStore[Any]) -> tuple[list[str], Verification]:
    work = Verification(store)
    return [f"{damage.segment} {damage.position}: {damage.cause}" for damage in work.damages()], work


def told(cluster: Cluster, folder: Path) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """What the command says: its exit code, the damage, the counts."""
    address = f"{cluster.address}/orders?replicas={cluster.size}"
    done = subprocess.run(
        [sys.executable, "-m", "hangarlog", "verify", address],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout, done.stderr
    *damages, counts = map(json.loads, done.stdout.splitlines())
    return done.returncode, damages, counts


def flip(server: Server, what: bytes, stream: str = "orders") -> None:
    """Change a bit of a message in the file of a server that is down."""
    (block,) = server.store.rglob(f"{stream}/msgs/1.blk")
    text = bytearray(block.read_bytes())
    text[text.index(what) + len(what) - 1] ^= 1
    block.write_bytes(text)


def test_the_copy_of_each_of_three_servers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is gone, damaged, and made anew; then a server that says no trace."""
    with Cluster(tmp_path, 3) as cluster:
        with opened(cluster) as store:
            fill(store)
            whole = {server.name: EVENTS for server in cluster.servers}
            assert (found(store)[0], found(store)[1].copies) == ([], whole)
            monkeypatch.setattr(verifying, "_BLOCK", 4)  # Several blocks, cut short by their size.
            monkeypatch.setattr(verifying, "_BLOCK_BYTES", 700)
            assert (found(store)[0], found(store)[1].copies) == ([], whole)
        bad = cluster.servers[0]
        bad.stop()
        assert told(cluster, tmp_path)[0] == 1
        flip(bad, b'"number":4')
        cluster.start()
        code, damages, counts = told(cluster, tmp_path)
        assert [(each["segment"], each["position"], each["stream_id"]) for each in damages] == [(bad.name, 5, "a:0")]
        assert "another server has it whole" in damages[0]["cause"]
        assert (code, counts["damaged"], counts["copies"]) == (1, 1, {**whole, bad.name: EVENTS - 1})
        bad.kill()
        shutil.rmtree(bad.store)  # What docs/jetstream.md says to do.
        cluster.start()
        assert told(cluster, tmp_path) == (0, [], {"events": EVENTS, "streams": 3, "damaged": 0, "copies": whole})
        with opened(cluster) as store:
            monkeypatch.setattr(server_copies, "_answering", lambda trace: None)
            monkeypatch.setattr(server_copies, "_TRACE_SECONDS", 0.01)
            damages, work = found(store)
            assert (damages, work.copies) == ([], {"": EVENTS})
            assert "do not say which of them has answered" in work.notes[0]


@pytest.mark.parametrize(
    ("key", "what"), [("s.a.0", b'"state":{"sum":7'), ("c.printer", b'"position":3'), ("h.b.1", b"hides")]
)
def test_the_bucket_of_each_of_three_servers_is_read(tmp_path: Path, key: str, what: bytes) -> None:
    """As each may be the next leader, whose values count."""
    with Cluster(tmp_path, 3) as cluster:
        with opened(cluster) as store:
            fill(store)
            store.save_snapshot("a:0", 2, {"sum": 7})
            store.cursor("printer").advance(3)
            store.delete_stream("b:1")
            assert found(store)[0] == []
            leader = cluster.api("STREAM.INFO.KV_orders_state")["cluster"]["leader"]
        bad = next(server for server in cluster.servers if server.name != leader)
        bad.stop()
        flip(bad, what, "KV_orders_state")
        cluster.start()
        code, damages, _ = told(cluster, tmp_path)
        assert (code, [each["segment"] for each in damages]) == (1, [bad.name])
        assert f"its copy of {key} in the bucket: it is missing; another server has it whole" in damages[0]["cause"]


def test_a_server_with_an_older_value_is_the_one_that_is_named() -> None:
    """And one that does not answer is named once; what is beyond the end at the beginning does not count."""
    values = {
        "n1": [Message(5, "$KV.orders_state.h.a", {}, b"old"), Message(6, "$KV.orders_state.o.b", {}, b"me")],
        "n2": [Message(9, "$KV.orders_state.h.a", {}, b"new")],
        "n3": [Message(9, "$KV.orders_state.h.a", {}, b"new"), Message(12, "$KV.orders_state.h.c", {}, b"later")],
        "n4": [Message(9, "$KV.orders_state.h.a", {}, b"odd")],
    }
    copies = Mock()
    copies.read.side_effect = itertools.cycle([server_copies.Copy(*each, False) for each in values.items()] + [None])
    assert list(value_copies._once(copies, "orders", {*values, "n5"}, 11)) == [
        ("n5", "", 1, "it gave no answer"),
        ("n1", "h.a", 9, "it is an older one; another server has it whole"),
        ("n4", "h.a", 9, "it is another value than that of n2"),
    ]


def publish(cluster: Cluster, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
    async def send() -> None:
        client = await nats.connect(cluster.address)
        await client.request(subject, data, headers=headers)
        await client.close()

    asyncio.run(send())


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_what_another_program_has_written_is_found(cluster: Cluster, tmp_path: Path) -> None:
    with opened(cluster) as store:
        fill(store)
        store.save_snapshot("a:0", 2, {"sum": 1})
        store.save_snapshot("a:1", 2, {"sum": 1})
        store.cursor("printer").advance(3)
        assert found(store)[0] == []
        line = cluster.api("STREAM.MSG.GET.orders", {"seq": 3})["message"]
        body = base64.b64decode(line["data"])
        publish(cluster, "orders.e.a.0", body, {"Hl-Version": "1"})  # Version 1 once more.
        publish(cluster, "orders.e.a.0", body[:-3] + b'0"}', {"Hl-Version": "7"})
        publish(cluster, "orders.e.a.9", body, {"Hl-Version": "1"})
        publish(cluster, "$KV.orders_state.s.a.0", b'{"stream_id":"a:0","crc":"00000000"}\n')
        publish(cluster, "$KV.orders_state.c.printer", b"{}")
        publish(cluster, "$KV.orders_state.p.counts.saved", b"{}")
        damages, work = found(store)
        assert [damage.partition(":")[0] for damage in damages] == [
            "n1 14",
            "n1 15",
            "n1 16",
            "$KV.orders_state.s.a.0 None",
            "$KV.orders_state.c.printer None",
            "$KV.orders_state.p.counts.saved None",
        ]
        assert "it is version 1 of its stream, and version 6 must come here" in damages[0]
        assert work.events == EVENTS + 3
    cluster.delete("orders")


@pytest.mark.parametrize("gone", ["a message", "the tail"])
def test_what_a_lone_server_has_lost_is_found(gone: str, tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        with opened(cluster) as store:
            fill(store)
        (server,) = cluster.servers
        if gone == "a message":
            server.stop()
            flip(server, b'"number":4')
            cluster.start()
            code, damages, counts = told(cluster, tmp_path)
            assert (code, counts["copies"]) == (1, {server.name: EVENTS - 1})
            assert [(each["position"], each["cause"]) for each in damages] == [
                (5, "it is missing; no server has it whole")
            ]
            return
        server.kill()
        flip(server, b'"number":4')
        cluster.start()
        with pytest.raises(CorruptionError, match=f"position {EVENTS} was there: its tail is gone"):
            opened(cluster)
        done = subprocess.run(
            [sys.executable, "-m", "hangarlog", "verify", f"{cluster.address}/orders?replicas=1"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stdout, "its tail is gone" in done.stderr) == (1, "", True)
