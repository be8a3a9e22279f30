"""docs/agents.md: its program is killed and resumed, its shell lines run, its next release reads what there is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, tool

PAGE = ROOT / "docs" / "agents.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


KILLED = """
import sys, threading, agent
agent.run_tool = lambda call: (print("paying", flush=True), threading.Event().wait())
agent.turn(agent.FileEventStore("transcripts"), "agent:ada", "pay Alan")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, arguments in (("python", ""), ("hangarlog", "-m hangarlog ")):
        (folder / name).write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" {arguments}"$@"\n')
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def test_the_page_is_true_from_its_first_line_to_its_last(tmp_path: Path, environment: dict[str, str]) -> None:
    """As somebody who tries it would: write, watch, kill, resume, search, change."""
    first, second = blocks("python")
    ask, watch, search = blocks("sh")
    (tmp_path / "agent.py").write_text(first)

    def shell(line: str) -> str:
        tool(line.split()[0] if line.split()[0] in ("jq", "grep") else "sh")
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), line
        return done.stdout.decode()

    assert [shell(line) for line in ask.splitlines()] == ["You have asked 1 times.\n", "paying Grace\nDone: paid\n"]
    tailed, listed = [shell(line) for line in watch.splitlines()]
    assert [json.loads(line)["event_type"] for line in tailed.splitlines()] == [
        "ToolCalled",
        "ToolReturned",
        "Answered",
    ]
    assert json.loads(listed)["stream_id"] == "agent:ada"
    agent = subprocess.Popen([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    assert agent.stdout
    assert agent.stdout.readline() == b"paying\n"
    os.kill(agent.pid, signal.SIGKILL)
    agent.communicate()
    (shown,) = blocks("text")
    assert shell("python agent.py ada").strip() == shown.strip().splitlines()[-1]
    assert '"damaged":0' in shell("hangarlog verify transcripts")
    asked, called, counted = [shell(line) for line in search.splitlines()]
    assert [line.split(" ", 1)[1] for line in asked.splitlines()] == ["hello", "pay Grace", "pay Alan"]
    assert (json.loads(called), counted) == ({"pay": 2}, "3\n")
    done = subprocess.run(
        [sys.executable, "-c", second], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_second_process_on_a_session_is_kept_out(tmp_path: Path, environment: dict[str, str]) -> None:
    """What the page says of the expected version."""
    (tmp_path / "agent.py").write_text(blocks("python")[0])
    program = """
import agent
from hangarlog import ANY, ConcurrencyError, FileEventStore
store = FileEventStore("transcripts")
agent.model = lambda history: store.append("agent:ada", [agent.Asked("from another")], ANY) and agent.Answered("late")
try:
    agent.turn(store, "agent:ada", "hello")
except ConcurrencyError:
    print([type(each).__name__ for each in store.read_stream("agent:ada")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.stdout == b"['Asked', 'Asked']\n", done.stderr
