"""A terminal's whole screen, drawn in one write a frame, and given back as it was however the command ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

from hangarlog.cli.terminal import write_screen

if sys.platform != "win32":
    import termios
    import tty

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""Use the other screen, hide the cursor, and do not wrap lines."""
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_ENDING = ("SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGXCPU", "SIGPIPE", "SIGIO", "SIGPWR")
"""Signals that end a process at once. SIGINT, SIGTERM and SIGHUP end it by an exception."""
_FALLBACK = (80, 24)
_QUIT = frozenset("qQ\x1b\x04")


class Screen:
    """The screen, for the block. Only the main thread uses it.

    A stop (Ctrl-Z) gives the terminal back, too, and takes it again when the process goes on.
    """

    def __init__(self) -> None:
        self._entered = False
        self._settings: list[Any] | None = None
        self._before: dict[int, Any] = {}
        self._wake: tuple[int, int] | None = None
        self._keys = True

    def __enter__(self) -> Screen:
        self._wake = os.pipe()
        for fd in self._wake:
            os.set_blocking(fd, False)
        self._wake_before = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        for name in _ENDING:
            self._handle(name, self._die)
        self._handle("SIGTSTP", self._stop)
        self._handle("SIGCONT", self._go_on)
        self._handle("SIGWINCH", _ignore)
        self._enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._leave()
        finally:
            signal.set_wakeup_fd(self._wake_before)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            for fd in self._wake or ():
                os.close(fd)

    def _handle(self, name: str, handler: Callable[[int, FrameType | None], None]) -> None:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, None):  # Else ignored, or taken.
            self._before[number] = signal.signal(number, handler)

    def _enter(self) -> None:
        """Take the terminal; doing so again is fine."""
        if not self._entered:
            self._settings = _settings_of_keys()
            self._entered = True
        _silence_keys(self._settings)
        write_screen(_ENTER)

    def _leave(self) -> None:
        """Give the terminal back as it was; doing so again is fine."""
        if self._entered:
            self._entered = False
            try:
                write_screen(_LEAVE)
            finally:
                _restore_keys(self._settings)

    def _die(self, number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(Exception):
            self._leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(Exception):
            self._leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # It returns when the process goes on.
        signal.signal(number, self._stop)
        self._enter()

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        self._enter()  # Also after a stop that no handler sees.

    def size(self) -> tuple[int, int]:
        """Return (columns, rows)."""
        try:
            found = os.get_terminal_size(sys.stdout.fileno())
        except (OSError, ValueError):
            return _FALLBACK
        return found.columns or _FALLBACK[0], found.lines or _FALLBACK[1]

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines and nothing else. They must be narrower than the screen, and not more than it has rows."""
        # Without line ends, which would scroll a screen that has just become smaller.
        text = "".join(f"\x1b[{row};1H{line}{_END_OF_LINE}" for row, line in enumerate(lines, 1))
        write_screen(_HOME + text + _END_OF_SCREEN)

    def wait(self, seconds: float) -> bool:
        """Sleep until a key is pressed or a signal comes, for at most `seconds`. Return True if the user quits."""
        assert self._wake
        keys = sys.stdin.fileno() if self._keys and self._settings else -1
        ready = select.select([self._wake[0], *([keys] if keys >= 0 else [])], [], [], max(0.0, seconds))[0]
        if self._wake[0] in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake[0], 1 << 12)
        if keys not in ready:
            return False
        typed = ""
        with contextlib.suppress(OSError):
            typed = os.read(keys, 1 << 10).decode("latin-1")
        self._keys = typed != ""  # Else nobody types any more.
        return typed[:1] in _QUIT and (typed[:1] != "\x1b" or len(typed) == 1) if typed else False


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the signal has ended the wait."""


def _settings_of_keys() -> list[Any] | None:
    """Return how the terminal treats keys, None if standard input is no terminal."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError, ValueError, termios.error):
            if os.isatty(sys.stdin.fileno()):
                return termios.tcgetattr(sys.stdin.fileno())
    return None


def _silence_keys(settings: list[Any] | None) -> None:
    """Let keys come at once, and not be shown."""
    if settings is not None and sys.platform != "win32":
        with contextlib.suppress(OSError, ValueError, termios.error):
            tty.setcbreak(sys.stdin.fileno(), termios.TCSADRAIN)


def _restore_keys(settings: list[Any] | None) -> None:
    if settings is not None and sys.platform != "win32":
        with contextlib.suppress(OSError, ValueError, termios.error):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, settings)
