"""A queue of those who want to be the one owner of a name, among all processes that use a store."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Place(ABC):
    """A place in the queue for a name. The first in the queue is the owner, until it leaves or its process dies."""

    @abstractmethod
    def is_first(self) -> bool:
        """True if nobody stands before this place. Raises `OSError`."""

    @abstractmethod
    def leave(self) -> None:
        """Leave the queue; leaving twice is fine."""
