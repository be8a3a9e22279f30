"""Named cursors: how far a consumer of a store's events has got, kept in the store, outside of the order of events."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import msgspec

from hangarlog.errors import CursorConflictError, CursorNameError, HangarlogError
from hangarlog.eventstore.arguments import seconds_or_none
from hangarlog.eventstore.engine import Durability, Engine, check_durability
from hangarlog.eventstore.stream_id import why_not_an_id
from hangarlog.record.cursor_move import CursorMove

MAX_NAME_BYTES = 100


class CursorStatus(msgspec.Struct, frozen=True):
    """Where a cursor is. `lag` is the number of events after its position, `moved_at` the time of its last move."""

    name: str
    position: int
    lag: int
    moved_at: datetime


class Cursor:
    """A named position in a store, which all processes share: up to it a consumer has processed the events.

    It begins at 0 and only advances, except by `reset`. It is created by its first move.
    """

    __slots__ = ("_engine", "_name")

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._name = engine, check_cursor_name(name)

    @property
    def name(self) -> str:
        """The cursor's name."""
        return self._name

    @property
    def position(self) -> int:
        """The position that is stored now; 0 if the cursor does not exist.

        Raises `CorruptionError` if the stored position is damaged, or of another history than the store's events.
        """
        return self._engine._cursor_position(self._name)

    def advance(self, to: int, *, expected: int | None = None, durability: Durability | None = None) -> None:
        """Move to position `to`: the events up to there are processed. The same position again changes nothing.

        With `expected` the cursor must be at that position, so of two workers only one moves it. `durability` is that
        of this move, by default the store's. A durable move also makes the events up to `to` durable.

        Raises:
            CursorConflictError: the cursor is not at `expected`, or is beyond `to`.
            ValueError: `to` is beyond the store's last event.
            CorruptionError: the stored position is damaged, or of another history than the store's events.
            OutcomeUnknownError: it was moved, but perhaps not durably (`SyncError`: a sync failed).
            StorageError, LockTimeoutError, StoreOpenError: as an append raises them; the cursor was not moved.
        """
        self._move(self.at(to, expected=expected), durability)

    def reset(self, to: int = 0, *, expected: int | None = None, durability: Durability | None = None) -> None:
        """Move to position `to`, forwards or back, whatever is stored. The events after it are processed again.

        It also mends a cursor that raises `CorruptionError`. Raises what `advance` raises.
        """
        move = self.at(to, expected=expected)
        self._move(CursorMove(self._name, move.position, move.expected, back=True), durability)

    def _move(self, move: CursorMove, durability: Durability | None) -> None:
        if durability is not None:
            check_durability(durability)
        self._engine._move_cursor(move, durability)

    def delete(self) -> None:
        """Delete the cursor, durably. Its position is then 0. It need not exist."""
        self._engine._delete_cursor(self._name)

    def at(self, to: int, *, expected: int | None = None) -> CursorMove:
        """Return the move that `advance` makes, for an append that makes it too: `store.append(…, cursor=…)`."""
        return CursorMove(self._name, _checked("to", to), None if expected is None else _checked("expected", expected))

    def __repr__(self) -> str:
        try:
            place = f"at position {self.position}"
        except (HangarlogError, OSError) as error:
            place = f"({type(error).__name__})"
        return f"<Cursor {self._name!r} {place}>"


class HasCursors(Engine):
    """The part of an event store that deals with cursors."""

    def cursor(self, name: str) -> Cursor:
        """Return the cursor with this name, which need not exist yet.

        Raises `CursorNameError` if the name is invalid. It must be valid as a stream id, and have at most 100 bytes of
        UTF-8.
        """
        return Cursor(self, name)

    def wait(self, name: str, position: int, timeout: float | None = None) -> bool:
        """Wait until the cursor or projection `name` has reached `position`, and return True: read your own writes.

        Return False after `timeout` seconds (None: never). The position may be one that no event has yet, and the name
        one that nobody has used yet. `position` may be what an append has returned as `last_position`.

        Raises:
            CursorNameError: the name is invalid.
            CorruptionError: the stored position is damaged, or of another history than the store's events.
            StoreOpenError: the store was closed meanwhile.
        """
        seconds = seconds_or_none("timeout", timeout)
        name, to = check_cursor_name(name), _checked("position", position)
        return self._await_cursors(lambda: self._cursor_position(name) >= to, math.inf if seconds is None else seconds)

    def cursors(self) -> list[CursorStatus]:
        """Return all cursors, sorted by name, each with its lag."""
        committed, places = self._cursor_places()
        return [
            CursorStatus(place.name, place.position, committed - place.position, datetime.fromisoformat(place.moved_at))
            for place in sorted(places, key=lambda place: place.name)
        ]


def check_cursor_name(name: object) -> str:
    """Return `name` if it is valid. Raises `CursorNameError`."""
    if not isinstance(name, str):
        raise CursorNameError(name, f"it must be text, not {type(name).__name__}")
    cause = why_not_an_id(name)
    if cause is None and len(name.encode()) > MAX_NAME_BYTES:
        cause = f"it is {len(name.encode())} bytes long, the limit is {MAX_NAME_BYTES}"
    if cause:
        raise CursorNameError(name, cause)
    return str.__str__(name)


def check_move(move: CursorMove, actual: int, committed: int) -> None:
    """Check a move of a cursor at position `actual`, in a store whose last position is `committed`.

    Raises `CursorConflictError` or `ValueError`, as `Cursor.advance` does.
    """
    if move.expected not in (None, actual) or (move.position < actual and not move.back):
        raise CursorConflictError(move.name, move.position, move.expected, actual)
    if move.position > committed:
        raise ValueError(f"cursor {move.name!r} cannot move to {move.position}: the store's last event is {committed}")


def check_move_argument(move: object) -> None:
    """Raise `TypeError` unless the `cursor` argument of an append is a move."""
    if not isinstance(move, CursorMove):
        raise TypeError(f"cursor must be a move, as store.cursor(name).at(position) returns it, not {move!r}")


def _checked(what: str, position: Any) -> int:
    if not isinstance(position, int) or isinstance(position, bool):
        raise TypeError(f"{what} must be a position, a whole number from 0 up, not {position!r}")
    if position < 0:
        raise ValueError(f"{what} must be a position, a whole number from 0 up, not {position!r}")
    return int(position)
