"""What an event store's engine must provide: the few calls on which the public interface is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.queue import Place
from hangarlog.eventstore.selection import Span
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.eventstore.tail import Tail
from hangarlog.record.batch import Pending
from hangarlog.record.cursor_move import CursorMove, CursorPlace
from hangarlog.record.envelope import Envelope

Durability = Literal["always", "relaxed"]
StateSlot = Literal["saved", "rebuilding", "latest", "latest-2"]
"""The states that are kept of a projection: on the device; of a rebuild; the last two since then."""


def check_durability(durability: Durability) -> None:
    """Raise `ValueError` unless `durability` is one."""
    if durability not in ("always", "relaxed"):
        raise ValueError(f"an append's durability is 'always' or 'relaxed', not {durability!r}")


class Engine(ABC):
    """The storage of an event store.

    A subclass implements the abstract methods here and the queries of `EventStore`. It may also override `_find`,
    `_follows_durable`, `append_encoded`, `append_batches`, `begin_stream`, `sync`, `durable_position`, `close`,
    `_calling`, `_turn`, `_await_turn`, `_durability` and `_sync_from_here`.
    """

    _durability: Durability | float = "relaxed"
    """What an append is that names no durability. Seconds are those between syncs."""

    @property
    def durability(self) -> Durability | float:
        """The durability of an append that names none: "always", "relaxed", or the seconds between syncs."""
        return self._durability

    def _sync_from_here(self) -> Callable[[bool], None]:
        """Return a function that makes durable what is committed between this call and that one; True: cursors, too.

        It raises what `sync` raises, also if a sync has failed in between: that one may have lost some of it.
        """
        return lambda cursors: None

    def _calling(self) -> AbstractContextManager[None]:
        """Make the block one call, so that closing the store waits for its end."""
        return nullcontext()

    def _await_turn(self, stream_id: str) -> None:  # noqa: B027 - only courtesy
        """Wait while another caller of `execute` has the turn at a stream, after a conflict."""

    def _turn(self, stream_id: str) -> AbstractContextManager[None]:
        """Have the turn at a stream for the block: other callers of `execute` wait."""
        return nullcontext()

    @abstractmethod
    def _size(self) -> tuple[int, int]:
        """Return (the bytes that the store takes, the number of its segments)."""

    @abstractmethod
    def _commit(self, pendings: list[Pending], durability: Durability | None = None) -> dict[str, AppendResult]:
        """Commit the events of all `pendings` or of none, and return each stream's result.

        At most one of them has a `cursor`: that move is made too, or nothing is. A retry does not move it again.
        """

    @abstractmethod
    def _blocks(self, span: Span) -> Iterator[Sequence[Envelope]]:
        """Yield the committed records of a span, in blocks that are not empty."""

    def _find(self, event_id: str) -> Envelope | None:
        """Return the first committed record with an event id. This reads the whole store."""
        for block in self._blocks(Span(None)):
            for record in block:
                if record.event_id == event_id:
                    return record
        return None

    @abstractmethod
    def _tail(self, position: int | None, *, durable: bool, skip: bool) -> Tail:
        """Return what reads the records after a position, None for the end, as they are committed or durable.

        `skip` passes over events that are damaged in both copies. Raises `PositionError`.
        """

    @abstractmethod
    def _queue_for(self, name: str) -> Place:
        """Join the queue of those who want to own a name, across processes. Raises what appends raise."""

    @abstractmethod
    def _owner_of(self, name: str) -> int | None:
        """Return the process id of who owns a name, None if nobody does, 0 if unknown. Raises what reads raise."""

    @abstractmethod
    def _read_state(self, name: str, slot: StateSlot, size: int | None = None) -> bytes | None:
        """Return what is kept of a projection in a slot, or its first `size` bytes; None if nothing is."""

    @abstractmethod
    def _write_state(self, name: str, slot: StateSlot, content: bytes | None, *, sync: bool) -> None:
        """Replace what is kept in a slot; None deletes it.

        With `sync` it is replaced atomically, and on the device afterwards. Without, others may see a part of it.
        """

    @property
    def _follows_durable(self) -> bool:
        """True if subscriptions deliver an event only once it is durable, unless told otherwise."""
        return False

    @abstractmethod
    def _load_snapshot(self, stream_id: str) -> Snapshot | None: ...

    @abstractmethod
    def _change_snapshot(self, stream_id: str, change: Callable[[Snapshot | None], Snapshot | None]) -> None:
        """Replace the stream's snapshot, atomically, with what `change` returns for it; keep it if that is None."""

    @abstractmethod
    def _stored_snapshots(self, prefix: str) -> Iterable[Snapshot]:
        """Return the snapshots of the streams whose ids begin with `prefix`, also those without a state."""

    @abstractmethod
    def _hide_events(self, stream_id: str, change: Callable[[int, Snapshot | None], Snapshot | None]) -> None:
        """Pass the stream's version (-1: none) and its snapshot to `change`, and replace the snapshot, atomically.

        Then free the space of the events that the new one hides. If `change` returns None, change nothing.
        """

    @abstractmethod
    def _cursor_position(self, name: str) -> int:
        """Return the position of a cursor, 0 if it does not exist."""

    @abstractmethod
    def _cursor_places(self) -> tuple[int, list[CursorPlace]]:
        """Return (a committed position, all cursors), none of which is beyond that position."""

    @abstractmethod
    def _move_cursor(self, move: CursorMove, durability: Durability | None = None) -> None:
        """Check a move and make it. Create the cursor if it does not exist."""

    @abstractmethod
    def _await_cursors(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Wait until `reached()`, for at most `seconds`, and return whether it is. Look again when a cursor moves."""

    @abstractmethod
    def _wake_cursor_waits(self) -> None:
        """Let all who wait for cursors look again."""

    @abstractmethod
    def _delete_cursor(self, name: str) -> None:
        """Delete a cursor, if it exists."""

    @abstractmethod
    def get_stream_version(self, stream_id: str) -> int:
        """Return the version of a stream's last event, -1 if the stream never had one.

        A stream that was deleted keeps its version.
        """
