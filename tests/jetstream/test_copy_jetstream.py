"""A store is copied from a folder to servers, and back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from nats_servers import Cluster, cluster  # noqa: F401

import hangarlog
from hangarlog import ANY, EventStore, FileEventStore, UntypedEvent


def everything(store: EventStore) -> list[object]:
    """What can be seen of a store, but for the checksums of its lines."""
    streams = store.list_streams()
    return [
        [(each.position, each.stream_id, each.stream_version, each.event_id, bytes(each.data), each.metadata_json,
          each.recorded_at, each.batch_end) for block in store.envelopes() for each in block],
        [(stream_id, [e.event_id for block in store.envelopes(stream_id) for e in block]) for stream_id in streams],
        [(stream_id, store.get_stream_version(stream_id), store.load_snapshot(stream_id)) for stream_id in streams],
        [(status.name, status.position) for status in store.cursors()],
    ]  # fmt: skip


def test_a_store_that_was_copied_there_and_back_is_the_same(cluster: Cluster, tmp_path: Path) -> None:
    """Events with their positions and batches, snapshots, cursors, and what streams hide."""
    with FileEventStore.untyped(tmp_path / "here") as store:
        for number in range(50):
            events = [UntypedEvent("Moved", {"number": number})] * 3
            store.append_many([(f"a:{number % 5}", events, ANY), ("odd id: %é", events[:1], ANY)], metadata={"n": 1})
        store.save_snapshot("a:1", 10, {"at": 10})
        store.compact_stream("a:1")
        store.delete_stream("a:2")
        store.truncate_stream("a:3", 7)
        store.cursor("mailer").advance(20)
        truth = everything(store)
    there = f"{cluster.address}/copied?replicas=1&synced=yes"
    for arguments in ([tmp_path / "here", there], [there, tmp_path / "back"]):
        done = subprocess.run(
            [sys.executable, "-m", "hangarlog", "copy", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    for address in (there, tmp_path / "back"):
        untyped = hangarlog.EventSerializer(registry=hangarlog.EventRegistry(), unknown="untyped")
        with hangarlog.open(address, serializer=untyped) as store:
            assert everything(store) == truth
    cluster.delete("copied")


def test_other_commands_do_not_take_an_address_for_a_folder(tmp_path: Path) -> None:
    """Nor print its password."""
    done = subprocess.run(
        [sys.executable, "-m", "hangarlog", "append", "nats://ann:s3cret@127.0.0.1:1/orders", "a:1", "--type", "Moved"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "works on a store in a folder" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
