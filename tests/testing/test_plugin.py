"""The pytest plugin is in every run of whoever has hangarlog installed: it costs nothing until it is used."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT


def run_pytest(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    """A test of a project of its own, with the plugin as pytest loads it."""
    (plugin,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"].values()
    (folder / "test_it.py").write_text(test)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:hangarlog",
            "-p",
            plugin,
            "--rootdir",
            str(folder),
            str(folder),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "hangarlog/testing/pytest"))),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_that_does_not_use_the_plugin_imports_nothing_for_it(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        "import sys\n"
        "def test_it(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.has_plugin('pytest_hangarlog')\n"
        "    found = {name for name in sys.modules if name.partition('.')[0] in ('hangarlog', 'msgspec', 'filelock')}\n"
        "    assert found == set()\n",
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["pytest_hangarlog", "hangarlog.testing.plugin"])
def test_the_fixture_is_there_when_it_is_asked_for(tmp_path: Path, name: str) -> None:
    done = run_pytest(
        tmp_path,
        f"pytest_plugins = [{name!r}]\n"
        "def test_it(hangarlog_schema):\n"
        "    assert type(hangarlog_schema).__module__ == 'hangarlog.testing.schema'\n",
    )
    assert done.returncode == 0, done.stdout + done.stderr
