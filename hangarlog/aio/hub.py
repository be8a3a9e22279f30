"""One thread that follows a store for all subscriptions that have caught up: it reads and decodes each event once.

It reads on when a subscription waits for more, and keeps the last chunks for those that are not as far. A subscription
takes them at its own pace. So nobody has a queue that could overflow, and a slow one holds up no other: it falls behind
what is kept, and reads by itself until it is there again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter, sleep
from typing import Literal

import anyio

from hangarlog.aio.chunks import Chunk
from hangarlog.aio.event_loop import LoopCalls, loop_calls
from hangarlog.eventstore.tail import Tail

_MAX_RECORDS, _MAX_BYTES = 8192, 4 << 20
"""What is kept for those behind, besides the last chunk."""
_PATIENCE_SECONDS = 1.0
"""Seconds for which the thread goes on without a subscription that waits."""


_REST_SECONDS, _MAX_REST_SECONDS = 30e-6, 0.004
"""Rest after waking subscriptions, for each of them, and at most. Waking one takes 6 µs: events that come meanwhile go
together, so that wake-ups take a fifth of a processor at most, and a writer beside them keeps its own."""


class WakeUp:
    """What wakes all who wait in one event loop, at once. `error` is why the hub has ended, if it has."""

    __slots__ = ("_calls", "error", "event")

    def __init__(self, calls: LoopCalls) -> None:
        self._calls, self.event = calls, anyio.Event()
        self.error: BaseException | None = None

    def __call__(self) -> None:
        """Wake them, from any thread. Who has nothing to do waits again."""
        self._calls(self.event.set)


class Waiter:
    """A subscription that waits for the events after `position`."""

    __slots__ = ("position", "wake_up")

    def __init__(self, position: int) -> None:
        self.position = position
        self.wake_up: WakeUp | None = None


class Hub:
    """Follows a store for its subscriptions.

    Args:
        open_tail: Returns what reads after a position.
        read: Returns a chunk of what a tail has now, None if it has nothing. It raises what reads raise.
    """

    def __init__(self, open_tail: Callable[[int], Tail], read: Callable[[Tail], Chunk | None]) -> None:
        self._open_tail, self._read = open_tail, read
        self._changed = threading.Condition()
        self._chunks: deque[Chunk] = deque()
        self._records = self._bytes = 0
        self._start = self._end = 0  # The positions before the first chunk, and of the last event.
        self._waiting: set[Waiter] = set()
        self._wake_ups: dict[LoopCalls, WakeUp] = {}
        self._asked = False  # Somebody has begun to wait, and perhaps left: read once, so that short waits get on, too.
        self._thread: threading.Thread | None = None
        self._tail: Tail | None = None
        self._closed = False

    def after(self, position: int) -> Chunk | None:
        """Return the chunk with the event after `position`, if it is kept."""
        with self._changed:
            if self._thread is None or not self._start <= position < self._end:
                return None
            return next(chunk for chunk in reversed(self._chunks) if chunk.before <= position)

    def wait(self, waiter: Waiter, *, at_end: bool) -> Literal["waits", "look", "behind"]:
        """Wake the subscription when there is more, by the wake-up that the waiter then has.

        It need not wait if the hub is further already: it must look again if that is kept, else read by itself.
        `at_end` tells that it has just read by itself, and found nothing more.
        """
        with self._changed:
            if self._thread is None:
                if not at_end:
                    return "behind"
                if not self._closed:
                    self._begin(waiter.position)
            elif waiter.position < self._end:
                return "look" if self._start <= waiter.position else "behind"
            elif waiter.position > self._end and not at_end:
                return "behind"
            wake_up = waiter.wake_up = self._wake_up()
            self._waiting.add(waiter)
            self._asked = True
            self._changed.notify_all()
        if self._closed:
            wake_up()
        return "waits"

    def _wake_up(self) -> WakeUp:
        calls = loop_calls()
        found = self._wake_ups.get(calls)
        if found is None or found.event.is_set():
            found = self._wake_ups[calls] = WakeUp(calls)
        return found

    def leave(self, waiter: Waiter) -> None:
        """Wait no more."""
        if waiter in self._waiting:  # Else it was woken, as nearly always.
            with self._changed:
                self._waiting.discard(waiter)

    def close(self) -> None:
        """End the thread, and wake all who wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, tail = self._thread, self._tail
        if tail is not None:
            tail.stop()
        if thread is not None:
            thread.join()

    # The thread

    def _begin(self, position: int) -> None:
        self._start = self._end = position
        self._chunks.clear()
        self._records = self._bytes = 0
        self._thread = threading.Thread(target=self._run, args=(position,), name="hangarlog-follow", daemon=True)
        self._thread.start()

    def _run(self, position: int) -> None:
        error: BaseException | None = None
        tail: Tail | None = None
        rest_until = 0.0
        try:
            tail = self._open_tail(position)
            with self._changed:
                self._tail = tail
            while self._is_needed():
                if (early := rest_until - perf_counter()) > 0:
                    sleep(early)
                chunk = self._read(tail)
                if chunk is None:
                    tail.wait(_PATIENCE_SECONDS)
                else:
                    rest_until = perf_counter() + min(self._publish(chunk) * _REST_SECONDS, _MAX_REST_SECONDS)
        except BaseException as failure:
            error = failure  # It goes to those who wait. They read by themselves, and so get errors of their own.
        finally:
            if tail is not None:
                tail.close()
            self._end_with(error)

    def _is_needed(self) -> bool:
        """True as soon as a subscription waits for more. False if none does for a while: then this hub has ended."""
        with self._changed:
            if not self._waiting and not self._asked and not self._closed:
                self._changed.wait(_PATIENCE_SECONDS)
            asked, self._asked = self._asked, False
            if (self._waiting or asked) and not self._closed:
                return True
            self._end_with(None)  # Under the lock: who waits from now on begins anew.
            return False

    def _publish(self, chunk: Chunk) -> int:
        """Give a chunk to those who wait, and return how many these are."""
        with self._changed:
            if self._chunks:
                self._chunks[-1].following = chunk
            self._chunks.append(chunk)
            self._end = chunk.last
            self._records += len(chunk.records)
            self._bytes += chunk.size
            while len(self._chunks) > 1 and (self._records > _MAX_RECORDS or self._bytes > _MAX_BYTES):
                self._drop_first()
            count, woken = len(self._waiting), self._take_waiting()
        for wake_up in woken:
            wake_up()
        return count

    def _take_waiting(self) -> Iterable[WakeUp]:
        """Return the wake-ups of all who wait. Each of them knows what it waits for, and looks."""
        woken, self._wake_ups = self._wake_ups, {}
        self._waiting.clear()
        return woken.values()

    def _drop_first(self) -> None:
        first = self._chunks.popleft()
        first.following = None  # Who still has it must not hold all that follow.
        self._records -= len(first.records)
        self._bytes -= first.size
        self._start = first.last

    def _end_with(self, error: BaseException | None) -> None:
        with self._changed:
            if self._thread is not threading.current_thread():
                return  # It has ended already.
            self._thread = self._tail = None
            self._chunks.clear()
            woken = self._take_waiting()
        for wake_up in woken:
            wake_up.error = error
            wake_up()
