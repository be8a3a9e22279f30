"""A line on standard error that shows how far a long command has got, on a terminal only."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from time import monotonic

INTERVAL_SECONDS = 0.1
"""Seconds between two drawings at least."""

DELAY_SECONDS = 0.5
"""A command that ends within this time shows nothing."""

_FAST_SECONDS = 2.0
"""Seconds after which the time that is left is estimated."""

_BAR_WIDTH = 20
_LEAST_BAR_WIDTH = 5

_lock = threading.RLock()  # A finalizer may print a warning while its thread draws.
_shown: Progress | None = None


class Progress:
    """Draws the line from a thread of its own until its block ends, then erases it.

    The thread also draws while the number stands still, so that a person sees that the command is alive.
    """

    def __init__(self, label: str, total: int | None) -> None:
        """Without a `total`, the line has the number only, or the time as long as that is 0."""
        self._label, self._total, self._count = label, total, 0
        self._began, self._ended = monotonic(), threading.Event()
        self._width = 0  # Of what is on the line now.
        self._thread: threading.Thread | None = None

    def advance(self, count: int) -> None:
        """Note that so many more are done."""
        self._count += count

    def __enter__(self) -> Progress:
        global _shown
        if _shown is None and sys.stderr.isatty():
            _shown = self
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # No more threads: the command matters more than its progress.
                self._thread = _shown = None
        return self

    def __exit__(self, *error: object) -> None:
        global _shown
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            _shown = None

    def _run(self) -> None:
        while True:
            if monotonic() - self._began >= DELAY_SECONDS:
                with _lock:
                    self._draw()
            if self._ended.wait(INTERVAL_SECONDS):
                break
        with _lock:
            self.erase()

    def _draw(self) -> None:
        columns = _columns()
        if columns:
            text = self._text(monotonic() - self._began, columns - 1)[: columns - 1]
            sys.stderr.write(f"\r{text}{' ' * (self._width - len(text))}")
            sys.stderr.flush()
            self._width = len(text)

    def erase(self) -> None:
        """Leave an empty line, with means that every terminal has."""
        if self._width:
            sys.stderr.write(f"\r{' ' * self._width}\r")
            sys.stderr.flush()
            self._width = 0

    def _text(self, seconds: float, width: int) -> str:
        """Return the line; the bar is shorter, or missing, if the numbers would not fit into `width` beside it."""
        if not self._total:
            return f"{self._label}  {self._count:,}" if self._count else f"{self._label}  {_clock(seconds)}"
        part = min(1.0, self._count / self._total)
        numbers = f"  {self._count:,} of {self._total:,}"
        if seconds >= _FAST_SECONDS and self._count:
            numbers += f"  {_clock(seconds / part - seconds)} left"
        room = min(_BAR_WIDTH, width - len(f"{self._label}  []{numbers}"))
        bar = f"  [{'#' * int(part * room):<{room}}]" if room >= _LEAST_BAR_WIDTH else ""
        return f"{self._label}{bar}{numbers}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _columns() -> int:
    """Return the width of the terminal; 0 if this process runs in its background."""
    number = sys.stderr.fileno()
    with contextlib.suppress(OSError, AttributeError):
        if os.tcgetpgrp(number) != os.getpgrp():
            return 0
    try:
        return os.get_terminal_size(number).columns or 80
    except OSError:
        return 80


@contextlib.contextmanager
def line_erased() -> Iterator[None]:
    """Erase the line, if there is one, and do not draw it during the block, which may write to the terminal."""
    if _shown is None:
        yield
        return
    with _lock:
        _shown.erase()
        yield
