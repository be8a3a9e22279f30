"""What users of other stores complain of, each with the test that it does not happen here.

A rebuild that blocks the live projection is tested with the projections.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from subscriber_helpers import answered, fill, lines, opened, running

from hangarlog import CursorConflictError, HandlerError, SubscriptionLostError, UntypedEvent
from hangarlog.errors import EventsGoneError
from hangarlog.filestore import tail
from hangarlog.system.platform import BYTE_LOCKS

pytestmark = pytest.mark.skipif(not BYTE_LOCKS, reason="ownership needs locks on bytes")


def test_an_event_in_flight_is_not_passed_over(tmp_path: Path) -> None:
    """However many processes append at a time, each position comes, in order."""
    path, each = tmp_path / "s", 100
    total = 3 * sum(1 + number % 3 for number in range(each))
    with (
        opened(path, segment_bytes=20_000) as store,
        store.subscribe(name="all", batch=10) as subscription,
        running("write", path, "a:1", each),
        running("write", path, "b:1", each),
        running("write", path, "c:1", each),
    ):
        assert [next(subscription).position for _ in range(total)] == list(range(1, total + 1))


@pytest.mark.parametrize("batch", [1, 7])
def test_a_checkpoint_is_not_beyond_what_was_processed(tmp_path: Path, batch: int) -> None:
    """Whenever the consumer is killed."""
    path = tmp_path / "s"
    with opened(path) as store:
        cursor, done = store.cursor("mailer"), 0
        for count in (1, 2, 50, 100, 13):
            fill(store, 120)
            with running("process", path, "mailer", batch) as process:
                first = int(lines(process, 1)[0])
                assert first <= done + 1
                printed = list(map(int, lines(process, count)))
                assert printed == list(range(first + 1, first + 1 + count))
                process.send_signal(signal.SIGKILL)
                rest = process.communicate()[0].split("\n")[:-1]
                done = int(rest[-1]) if rest else printed[-1]
            assert cursor.position <= done  # An event is processed before it is printed.


@pytest.mark.parametrize("batch", [None, 5])
def test_a_checkpoint_is_not_frozen_by_a_filter(tmp_path: Path, batch: int | None) -> None:
    """It goes on past events that are not wanted, while the subscription waits for others."""
    with (
        opened(tmp_path / "s") as store,
        store.subscribe(name="rare", batch=batch, category="rare", heartbeat=0.01) as subscription,
    ):
        cursor = store.cursor("rare")
        for _ in range(2):
            fill(store, 1000)
            for _ in subscription:
                if cursor.position == store.get_event_count():
                    break
        assert cursor.position == 2000


def test_no_wake_up_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that nobody wakes would sleep for an hour here."""
    monkeypatch.setattr(tail, "PATIENCE_SECONDS", 3600.0)
    rounds, seen, turn = 1000, [0], threading.Semaphore(0)
    with opened(tmp_path / "s") as store, opened(tmp_path / "s") as other:

        def follow() -> None:
            with other.subscribe(name="pong", batch=100) as subscription:
                for record in subscription:
                    seen[0] = record.position
                    turn.release()
                    if record.position == rounds:
                        return

        thread = threading.Thread(target=follow)
        thread.start()
        for _ in range(rounds):
            fill(store, 1)
            turn.acquire()
        thread.join()
    assert seen == [rounds]


def test_a_poison_event_does_not_hang_without_an_error(tmp_path: Path) -> None:
    """The subscriber stops with an error that says where, each time, until it is told to park or skip the event."""
    with opened(tmp_path / "s") as store:
        fill(store, 20)
        seen: list[int] = []

        def handle(record: Any) -> None:
            if record.event.data["number"] == 11:
                raise ValueError("poison")
            seen.append(record.position)

        with store.subscribe(name="mailer", batch=1, timeout=0) as subscription:
            for _ in range(3):
                with pytest.raises(HandlerError, match=r"position 12 .*'in:1', version 2.*ValueError: poison"):
                    subscription.run(handle)
                assert store.cursor("mailer").position == 11
            subscription.run(handle, on_failure="park")
        assert seen == [position for position in range(1, 21) if position != 12]
        assert [event.position for event in store.parked("mailer")] == [12]


def test_two_owners_after_a_pause_do_not_both_commit(tmp_path: Path) -> None:
    """A cleaner has deleted the lock file, so a second process becomes the owner while the first one is stopped."""
    path = tmp_path / "s"
    with opened(path) as store:
        fill(store, 10)
        with running("answer", path, "mailer") as first:
            assert lines(first, 11) == ["ready", *map(str, range(1, 11))]
            first.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
            fill(store, 10)
            os.remove(store.folder.lock_path("subscribers"))
            with running("answer", path, "mailer") as second:
                told = lines(second, 6)
                first.send_signal(signal.SIGCONT)
                assert lines(first, 1) == ["lost"]
                told += lines(second, 5)
            assert len(set(told)) == 11
            assert set(answered(store).values()) == {1}
        positions = [record.position for record in store.records(category="in")]
        assert sorted(answered(store)) == positions


def test_a_stopped_owner_is_still_the_owner_when_it_goes_on(tmp_path: Path) -> None:
    """The kernel keeps its lock, so the standby waits; it takes over when the owner dies."""
    path = tmp_path / "s"
    with opened(path) as store:
        fill(store, 1)
        with running("answer", path, "mailer") as first, running("answer", path, "mailer") as second:
            owner, standby = first, second
            assert lines(first, 1) == lines(second, 1) == ["ready"]
            next(store.subscribe(category="out"))
            if store.subscribers()[0].owner == second.pid:
                owner, standby = second, first
            owner.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, owner.pid, os.WSTOPPED | os.WNOWAIT)
            fill(store, 9)
            assert [status.owner for status in store.subscribers()] == [owner.pid]
            assert len(answered(store)) == 1
            owner.send_signal(signal.SIGCONT)
            assert len(lines(owner, 10)) == 10
            owner.kill()
            owner.wait()
            fill(store, 5)
            lines(standby, 5)
            assert [status.owner for status in store.subscribers()] == [standby.pid]
        found = answered(store)
        assert len(found) == 15
        assert set(found.values()) == {1}


def test_lag_can_be_seen(tmp_path: Path) -> None:
    """In events and in seconds, also where the owner is stopped or dead."""
    path = tmp_path / "s"
    with opened(path) as store:
        fill(store, 5)
        with running("answer", path, "mailer") as process:
            lines(process, 6)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            before = store.get_event_count() - store.cursor("mailer").position
            fill(store, 7)
            (status,) = store.subscribers()
            assert (status.owner, status.lag) == (process.pid, before + 7)
            assert status.lag_seconds > 0
        (later,) = store.subscribers()
        assert (later.owner, later.lag) == (None, before + 7)
        assert later.lag_seconds >= status.lag_seconds


def test_removed_data_does_not_stop_a_subscriber_for_good(tmp_path: Path) -> None:
    """The error says where to go on, and the subscriber does so."""
    with opened(tmp_path / "s") as store:
        fill(store, 20)
        store.save_snapshot("in:1", 2, {})
        store.compact_stream("in:1")
        with store.subscribe(name="one", batch=1, stream_id="in:1", timeout=0) as subscription:
            for _ in range(2):
                with pytest.raises(EventsGoneError) as caught:
                    next(subscription)
                assert store.cursor("one").position == 0
            assert caught.value.first_position == 17
            store.cursor("one").reset(16)
            assert [record.position for record in subscription] == [17]


def test_a_crash_between_state_and_position_doubles_nothing(tmp_path: Path) -> None:
    """The answer and the cursor's move are one append."""
    path = tmp_path / "s"
    with opened(path, segment_bytes=30_000) as store:
        fill(store, 300)
        for count in (1, 2, 3, 20, 40, 60):
            with running("answer", path, "mailer") as process:
                lines(process, 1 + count)
        with running("answer", path, "mailer") as process:
            lines(process, 1)
            list(itertools.islice(store.subscribe(category="out"), 300))
        assert set(answered(store).values()) == {1}
        assert [event.data["position"] for event in store.read_stream("out:0")] == list(range(1, 301, 5))


def test_of_two_that_take_themselves_for_the_owner_one_commits_each_event(tmp_path: Path) -> None:
    """Within one process, too: the lock file was deleted, and both deliver the same events."""
    with opened(tmp_path / "s") as store:
        fill(store, 6)
        with store.subscribe(name="mailer") as first, store.subscribe(name="mailer") as second:
            for number in range(6):
                assert next(first).position == number + 1
                if not number:
                    os.remove(store.folder.lock_path("subscribers"))
                assert next(second).position == number + 1
                quick, slow = (first, second) if number % 2 else (second, first)
                moves = quick.move(), slow.move()
                store.append_at_end("out:0", [UntypedEvent("Answered", {})], cursor=moves[0])
                with pytest.raises(CursorConflictError):
                    store.append_at_end("out:0", [UntypedEvent("Answered", {})], cursor=moves[1])
        assert store.get_stream_version("out:0") == 5


@pytest.mark.parametrize("to", [2, 3, 5])
@pytest.mark.parametrize("batch", [None, 3])
def test_a_subscription_that_was_overtaken_says_so(tmp_path: Path, batch: int | None, to: int) -> None:
    """When you move the cursor, and when it moves by itself, also if that would be forwards."""
    with opened(tmp_path / "s") as store:
        fill(store, 6)
        with store.subscribe(name="mailer", batch=batch, timeout=0) as subscription:
            assert [next(subscription).position for _ in range(3)] == [1, 2, 3]
            store.cursor("mailer").advance(to)
            with pytest.raises(SubscriptionLostError, match=f"is at position {to}, not 0: somebody else has moved it"):
                subscription.advance() if batch is None else next(subscription)
            assert [record.position for record in subscription] == list(range(to + 1, 7))
