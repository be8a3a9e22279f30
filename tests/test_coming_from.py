"""Each program of the page runs by itself, and each of its links leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs/coming-from.md").read_text()


@pytest.mark.parametrize("program", re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
def test_the_program_runs_twice(program: str, tmp_path: Path) -> None:
    """The second time, what is there is not imported again."""
    times = 1 if "execute" in program and "Repository" in program else 2
    for _ in range(times):
        command = [sys.executable, "-W", "error", "-c", program]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
