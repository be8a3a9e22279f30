"""`python3 tools/dev.py integrations`: what its tables say, what it refuses, what its plugin counts."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

TABLES = tomllib.loads((ROOT / "tools/integrations.toml").read_text())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_pins_what_it_installs_and_runs_what_is_there(name: str) -> None:
    table = TABLES[name]
    assert set(table["extra"].split(",")) <= set(EXTRAS)
    assert all("==" in package for package in table["packages"])
    assert all((ROOT / path).exists() for path in table.get("types", []))
    own = [argument for suite in table["suites"] if "source" not in suite for argument in suite["arguments"]]
    paths = [ROOT / argument for argument in own if argument.startswith("tests/")]
    assert paths
    assert all(path.exists() for path in paths)
    assert all(reason for suite in table["suites"] for reason in suite.get("deselected", {}).values())


def integrations(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/dev.py"), "integrations", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [("nobody",), ("--unknown",), ("--record", next(iter(TABLES)))])
def test_wrong_usage_is_refused(arguments: tuple[str, ...]) -> None:
    done = integrations(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


SUITE = """
import pytest

def test_passes(): pass
def test_fails(): assert False
@pytest.mark.skip(reason="no tool")
def test_skipped(): pass
@pytest.fixture
def broken(): raise OSError
def test_broken(broken): pass
def test_left_out(): assert False
"""


def counted(folder: Path, deselected: dict[str, str]) -> tuple[int, dict[str, object] | None]:
    (folder / "test_some.py").write_text(SUITE)
    described, counts = folder / "suite.json", folder / "counts.json"
    described.write_text(json.dumps({"deselected": deselected, "counts": str(counts)}))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "suite_counts", "-p", "no:cacheprovider", "test_some.py"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT / "tools"), "HANGARLOG_SUITE": str(described)},
        capture_output=True,
        check=False,
    )
    return done.returncode, json.loads(counts.read_text()) if counts.exists() else None


def test_the_plugin_counts_and_leaves_out(tmp_path: Path) -> None:
    code, counts = counted(tmp_path, {"test_left_out": "it is known"})
    assert code == 1
    reasons = {"it is known": 1, "no tool": 1}
    assert counts == {"passed": 1, "failed": 2, "skipped": 1, "reasons": reasons}


def test_leaving_out_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    code, _ = counted(tmp_path, {"test_left_out": "it is known", "test_gone": "it was renamed"})
    assert code not in (0, 1)
