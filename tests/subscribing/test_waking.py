"""Who waits for a store is woken by everything that changes what is visible, and loses nothing when others die."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from following import Follower, follower, opened, put, writer

from hangarlog import FileEventStore
from hangarlog.filestore.tail import _Sleeper
from hangarlog.system import waking
from hangarlog.system.futex import has_futex

pytestmark = pytest.mark.skipif(not has_futex(), reason="this system has no futexes")


@pytest.fixture
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sleeper of this process sleep until it is woken: a lost wake-up hangs."""
    monkeypatch.setattr("hangarlog.filestore.tail.PATIENCE_SECONDS", 1e6)
    monkeypatch.setattr("hangarlog.filestore.tail._LOOKS_SECONDS", ())
    monkeypatch.setattr("hangarlog.filestore.tail._BUSY_SECONDS", 0.0)


def asleep(*threads: threading.Thread) -> None:
    """Return when these threads sleep at a futex word, as far as the system tells."""
    for thread in threads:
        while True:
            text = Path(f"/proc/self/task/{thread.native_id}/syscall").read_text()
            if text.startswith(f"{waking.NUMBER} ") and int(text.split()[2], 16) == waking._WAIT_BITSET:
                break
            time.sleep(0.001)


def as_expected(*followers: Follower, last: int) -> None:
    for each in followers:
        assert each.end() == list(range(1, last + 1))


@pytest.mark.usefixtures("no_second_look")
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_an_append_of_another_process_wakes_all_who_wait(tmp_path: Path, durable: bool, exclusive: bool) -> None:
    """Each wakes the next one; nobody looks again by itself."""
    path = tmp_path / "s"
    with opened(path) as store, writer(path, "always" if durable else "relaxed", exclusive=exclusive) as process:
        followers = [Follower(store.subscribe(durable=durable), 20) for _ in range(8)]
        for _ in range(20):
            asleep(*followers)
            assert process.tell("append") == "done"
        as_expected(*followers, last=20)


@pytest.mark.usefixtures("no_second_look")
def test_what_is_synced_by_others_wakes_who_waits_for_the_durable(tmp_path: Path) -> None:
    """A relaxed append does not; a sync by hand does, and one at intervals."""
    path = tmp_path / "s"
    with opened(path) as store:
        waiting = Follower(store.subscribe(durable=True), 2)
        asleep(waiting)
        put(store)
        assert waiting.found == []
        store.sync()
        while waiting.found != [1]:
            pass
        asleep(waiting)
        with opened(path, durability=0.01) as other:
            put(other)
            as_expected(waiting, last=2)


def test_relaxed_events_that_nobody_syncs_come_all_the_same(tmp_path: Path) -> None:
    """A follower of what is durable syncs them itself, after a while."""
    path = tmp_path / "s"
    with opened(path) as store, writer(path) as process:
        waiting = Follower(store.subscribe(durable=True), 2)
        for _ in range(2):
            assert process.tell("append") == "done"
        as_expected(waiting, last=2)


@pytest.mark.usefixtures("no_second_look")
def test_a_recovery_wakes_who_waits(tmp_path: Path) -> None:
    """A commit that was published by it, and by no append."""
    path = tmp_path / "s"
    with opened(path) as store:
        waiting = Follower(store.subscribe(), 1)
        asleep(waiting)
        with opened(path) as other:
            other._state.announce = lambda raw: None  # type: ignore[method-assign]
            put(other)
            del other._state.announce
            other._state.begin(os.getpid())
        opened(path).close()
        as_expected(waiting, last=1)


def test_a_writer_that_is_killed_before_it_wakes_anybody_is_found_out(tmp_path: Path) -> None:
    """The followers look again by themselves, also if nobody appends any more."""
    path = tmp_path / "s"
    for durability, durable in (("relaxed", False), ("always", True)):
        with opened(path) as store, writer(path, durability) as process:
            waiting = Follower(store.subscribe("end", durable=durable), store.get_event_count() + 1)
            asleep(waiting)
            assert process.tell("die before waking") == ""
            assert waiting.end() == [store.get_event_count()]


@pytest.mark.usefixtures("no_second_look")
def test_a_follower_that_is_killed_while_it_waits_keeps_nobody_from_waking(tmp_path: Path) -> None:
    """Its announcement stays, and is nobody's."""
    path = tmp_path / "s"
    with opened(path) as store:
        with follower(path) as first:
            sleeping(first.process.pid)
        waiting = Follower(store.subscribe(), 2)
        asleep(waiting)
        put(store)
        while waiting.found != [1]:
            pass
        asleep(waiting)
        put(store)
        as_expected(waiting, last=2)


def sleeping(pid: int) -> None:
    """Return when the process sleeps at a futex word."""
    while not Path(f"/proc/{pid}/syscall").read_text().startswith(f"{waking.NUMBER} "):
        time.sleep(0.001)


def test_a_follower_that_is_stopped_while_it_waits_delays_the_others_and_loses_nothing(tmp_path: Path) -> None:
    """It is woken first, and passes nothing on. The others look again; it goes on where it was."""
    path = tmp_path / "s"
    with opened(path) as store, follower(path) as first:
        sleeping(first.process.pid)
        waiting = Follower(store.subscribe(), 3)
        asleep(waiting)
        first.send(signal.SIGSTOP)
        for _ in range(3):
            put(store)
        as_expected(waiting, last=3)
        first.send(signal.SIGCONT)
        assert [first.line() for _ in range(3)] == ["1", "2", "3"]


def word(store: FileEventStore[Any]) -> int:
    """Return the word at which followers of the committed events sleep."""
    return store._state.word_in(store._state.look(), durable=False)


def test_a_sleeper_whose_word_changes_before_it_sleeps_looks_again_and_does_not_spin(tmp_path: Path) -> None:
    """Somebody was woken for something that it need not see."""
    with opened(tmp_path / "s") as store:
        looks = 0

        def look() -> tuple[int, int]:
            nonlocal looks
            looks += 1
            if looks == 1:
                store._state.followers.wake()
            return word(store), 0

        sleeper = _Sleeper(store._state, durable=False)
        sleeper.attach()
        sleeper.sleep(look, word(store), 60.0)
        assert looks == 2


@pytest.mark.usefixtures("no_second_look")
def test_a_late_wake_up_that_takes_the_announcement_of_another_is_passed_on(tmp_path: Path) -> None:
    """Two writers have seen the same announcement; the second wakes one who has nothing to read, and may not return."""
    with opened(tmp_path / "s") as store:
        first, second = (_Sleeper(store._state, durable=False) for _ in range(2))
        first.attach()
        second.attach()
        ended: list[str] = []

        def sleep(sleeper: _Sleeper) -> None:
            sleeper.sleep(lambda: (word(store), 0), word(store), 60.0)

        threads = [
            threading.Thread(target=lambda: (sleep(first), ended.append("first"))),
            threading.Thread(target=lambda: (sleep(second), ended.append("second"))),
        ]
        for thread in threads:
            thread.start()
            asleep(thread)
        store._state.followers.wake()
        for thread in threads:
            thread.join(60)
        assert sorted(ended) == ["first", "second"]


def test_a_follower_that_must_poll_sees_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no futex."""
    monkeypatch.setattr(waking, "has_futex", lambda: False)
    path = tmp_path / "s"
    with opened(path) as store, writer(path) as process:
        waiting = Follower(store.subscribe(), 20)
        for number in range(20):
            assert process.tell("append") == "done"
            time.sleep(0.004 * (number % 3))
        as_expected(waiting, last=20)


def test_a_shared_state_that_is_cut_while_a_follower_sleeps_costs_no_event(tmp_path: Path) -> None:
    """The mapped word is gone then, and comes back in a new file."""
    path = tmp_path / "s"
    with opened(path) as store, writer(path) as process:
        waiting = Follower(store.subscribe(), 10)
        for number in range(10):
            asleep(waiting)
            if number % 3 == 1:
                os.truncate(path / "state", 100 if number > 4 else 0)
            if number % 3 == 2:
                os.remove(path / "state")
            assert process.tell("append") == "done"
            while len(waiting.found) <= number:
                time.sleep(0.001)
        as_expected(waiting, last=10)
