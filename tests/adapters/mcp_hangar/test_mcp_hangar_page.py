"""What docs/mcp-hangar.md shows runs, from the page alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs/mcp-hangar.md"


def test_the_pages_programs_run(tmp_path: Path) -> None:
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "program.py").write_text("".join(programs))
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, check=True)
    for line in re.findall(r"^hangarlog verify (.*)$", PAGE.read_text(), re.MULTILINE):
        store = tmp_path / line if (tmp_path / line).exists() else tmp_path / "events"
        done = subprocess.run([sys.executable, "-m", "hangarlog", "verify", store], capture_output=True, check=True)
        assert b'"damaged":0' in done.stdout
