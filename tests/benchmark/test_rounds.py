"""Runs of the benchmark: what is measured, what is left, and what ends one early."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hangarlog import FileEventStore, HangarlogError, UnsafeFileSystemError, UntypedEvent
from hangarlog.benchmark import plan as plan_module
from hangarlog.benchmark.alone import Alone
from hangarlog.benchmark.crew import Crew
from hangarlog.benchmark.errors import BenchmarkError
from hangarlog.benchmark.payloads import from_text, of_size, sample
from hangarlog.benchmark.plan import Plan, make_plan
from hangarlog.benchmark.rounds import Outcome, run
from hangarlog.benchmark.scratch import PREFIX, find_place, left_over, scratch
from hangarlog.benchmark.turn import TimedFileSystem
from hangarlog.benchmark.worker import Task
from hangarlog.filestore.commit_ring import RING_BYTES
from hangarlog.system.filesystem import FileSystem

SEVERAL = b'{"a":1}\n{"a":{"b":[1,2,3]},"_version":2}\n{"text":"\xc3\xa4"}\n'


def plan(folder: Path, seconds: float = 0.1) -> Plan:
    return make_plan(find_place(str(folder)), sample(), seconds, 2)


def measured(folder: Path, at: int, act: Callable[[], None]) -> Outcome:
    """A run in the turn number `at` of which something happens."""
    titles: list[str] = []

    def advance(title: str) -> None:
        titles.append(title)
        if len(titles) == at:
            act()

    return run(find_place(str(folder)), sample(), plan(folder), advance)


def test_a_run_measures_everything_and_leaves_nothing(tmp_path: Path) -> None:
    """Also with payloads that differ in size and schema version."""
    payloads = from_text(SEVERAL, "given.jsonl")
    titles: list[str] = []
    planned = make_plan(find_place(str(tmp_path)), payloads, 0.2, 2)
    outcome = run(find_place(str(tmp_path)), payloads, planned, titles.append)
    assert outcome.error is None
    results = outcome.results
    assert list(tmp_path.iterdir()) == []
    assert (results.rounds, results.stopped, len(titles)) == (1, None, len(planned.measures))
    assert [result.name for result in results.measures] == [measure.name for measure in planned.measures]
    for result in results.measures:
        assert result.calls > 0, result.name
        assert result.events_per_second > 0, result.name
        assert result.beside is None or results.find(result.beside), result.name
        assert sum(count for _, _, count in result.histogram) == (0 if result.p50_us is None else result.calls), (
            result.name
        )
        if result.disk_us is not None and result.hangarlog_us is not None:
            assert result.disk_us + result.hangarlog_us == pytest.approx(result.p50_us)
    watched = {result.name for result in results.measures if result.disk_us}
    assert watched == {f"{name}{size}" for name in ("durable", "bare_synced") for size in ("", "_10", "_100", "_1000")}
    assert (results.payload.events, results.payload.source) == (3, "given.jsonl")


def test_a_store_that_is_watched_syncs_as_any_other(tmp_path: Path) -> None:
    """Through the ring, where there is one."""
    timed = TimedFileSystem()
    fds: list[bool] = []
    for filesystem in (timed, FileSystem()):
        path = tmp_path / type(filesystem).__name__
        path.write_bytes(bytes(4096))
        fd, synced = filesystem.open_synced(str(path))
        fds.append(synced)
        filesystem.close(fd)
    assert fds[0] == fds[1]
    alone = Alone(str(tmp_path), sample(), 1 << 20, 60.0)
    try:
        turn = alone.durable(0.01)
    finally:
        alone.close()
    assert (tmp_path / "durable/ring").stat().st_size == RING_BYTES
    assert all(0 < wait < sample_ns for sample_ns, wait in zip(turn.samples, turn.waits, strict=True))


def test_a_turn_ends_when_it_has_written_enough(tmp_path: Path) -> None:
    alone = Alone(str(tmp_path), of_size(1000), 10_000)
    try:
        assert len(alone.relaxed(60.0).samples) == len(alone.interval(60.0).samples) < 10
        assert len(alone.bare(60.0).samples) < 20
    finally:
        alone.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 15])
def test_a_signal_ends_a_run_which_keeps_its_results_and_leaves_no_files(
    tmp_path: Path, number: signal.Signals, at: int
) -> None:
    """The second one that comes with it does not disturb the cleaning up."""
    handler = signal.getsignal(number)

    def act() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)

    outcome = measured(tmp_path, at, act)
    assert isinstance(outcome.error, KeyboardInterrupt)
    assert (outcome.results.stopped, len(outcome.results.measures)) == ("interrupted", at - 1)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is handler


@pytest.fixture(autouse=True)
def signals_are_not_ignored() -> Iterator[None]:
    """As they are where a shell runs the tests in its background."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_interrupt_that_python_drops_ends_the_run_after_the_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it drops the exception of one that arrives while a finalizer runs."""
    monkeypatch.setattr(sys, "unraisablehook", lambda what: None)

    class Odd:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = measured(tmp_path, 3, lambda: bool(Odd()) and None)
    assert (outcome.results.stopped, len(outcome.results.measures)) == ("interrupted", 3)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_a_run_with_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: FileSystem, fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    outcome = measured(tmp_path, 9, lambda: monkeypatch.setattr(FileSystem, "sync_data", full))
    monkeypatch.undo()
    assert isinstance(outcome.error, BenchmarkError)
    assert re.search(
        r"No space left on device, while measuring '(batches of 10+|one append at a time): ", str(outcome.error)
    )
    assert re.search(r"MiB are free now that its files are removed", str(outcome.error))
    assert outcome.results.find("durable")
    assert outcome.results.find("follow") is None
    assert list(tmp_path.iterdir()) == []


def test_any_other_failure_of_the_device_ends_a_run_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: FileSystem, fd: int, data: bytes) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    outcome = measured(tmp_path, 2, lambda: monkeypatch.setattr(FileSystem, "write", broken))
    monkeypatch.undo()
    assert isinstance(outcome.error, OSError)
    assert outcome.results.stopped == str(outcome.error)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_refused_before_and_a_small_one_gets_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = plan(tmp_path)
    monkeypatch.setattr(plan_module, "free_bytes", lambda folder: 200 << 20)
    assert plan(tmp_path).needed_bytes <= 100 << 20 < usual.needed_bytes
    monkeypatch.setattr(plan_module, "free_bytes", lambda folder: 20 << 20)
    with pytest.raises(BenchmarkError, match=r"it has 20 MiB free, and a run may need \d+ MiB there; free some space"):
        plan(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_batches_that_would_write_too_much_are_left_out(tmp_path: Path) -> None:
    planned = make_plan(find_place(str(tmp_path)), of_size(100_000), 1.0, 2)
    assert [measure.name for measure in planned.measures if "durable_" in measure.name] == ["durable_10"]


def test_processes_say_why_they_cannot_measure(tmp_path: Path) -> None:
    crew, events = Crew(str(tmp_path)), tmp_path / "events"
    sample().save(FileSystem(), str(events))
    try:
        with pytest.raises(BenchmarkError, match="missing"):
            crew.together([Task("append", bytes(tmp_path / "missing"), bytes(events))])
        with pytest.raises(FileNotFoundError):
            crew.together([Task("bare", bytes(tmp_path / "missing/file"))])
        crew._processes[0].kill()
        with pytest.raises(BenchmarkError, match=r"ended by itself \(exit code -9\)"):
            crew.together([Task("bare", bytes(tmp_path / "file"))])
    finally:
        crew.stop()


def test_a_store_is_measured_beside_it_and_from_within_it_too(tmp_path: Path) -> None:
    FileEventStore.untyped(tmp_path / "s").close()
    for named in (tmp_path / "s", tmp_path / "s/streams", tmp_path / "s/locks"):
        place = find_place(str(named))
        assert (place.folder, place.store) == (str(tmp_path.resolve()), str((tmp_path / "s").resolve()))
    assert find_place(str(tmp_path)).store is None


def test_a_store_that_is_a_mount_point_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside it is another disk, and within it nothing is written."""
    FileEventStore.untyped(tmp_path / "s").close()
    real = os.stat

    def stat(path: str, **options: bool) -> os.stat_result:
        found = real(path, **options)
        if str(path) != str(tmp_path / "s"):
            return found
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:10]))

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(BenchmarkError, match="file system of its own"):
        find_place(str(tmp_path / "s"))


def test_a_file_system_that_stores_refuse_is_refused_with_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = FileSystem().mount_table()
    monkeypatch.setattr(FileSystem, "mount_table", lambda self: re.sub(rb" - \S+ ", b" - nfs ", table))
    with pytest.raises(UnsafeFileSystemError, match="type nfs"):
        find_place(str(tmp_path))
    monkeypatch.setenv("HANGARLOG_UNSAFE_FILE_SYSTEM", "nfs")
    assert find_place(str(tmp_path)).file_system == "nfs"


def test_what_a_killed_run_has_left_is_found_but_not_a_running_one(tmp_path: Path) -> None:
    with scratch(str(tmp_path)) as running:
        assert left_over(str(tmp_path)) == []
        assert os.stat(running).st_mode & 0o777 == 0o700
    assert left_over(str(tmp_path)) == []
    (tmp_path / f"{PREFIX}dead").mkdir()
    (tmp_path / f"{PREFIX}dead/running").touch()
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / f"{PREFIX}dead")
    assert left_over(str(tmp_path)) == [str(tmp_path / f"{PREFIX}dead")]


def test_files_that_cannot_be_removed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "refused", path)

    monkeypatch.setattr("shutil.rmtree", refuse)
    with (
        pytest.raises(BenchmarkError, match=r"cannot remove .*: refused; delete it") as caught,
        scratch(str(tmp_path)),
    ):
        pass
    assert isinstance(caught.value, HangarlogError)


def test_events_of_a_run_are_those_that_were_given(tmp_path: Path) -> None:
    """Payload, type and schema version."""
    alone = Alone(str(tmp_path), from_text(SEVERAL, "given"), 1 << 20)
    try:
        alone.relaxed(0.0)
    finally:
        alone.close()
    with FileEventStore.untyped(tmp_path / "relaxed") as store:
        assert store.read_stream("bench:1")[:2] == [
            UntypedEvent("Measured", {"a": 1}),
            UntypedEvent("Measured", {"a": {"b": [1, 2, 3]}}, 2),
        ]
