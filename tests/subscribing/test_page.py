"""docs/following.md: its program runs, and the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "following.md"


def test_the_following_pages_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(program, names)  # noqa: S102 - that is the test
    assert capsys.readouterr().out == "1 Ordered\n2 Paid\nseen up to 2 and behind by 0\n"
    names["store"].close()  # type: ignore[attr-defined]


def test_every_test_that_the_page_names_is_there() -> None:
    tests = "".join(
        path.read_text() for folder in ("tests", "hangarlog/testing") for path in (ROOT / folder).rglob("*.py")
    )
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert len(named) > 10
    assert not {name for name in named if f"def {name}(" not in tests}
