"""The benchmark command runs, at sizes that mean nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
from conftest import ROOT

ENGINES = ("hangarlog", "floor", "sqlite3")


def test_a_quick_run_measures_every_engine(tmp_path: Path) -> None:
    """Its record has figures, and its page names each engine."""
    path = tmp_path / "record.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench",
            "--quick",
            "--engines",
            ",".join(ENGINES),
            "--only",
            "W1,W4,W6a",
            "--json",
            path,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    tables = msgspec.json.decode(path.read_bytes())["tables"]
    assert [table["key"] for table in tables] == ["W1", "W4", "W6a"]
    for table in tables:
        assert {contender.partition(":")[0] for contender in table["cells"]} == set(ENGINES)
        for cell in table["cells"].values():
            assert (cell["error"], cell["unsupported"]) == ("", ""), done.stderr
            assert all(figures["rate"] > 0 for figures in cell["rounds"])
    for engine in ENGINES:
        assert f"\n| {engine} | " in done.stdout or f"\n| {engine}, " in done.stdout


def test_an_engine_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    """By its name, before anything is measured."""
    command = [sys.executable, "-m", "bench", "--quick", "--engines", "nonsense"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 1
    assert b"no such engine: nonsense" in done.stderr
