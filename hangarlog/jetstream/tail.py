"""The end of a store on NATS, as it grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hangarlog.eventstore.tail import Tail
from hangarlog.jetstream.reader import Reader
from hangarlog.jetstream.wake_ups import WakeUps
from hangarlog.record.envelope import Envelope


class ServerTail(Tail):
    """The events of a store after a position."""

    def __init__(self, reader: Reader, wake_ups: WakeUps, position: int, skip: bool) -> None:
        self._reader, self._wake_ups, self._skip = reader, wake_ups, skip
        self.position = position
        self._reading: Iterator[Sequence[Envelope]] | None = None
        self._count = 0
        self._stopped = False

    def end(self) -> int:
        """As `Tail.end`."""
        return self._reader.last(confirmed=False)

    def step(self) -> Sequence[Envelope] | None:
        """As `Tail.step`."""
        if self._reading is None:
            count, before = self._wake_ups.listen(), self._count
            self._count = count
            if count != before and (ahead := self._reader.ahead(self.position)):
                self.position = ahead[-1].position
                return ahead
            last = self._reader.last(confirmed=False)
            if last <= self.position:
                return None
            self._reading = self._reader.between(self.position + 1, last, self._skip)
        try:
            block = next(self._reading, None)
        except BaseException:
            self._reading = None
            raise
        if block is None:
            self._reading = None
            return self.step()
        self.position = block[-1].position
        return block

    def seek(self, position: int) -> None:
        """As `Tail.seek`."""
        self.position, self._reading = position, None

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
