"""Who does a subscriber's work: one owner at a time, or several members that divide its shares among themselves."""

from __future__ import annotations

import os

from hangarlog.eventstore.cursor import Cursor
from hangarlog.eventstore.engine import Engine
from hangarlog.eventstore.share import Claim, Share, share_name, share_of, split_name
from hangarlog.eventstore.subscriber_errors import WorkersError


class Ownership:
    """The shares of a subscriber that one subscription owns. Without `workers` there is one, for all streams.

    With `workers`, each member holds one of as many seats. Its rank among the seats that are taken says how many shares
    are its due, so the members agree without talking to each other.
    """

    def __init__(self, engine: Engine, name: str, workers: int | None, start: int) -> None:
        self._engine, self._name, self._workers, self._start = engine, name, workers, start
        self.shares: dict[int, Share] = {}
        self._waiting: Share | None = None
        self._seat: Claim | None = None
        self._seat_number = -1
        self.has_new = False  # Shares were taken that the subscription has not begun to read for.
        self._process = 0  # That took the places, 0 if none are taken.

    def of(self, stream_id: str) -> Share | None:
        """Return the share that a stream belongs to, None if it is not owned here."""
        return self.shares.get(0 if self._workers is None else share_of(stream_id, self._workers))

    def take(self) -> bool:
        """Take what is due and free. Return True if there was something. Raises `WorkersError`."""
        self.refuse_forked()
        self._process = os.getpid()
        if self._workers is not None:
            return self._take_due(self._workers)
        if self.shares:
            return False
        self._waiting = self._waiting or Share(self._engine, self._name)
        if not (self._waiting.is_first() and self._lay_out()):
            return False
        self._waiting.begin()
        self.has_new = True
        self.shares[0], self._waiting = self._waiting, None
        return True

    @property
    def is_forked(self) -> bool:
        """True in a forked child, if the places are its parent's."""
        return self._process not in (0, os.getpid())

    def refuse_forked(self) -> None:
        """Raise `RuntimeError` in a forked child, if the places are its parent's."""
        if self.is_forked:
            raise RuntimeError(f"subscriber {self._name!r} is at work in the parent process; subscribe in the child")

    def surplus(self) -> list[int]:
        """Return the numbers of the shares that are due to others."""
        if self._workers is None or self._seat is None:
            return []
        return sorted(self.shares)[self._due(self._workers) :]

    def drop(self, number: int) -> None:
        """Give up a share."""
        self.shares.pop(number).leave()

    def leave(self) -> None:
        """Give up everything; doing so twice is fine."""
        for number in list(self.shares):
            self.drop(number)
        if self._waiting:
            self._waiting.leave()
        if self._seat:
            self._seat.leave()
        self._waiting = self._seat = None
        self._process = 0

    # Several members

    def _take_due(self, workers: int) -> bool:
        if self._seat is None and not (self._lay_out() and self._sit_down(workers)):
            return False
        due, taken = self._due(workers), False
        for number in range(workers):
            name = share_name(self._name, number, workers)
            if len(self.shares) >= due:
                break
            if number in self.shares or self._engine._owner_of(name) is not None:
                continue
            share = Share(self._engine, name)
            if not share.is_first():
                share.leave()
                continue
            share.begin()
            if not share.at and number not in self._layouts().get(workers, {}):
                share.leave()
                raise WorkersError(self._name, f"its cursors for workers={workers} were deleted; subscribe again")
            self.has_new = True
            self.shares[number], taken = share, True
        return taken

    def _seat_name(self, number: int) -> str:
        return f"{share_name(self._name, number, self._workers)}#seat"

    def _sit_down(self, workers: int) -> bool:
        for number in range(workers):
            if self._engine._owner_of(self._seat_name(number)) is None:
                seat = Claim(self._engine, self._seat_name(number))
                if seat.is_first():
                    self._seat, self._seat_number = seat, number
                    return True
                seat.leave()
        return False

    def _due(self, workers: int) -> int:
        taken = [
            number
            for number in range(workers)
            if number == self._seat_number or self._engine._owner_of(self._seat_name(number)) is not None
        ]
        return workers // len(taken) + (taken.index(self._seat_number) < workers % len(taken))

    # The cursors

    def _layouts(self) -> dict[int | None, dict[int, int]]:
        """Return {workers: {number of a share: its position}} of the cursors that exist for this subscriber."""
        found: dict[int | None, dict[int, int]] = {}
        for place in self._engine._cursor_places()[1]:
            name, number, workers = split_name(place.name)
            if name == self._name:
                found.setdefault(workers, {})[number] = place.position
        return found

    def _lay_out(self) -> bool:
        """Make sure that the cursors exist, and none of another number of workers. False: another process does so."""
        if self._is_laid_out():
            return True
        place = self._engine._queue_for(f"{self._name}#layout")
        try:
            if not place.is_first():
                return False
            if not self._is_laid_out():
                self._replace_layouts()
            return True
        finally:
            place.leave()

    def _is_laid_out(self) -> bool:
        found = self._layouts()
        return len(found) == 1 and len(found.get(self._workers, ())) == (self._workers or 1)

    def _replace_layouts(self) -> None:
        """Create the missing cursors, where those of another number of workers are; then delete those.

        After a crash at any point, doing it again completes it: nobody works on shares while there are others.
        """
        found = self._layouts()
        old = [
            share_name(self._name, number, workers)
            for workers in found
            if workers != self._workers
            for number in range(workers or 1)
        ]
        held: list[Share] = []
        try:
            for name in old:
                held.append(Share(self._engine, name))
                if not held[-1].is_first():
                    raise WorkersError(self._name, f"{name!r} is at work; stop all that run with this number")
            positions = sorted({position for layout in found.values() for position in layout.values()})
            if old and len(positions) > 1:
                cause = f"its cursors {', '.join(old)} are at positions {positions[0]} to {positions[-1]}"
                raise WorkersError(self._name, f"{cause}; let it run with this number until all are at one position")
            start = positions[0] if old else self._start
            for number in range(self._workers or 1):
                if number not in found.get(self._workers, {}):
                    Cursor(self._engine, share_name(self._name, number, self._workers)).advance(start)
            for name in old:
                Cursor(self._engine, name).delete()
        finally:
            for share in held:
                share.leave()
