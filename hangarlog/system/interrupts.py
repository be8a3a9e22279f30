"""Signals that end a program: Ctrl-C, SIGTERM and SIGHUP end what it does, but never its cleaning up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType, TracebackType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_IMPATIENCE_SECONDS = 2.0


class Interrupts:
    """Turns signals into `KeyboardInterrupt`, except while they are held. Only the main thread gets them.

    One that comes soon after another is taken for the same: a terminal, a shell and a supervisor may each send one.
    `seen` is True once one came: Python drops exceptions of signal handlers that run in a finalizer.
    """

    def __init__(self, noted: Callable[[], None] = lambda: None) -> None:
        """`noted` is called in the handler of the first signal that is held."""
        self._noted = noted
        self.seen = False
        self._at = 0.0
        self._held = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # Else ignored, or taken.
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = self.seen and monotonic() - self._at < _IMPATIENCE_SECONDS
        first, self.seen, self._at = not self.seen, True, monotonic()
        if first and self._held:
            self._noted()
        if not (self._held or again):
            raise KeyboardInterrupt

    def hold(self) -> None:
        """Only note signals from now on."""
        self._held = True

    def release(self) -> None:
        """Raise `KeyboardInterrupt` for signals from now on, and for one that was held."""
        self._held = False
        self.check()

    def forget(self) -> None:
        """Take the signal that was held for answered, and raise `KeyboardInterrupt` for those that come later."""
        self.seen = self._held = False

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal came."""
        if self.seen:
            raise KeyboardInterrupt
