"""Power cuts in the middle of a retention: nothing that is kept is lost, nothing that was dropped is shown."""

from __future__ import annotations

import random
from pathlib import Path

from campaigns import dropped_beginnings
from campaigns.crash_states import place, small_ring
from retained_stores import segment_firsts, written

from hangarlog import FileEventStore
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.hidden_events import without_left_over
from hangarlog.maintenance.verify import verify
from hangarlog.record.checked_json import with_crc
from hangarlog.testing import Recording, Unsynced, crash_states


def test_no_power_cut_in_a_retention_loses_or_shows_an_event(tmp_path: Path) -> None:
    """Within the last retentions, at any operation, with any part of what was not synced."""
    rng = random.Random(18)
    with small_ring():
        work = dropped_beginnings.record(tmp_path / "recorded")
        notes = {o.note: at for at, o in enumerate(work.recording.operations) if o.kind == "note"}
        within = [at for n in (2, 4) for at in range(notes["retains", n] + 1, notes["retained", n] + 1)]
        for state in crash_states(work.recording.operations, rng, 1, rng.sample(within, 60)):
            place(state, tmp_path / "store")
            work.check(tmp_path / "store", [state])


def test_marks_of_a_process_that_died_are_on_the_device_before_segments_go(tmp_path: Path) -> None:
    """It had given them their names, and synced nothing."""
    path, rng = tmp_path / "s", random.Random(18)
    written(path, streams=1).close()
    recording = Recording(path)
    with FileEventStore(path, segment_bytes=2000, durability="relaxed", filesystem=recording) as store:
        first = segment_firsts(store)[3]
        store._write_session.checkpointing.make()  # So that none is made later, which would sync the marks.
        content = with_crc(Snapshot("a:0", saved_at="2026-11-23T03:01:02.123456Z", compacted_through=first - 2))
        recording.make_folder(str(path / "snapshots"))
        recording.make_folder(str(path / "snapshots/a"))
        recording.replace_file(str(path / "snapshots/a/0.json"), content, sync=False)
        assert store.retain().first_position == first
        end = len(recording.operations)
    for state in crash_states(recording.operations, rng, 4, [end]):
        place(state, tmp_path / "copy")
        with FileEventStore(tmp_path / "copy", filesystem=Unsynced()) as store:
            assert store.first_position == first
            assert [record.position for record in store.records("a:0")] == [*range(first, 61)]
            assert not list(verify(store))


def test_a_truncation_cut_short_between_two_segments_is_no_damage(tmp_path: Path) -> None:
    """The segment that begins after it is written, the one before not yet removed."""
    path = tmp_path / "s"
    with written(path, streams=1) as store:
        old = {file: file.read_bytes() for file in path.glob("streams/a/0.0*.jsonl")}
        store.truncate_stream("a:0", 10)
    back = [file for file in old if not file.exists()]
    assert back
    for file in back:
        file.write_bytes(old[file])
    with FileEventStore(path) as store:
        assert [record.stream_version for record in store.records("a:0")] == [*range(10, 60)]
        assert not list(verify(store))
        store.truncate_stream("a:0", 10)
    assert not [file for file in back if file.exists()]
    assert without_left_over([0, 8, 16], 9) == [0, 8, 16]
