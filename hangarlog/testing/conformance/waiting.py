"""Conformance tests of `wait`: reading your own writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from hangarlog.errors import CursorNameError, StoreOpenError
from hangarlog.eventstore.base import EventStore
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, raises

_LONG = 60.0
"""Seconds that nothing here takes: a test that waits so long has failed."""


class WaitConformance(Opening):
    """How every event store lets others wait for a cursor."""

    def test_a_wait_for_what_is_reached_returns_at_once(self) -> None:
        """Position 0 is reached by every name."""
        with self.store() as store:
            self.fill(store)
            store.cursor("mailer").advance(20)
            assert store.wait("mailer", 20, 0)
            assert store.wait("mailer", 3)
            assert store.wait("nobody", 0)

    def test_a_wait_gives_up_after_its_timeout(self) -> None:
        """Also for a position that no event has, and for a name that nobody uses."""
        with self.store() as store:
            self.fill(store)
            store.cursor("mailer").advance(20)
            assert not store.wait("mailer", 21, 0)
            assert not store.wait("mailer", 1000, 0.001)
            assert not store.wait("nobody", 1, 0.001)

    def test_a_wait_ends_when_the_cursor_gets_there(self) -> None:
        """By a move, a reset, or an append that moves it; the moves before that one do not end it."""
        with self.store() as store:
            self.fill(store)
            cursor = store.cursor("mailer")
            self.ends_a_wait(store, 10, lambda: list(map(cursor.advance, range(1, 11))))
            self.ends_a_wait(store, 20, lambda: cursor.reset(25))
            self.ends_a_wait(store, 30, lambda: store.append_at_end("a:1", [Counted(30)], cursor=cursor.at(30)))
            self.ends_a_wait(store, 31, lambda: store.append_at_end("a:1", [], cursor=cursor.at(31)))

    def ends_a_wait(self, store: EventStore, position: int, move: Callable[[], Any]) -> None:
        """Wait in two other threads while `move` runs here."""
        found: list[bool] = []
        waits = [threading.Thread(target=lambda: found.append(store.wait("mailer", position, _LONG))) for _ in range(2)]
        for wait in waits:
            wait.start()
        move()
        for wait in waits:
            wait.join(_LONG)
        assert found == [True, True]

    def test_no_move_is_missed(self) -> None:
        """Two threads hand a position to and fro, each waiting for the other."""
        with self.store() as store:
            self.fill(store)

            def play(mine: str, other: str, ahead: int) -> None:
                for position in range(1, 31):
                    store.cursor(mine).advance(position, durability="relaxed")
                    if not store.wait(other, position - ahead, _LONG):
                        return

            players = [
                threading.Thread(target=play, args=names) for names in (("ping", "pong", 1), ("pong", "ping", 0))
            ]
            for player in players:
                player.start()
            for player in players:
                player.join(_LONG)
            assert (store.cursor("ping").position, store.cursor("pong").position) == (30, 30)

    def test_closing_the_store_ends_a_wait(self) -> None:
        """It raises, because the position was not reached."""
        with self.store() as store:
            self.fill(store)
            raised: list[Exception] = []

            def wait() -> None:
                try:
                    store.wait("mailer", 1, _LONG)
                except StoreOpenError as error:
                    raised.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            store.close()
            thread.join(_LONG)
            assert len(raised) == 1

    def test_wrong_arguments_of_a_wait_are_named(self) -> None:
        """A wrong kind is a TypeError, a wrong value a ValueError."""
        with self.store() as store:
            for kind, arguments in (
                (TypeError, ("mailer", "1")),
                (ValueError, ("mailer", -1)),
                (TypeError, ("mailer", 1, "soon")),
                (ValueError, ("mailer", 1, -1)),
                (CursorNameError, ("", 1)),
            ):
                with raises(kind):
                    store.wait(*arguments)
