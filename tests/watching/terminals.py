"""A pseudo-terminal with a program in it, and what it has been told to show."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT

ENTER, LEAVE = b"\x1b[?1049h\x1b[?25l\x1b[?7l", b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
STYLE = re.compile(rb"\x1b\[[0-9;]*m")

RESET = """
import signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGALRM", "SIGTSTP"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


LEADER = """
import os, signal, sys
child = os.fork()
if not child:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    print("[stopped]", flush=True)
code = os.waitstatus_to_exitcode(status)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
"""A shell's part: it gives a program the terminal, and says when the program has stopped."""


class Terminal:
    """A program on a terminal of its own, with a leader of its session beside it, as a shell is."""

    def __init__(self, command: list[Any], columns: int, rows: int, environment: dict[str, str]) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns, rows)
        self.settings = termios.tcgetattr(self.slave)
        self.shown = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEADER, *map(str, command)],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={
                **os.environ,
                "TERM": "xterm-256color",
                "PYTHONIOENCODING": "utf-8",
                "PYTHONPATH": str(ROOT),
                **environment,
            },
            preexec_fn=self._lead,
        )

    @staticmethod
    def _lead() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> None:
        self.shown += os.read(self.master, 1 << 16)

    def read_until(self, text: bytes, count: int = 1) -> None:
        """Read until a text was shown so often."""
        while self.shown.count(text) < count:
            self.read()

    def signal(self, number: int) -> None:
        """Send a signal to the program."""
        os.kill(os.tcgetpgrp(self.master), number)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        """Read what comes until the program has ended, and return its exit code."""
        os.set_blocking(self.master, False)
        while True:
            ended = self.process.poll() is not None
            with contextlib.suppress(BlockingIOError, OSError):
                while True:
                    self.read()
            if ended:
                return int(self.process.returncode)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)

    def frames(self) -> list[bytes]:
        """What was shown, frame by frame, without the beginning and the end."""
        text = self.shown.partition(ENTER)[2].partition(LEAVE)[0]
        return [part for part in text.split(b"\x1b[H")[1:] if part.endswith(b"\x1b[J")]


def lines_of(frame: bytes) -> list[str]:
    """The lines of a frame without colours."""
    plain = STYLE.sub(b"", frame).removesuffix(b"\x1b[K\x1b[J").decode()
    found = re.split(r"(?:\x1b\[K)?\x1b\[(\d+);1H", plain)
    assert found[0] == ""
    assert [int(row) for row in found[1::2]] == [*range(1, 1 + len(found) // 2)]
    return found[2::2]


@contextlib.contextmanager
def terminal(*command: Any, columns: int = 80, rows: int = 24, **environment: str) -> Iterator[Terminal]:
    opened = Terminal(list(command), columns, rows, environment)
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()
        os.close(opened.master)
        os.close(opened.slave)


def watching(path: Path, *options: Any) -> list[Any]:
    """The command, with the signals that a shell gives it."""
    words = ["hangarlog", "stats", path, "--watch", *options]
    program = f"{RESET}\nsys.argv[:] = {list(map(str, words))!r}\nfrom hangarlog.cli import run\nrun()"
    return [sys.executable, "-c", program]
