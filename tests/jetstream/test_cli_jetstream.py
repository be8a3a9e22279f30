"""The command line on a store on servers: as on a folder, or refused by name. No command prints a password."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from copied_stores import fill, opened
from nats_servers import Cluster, cluster  # noqa: F401

from hangarlog.copying import copy
from hangarlog.jetstream import JetStreamEventStore

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SECRET = "s3cret"


def command(folder: Path) -> Run:
    def run(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "hangarlog", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert SECRET not in done.stdout + done.stderr
        return done

    return run


def lines(text: str) -> list[str]:
    """Lines of JSON: not all that Python takes for the end of a line is one."""
    return text.split("\n")[:-1]


def at_once(work: Callable[[Any], Any], cases: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(work, cases))


def on_each(run: Run, words: list[str], stores: Sequence[str], **more: Any) -> list[subprocess.CompletedProcess[str]]:
    """Run a command on several stores at once."""
    return at_once(lambda store: run(*[store if word == "STORE" else word for word in words], **more), stores)


def address(cluster: Cluster, name: str = "orders", options: str = "replicas=1&synced=yes") -> str:
    return cluster.address.replace("://", f"://me:{SECRET}@") + f"/{name}?{options}"


@pytest.fixture
def both(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """A store in the folder `store`, and its copy on the servers."""
    with (
        opened(tmp_path / "store") as source,
        JetStreamEventStore.untyped(cluster.address, "orders", **cluster.options) as target,
    ):
        fill(source)
        source.save_snapshot("b:1", 10, {"sum": 1})
        assert copy(source, target).positions_kept
    yield address(cluster)
    cluster.delete("orders")


READING = [
    "read STORE",
    "read STORE b:1 --from 3 --limit 2",
    "read STORE --reverse --limit 5 --type T2",
    "read STORE --category b --pretty",
    "read STORE --since 2100-01-01",
    "read STORE b:10",
    "tail STORE b:2 -n 3",
    "streams STORE --long",
    "export STORE -",
    "export STORE out.txt",
    "schema show STORE",
    "replay STORE nobody",
]


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_what_reads_says_the_same_as_on_a_folder(both: str, cluster: Cluster, tmp_path: Path) -> None:
    run, shown = command(tmp_path), address(cluster).replace(f"me:{SECRET}@", "")
    for words in map(str.split, READING):
        folder, servers = on_each(run, words, ("store", both))
        assert servers.returncode == folder.returncode, (words, servers.stderr)
        assert servers.stdout == folder.stdout, words
        assert servers.stderr.replace(f"'{shown}'", "store") == folder.stderr, words
    counts = [json.loads(run("stats", store).stdout) for store in ("store", both)]
    assert counts[1].items() - counts[0].items() == {("bytes", counts[1]["bytes"])}
    who = [lines(run("subscribers", store).stdout) for store in ("store", both)]
    for mine, its in zip(*who, strict=True):
        assert {**json.loads(mine), "lag_seconds": 0} == {**json.loads(its), "lag_seconds": 0}
    dumps = []
    for number, done in enumerate(
        run("export", store, f"out{number}.db") for number, store in enumerate(("store", both))
    ):
        assert done.returncode == 0
        with contextlib.closing(sqlite3.connect(tmp_path / f"out{number}.db")) as database:
            dumps.append([*database.iterdump()])
    assert dumps[0] == dumps[1]


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_what_writes_does_the_same_as_on_a_folder(both: str, cluster: Cluster, tmp_path: Path) -> None:
    run = command(tmp_path)
    (tmp_path / "app.py").write_text(
        "from hangarlog import Projection\n"
        "def fold(count, record): return count + 1\n"
        "counts = Projection('counts', state=int, apply=fold, version=1)\n"
        "def handle(record): pass\n"
    )
    for words, stdin in [
        ("append STORE new:1 --type T --data - --expected-version none", '{"event_id":"e1"}'),
        ("append STORE new:1 --type T --data - --expected-version none", '{"event_id":"e1"}'),
        ("append STORE new:1 --type T --expected-version none", None),
        ("append STORE new:1 --type T --data [1]", None),
        ("append STORE a:1\0 --type T", None),
        ("project STORE app:counts --once", None),
        ("replay STORE counts --handler app:handle", None),
    ]:
        found = on_each(run, words.replace("\0", "\t").split(" "), ("store", both), stdin=stdin)
        assert [found[1].returncode, found[1].stdout] == [found[0].returncode, found[0].stdout], (
            words,
            found[1].stderr,
        )
        if "project" not in words and "replay" not in words:
            assert found[1].stderr == found[0].stderr
    exported = run("export", "store", "-").stdout
    another = address(cluster, "another")
    assert json.loads(run("import", another, "-", stdin=exported).stdout)["taken"] == exported.count("\n")
    assert run("export", another, "-").stdout == exported
    torn = exported[: len(exported) // 2]
    assert run("import", another, "-", stdin=torn).returncode == run("import", "store", "-", stdin=torn).returncode == 1
    cluster.delete("another")


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_tail_follows_until_it_is_interrupted(both: str, cluster: Cluster, tmp_path: Path) -> None:
    run = command(tmp_path)
    for ends in (["--from", "50"], ["--name", "printer", "--from", "50"]):
        following = subprocess.Popen(
            [sys.executable, "-m", "hangarlog", "tail", both, "-f", *ends],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE,
            # A shell that runs the tests in its background has them ignore it.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert following.stdout
        seen = [following.stdout.readline()]
        run("append", both, "new:1", "--type", "Late")
        while '"Late"' not in seen[-1]:
            seen.append(following.stdout.readline())
        assert [json.loads(line)["position"] for line in seen[:3]] == [51, 52, 53]
        following.send_signal(signal.SIGINT)
        assert following.wait() == 130
        following.stdout.close()
    (cursor,) = [json.loads(line) for line in lines(run("subscribers", both).stdout) if '"printer"' in line]
    assert cursor["lag"] <= 1  # It moves behind an event once that is printed.


FILES_ONLY = [
    "archive STORE there --before 3",
    "backup STORE there",
    "backup there STORE",
    "bench STORE",
    "compress STORE",
    "demo STORE",
    "doctor STORE",
    "export STORE - --archive there",
    "metrics STORE",
    "read STORE --archive there",
    "read there --archive STORE",
    "repair STORE",
    "retain STORE",
    "stats STORE --html page.html",
    "stats STORE --plot",
    "stats STORE --watch",
    "streams STORE --path",
]


def test_what_is_about_files_is_refused_by_name_without_asking_a_server(tmp_path: Path) -> None:
    run, store = command(tmp_path), f"nats://me:{SECRET}@127.0.0.1:1/orders"
    assert run("append", "there", "a:1", "--type", "T").returncode == 0
    before = sorted(tmp_path.rglob("*"))
    commands = [*map(str.split, FILES_ONLY)]
    for words, (done,) in zip(commands, at_once(lambda words: on_each(run, words, [store]), commands), strict=True):
        options = [word for word in words if word in ("--path", "--watch", "--html", "--plot", "--archive")]
        name = " ".join([words[0], *options]) if words[1] == "STORE" else words[0]
        assert (done.returncode, done.stdout) == (1, ""), words
        assert done.stderr.startswith("hangarlog: cannot open the store nats://127.0.0.1:1/orders: `hangarlog"), words
        assert f"`hangarlog {name}` is about the files of a store in a folder" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.partition("on servers; ")[2]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_store_that_cannot_be_opened_is_a_clear_error(both: str, cluster: Cluster, tmp_path: Path) -> None:
    run = command(tmp_path)
    cases = {
        address(cluster, "nothing"): "there is no JetStream stream 'nothing'",
        address(cluster, options="synced=yes"): "?replicas=N",
        address(cluster, options="replica=1"): "an address has no option 'replica'",
        address(cluster, "KV_orders_state"): "'KV_orders_state'",
        f"nats://me:{SECRET}@127.0.0.1:1/orders?timeout=1": "127.0.0.1:1 cannot be reached",
        f"nats://me:{SECRET}/x?y@127.0.0.1:1/orders": "%2F",
        f"http://me:{SECRET}@127.0.0.1:1/orders": "nats://host:port/name",
    }
    for (store, said), done in zip(cases.items(), at_once(lambda store: run("read", store), cases), strict=True):
        assert (done.returncode, done.stdout) == (1, ""), store
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    unsynced = address(cluster, options="replicas=1")
    assert run("read", unsynced, "--limit", "1").returncode == 0  # Who only reads needs no promise about syncs.
    done = run("append", unsynced, "a:1", "--type", "T")
    assert (done.returncode, "?synced=yes" in done.stderr) == (1, True)
    assert run("import", "copy", both).returncode == run("streams", "x", both).returncode == 2
    assert run("import", "copy", both, "--format", "jsonl").returncode == 1
    assert run("read", both, "--from", "x").returncode == run("streams", both, "x").returncode == 2


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_the_environment_names_a_store_on_servers(
    both: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = command(tmp_path)
    whole = run("read", both).stdout
    monkeypatch.setenv("HANGARLOG_STORE", both)
    assert run("read").stdout == whole
    assert {json.loads(line)["stream_id"] for line in lines(run("read", "b:1").stdout)} == {"b:1"}
    monkeypatch.setenv("HANGARLOG_STORE", "store")
    assert run("read", both).stdout == whole


def test_a_permission_that_is_missing_is_named(tmp_path: Path) -> None:
    rest = f"""
authorization {{ users: [
  {{ user: all, password: {SECRET} }},
  {{ user: reads, password: {SECRET}, permissions: {{ publish: {{ deny: "orders.e.>" }} }} }}
] }}
"""
    run = command(tmp_path)
    with Cluster(tmp_path / "servers", 1, rest=rest) as guarded:
        everything, reads = (address(guarded).replace("me:", f"{user}:") for user in ("all", "reads"))
        assert run("append", everything, "a:1", "--type", "T").returncode == 0
        assert run("read", reads).stdout == run("read", everything).stdout != ""
        done = run("append", reads, "a:1", "--type", "T")
        assert (done.returncode, "a permission is missing" in done.stderr) == (1, True)
        done = run("read", everything.replace(SECRET, "wrong"))
        assert (done.returncode, "refuses the user, password" in done.stderr) == (1, True)
