"""Power cuts at the target while a store is copied: it has whole batches, and another run completes it."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from campaigns.crash_states import place
from copied_stores import check_equal, contents, fill, opened

from hangarlog.copying import Copy, copy
from hangarlog.testing import Recording, Unsynced, crash_states

STATES = 150


def made(path: Path) -> None:
    with opened(path, segment_bytes=3000) as store:
        fill(store, 2)
        store.save_snapshot("b:1", 7, {"sum": 1})
        store.compact_stream("b:1")
        store.truncate_stream("b:2", 2)
        store.delete_stream("x:con")


@pytest.mark.parametrize("chunk", [1, 4 << 20])
def test_a_power_cut_leaves_whole_batches_and_takes_nothing_once_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Cut at some of all operations on files, with any part of what was not synced."""
    monkeypatch.setattr("hangarlog.copying.copying._CHUNK_BYTES", chunk)
    made(tmp_path / "source")
    top, rng = tmp_path / "recorded", random.Random(20)
    top.mkdir()
    recording = Recording(top)
    with opened(tmp_path / "source") as source, opened(top / "target", recording, segment_bytes=2000) as target:
        rows = contents(source)
        begun = len(recording.operations)
        work = Copy(source, target)
        work.catch_up()
        work.finish()
        recording.note("complete")
        check_equal(source, target)
    within = range(begun + 1, len(recording.operations) + 1)
    with opened(tmp_path / "source") as source, warnings.catch_warnings(action="ignore"):
        for state in crash_states(recording.operations, rng, 1, rng.sample(within, min(STATES, len(within)))):
            shutil.rmtree(tmp_path / "cut", ignore_errors=True)
            place(state, tmp_path / "cut")
            _check(source, tmp_path / "cut/target", rows, complete="complete" in state.notes)


def _check(source: Any, path: Path, rows: list[Any], *, complete: bool) -> None:
    with opened(path, Unsynced()) as target:
        found = contents(target)
        assert found == rows[: len(found)]
        assert not found or found[-1][-2] in (0, found[-1][0])
        assert not complete or len(found) == len(rows)
        if complete:
            check_equal(source, target)
        assert copy(source, target).events == len(rows) - len(found)
        check_equal(source, target)
