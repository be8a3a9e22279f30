"""How events look on a terminal: a line each, cut to its width, with the time in UTC; or indented."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import sys
import termios
from pathlib import Path

import pytest
from conftest import ROOT, Command

from hangarlog import FileEventStore, UntypedEvent
from hangarlog.cli.display import _columns_of, cut, shown_time

if sys.platform == "win32":
    pytest.skip("this system has no pseudo-terminals", allow_module_level=True)


def width_of(text: str) -> int:
    return sum(map(_columns_of, text))


def shown(folder: Path, width: int, *arguments: str, **environment: str) -> list[str]:
    """The lines that a command shows on a terminal of so many columns, without colours."""
    pid, master = pty.fork()
    if not pid:  # pragma: no cover - the child
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        os.chdir(folder)
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        kept |= {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "dumb", **environment}
        os.execve(sys.executable, [sys.executable, "-m", "hangarlog", *arguments], kept)
    text = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        text += part
    os.close(master)
    assert os.waitpid(pid, 0)[1] == 0, text
    return text.decode().replace("\r\n", "\n").splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("T", {"n": 1})], -1)
        store.append("a:1", [UntypedEvent("T", {"text": "漢字" * 100, "more": [1, {"x": []}]})], 0, metadata={"m": 1})
    return tmp_path


def test_a_line_is_cut_to_the_width_of_the_terminal_and_says_utc(folder: Path) -> None:
    """An event that fits is whole. `--full` cuts nothing, COLUMNS is believed, a pipe gets the stored lines."""
    short, long = shown(folder, 100, "read", "s")
    assert short.endswith(' UTC a:1@0 T {"_version":1,"n":1}')
    assert long.endswith("…")
    assert width_of(long) in (99, 100)
    assert shown(folder, 100, "tail", "s") == [short, long]
    whole = shown(folder, 100, "read", "s", "--full")
    assert whole[0] == short
    assert whole[1].startswith(long[:-1])
    assert whole[1].endswith('"more":[1,{"x":[]}]} {"m":1}')
    assert [width_of(line) <= 50 for line in shown(folder, 100, "read", "s", COLUMNS="50")] == [True, True]


def test_a_terminal_that_does_not_tell_its_width_gets_whole_lines(folder: Path) -> None:
    assert shown(folder, 0, "read", "s")[1].endswith('{"m":1}')


def test_a_terminal_gets_indented_payloads_if_asked_and_so_does_a_pipe(folder: Path, hangarlog: Command) -> None:
    on_terminal = shown(folder, 60, "read", "s", "--pretty")
    head, *payload = on_terminal[:5]
    assert head.endswith("UTC a:1@0 T")
    assert payload[:4] == ["    {", '      "_version": 1,', '      "n": 1', "    }"]
    assert on_terminal[-3:] == ["    metadata {", '      "m": 1', "    }"]
    assert hangarlog("read", "s", "--pretty").stdout.decode().splitlines() == on_terminal
    assert hangarlog("tail", "s", "--pretty", "-n", 1).stdout.decode().splitlines() == on_terminal[5:]
    assert hangarlog("read", "s", "--pretty", "--raw").returncode == 2


def test_times_of_stats_say_utc_on_a_terminal(folder: Path, hangarlog: Command) -> None:
    times = [line for line in shown(folder, 100, "stats", "s") if " at " in line]
    assert len(times) == 3
    assert all(line.endswith(" UTC") for line in times)
    assert json.loads(hangarlog("stats", "s").stdout)["created_at"].endswith("Z")
    assert shown_time("\x1b") == "\x1b"


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("漢字漢", 6, "漢字漢"),
        ("漢字漢字", 6, "漢字…"),
        ("漢字漢字", 7, "漢字漢…"),
        ("e\u0301" * 6, 6, "e\u0301" * 6),
        ("e\u0301" * 7, 6, "e\u0301" * 5 + "…"),
        ("😀😀", 4, "😀😀"),
        ("😀😀😀", 4, "😀…"),
        ("ab\x1b", 8, "ab\x1b"),
        ("abc\x1b", 8, "abc…"),
        ("\U000e0041ab", 13, "\\udb40\\udc41…"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
    ],
)
def test_width_is_that_of_what_is_shown(text: str, width: int, expected: str) -> None:
    """Of wide characters, of combining marks, and of escapes, which are never cut in two."""
    assert "".join(part for part, _ in cut([(text, {})], width, "utf-8")) == expected


def test_any_number_of_combining_marks_takes_no_more_than_a_line() -> None:
    found = "".join(part for part, _ in cut([("e" + "\u0301" * 100_000, {})], 80, "utf-8"))
    assert len(found) < 400


def test_a_terminal_of_few_letters_is_counted_with_its_escapes() -> None:
    """And its ellipsis is one that it has."""
    assert "".join(part for part, _ in cut([("中中", {})], 12, "latin-1")) == "中中"
    assert "".join(part for part, _ in cut([("中中中", {})], 12, "latin-1")) == "\\u4e2d..."


def test_a_cut_keeps_the_styles_of_what_is_left() -> None:
    parts = [("ab", {"dim": True}), (" ", {}), ("cdef", {"fg": "red"})]
    assert cut(parts, 5, "utf-8") == [("ab", {"dim": True}), (" ", {}), ("c", {"fg": "red"}), ("…", {"dim": True})]


def test_a_dumb_terminal_gets_no_colours(folder: Path) -> None:
    """`NO_COLOR` is empty here, which counts as not set."""
    assert "\x1b" not in "".join(shown(folder, 80, "verify", "s", NO_COLOR=""))
    assert "\x1b" in "".join(shown(folder, 80, "verify", "s", NO_COLOR="", TERM="xterm"))


def test_a_value_that_is_missing_is_a_dash(folder: Path) -> None:
    """A second installation adds no line to the start file."""
    home = str(folder)
    assert shown(folder, 200, "completion", "bash", "--install", HOME=home)[1].endswith(".bashrc")
    assert shown(folder, 200, "completion", "bash", "--install", HOME=home)[1] == "added to  -"
