"""Sleep until a cursor has moved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic, sleep

from hangarlog.filestore.shared_state import SharedState
from hangarlog.system.waking import Waking

_PATIENCE_SECONDS = 1.0
"""Seconds after which a sleeper that nobody woke looks again: the process that moved the cursor may have died."""
_POLL_SECONDS, _MAX_POLL_SECONDS = 0.001, 0.02


def await_cursors(
    state: SharedState,
    reached: Callable[[], bool],
    calling: Callable[[], AbstractContextManager[None]],
    seconds: float,
) -> bool:
    """Sleep until `reached()`, for at most `seconds`. Return True if it was reached.

    `calling` is a call of the store, which raises if the store was closed.
    """
    until, poll = monotonic() + seconds, _POLL_SECONDS
    if reached():
        return True
    waking, inode = state.waking_of_cursors(), -1
    try:
        while True:
            with calling():  # The state's file stays open meanwhile.
                if inode != state.inode:  # It was replaced.
                    inode = state.inode
                    _attach(state, waking)
                word = waking.announce() if waking.works else 0
            if reached():
                return True
            left = until - monotonic()
            if left <= 0:
                return False
            if word & 1:
                waking.wait(word, min(left, _PATIENCE_SECONDS))
            else:
                sleep(min(left, poll))
                poll = min(2 * poll, _MAX_POLL_SECONDS)
    finally:
        waking.detach()


def _attach(state: SharedState, waking: Waking) -> None:
    state.attach_cursors(waking)
    if state.writable:
        waking.map()
