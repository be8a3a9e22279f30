"""Power cuts while events are archived, the archive grows, and it is brought back; and a disk that writes wrongly."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archived_stores import ALL, held, opened, shown, written
from campaigns.crash_states import place

from hangarlog import FileEventStore
from hangarlog.filestore import archive_folder
from hangarlog.log.segment import Segment
from hangarlog.testing import Recording, Unsynced, crash_states

STATES = 120


def _archived(store: FileEventStore[Any], archive: Path) -> None:
    store.archive(archive, before=18)
    store.archive(archive, before=30, compress=True)


def _restored(store: FileEventStore[Any], archive: Path) -> None:
    store.archive(archive, before=30)
    store.restore_archive(archive)


def _no_event_is_lost(tmp_path: Path, work: Callable[[FileEventStore[Any], Path], None]) -> None:
    """Cut the power within the work, at some of its operations, with any part of what was not synced."""
    top, rng = tmp_path / "recorded", random.Random(18)
    top.mkdir()
    written(top / "s").close()
    recording = Recording(top)
    with opened(top / "s", recording) as store:
        store.sync()
        begun = len(recording.operations)
        work(store, top / "a")
        within = range(begun + 1, len(recording.operations) + 1)
    for number, state in enumerate(
        crash_states(recording.operations, rng, 1, rng.sample(within, min(STATES, len(within))))
    ):
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        place(state, tmp_path / "cut")
        store_path, archive = tmp_path / "cut" / "s", tmp_path / "cut" / "a"
        kept = held(store_path, Unsynced())
        assert sorted({*held(archive, Unsynced()), *kept}) == ALL, f"after {state}"
        assert kept == ALL[-len(kept) :]
        if number % 3:
            continue
        with opened(store_path, Unsynced()) as store:
            store.archive(archive, before=30)
        assert (held(archive, Unsynced()), held(store_path, Unsynced())) == (ALL[:24], ALL[24:])
        with opened(store_path, Unsynced()) as here, opened(archive, Unsynced()) as there:
            assert (shown(here), shown(there)) == (ALL[24:], ALL[:24])


@pytest.mark.parametrize("work", [_archived, _restored])
def test_no_power_cut_loses_an_event(tmp_path: Path, work: Callable[[FileEventStore[Any], Path], None]) -> None:
    _no_event_is_lost(tmp_path, work)


@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: text.replace(b"x", b"y", 1), lambda text: b""])
def test_what_was_copied_wrongly_is_found_before_anything_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    """As by a faulty disk or memory."""
    put = archive_folder.put_sealed

    def spoilt(segment: Segment, folder: Any, first: int) -> None:
        put(segment, folder, first)
        file = Path(folder.journal.sealed_path(first))
        file.write_bytes(change(file.read_bytes()))

    with written(tmp_path / "s") as store, monkeypatch.context() as patched:
        patched.setattr(archive_folder, "put_sealed", spoilt)
        for _ in range(2):
            with pytest.raises(archive_folder.ArchiveError, match="what was copied reads differently"):
                store.archive(tmp_path / "a", before=30)
            assert shown(store) == ALL
            assert store.first_position == 1
    assert held(tmp_path / "s") == ALL
