"""One thread that follows a store for all subscriptions that have caught up: it reads and decodes each event once.

It reads on when a subscription waits for more, and keeps the last chunks for those that are not as far. A subscription
takes them at its own pace. So nobody has a queue that could overflow, and a slow one holds up no other: it falls behind
what is kept, and reads by itself until it is there again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

from hangarlog.aio.chunks import Chunk
from hangarlog.eventstore.tail import Tail

_MAX_RECORDS, _MAX_BYTES = 8192, 4 << 20
"""What is kept for those behind, besides the last chunk."""
_PATIENCE_SECONDS = 1.0
"""Seconds for which the thread goes on without a subscription that waits."""


class Waiter:
    """A subscription that waits for the events after `position`. `error` is why the hub has ended, if it has."""

    __slots__ = ("error", "position", "wake")

    def __init__(self, position: int, wake: Callable[[], None]) -> None:
        self.position, self.wake = position, wake
        self.error: BaseException | None = None


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
        self._asked = False  # Somebody has begun to wait, and perhaps left: read once, so that short waits get on, too.
        self._thread: threading.Thread | None = None
        self._tail: Tail | None = None
        self._closed = False

    def after(self, position: int) -> Chunk | None:
        """Return the chunk with the event after `position`, if it is kept."""
        with self._changed:
            if self._thread is None or not self._start <= position < self._end:
                return None
            return next(chunk for chunk in self._chunks if position < chunk.last)

    def wait(self, waiter: Waiter, *, at_end: bool) -> Literal["waits", "look", "behind"]:
        """Wake the subscription when there is more.

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
            self._waiting.add(waiter)
            self._asked = True
            self._changed.notify_all()
        if self._closed:
            waiter.wake()
        return "waits"

    def leave(self, waiter: Waiter) -> None:
        """Wait no more."""
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
        try:
            tail = self._open_tail(position)
            with self._changed:
                self._tail = tail
            while self._is_needed():
                chunk = self._read(tail)
                if chunk is None:
                    tail.wait(_PATIENCE_SECONDS)
                else:
                    self._publish(chunk)
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

    def _publish(self, chunk: Chunk) -> None:
        with self._changed:
            if self._chunks:
                self._chunks[-1].following = chunk
            self._chunks.append(chunk)
            self._end = chunk.last
            self._records += len(chunk.records)
            self._bytes += chunk.size
            while len(self._chunks) > 1 and (self._records > _MAX_RECORDS or self._bytes > _MAX_BYTES):
                self._drop_first()
            woken = [waiter for waiter in self._waiting if waiter.position < chunk.last]
            self._waiting.difference_update(woken)
        for waiter in woken:
            waiter.wake()

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
            woken, self._waiting = self._waiting, set()
        for waiter in woken:
            waiter.error = error
            waiter.wake()
