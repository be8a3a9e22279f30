"""Members of a group share the streams, across processes that are killed and started at any time."""

from __future__ import annotations

import random
import signal
import subprocess
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pytest
from subscriber_helpers import answered, fill, opened, running

from hangarlog import MemoryEventStore, UntypedEvent
from hangarlog.eventstore.share import share_name, share_of, split_name
from hangarlog.system.platform import BYTE_LOCKS

pytestmark = pytest.mark.skipif(not BYTE_LOCKS, reason="ownership needs locks on bytes")


def test_the_share_of_a_stream_never_changes() -> None:
    """It is stored in which cursor moves, so it is part of the format."""
    assert [share_of(f"in:{number}", 4) for number in range(8)] == [2, 0, 2, 0, 3, 1, 3, 1]
    assert share_of("é", 1000) == 326


def test_the_name_of_a_share_is_read_back() -> None:
    """Other names are those of subscribers."""
    assert share_name("a", 0, None) == "a"
    assert share_name("a", 0, 4) == "a#1/4"
    assert split_name("a#b#4/4") == ("a#b", 3, 4)
    for name in ("a", "a#", "a#1", "a#0/4", "a#5/4", "#1/4", "a#01/4", "a#1/4x", "a#1/", "a#٣/٤"):
        assert split_name(name) == (name, 0, None)


def test_processes_that_are_killed_at_random_answer_each_event_once(tmp_path: Path) -> None:
    """In the order of each stream. What a dead one had is taken over."""
    path, rng, streams, each = tmp_path / "s", random.Random(16), 12, 100
    with opened(path, segment_bytes=50_000) as store, ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            return stack.enter_context(running("answer", path, "team", 5))

        members, answers = [start() for _ in range(3)], store.subscribe(category="out")
        for _ in range(12):
            fill(store, each, streams)
            list(islice(answers, rng.randrange(each)))
            victim = members.pop(rng.randrange(len(members)))
            victim.send_signal(rng.choice((signal.SIGKILL, signal.SIGTERM)))
            victim.wait()
            while len(members) < rng.randrange(1, 5):
                members.append(start())
        members.append(start())
        list(islice(answers, 12 * each - len(answered(store, answers.position))))
        assert set(answered(store).values()) == {1}
        assert len(answered(store)) == 12 * each
        for stream in range(streams):
            order = [event.data["position"] for event in store.read_stream(f"out:{stream}")]
            assert order == [record.position for record in store.records(f"in:{stream}")]


@pytest.mark.parametrize("workers", [0, 3])
def test_cursors_that_move_by_themselves_miss_nothing_when_members_are_killed(tmp_path: Path, workers: int) -> None:
    """Only those of the last batch come again, and in their order."""
    path, streams, each, rounds, batch = tmp_path / "s", 9, 60, 8, 7
    with opened(path, segment_bytes=50_000) as store, ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            return stack.enter_context(running("note", path, "team", workers))

        members, answers = [start() for _ in range(2)], store.subscribe(category="out")
        for _ in range(rounds):
            fill(store, each, streams)
            list(islice(answers, each // 3))
            victim = members.pop(0)
            victim.kill()
            victim.wait()
            members.append(start())
        asked = {record.position for record in store.records(category="in")}
        seen = set(answered(store, answers.position))
        while seen != asked:
            seen.add(next(answers).event.data["position"])
        assert sum(answered(store).values()) <= rounds * each + rounds * (batch + 1) * max(1, workers)
        for stream in range(streams):
            order = [event.data["position"] for event in store.read_stream(f"out:{stream}")]
            firsts = list(dict.fromkeys(order))
            assert firsts == sorted(firsts)


def test_members_have_a_fair_part(tmp_path: Path) -> None:
    """Each has a share as long as there are enough, and a new one gets its part from those that are at work."""
    path = tmp_path / "s"
    with opened(path) as store, ExitStack() as stack:
        fill(store, 40, 40)
        members = []
        for count in (1, 2, 3):
            members.append(stack.enter_context(running("answer", path, "team", 4)))
            wanted = {1: [4], 2: [2, 2], 3: [1, 1, 2]}[count]
            while owned(store) != wanted:
                fill(store, 1)
        members[0].kill()
        members[0].wait()
        while owned(store) != [2, 2]:
            pass


def owned(store) -> list[int]:  # type: ignore[no-untyped-def]
    owners = [status.owner for status in store.subscribers()]
    return sorted(owners.count(owner) for owner in set(owners) if owner)


@pytest.mark.parametrize(("created", "deleted"), [(0, 0), (1, 0), (3, 0), (3, 1), (3, 2)])
@pytest.mark.parametrize("workers", [2, 3])
def test_a_change_of_the_number_that_was_cut_short_is_completed(created: int, deleted: int, workers: int) -> None:
    """With the new number, or back to the old one: nothing was delivered meanwhile."""
    with MemoryEventStore.untyped() as store:
        for number in range(20):
            store.append_at_end(f"in:{number}", [UntypedEvent("Asked", {})])
        for number in range(deleted, 2):
            store.cursor(f"team#{number + 1}/2").advance(15)
        for number in range(created):
            store.cursor(f"team#{number + 1}/3").advance(15)
        with store.subscribe(name="team", workers=workers, batch=1, timeout=0) as subscription:
            assert [record.position for record in subscription] == list(range(16, 21))
        assert [status.name for status in store.subscribers()] == [f"team#{n + 1}/{workers}" for n in range(workers)]
