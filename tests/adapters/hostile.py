"""Names and values that break stores, and processes that are killed or run together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

NAMES = [
    "plain",
    "../../etc/passwd",
    "..",
    ".",
    "/etc/passwd",
    "C:\\x",
    "a/b",
    "a_b",
    "a%2Fb",
    "a:b",
    "$system",
    "%",
    "%25",
    "con",
    "Plain",
    "line\nbreak",
    "nul\0",
    "\x1b[31mred",
    "\u2028",
    "é" * 150,
    "e\u0301",
    "é",
    "😀",
    "\ud83d",
    " ",
    " padded ",
    "a" * 255,
    "'; DROP TABLE sessions; --",
]
"""Names of sessions: all are different, and each must be kept apart from all others."""

VALUES = [
    None,
    "",
    "\u2028\u2029\u0085\0\x1b[2J",
    "half a pair \ud83d",
    float("nan"),
    float("-inf"),
    2**70,
    -(2**63),
    1e22,
    0.1 + 0.2,
    [],
    {},
    {"": {"_version": 7, "data": None}},
    [[[[]]]],
    "x" * 300_000,
]
"""What JSON as Python writes it can hold, and reads back equal."""


def deep(levels: int = 200) -> list:
    """Return a list that is nested deeper than most stores take."""
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def same(left: object, right: object) -> bool:
    """True if two values are equal, NaN to NaN too."""
    return repr(left) == repr(right)


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program that prints a line for each thing that it was told is done."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_after(program: str, lines: int, *arguments: object) -> list[str]:
    """Run a program, kill it with kill -9 after some lines, and return all the lines that it had printed."""
    process = start(program, *arguments)
    assert process.stdout
    said = [process.stdout.readline().strip() for _ in range(lines)]
    os.kill(process.pid, signal.SIGKILL)
    said += [line.strip() for line in process.stdout.read().splitlines() if line.endswith(".")]
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    return said


def together(program: str, count: int, *arguments: object) -> list[str]:
    """Run a program in several processes at once, with a number for each, and return all that they print."""
    processes = [start(program, *arguments, number) for number in range(count)]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return [line for text in said for line in text.splitlines()]


def no_file_outside(folder: Path, store: Path) -> bool:
    """True if a folder holds nothing but the store."""
    return [path.name for path in folder.iterdir()] == [store.name]
