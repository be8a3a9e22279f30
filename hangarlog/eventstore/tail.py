"""What a subscription needs of an engine: the records after a position, as they are committed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from hangarlog.record.envelope import Envelope


class Tail(ABC):
    """Reads the records after `position`, as they become visible. One thread uses it; any thread may `stop` it."""

    position: int
    """The position of the last record that `step` has returned."""

    @abstractmethod
    def end(self) -> int:
        """Return the last visible position: the committed or the durable one. Raises what reads raise."""

    @abstractmethod
    def step(self) -> Sequence[Envelope] | None:
        """Return the next records, without waiting; None if there are none yet. Raises what reads raise."""

    @abstractmethod
    def seek(self, position: int) -> None:
        """Go on after another position."""

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Sleep until there are records after `position`, or `stop` is called, for at most `seconds`.

        It may return early.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the running `wait`, and let later ones return at once."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources; closing twice is fine."""
