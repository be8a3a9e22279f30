"""Which position of the target an event of the source has."""

from __future__ import annotations

from array import array
from bisect import bisect_right


class Positions:
    """Maps positions of the source to those of the target, by the places where their distance changes."""

    def __init__(self) -> None:
        self._from, self._to = array("q"), array("q")
        self.source = self.target = 0
        """The positions of the last event that is in both."""

    @property
    def kept(self) -> bool:
        """True if every event has the same position in both."""
        return not self._from or (len(self._from) == 1 and self._from[0] == self._to[0])

    def note(self, source: int, target: int, count: int = 1) -> None:
        """Note where an event is, and that `count - 1` others follow it in both stores."""
        if not self._from or self._to[-1] - self._from[-1] != target - source:
            self._from.append(source)
            self._to.append(target)
        self.source, self.target = source + count - 1, target + count - 1

    def in_target(self, source: int) -> int:
        """Return the position in the target of the last event up to a position of the source, 0 if there is none."""
        at = bisect_right(self._from, source) - 1
        if at < 0:
            return 0
        following = self._to[at + 1] - 1 if at + 1 < len(self._to) else self.target
        return min(self._to[at] + source - self._from[at], following)
