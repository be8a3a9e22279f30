"""Archiving that is killed at any of its calls: every event is in the archive, or in the store, or in both."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from archived_stores import ALL, held, opened, positions, shown, written
from dying import Died, DyingFileSystem

from hangarlog import FileEventStore

BEFORE = 30  # So the journal's segments up to position 24 go.


def test_killed_at_any_call_no_event_is_lost_and_another_run_completes_it(tmp_path: Path) -> None:
    """At every third call that changes a file, with a different part of a write; also the second run is killed."""
    written(tmp_path / "made").close()
    for at in count(0, 3):
        store, archive = _copied(tmp_path)
        ended = _archive(store, archive, DyingFileSystem(at, at % 4 / 4))
        _check_nothing_lost(store, archive)
        if not ended:
            _archive(store, archive, DyingFileSystem(at // 2, 0.5))
            _check_nothing_lost(store, archive)
        assert _archive(store, archive, DyingFileSystem())
        _check_complete(store, archive)
        if ended:
            assert at > 60
            break


def test_killed_at_any_call_while_an_archive_grows(tmp_path: Path) -> None:
    """Its streams get more events, and one was truncated in the store meanwhile."""
    with written(tmp_path / "made") as made:
        made.archive(tmp_path / "grows", before=18)
        made.truncate_stream("a:1", 7)  # Position 20 and before.
    for at in count(0, 5):
        store, archive = _copied(tmp_path)
        ended = _archive(store, archive, DyingFileSystem(at, at % 4 / 4))
        _check_nothing_lost(store, archive)
        assert _archive(store, archive, DyingFileSystem())
        _check_complete(store, archive, hidden=[2, 5, 8, 11, 14, 17, 20])
        if ended:
            break


def test_killed_at_any_call_while_it_is_brought_back(tmp_path: Path) -> None:
    """What a truncation and a deletion hide stays hidden; the archive stays as it is."""
    with written(tmp_path / "made") as made:
        made.truncate_stream("a:1", 3)  # Positions 2, 5 and 8.
        made.archive(tmp_path / "grows", before=BEFORE)
        made.delete_stream("a:2")
    gone = [*range(3, 61, 3)]
    for at in count(0, 4):
        store, archive = _copied(tmp_path)
        ended = _run(
            store, DyingFileSystem(at, at % 4 / 4), lambda source, archive=archive: source.restore_archive(archive)
        )
        _check_nothing_lost(store, archive)
        assert _run(store, DyingFileSystem(), lambda source, archive=archive: source.restore_archive(archive))
        assert (held(archive), held(store)) == (ALL[:24], ALL)
        with opened(store) as here:
            assert shown(here) == [position for position in ALL if position not in [2, 5, 8, *gone]]
            assert here.get_stream_version("a:2") == 19
        if ended:
            break


def _copied(tmp_path: Path) -> tuple[Path, Path]:
    for name, source in (("store", "made"), ("archive", "grows")):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        if (tmp_path / source).exists():
            shutil.copytree(tmp_path / source, tmp_path / name)
    return tmp_path / "store", tmp_path / "archive"


def _archive(store: Path, archive: Path, filesystem: DyingFileSystem) -> bool:
    return _run(store, filesystem, lambda source: source.archive(archive, before=BEFORE))


def _run(store: Path, filesystem: DyingFileSystem, call: Callable[[FileEventStore[Any]], object]) -> bool:
    """Return True if it was not killed."""
    try:
        with opened(store, filesystem) as source:
            call(source)
    except Died:
        return False
    return filesystem.at is None or filesystem.calls <= filesystem.at


def _check_nothing_lost(store: Path, archive: Path) -> None:
    kept = held(store)
    assert sorted({*held(archive), *kept}) == ALL
    assert kept == ALL[-len(kept) :]


def _check_complete(store: Path, archive: Path, hidden: Sequence[int] = ()) -> None:
    assert (held(archive), held(store)) == (ALL[:24], ALL[24:])
    with opened(store) as here, opened(archive) as there:
        assert shown(here) == ALL[24:]
        assert shown(there) == [position for position in ALL[:24] if position not in hidden]
        assert positions(there, "a:0") == [*range(1, 24, 3)]
