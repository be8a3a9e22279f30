"""`hangarlog tail -f`: where it begins, what it wants, and when it ends by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, Command
from test_cli import imported, lines

__all__ = ["imported"]


def test_a_follower_may_begin_anywhere_and_takes_what_is_wanted(imported: Command, tmp_path: Path) -> None:
    """`--from` counts positions of the store; it needs `-f`, as the filters do not."""
    found = lines(imported("tail", "s", "-n", 3, "--type", "ProviderStarted").stdout)
    expected = lines(imported("read", "s", "--type", "ProviderStarted").stdout)
    assert found == expected[-3:]
    assert len(lines(imported("tail", "s", "--category", "provider", "-n", 9999).stdout)) == len(
        lines(imported("read", "s", "--category", "provider").stdout)
    )
    assert imported("tail", "s", "--from", 3).returncode == 2
    assert imported("tail", "s", "-f", "--from", 999_999).returncode == 1
    command = [sys.executable, "-m", "hangarlog", "tail", str(tmp_path / "s"), "-f", "--from", "700", "--type"]
    follower = subprocess.Popen(
        [*command, "ProviderStarted"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        assert follower.stdout
        due = [line for line in expected if line["position"] > 700]
        assert [json.loads(follower.stdout.readline()) for _ in due] == due
    finally:
        follower.kill()
        follower.communicate()


def test_a_follower_ends_when_its_reader_has_gone(imported: Command, tmp_path: Path) -> None:
    """By itself, while nothing comes that it would write."""
    follower = subprocess.Popen(
        [sys.executable, "-m", "hangarlog", "tail", str(tmp_path / "s"), "-n", "1", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert follower.stdout
    assert follower.stderr
    follower.stdout.readline()
    follower.stdout.close()
    assert (follower.wait(60), follower.stderr.read()) == (0, b"")
    follower.stderr.close()


def test_a_named_follower_goes_on_where_it_stopped(imported: Command, tmp_path: Path) -> None:
    """`--name` is a cursor. A killed follower may give the batch that it had printed last again."""
    expected = lines(imported("read", "s").stdout)
    found: list[object] = []
    command = [sys.executable, "-m", "hangarlog", "tail", str(tmp_path / "s"), "-f", "--name", "shipper"]
    for _ in range(2):
        follower = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert follower.stdout
        printed = [follower.stdout.readline() for _ in range(20)]
        follower.kill()
        rest, _ = follower.communicate()
        found += [json.loads(line) for line in [*printed, *rest.splitlines(keepends=True)] if line.endswith(b"\n")]
        (status,) = lines(imported("subscribers", "s").stdout)
        assert 0 < status["position"] <= len(found)
        found = found[: status["position"]]
    assert found == expected[: len(found)]
    assert imported("tail", "s", "--name", "shipper").returncode == 2
