"""What the tests of several adapters need. The folder is on the path, so tests import `hostile`."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def run_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict]:
    """Run the Python programs of a page, one after the other in one folder, and return their last names."""

    def run(page: str) -> dict:
        monkeypatch.chdir(tmp_path)
        names: dict = {}
        for program in re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL):
            module = types.ModuleType("page")
            monkeypatch.setitem(__import__("sys").modules, "page", module)
            exec(compile(program, page, "exec"), module.__dict__)  # noqa: S102 - that is the test
            names = module.__dict__
        return names

    return run
