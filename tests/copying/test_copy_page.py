"""The page about copies is true: its commands and programs run, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT, Command
from copied_stores import check_equal, event, opened
from test_docs import blocks

from hangarlog import ANY

PAGE = ROOT / "docs" / "copy.md"


def test_the_pages_commands_run(tmp_path: Path, hangarlog: Command) -> None:
    with opened(tmp_path / "mystore") as source:
        source.append("a:1", [event(1), event(2)], ANY)
        for commands in blocks(PAGE, "sh"):
            for line in commands.splitlines():
                words = line.split()
                assert words.pop(0) == "hangarlog"
                ends = ["--until-idle", "0.05"] if words[-1] == "--follow" else []
                done = hangarlog(*words, *ends)
                assert (done.returncode, done.stderr) == (0, b"")
                assert b'"compared":' in done.stdout.splitlines()[-1]
                source.append("a:1", [event(1)], ANY)


def test_the_pages_programs_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(tmp_path / "mystore") as source:
        source.append("a:1", [event(1), event(2)], ANY)
        first, switch = blocks(PAGE, "python")
        exec(first, {})  # noqa: S102 - that is the test
        assert capsys.readouterr().out == "2 0 2 True\n"
        source.append("a:1", [event(3)], ANY)
        exec(switch, {})  # noqa: S102
        with opened(tmp_path / "newstore") as target:
            check_equal(source, target)
