"""What an append returns: the stream's version, and where the events are."""

from __future__ import annotations

from collections.abc import Sequence


class AppendResult(int):
    """The version of the stream after an append: an `int` that also knows where the events are.

    `first_version` is the version of the first event. `first_position` and `last_position` are positions in the store,
    0 if there was no event, or if a retry's events are compacted away. `event_ids` are the ids in the order of the
    events. `written` is False if nothing was written: the append was a retry, or had no events.

    If one `append_many` names a stream twice, the result spans all its events of that stream.
    """

    first_position: int
    last_position: int
    event_ids: tuple[str, ...]
    written: bool
    _first_version: int

    def __new__(  # noqa: D102
        cls,
        version: int,
        first_position: int = 0,
        last_position: int = 0,
        event_ids: Sequence[str] = (),
        written: bool = False,
        *,
        first_version: int | None = None,
    ) -> AppendResult:
        result = int.__new__(cls, version)
        result.first_position, result.last_position = first_position, last_position
        result.event_ids, result.written = tuple(event_ids), written
        result._first_version = version - len(event_ids) + 1 if first_version is None else first_version
        return result

    @property
    def first_version(self) -> int:
        """The version of the first event; the next version if there was no event."""
        return self._first_version

    def followed_by(self, later: AppendResult) -> AppendResult:
        """Return the result of both, for a stream that one `append_many` names twice."""
        if not (self.event_ids and later.event_ids):
            return later if later.event_ids else self
        ids = self.event_ids + later.event_ids
        return AppendResult(later, self.first_position, later.last_position, ids, later.written)

    __str__ = int.__repr__

    def __repr__(self) -> str:
        return (
            f"AppendResult({int(self)}, first_position={self.first_position}, last_position={self.last_position}, "
            f"event_ids={self.event_ids!r}, written={self.written})"
        )
