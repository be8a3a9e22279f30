"""`hangarlog project`: an application's projection, run from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Added, Command

from hangarlog import FileEventStore

APP = """
import msgspec
from hangarlog import event
from hangarlog.projections import Projection

@event
class Added(msgspec.Struct):
    number: int
    text: str = ""

def add(state, record):
    if record.event.number == 13:
        raise ValueError("no luck")
    state["sum"] = state.get("sum", 0) + record.event.number

total = Projection("total", add)
not_one = 7

def made():
    return Projection("total", add, version=2)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A module in the current folder of the command, beside a store with three events."""
    (tmp_path / "app.py").write_text(APP)
    with FileEventStore(tmp_path / "s") as store:
        store.append_at_end("a:1", [Added(number) for number in (1, 2, 3)])
    return tmp_path


def state(path: Path) -> object:
    return json.loads((path / "s/projections/total.json").read_bytes())["state"]


def test_once_ends_when_it_has_caught_up(app: Path, hangarlog: Command) -> None:
    """The module may be in the current folder, which is said; a function may return the projection."""
    done = hangarlog("project", "s", "app:total", "--once")
    assert (done.returncode, done.stderr) == (
        0,
        f"hangarlog: importing {app}/app.py from the current folder\n".encode(),
    )
    assert json.loads(done.stdout) == {"projection": "total", "version": 1, "position": 3, "lag": 0}
    assert state(app) == {"sum": 6}
    assert json.loads(hangarlog("project", "s", "app:made", "--once").stdout)["version"] == 2
    done = hangarlog("project", "s", "app:total", "--once")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"run the newer program" in done.stderr
    assert hangarlog("project", "s", "app:made", "--once", "--rebuild").returncode == 0
    assert state(app) == {"sum": 6}


def test_it_runs_until_it_is_interrupted(app: Path, hangarlog: Command) -> None:
    """A second one is refused; after an interrupt it saves and exits with 130."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hangarlog", "project", "s", "app:total"],
        cwd=app,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        with FileEventStore(app / "s") as store:
            assert store.wait("total", 3, 60)
            refused = hangarlog("project", "s", "app:total", "--once")
            assert refused.returncode == 1
            assert b"another runner is running projection 'total'" in refused.stderr
            position = store.append_at_end("a:1", [Added(4)]).last_position
            assert store.wait("total", position, 60)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert json.loads(output)["position"] == 4
        assert state(app) == {"sum": 10}
    finally:
        process.kill()
        process.wait()


def test_a_poison_event_is_an_error_that_says_where(app: Path, hangarlog: Command) -> None:
    with FileEventStore(app / "s") as store:
        store.append_at_end("a:1", [Added(13)])
    done = hangarlog("project", "s", "app:total", "--once")
    assert done.returncode == 1
    assert b"projection 'total' stopped at position 4 (Added, version 3 of stream 'a:1'): ValueError" in done.stderr


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("app", b"named as MODULE:NAME"),
        ("app:nothing", b"no attribute 'nothing'"),
        ("nowhere:total", b"No module named 'nowhere'"),
        ("app:not_one", b"app:not_one is a int, not a projection"),
    ],
)
def test_what_is_no_projection_is_wrong_usage(app: Path, hangarlog: Command, target: str, cause: bytes) -> None:
    done = hangarlog("project", "s", target, "--once")
    assert done.returncode == 2
    assert cause in done.stderr
