"""A copy that is killed anywhere, or finds the disk full: another run completes it, and nothing is there twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from copied_stores import check_equal, contents, copied, dropped, event, fill, opened, versions
from dying import Died, DyingFileSystem

from hangarlog import ANY, FileEventStore, OutcomeUnknownError, StorageError
from hangarlog.copying import copy
from hangarlog.maintenance.verify import verify

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL and no limit of a file's size")


def made(path: Path) -> None:
    """A source with every kind of batch, marks, snapshots and cursors."""
    with opened(path, segment_bytes=2000) as store:
        fill(store, 2)
        store.save_snapshot("b:1", 7, {"sum": 1})
        store.compact_stream("b:1")
        store.truncate_stream("b:2", 2)
        store.delete_stream("x:con")


def test_killed_at_any_call_another_run_completes_it(tmp_path: Path) -> None:
    """At every ninth call that changes a file of the target, with a different part of a write; the second run dies,
    too."""
    made(tmp_path / "source")
    with opened(tmp_path / "source") as source:
        rows = contents(source)
    for at in count(0, 9):
        shutil.rmtree(tmp_path / "target", ignore_errors=True)
        ended = _run(tmp_path, DyingFileSystem(at, at % 4 / 4))
        if not ended:
            _check_first_ones(tmp_path / "target", rows)
            _run(tmp_path, DyingFileSystem(at // 2, 0.5))
            _check_first_ones(tmp_path / "target", rows)
        copied(tmp_path / "source", tmp_path / "target")
        with opened(tmp_path / "source") as source, opened(tmp_path / "target") as target:
            check_equal(source, target)
        if ended:
            assert at > 100
            break


def test_killed_at_any_call_with_a_source_whose_journal_begins_later(tmp_path: Path) -> None:
    """Its streams begin later, too: each is begun before its first event."""
    with dropped(tmp_path / "source") as source:
        source.retain()
        assert source.first_position > 1
        shown = versions(source)
    for at in count(0, 13):
        shutil.rmtree(tmp_path / "target", ignore_errors=True)
        ended = _run(tmp_path, DyingFileSystem(at, at % 4 / 4))
        _run(tmp_path, DyingFileSystem(at // 2, 0.5))
        copied(tmp_path / "source", tmp_path / "target")
        with opened(tmp_path / "target") as target:
            assert versions(target) == shown
            assert [row[0] for row in contents(target)] == [*range(1, target.last_position + 1)]
            assert not list(verify(target))
        if ended:
            assert at > 100
            break


def _run(folder: Path, filesystem: DyingFileSystem) -> bool:
    """Return True if it was not killed."""
    try:
        copied(folder / "source", folder / "target", filesystem)
    except Died:
        return False
    return True


def _check_first_ones(target: Path, rows: list[Any]) -> None:
    """The target has the first batches of the source, each whole."""
    if not (target / "hangarlog.json").exists():
        return
    with opened(target) as store:
        found = contents(store)
    assert found == rows[: len(found)]
    assert not found or found[-1][-2] in (0, found[-1][0])  # It ends its batch.


@POSIX
def test_a_command_that_is_killed_again_and_again_ends_up_complete(tmp_path: Path) -> None:
    """By SIGKILL, each time after it has written a bit more."""
    with opened(tmp_path / "source") as source:
        for number in range(3000):
            source.append(f"a:{number % 7}", [event(number, text="x" * 4000)] * (1 + number % 3), ANY)
    command = [sys.executable, "-m", "hangarlog", "copy", "source", "target"]
    sizes = list[int]()
    for kills in range(6):
        running = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        wanted = kills * 4_000_000
        while running.poll() is None and _size(tmp_path / "target") <= wanted:
            pass
        running.send_signal(signal.SIGKILL)
        running.wait()
        sizes.append(_size(tmp_path / "target"))
    assert sizes[-1] > sizes[0]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, '"compared":6000' in done.stdout) == (0, True), done.stderr
    with opened(tmp_path / "source") as source, opened(tmp_path / "target") as target:
        check_equal(source, target)


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def _size(target: Path) -> int:
    """The bytes of a target's journal, whose segments may be renamed just now."""
    size = 0
    for path in target.glob("journal*.jsonl"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            continue
    return size


@POSIX
def test_a_disk_that_is_full_is_named_and_the_copy_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with opened(tmp_path / "source") as source:
        for number in range(400):
            source.append("a:1", [event(number, text="x" * 40_000)], ANY)
    command = ["sh", "-c", 'ulimit -f 16000; exec "$@"', "sh", sys.executable, "-m", "hangarlog", "copy"]
    full = subprocess.run([*command, "source", "target"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert full.returncode == 1
    assert "File too large" in full.stderr
    assert "target" in full.stderr
    assert "it is copied; run it again for the rest" in full.stderr
    with opened(tmp_path / "source") as source, opened(tmp_path / "target") as target:
        _check_first_ones(tmp_path / "target", contents(source))
        assert 0 < copy(source, target).already < 400
        check_equal(source, target)


def test_a_target_that_fails_once_is_completed_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the outcome of an append is unknown, and it counts."""
    made(tmp_path / "source")
    for error in (StorageError("x", 28, "no space"), OutcomeUnknownError("x", "lost")):
        real, left = FileEventStore.append_batches, iter([True, False])

        def failing(store: Any, batches: Any, error: Any = error, left: Any = left, real: Any = real) -> Any:
            if next(left, True):
                return real(store, batches)
            if isinstance(error, OutcomeUnknownError):
                real(store, batches)
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("hangarlog.copying.copying._CHUNK_BYTES", 1)
            patch.setattr(FileEventStore, "append_batches", failing)
            with pytest.raises(type(error)):
                copied(tmp_path / "source", tmp_path / "target")
        copied(tmp_path / "source", tmp_path / "target")
        with opened(tmp_path / "source") as source, opened(tmp_path / "target") as target:
            check_equal(source, target)
        shutil.rmtree(tmp_path / "target")


def test_two_copies_at_the_same_time_double_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finds the other's appends as its own retries."""
    monkeypatch.setattr("hangarlog.copying.copying._CHUNK_BYTES", 2000)
    with opened(tmp_path / "source", segment_bytes=5000) as source:
        fill(source, 30)
    errors: list[BaseException] = []
    start = threading.Barrier(2)

    def run() -> None:
        try:
            with opened(tmp_path / "source") as here, opened(tmp_path / "target") as there:
                start.wait()
                copy(here, there)
        except BaseException as error:  # Looked at below.
            errors.append(error)

    opened(tmp_path / "target").close()
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with opened(tmp_path / "source") as source, opened(tmp_path / "target") as target:
        check_equal(source, target)
