"""Runs what a page of an adapter shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run_page(page: str, folder: Path) -> None:
    """Run the Python programs of a page, each as a file in a folder."""
    programs = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    assert programs
    for program in programs:
        (folder / "program.py").write_text(program)
        subprocess.run([sys.executable, "program.py"], cwd=folder, check=True)
