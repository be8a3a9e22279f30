"""`hangarlog subscribers` and `hangarlog replay`, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from hangarlog import FileEventStore, UntypedEvent


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "hangarlog", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def results(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a store in `s`, in which a subscriber has parked two events, and with the module `handlers`."""

    def fail(record: Any) -> None:
        if record.position in (2, 4):
            raise ValueError("no")

    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for number in range(5):
            store.append_at_end("a:1", [UntypedEvent("Counted", {"number": number})])
        with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
            subscription.run(fail, on_failure="park")
        store.append_at_end("a:1", [UntypedEvent("Counted", {"number": 5})])
    (tmp_path / "handlers.py").write_text(
        "def keep(record): open('kept', 'a').write(f'{record.position} {record.event.data}\\n')\n"
        "def refuse(record): raise RuntimeError('still no')\n"
        "nothing = 1\n"
    )
    return tmp_path


def test_subscribers_are_lines_of_json(folder: Path) -> None:
    """With position, lag, owner and the number of parked events."""
    (status,) = results(run(folder, "subscribers", "s"))
    assert status.pop("lag_seconds") > 0
    assert status == {"name": "mailer", "position": 7, "lag": 1, "owner": None, "parked": 2}


def test_replay_without_a_handler_prints_what_is_parked(folder: Path) -> None:
    """With cause and count."""
    found = results(run(folder, "replay", "s", "mailer"))
    assert [(each["position"], each["cause"], each["attempts"]) for each in found] == [
        (2, "ValueError: no", 1),
        (4, "ValueError: no", 1),
    ]
    assert results(run(folder, "replay", "s", "other")) == []


def test_replay_brings_parked_events_back(folder: Path) -> None:
    """A handler that fails leaves them parked; one that does not ends that. The position stays."""
    done = run(folder, "replay", "s", "mailer", "--handler", "handlers:refuse", "--attempts", "3")
    assert done.returncode == 1
    assert "stopped at position 2 (stream 'a:1', version 1, type 'Counted')" in done.stderr
    assert "RuntimeError: still no" in done.stderr
    parking = run(folder, "replay", "s", "mailer", "--handler", "handlers:refuse", "--on-failure", "park")
    assert results(parking) == [{"replayed": 0, "parked": 2}]
    assert results(run(folder, "replay", "s", "mailer", "--handler", "handlers:keep")) == [{"replayed": 2, "parked": 0}]
    assert (folder / "kept").read_text() == "2 {'number': 1}\n4 {'number': 3}\n"
    assert results(run(folder, "subscribers", "s"))[0]["position"] == 7


def test_a_handler_that_does_not_exist_is_named(folder: Path) -> None:
    """Wrong usage exits with 2."""
    for target, cause in (
        ("handlers", "MODULE:FUNCTION"),
        ("handlers:nothing", "not a function"),
        ("handlers:none", "has no attribute 'none'"),
        ("nowhere:f", "No module named 'nowhere'"),
    ):
        done = run(folder, "replay", "s", "mailer", "--handler", target)
        assert done.returncode == 2
        assert cause in done.stderr


@pytest.mark.parametrize("more", [[], ["--handler", "builtins:print"]], ids=["shown", "handled"])
def test_replay_of_an_unknown_subscriber_says_so(tmp_path: Path, more: list[str]) -> None:
    """With a wrong name, nothing seemed to be parked."""
    with FileEventStore.untyped(tmp_path / "my store") as store:
        store.cursor("mailer").advance(0)
    done = run(tmp_path, "replay", "my store", "mialer", *more)
    said = "hangarlog: no subscriber is named 'mialer'; list them with `hangarlog subscribers 'my store'`\n"
    assert (done.returncode, done.stderr) == (0, said)
    done = run(tmp_path, "replay", "my store", "mailer", *more)
    assert (done.returncode, done.stderr) == (0, "")
