"""Named cursors, for tasks."""

from __future__ import annotations

from hangarlog.aio.threads import Threads
from hangarlog.eventstore.cursor import Cursor
from hangarlog.eventstore.engine import Durability
from hangarlog.record.cursor_move import CursorMove


class AsyncCursor:
    """As `hangarlog.Cursor`: a named position in a store, which all processes share."""

    __slots__ = ("_cursor", "_threads")

    def __init__(self, threads: Threads, cursor: Cursor) -> None:
        self._threads, self._cursor = threads, cursor

    @property
    def name(self) -> str:
        """The cursor's name."""
        return self._cursor.name

    async def position(self) -> int:
        """Return the position that is stored now; 0 if the cursor does not exist. Raises as `Cursor.position` does."""
        return await self._threads.run(lambda: self._cursor.position)

    async def advance(self, to: int, *, expected: int | None = None, durability: Durability | None = None) -> None:
        """As `Cursor.advance`: the events up to position `to` are processed."""
        await self._threads.run(self._cursor.advance, to, expected=expected, durability=durability)

    async def reset(self, to: int = 0, *, expected: int | None = None, durability: Durability | None = None) -> None:
        """As `Cursor.reset`: move to position `to`, forwards or back."""
        await self._threads.run(self._cursor.reset, to, expected=expected, durability=durability)

    async def delete(self) -> None:
        """As `Cursor.delete`: delete the cursor, durably."""
        await self._threads.run(self._cursor.delete)

    def at(self, to: int, *, expected: int | None = None) -> CursorMove:
        """Return the move that `advance` makes, for an append that makes it too: `store.append(…, cursor=…)`."""
        return self._cursor.at(to, expected=expected)

    def __repr__(self) -> str:
        return f"<AsyncCursor {self.name!r}>"
