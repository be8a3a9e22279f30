"""A command that a signal ends says so in one line, and leaves no piece of a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from hangarlog import ANY, FileEventStore, UntypedEvent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this system has no such signals")

INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
sys.argv[:] = [{program!r}, "stats", "s"]
from hangarlog.cli import run
run()
"""
"""Runs a command that Ctrl-C meets while it imports a module."""


@pytest.mark.parametrize("program", ["/usr/bin/hangarlog", "-m"])
@pytest.mark.parametrize(
    "module", ["hangarlog.filestore.store", "hangarlog.cli.standard_streams", "click", "hangarlog.cli.inspect"]
)
def test_an_interrupt_of_the_imports_is_one_line(tmp_path: Path, module: str, program: str) -> None:
    if program == "-m":
        (tmp_path / "sitecustomize.py").write_text(INTERRUPTED.partition("sys.argv")[0].format(module=module))
        command = [sys.executable, "-m", "hangarlog", "stats", "s"]
    else:
        command = [sys.executable, "-c", INTERRUPTED.format(module=module, program=program)]
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, b"", b"hangarlog: interrupted")


def test_a_program_that_uses_the_library_keeps_its_own_errors() -> None:
    program = "import sys, hangarlog; assert sys.excepthook is sys.__excepthook__"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("name", ["e.jsonl", "e.db"])
def test_an_export_that_a_signal_ends_leaves_no_piece(tmp_path: Path, name: str, number: signal.Signals) -> None:
    with FileEventStore.untyped(tmp_path / "s") as store:
        store.append("a:1", [UntypedEvent("T", {"x": "x" * 50}) for _ in range(20_000)], ANY)
    program = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
import sys
sys.argv[:] = ["hangarlog", "export", "s", {name!r}]
from hangarlog.cli import run
run()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        while not list(tmp_path.glob("*.unfinished")):
            assert process.poll() is None, "it ended before it was met"
            time.sleep(0.001)
        process.send_signal(number)
        _, errors = process.communicate()
    assert (process.returncode, errors.strip()) == (130, b"hangarlog: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
