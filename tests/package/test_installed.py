"""The installed package, wherever it came from."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT

import hangarlog

README = (ROOT / "README.md").read_text()


def test_the_package_is_the_installed_one() -> None:
    """Where the sources are gone, nothing else can be imported."""
    assert metadata.version("hangarlog") == hangarlog.__version__
    if not (ROOT / "hangarlog").exists():
        assert "site-packages" in hangarlog.__file__


@pytest.mark.parametrize("program", re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
def test_each_program_of_the_readme_runs_by_itself(program: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_runs(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("hangarlog")
    for arguments in (["append", "s", "a:1", "--type", "T"], ["read", "s"], ["verify", "s"], ["demo"]):
        done = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
