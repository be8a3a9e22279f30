"""The end of a store on NATS, as it grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic

from hangarlog.eventstore.tail import Tail
from hangarlog.jetstream.reader import Reader
from hangarlog.jetstream.wake_ups import LOOK_SECONDS, WakeUps
from hangarlog.record.envelope import Envelope


class ServerTail(Tail):
    """The events of a store after a position."""

    def __init__(self, reader: Reader, wake_ups: WakeUps, position: int, skip: bool) -> None:
        self._reader, self._wake_ups, self._skip = reader, wake_ups, skip
        self.position = position
        self._reading: Iterator[Sequence[Envelope]] | None = None
        self._count, self._look_at = 0, 0.0
        self._stopped = False

    def end(self) -> int:
        """As `Tail.end`."""
        return self._reader.last(confirmed=False)

    def step(self) -> Sequence[Envelope] | None:
        """As `Tail.step`."""
        if self._reading is None:
            self._count = self._wake_ups.listen()
            if self._wake_ups.position > self.position and (found := self._reader.ahead(self.position)):
                self.position = found[-1].position
                return found
            if monotonic() < self._look_at:  # The leader's next event takes it less than the store's state.
                found = self._reader.next_at_leader(self.position)
                if not found:
                    return None
                self.seek(found[-1].position)
                return found
            last = self._reader.last(confirmed=False)
            self._look_at = monotonic() + LOOK_SECONDS
            if last <= self.position:
                return None
            self._reading = self._reader.between(self.position + 1, last, self._skip)
        try:
            block = next(self._reading, None)
        except BaseException:
            self.seek(self.position)
            raise
        if block is None:
            self._reading = None
            return self.step()
        self.position = block[-1].position
        return block

    def seek(self, position: int) -> None:
        """As `Tail.seek`."""
        self.position, self._reading, self._look_at = position, None, 0.0

    def wait(self, seconds: float) -> None:
        """As `Tail.wait`."""
        self._wake_ups.wait(seconds, self._count, lambda: self._stopped)

    def stop(self) -> None:
        """As `Tail.stop`."""
        self._stopped = True
        self._wake_ups.wake()

    def close(self) -> None:
        """As `Tail.close`."""
        self.stop()
