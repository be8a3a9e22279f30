"""A switch-over: the copy follows its source under load, writers stop, go on in the target, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT, Added
from copied_stores import check_equal, contents, cursors, event, opened

from hangarlog import ANY, FileEventStore, MemoryEventStore
from hangarlog.cli.app import hangarlog as commands
from hangarlog.copying import Copy, copy
from hangarlog.eventstore.tail import Tail
from hangarlog.record.envelope import Envelope
from hangarlog.system.read_only import ReadOnly

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to ask a process by")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}

WRITER = """
import signal, sys, time
from hangarlog import FileEventStore, UntypedEvent
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
path, stream, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
with FileEventStore.untyped(path, durability=sys.argv[4]) as store:
    began = number
    while not stopped or number == began:
        events = [UntypedEvent("T", {"n": number + one}) for one in range(1 + number % 3)]
        store.append(stream, events, number - 1)
        if number == began:
            print("ready", flush=True)
        number += len(events)
        time.sleep(0.01)  # Else nothing could catch up with it on a busy machine.
print(number, flush=True)
"""
WRITERS = 3


def started(path: Path, number: int, at: int) -> subprocess.Popen[str]:
    """Start a writer of dense numbers from `at` on, and wait for its first append. At SIGTERM it prints the next."""
    durability = "always" if number else "relaxed"
    command = [sys.executable, "-c", WRITER, str(path), f"w:{number}", str(at), durability]
    writer = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    assert writer.stdout.readline() == "ready\n"
    return writer


def stopped(writers: list[subprocess.Popen[str]]) -> list[int]:
    """Stop writers, and return how many events of each are acknowledged."""
    for writer in writers:
        writer.terminate()
    return [int(writer.communicate()[0].split()[-1]) for writer in writers]


def grown(path: Path, more: int) -> None:
    """Wait until a store has so many events more."""
    with opened(path) as store, store.subscribe("end") as subscription:
        for _, _ in zip(range(more), subscription, strict=False):
            pass


@POSIX
def test_writers_move_to_the_target_and_nothing_is_lost(tmp_path: Path) -> None:
    """Several processes write all the time, before and after; a subscriber goes on where it was."""
    source, target = tmp_path / "source", tmp_path / "target"
    opened(source).close()
    writers = [started(source, number, 0) for number in range(WRITERS)]
    grown(source, 200)
    command = [sys.executable, "-m", "hangarlog", "copy", str(source), str(target), "--follow"]
    following = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert following.stdout
    assert json.loads(following.stdout.readline())["state"] == "following"
    handled = _consumed(source, 300)
    grown(source, 500)
    begun = perf_counter()
    counts = stopped(writers)
    following.send_signal(signal.SIGTERM)  # Where a shell runs the tests in the background, they ignore SIGINT.
    told = json.loads(following.stdout.readline())
    print(f"the pause: {perf_counter() - begun:.3f} s")  # Shown by -rP.
    assert (told["state"], told["position"]) == ("complete", sum(counts))
    writers = [started(target, number, counts[number]) for number in range(WRITERS)]
    grown(target, 100)
    done = json.loads(following.communicate()[0])
    assert (following.returncode, done["compared"], done["positions_kept"]) == (0, sum(counts), True)
    after = stopped(writers)
    handled += _consumed(target, 200)
    with opened(source) as here, opened(target) as there:
        assert contents(there)[: here.last_position] == contents(here)
        for number in range(WRITERS):
            found = [record.event.data["n"] for record in there.records(f"w:{number}")]
            assert found == [*range(after[number])]
            assert after[number] > counts[number]
        rows = contents(there)[: len(handled)]
        assert handled == [row[4] for row in rows]


def _consumed(path: Path, count: int) -> list[str]:
    """Handle so many events as the subscriber `reader`, and return their ids."""
    with opened(path) as store, store.subscribe(name="reader") as subscription:
        ids = [record.event_id for _, record in zip(range(count), subscription, strict=False)]
        subscription.advance()
        return ids


def test_a_copy_follows_until_it_is_stopped_from_another_thread(tmp_path: Path) -> None:
    with opened(tmp_path / "source") as source, MemoryEventStore.untyped() as target:
        source.append("a:1", [event(0)], ANY)
        work, caught = Copy(source, target), threading.Event()
        thread = threading.Thread(target=work.follow, kwargs={"caught_up": caught.set})
        thread.start()
        assert caught.wait(60)
        for number in range(100):
            source.append("a:1", [event(number)] * 2, ANY)
        with target.subscribe(1) as subscription:
            assert sum(1 for _ in zip(range(150), subscription, strict=False)) == 150
        source.delete_stream("a:1")
        source.cursor("me").advance(77)
        work.stop()
        thread.join()
        work.finish()
        work.compare()
        check_equal(source, target)
        assert work.left() == 0


def test_events_of_relaxed_writers_are_synced_before_they_are_copied(tmp_path: Path) -> None:
    """A power cut at the source must not take what the target has."""
    with opened(tmp_path / "source") as source:
        for _ in range(50):
            source.append("a:1", [event(1)], ANY)
        assert source.durable_position < 50
        with MemoryEventStore.untyped() as target:
            real, seen = target.append_batches, list[int]()

            def append(batches: Any) -> Any:
                seen.append(source.durable_position)
                return real(batches)

            target.append_batches = append  # type: ignore[method-assign]
            copy(source, target)
            assert seen == [50]


def test_a_store_that_may_only_be_read_is_copied_while_others_write_to_it(tmp_path: Path) -> None:
    """As that of another user: it cannot be synced from here."""
    with opened(tmp_path / "source") as writer, MemoryEventStore.untyped() as target:
        writer.append("a:1", [event(1)], ANY)
        with opened(tmp_path / "source", ReadOnly(), create=False) as source:
            assert source.durable_position == 0
            copy(source, target)
            writer.append("a:1", [event(1)] * 2, ANY)
            assert copy(source, target).events == 2
        check_equal(writer, target)


def test_it_ends_by_itself_when_nothing_comes(tmp_path: Path, hangarlog: Any) -> None:
    with opened(tmp_path / "source") as source:
        source.append("a:1", [event(1)], ANY)
    done = hangarlog("copy", "source", "target", "--follow", "--until-idle", "0.1")
    states = [json.loads(line).get("state") for line in done.stdout.splitlines()]
    assert (done.returncode, states, done.stderr) == (0, ["following", "complete", None], b"")
    assert hangarlog("copy", "source", "target", "--until-idle", "1").returncode == 2


def test_writers_that_had_not_stopped_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The events that came late are not in the target, and another run brings them."""
    with opened(tmp_path / "source") as source:
        source.append("a:1", [event(0)], ANY)
        real = Copy.compare

        def late(work: Copy) -> Any:
            source.append("a:1", [event(1)], ANY)
            return real(work)

        words = ["copy", str(tmp_path / "source"), str(tmp_path / "target")]
        with monkeypatch.context() as patch:
            patch.setattr(Copy, "compare", late)
            told = CliRunner().invoke(commands, [*words, "--follow", "--until-idle", "0.05"], standalone_mode=False)
        assert told.return_value == 1
        assert "1 event came to the source after the copy was complete" in told.stderr
        assert CliRunner().invoke(commands, words, standalone_mode=False).return_value == 0
        with opened(tmp_path / "target") as target:
            check_equal(source, target)


def test_a_target_that_somebody_writes_to_while_it_is_followed_is_noticed(tmp_path: Path, hangarlog: Any) -> None:
    with opened(tmp_path / "source") as source, opened(tmp_path / "target") as target:
        source.append("a:1", [event(0)], ANY)
        work = Copy(source, target)
        work.follow(until_idle=0.01, caught_up=lambda: target.append("b:1", [event(1)], ANY))
        with pytest.raises(Exception, match="somebody else writes to the target: its position 2 is not of this copy"):
            work.finish()
    told = hangarlog("copy", "source", "target")
    assert told.returncode == 1
    assert b"the target has an event that the source lacks, at its position 2" in told.stderr


def test_cursors_move_along_while_it_is_followed(tmp_path: Path) -> None:
    with opened(tmp_path / "source") as source, MemoryEventStore.untyped() as target:
        for number in range(10):
            source.append("a:1", [event(number)], ANY)
        source.cursor("a").advance(4)
        work = Copy(source, target)
        work.follow(until_idle=0.01, caught_up=lambda: source.cursor("a").advance(9))
        work.finish()
        assert cursors(target) == {"a": 9}


def test_a_store_is_copied_while_its_files_roll(tmp_path: Path) -> None:
    """A thread writes to small segments meanwhile; two runs together have all of it."""
    with FileEventStore(tmp_path / "source", segment_bytes=700, durability="relaxed") as source:
        done = threading.Event()

        def write() -> None:
            for number in range(400):
                source.append(f"a:{number % 5}", [Added(number)] * (1 + number % 2), ANY)
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        with opened(tmp_path / "target") as target:
            while not done.is_set():
                copy(source, target)
            thread.join()
            copy(source, target)
            check_equal(source, target)


def test_what_is_stopped_within_a_batch_goes_on_behind_what_it_has_read(tmp_path: Path) -> None:
    """A server may give the first events of a batch, and the others later."""
    with opened(tmp_path / "source") as source, opened(tmp_path / "target") as target:
        source.append("a:1", [event(0)], ANY)
        work = Copy(source, target)
        tail_of = source._tail

        def one_by_one(position: int, *, durable: bool, skip: bool) -> Tail:
            tail = tail_of(position, durable=durable, skip=skip)
            step = tail.step

            def first() -> Sequence[Envelope] | None:
                block = step()
                if block:
                    tail.seek(block[0].position)
                    work.stop()
                return block[:1] if block else None

            tail.step = first  # type: ignore[method-assign]
            return tail

        def write() -> None:
            source._tail = one_by_one  # type: ignore[method-assign]
            source.append("a:1", [event(number) for number in (1, 2, 3)], 0)

        work.follow(caught_up=write)
        assert work.finish().position == 4
        work.compare()
        check_equal(source, target)
