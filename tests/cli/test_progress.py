"""The line that shows how far a long command has got."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DATABASE, ROOT

from hangarlog import ANY, FileEventStore, UntypedEvent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this system has no pseudo-terminals")

RUN = "import sys; from hangarlog.cli import progress, run; progress.DELAY_SECONDS = 0; run()"
APPLICATION = "from hangarlog import EventSerializer\nserializer = EventSerializer(unknown='untyped')\n"


def on_a_terminal(folder: Path, program: str, *words: object, output: str | None = None) -> tuple[int, str]:
    """(the exit code, what is drawn) of a program whose standard error is a terminal; its output goes to a file."""
    import pty

    master, slave = pty.openpty()
    with open(folder / (output or "output"), "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, words)],
            cwd=folder,
            stdout=file if output else subprocess.PIPE,
            stderr=slave,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"},
        )
        os.close(slave)
        drawn = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # What a terminal says when nobody has it open any more.
                break
            if not part:
                break
            drawn += part
        process.communicate()
    os.close(master)
    return process.returncode, drawn.decode()


def left_on_the_line(drawn: str) -> str:
    """What a person sees at last, on a terminal that knows nothing but the return to the line's start."""
    seen: list[str] = []
    for part in drawn.replace("\r\n", "\n").split("\n")[-1].split("\r"):
        seen[: len(part)] = part
    return "".join(seen).rstrip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("progress")
    (path / "events.py").write_text(APPLICATION)
    with FileEventStore(path / "s", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("T", {"x": "x" * 30}) for _ in range(2000)], ANY)
    return path


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["verify", "s"], r"verifying  \[#* *\]  [\d,]+ of 4,000"),
        (["repair", "s"], "repairing"),
        (["export", "s", "out.db"], r"exporting  \[#* *\]  [\d,]+ of 2,000"),
        (["export", "s", "out.jsonl"], r"exporting  \[#* *\]  [\d,]+ of 2,000"),
        (["export", "s", "-"], r"exporting  \[#* *\]  [\d,]+ of 2,000"),
        (["import", "t", DATABASE], r"importing  \[#* *\]  [\d,]+ of 758"),
        (["import", "u", "s/journal.jsonl"], r"importing  \[#* *\]  [\d,]+ of [\d,]+"),
        (["backup", "s", "b"], r"copying  .*\r *\r.*verifying "),
        (["read", "s"], "reading"),
        (["schema", "check", "--store", "s", "--events", "events"], r"reading  \[#* *\]  [\d,]+ of 2,000"),
        (["schema", "show", "s"], r"reading  \[#* *\]  [\d,]+ of 2,000"),
    ],
)
def test_a_command_that_may_last_shows_it_on_a_terminal_and_cleans_up(
    folder: Path, words: list[object], shown: str
) -> None:
    """Each draws once at least, because the time before which nothing is drawn is none here."""
    code, drawn = on_a_terminal(folder, RUN, *words, output="file")
    assert code == 0, drawn
    assert re.search(shown, drawn, re.DOTALL), drawn
    assert left_on_the_line(drawn) == ""


def test_a_read_into_a_pipe_and_a_short_command_show_nothing(folder: Path) -> None:
    """The pager at the end of the pipe has the terminal; and nobody wants to see a line for a moment."""
    code, drawn = on_a_terminal(folder, RUN, "read", "s", "--limit", "9")
    assert (code, "reading" in drawn) == (0, False)
    assert on_a_terminal(folder, RUN.replace("= 0", "= 60"), "verify", "s") == (0, "")


def test_the_line_is_drawn_ten_times_a_second_at_most_and_while_nothing_advances(tmp_path: Path) -> None:
    program = """
from hangarlog.cli import progress
progress.DELAY_SECONDS = 0
drawn, draw = [], progress.Progress._draw
enough = progress.threading.Event()
def counted(line):
    draw(line)
    drawn.append(1)
    if len(drawn) == 6:
        enough.set()
progress.Progress._draw = counted
with progress.Progress("counting", 7_000_000) as line:
    while not enough.is_set():
        line.advance(1)
"""
    began = time.monotonic()
    code, drawn = on_a_terminal(tmp_path, program)
    assert time.monotonic() - began >= 0.5
    assert code == 0
    assert drawn.count("counting") >= 6
    assert left_on_the_line(drawn) == ""


def test_what_is_printed_meanwhile_gets_a_line_of_its_own(tmp_path: Path) -> None:
    program = """
from hangarlog.cli import progress, terminal
progress.DELAY_SECONDS = 0
drawn, draw = progress.threading.Event(), progress.Progress._draw
progress.Progress._draw = lambda line: (draw(line), drawn.set())
with terminal.progress("counting"):
    drawn.wait()
    terminal.say("a warning", err=True)
    terminal.say("another", err=True)
"""
    _, drawn = on_a_terminal(tmp_path, program)
    lines = [left_on_the_line(line) for line in drawn.replace("\r\n", "\n").split("\n")]
    assert lines == ["a warning", "another", ""]


def test_the_line_fits_into_the_terminal_and_says_what_is_left() -> None:
    from hangarlog.cli.progress import Progress

    line = Progress("verifying", 1000)
    line.advance(250)
    assert line._text(10.0, 79) == "verifying  [#####               ]  250 of 1,000  0:30 left"
    assert line._text(1.0, 79) == "verifying  [#####               ]  250 of 1,000"
    assert line._text(1.0, 39) == "verifying  [###         ]  250 of 1,000"
    assert line._text(10.0, 39) == "verifying  250 of 1,000  0:30 left"
    assert Progress("opening the store", None)._text(75.0, 79) == "opening the store  1:15"
    assert Progress("verifying", 0)._text(3700.0, 79) == "verifying  1:01:40"
    line.advance(10_000)
    assert line._text(5.0, 79).endswith("0:00 left")
