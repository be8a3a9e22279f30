"""Many processes on one store: nothing lost, nothing doubled, nothing half seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from itertools import chain
from pathlib import Path

import pytest
from conftest import ROOT, Added

from hangarlog import ANY, EventSerializer, FileEventStore, StoreBusyError
from hangarlog.maintenance.verify import verify

WRITERS = Path(__file__).parent / "writers.py"


def start(command: str, path: Path, stream_id: str, own: int, amount: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WRITERS), command, str(path), stream_id, str(own), str(amount)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def reader(path: Path) -> FileEventStore:
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), durability="relaxed")


@pytest.mark.parametrize("streams", [1, 8])
def test_eight_processes_with_expected_versions_lose_and_double_nothing(tmp_path: Path, streams: int) -> None:
    """On one stream, and on a stream each: every acknowledged version is unique, and holds what was acknowledged."""
    path, each = tmp_path / "s", 150
    with FileEventStore(path, segment_bytes=40_000):
        pass
    writers = [start("expecting", path, f"s:{own % streams}", own, each) for own in range(8)]
    outputs = [writer.communicate()[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 8
    with reader(path) as store:
        assert store.get_event_count() == 8 * each
        held = {(r.stream_id, r.stream_version): r.event.number for r in store.records()}
        assert len(held) == 8 * each
        for own, output in enumerate(outputs):
            for line in output.splitlines():
                version, number = map(int, line.split())
                assert held[(f"s:{own % streams}", version)] == number
        for stream_id in store.list_streams():
            assert [r.stream_version for r in store.records(stream_id)] == list(range(8 * each // streams))
        assert list(verify(store)) == []


def test_readers_never_see_half_a_batch_while_others_write_and_roll(tmp_path: Path) -> None:
    """Whatever they read is whole batches from the first on, in journal and stream alike."""
    path = tmp_path / "s"
    with FileEventStore(path, segment_bytes=50_000):
        pass
    writers = [start("endless", path, "s:all", own, 2_000) for own in range(2)]
    drains = [threading.Thread(target=writer.communicate) for writer in writers]
    try:
        for writer, drain in zip(writers, drains, strict=True):
            assert writer.stdout
            writer.stdout.readline()
            drain.start()
        with reader(path) as store:
            seen = rounds = 0
            while seen < 3_000 or rounds < 20:
                positions = [position for position, _, _ in store.read_all(limit=10**9)]
                assert positions == list(range(1, len(positions) + 1))
                assert len(positions) % 3 == 0
                assert len(positions) >= seen
                seen, rounds = len(positions), rounds + 1
                records = list(store.records("s:all"))
                assert [r.stream_version for r in records] == list(range(len(records)))
                assert len(records) % 2 == 0
                assert len(records) >= seen * 2 // 3
                last = next(chain.from_iterable(store.envelopes(reverse=True, limit=1)))
                assert last.ends_batch
                backwards = [r.stream_version for r in store.records("s:all", reverse=True, limit=50)]
                assert backwards == list(range(backwards[0], max(-1, backwards[0] - 50), -1))
    finally:
        for writer in writers:
            writer.kill()
        for drain in drains:
            drain.join()


def test_two_stores_on_one_folder_in_one_process_simply_work(tmp_path: Path) -> None:
    """They see each other's events at once, over rolls too."""
    path = tmp_path / "s"
    with (
        FileEventStore(path, durability="relaxed", segment_bytes=2_000) as one,
        FileEventStore(path, durability="relaxed") as two,
    ):
        for number in range(0, 200, 2):
            assert one.append("a:1", [Added(number)], number - 1) == number
            assert two.append("a:1", [Added(number + 1)], number) == number + 1
        expected = [Added(number) for number in range(200)]
        assert one.read_stream("a:1") == two.read_stream("a:1") == expected
        assert list(verify(one)) == []


def test_a_store_may_be_used_on_both_sides_of_a_fork(tmp_path: Path) -> None:
    """Parent and child take turns at the lock as strangers would."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=3_000) as store:
        store.append("a:1", [Added(0)], ANY)
        child = os.fork()
        if not child:
            status = 1
            try:
                for number in range(100):
                    store.append("a:1", [Added(1_000 + number)], ANY)
                    store.append(f"b:{number}", [Added(number)], ANY)
                status = 0
            finally:
                os._exit(status)
        for number in range(100):
            store.append("a:1", [Added(number)], ANY)
            store.append(f"c:{number}", [Added(number)], ANY)
        assert os.waitpid(child, 0)[1] == 0
        numbers = [event.number for event in store.read_stream("a:1")]
        assert sorted(numbers) == sorted([0, *range(100), *range(1_000, 1_100)])
        assert store.get_event_count() == 401
        assert list(verify(store)) == []


def test_an_exclusive_store_keeps_other_writers_out_until_it_is_closed(tmp_path: Path) -> None:
    """They get an error that names the process, and can read meanwhile."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as other:
        with FileEventStore(path, durability="relaxed", exclusive=True) as holder:
            holder.append("a:1", [Added(1)], ANY)
            with pytest.raises(StoreBusyError, match=str(os.getpid())):
                other.append("a:1", [Added(2)], ANY)
            with pytest.raises(StoreBusyError):
                FileEventStore(path, exclusive=True)
            assert other.read_stream("a:1") == [Added(1)]
        assert other.append("a:1", [Added(2)], 0) == 1


def test_a_killed_exclusive_holder_does_not_keep_the_store(tmp_path: Path) -> None:
    """Its lock goes with it, and so does the mark it left."""
    path = tmp_path / "s"
    program = (
        "import sys, hangarlog; "
        "s = hangarlog.FileEventStore(sys.argv[1], exclusive=True); "
        "s.append('a:1', [hangarlog.UntypedEvent('Added', {'number': 1})], -1); "
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert holder.stdin
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    with FileEventStore(path, durability="relaxed") as store:
        with pytest.raises(StoreBusyError):
            store.append("a:1", [Added(2)], ANY)
        holder.kill()
        holder.communicate()
        assert holder.returncode == -signal.SIGKILL
        assert store.append("a:1", [Added(2)], 0) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # A listing that was interrupted.
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer signals")
def test_interrupts_anywhere_in_an_append_leave_a_store_that_works(tmp_path: Path) -> None:
    """Hundreds of them, wherever they come: no lock is lost, nothing acknowledged is."""

    class Interrupt(BaseException):
        pass

    def interrupt(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False  # Only one on the way out, however slow the machine is.
            raise Interrupt

    path = tmp_path / "s"
    acknowledged = interrupts = 0
    armed = False
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with FileEventStore(path, durability="relaxed", segment_bytes=20_000) as store:
            store.append("a:1", [Added(-1)], ANY)
            while interrupts < 300:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.1)  # Again, if one ends in a finalizer.
                    while True:
                        armed = True
                        store.append_many([("a:1", [Added(acknowledged)], ANY), ("b:1", [Added(1)], ANY)])
                        acknowledged += 1
                except Interrupt:
                    interrupts += 1
                except RuntimeError as error:
                    # Python's own conditions raise it if an interrupt comes as they begin to wait.
                    if not isinstance(error.__context__, Interrupt):
                        raise
                    interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            store.append("a:1", [Added(-2)], ANY)
            numbers = [event.number for event in store.read_stream("a:1")]
            assert set(range(acknowledged)) <= set(numbers)
            assert list(verify(store)) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with FileEventStore(path, durability="relaxed") as store:
        assert store.append("a:1", [Added(-3)], len(numbers) - 1) == len(numbers)
        assert list(verify(store)) == []
