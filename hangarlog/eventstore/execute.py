"""Decide and append: repeated until no other writer came between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from random import random

from hangarlog.errors import ConcurrencyError
from hangarlog.events.encoded_event import EncodedEvent
from hangarlog.events.registry import UntypedEvent
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.arguments import whole_number
from hangarlog.eventstore.record import Event

Decide = Callable[[list[Event], int], Sequence[Event | UntypedEvent | EncodedEvent] | None]
"""A decision: from a stream's events and its version (-1: no stream) to the events to append, if any."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.0005, 0.05


_this_thread = threading.local()


def until_written(
    attempt: Callable[[], AppendResult | ConcurrencyError],
    await_turn: Callable[[], None],
    turn: Callable[[], AbstractContextManager[None]],
    attempts: int,
) -> AppendResult:
    """Call `attempt` until it returns a result, and return that; after the first conflict, in `turn`.

    A decision that executes another one while this thread has a turn waits for none: it could wait for its own.

    Raises the last `ConcurrencyError` after `attempts`.
    """
    if whole_number("attempts", attempts) < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    nested = getattr(_this_thread, "has_turn", False)
    if not nested:
        await_turn()
    conflict = attempt()
    if isinstance(conflict, AppendResult):
        return conflict
    with nullcontext() if nested else turn():
        _this_thread.has_turn = True
        try:
            for count in range(1, attempts):
                result = attempt()
                if isinstance(result, AppendResult):
                    return result
                conflict = result
                # Plain appends do not wait for turns. A random pause keeps two writers from meeting again and again.
                time.sleep(random() * min(_FIRST_PAUSE_SECONDS * 2**count, _LONGEST_PAUSE_SECONDS))
        finally:
            _this_thread.has_turn = nested
    raise conflict
