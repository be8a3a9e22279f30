"""A store moves from a folder to servers and back, under writers, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from copied_stores import check_equal, dropped, event, fill, opened, versions
from nats_servers import Cluster, cluster  # noqa: F401

from hangarlog import ANY, EventRegistry, EventSerializer
from hangarlog.copying import Copy, CopyError, copy
from hangarlog.jetstream import JetStreamEventStore


def on(servers: Cluster, name: str) -> JetStreamEventStore[Any]:
    serializer = EventSerializer(registry=EventRegistry(), unknown="untyped")
    return JetStreamEventStore(servers.address, name, serializer=serializer, **servers.options)


@pytest.mark.parametrize("cluster", [1, 3], indirect=True)
def test_a_store_moves_there_and_back(cluster: Cluster, tmp_path: Path) -> None:
    with opened(tmp_path / "source") as source, on(cluster, "moved") as servers, opened(tmp_path / "back") as back:
        fill(source)
        source.save_snapshot("b:1", 10, {"sum": 1})
        source.compact_stream("b:1")
        source.truncate_stream("b:2", 2)
        source.delete_stream("x:con")
        assert copy(source, servers).positions_kept
        check_equal(source, servers)
        fill(source, 1)
        assert copy(source, servers).already > 0
        copy(servers, back)
        check_equal(source, back)
        source.append("b:1", [event(1)], ANY)
        servers.append("b:3", [event(1)], ANY)
        with pytest.raises(CopyError, match="the target has other events"):
            copy(source, servers)
    cluster.delete("moved")


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_source_whose_journal_begins_later_goes_there(cluster: Cluster, tmp_path: Path) -> None:
    with dropped(tmp_path / "source") as source, on(cluster, "later") as servers, opened(tmp_path / "back") as back:
        source.retain()
        assert not copy(source, servers).positions_kept
        assert versions(servers) == versions(source)
        copy(servers, back)
        check_equal(servers, back)
    cluster.delete("later")


@pytest.mark.parametrize("cluster", [1], indirect=True)
@pytest.mark.parametrize("to_servers", [True, False])
def test_writers_move_over(cluster: Cluster, tmp_path: Path, to_servers: bool) -> None:
    with opened(tmp_path / "folder") as folder, on(cluster, "switch") as servers:
        source, target = (folder, servers) if to_servers else (servers, folder)
        stop, caught_up = threading.Event(), threading.Event()
        counts = [0, 0]

        def write(number: int) -> None:
            while not stop.is_set():
                source.append(f"w:{number}", [event(counts[number])] * 2, counts[number] - 1)
                counts[number] += 2

        writers = [threading.Thread(target=write, args=[number]) for number in range(2)]
        work = Copy(source, target)
        following = threading.Thread(target=work.follow, kwargs={"caught_up": caught_up.set})
        for thread in (*writers, following):
            thread.start()
        caught_up.wait()
        with target.subscribe(0) as subscription:
            assert sum(1 for _ in zip(range(200), subscription, strict=False)) == 200
        stop.set()
        for thread in writers:
            thread.join()
        work.stop()
        following.join()
        assert work.finish().position == sum(counts)
        target.append("w:0", [event(1)], counts[0] - 1)
        work.compare()
        assert work.left() == 0
    cluster.delete("switch")


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_the_command_takes_addresses_and_prints_no_password(cluster: Cluster, tmp_path: Path) -> None:
    with opened(tmp_path / "source") as source:
        fill(source)
        address = cluster.address.replace("://", "://me:secret@") + "/told?replicas=1&synced=yes"
        for words in (["source", address], ["source", address], [address, "back"], [address, "back", "--follow"]):
            ends = ["--until-idle", "0.05"] if words[-1] == "--follow" else []
            done = subprocess.run(
                [sys.executable, "-m", "hangarlog", "copy", *words, *ends],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert json.loads(done.stdout.splitlines()[-1])["compared"] == source.last_position
            assert "secret" not in done.stdout
        with opened(tmp_path / "back") as back:
            check_equal(source, back)
    cluster.delete("told")
