"""The tutorial, followed step by step: each file is saved, each command is run, and prints what the page says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = ROOT / "docs/tutorial.md"
BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE_SECONDS = 60.0

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="its commands are those of a POSIX shell"),
    pytest.mark.skipif(not (shutil.which("jq") and shutil.which("bash")), reason="jq or bash is not installed"),
]


class Reader:
    """Somebody who follows the page in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.agent = folder, folder / "agent.py"
        bins = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": bins, "PYTHONPATH": str(ROOT)}
        self.commands = 0
        self.follower: subprocess.Popen[bytes] | None = None
        self.steps = {
            ("python", ""): self.agent.write_text,
            ("python", "replace"): self.replace_class,
            ("python", "edit"): self.edit,
            ("console", ""): self.run,
            ("sh", "follow"): self.follow,
        }

    def replace_class(self, text: str) -> None:
        """Replace the class `AgentSaid` and its decorator."""
        old = re.compile(r"^@event\S*\nclass AgentSaid\(.*?(?=\n\n\n)", re.MULTILINE | re.DOTALL)
        source, count = old.subn(text.rstrip("\n"), self.agent.read_text())
        assert count == 1
        self.agent.write_text(source)

    def edit(self, text: str) -> None:
        """Replace the first line of a block by the second."""
        before, after = text.splitlines()
        source = self.agent.read_text()
        assert source.count(before) == 1
        self.agent.write_text(source.replace(before, after))

    def run(self, text: str) -> None:
        """Run each command, and compare what it prints; `…` stands for anything."""
        for command, expected in re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", text, re.MULTILINE):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            pattern = ".*".join(map(re.escape, expected.split("…")))
            assert re.fullmatch(pattern, done.stdout, re.DOTALL), f"{command}\n{done.stdout}{done.stderr or ''}"
            self.commands += 1

    def follow(self, text: str) -> None:
        """Run a command in another terminal, until it has printed what is there."""
        with (self.folder / "followed").open("wb") as output:
            self.follower = subprocess.Popen(
                ["bash", "-c", text], cwd=self.folder, env=self.environment, stdout=output, start_new_session=True
            )
        self.await_followed("That makes 42.")

    def await_followed(self, text: str) -> None:
        """Wait until the follower has printed this."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in (self.folder / "followed").read_text():
            assert time.monotonic() < deadline, (self.folder / "followed").read_text()
            time.sleep(0.02)


def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for language, kind, text in BLOCK.findall(PAGE.read_text()):
            reader.steps[language, kind](text)
        reader.await_followed("You said 'are you there?'")
    finally:
        if reader.follower:
            os.killpg(reader.follower.pid, signal.SIGKILL)
            reader.follower.wait()
    assert reader.commands >= 15
