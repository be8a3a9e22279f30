"""More bugs for row 7: of cursors, snapshots, deletions, event ids and turns."""

from __future__ import annotations

from .bug import Bug

FAILING = "tests/faults/test_failing_calls.py"
INTERRUPTED = "tests/faults/test_interrupted_syncs.py::test_what_is_made_again_after_an_interrupt_is_durable"
MOVING = "tests/filestore/test_moving_cursors.py"
IDS = "tests/filestore/test_event_ids.py"
SNAPSHOTS = "tests/filestore/test_snapshot_files.py"
HIDDEN = "tests/filestore/test_hidden_events.py"

OF_KEPT_STREAMS = [
    Bug(
        "the header of the table of ids is written before its pages are synced",
        "id_table.py",
        "        self._sync()\n        self._put_header(covered)\n",
        "        self._put_header(covered)\n        self._sync()\n",
        f"{IDS}::test_after_a_power_cut_a_table_has_all_that_its_header_says",
    ),
    Bug(
        "a cursor that moves with an append counts before its batch",
        "cursors.py",
        "self._write(planned, last, last, lines[-11:-3].decode())",
        "self._write(planned, planned.current.appended, last - 1, lines[-11:-3].decode())",
        f"{MOVING}::test_after_a_power_cut_a_cursor_and_the_events_agree",
    ),
    Bug(
        "a recovery does not set cursors back",
        "recover.py",
        "settle_cursors(folder, replay.moves, active, report, restarted=restarted, anew=state.failures > 0)",
        "pass",
        f"{MOVING}::test_after_a_power_cut_a_cursor_and_the_events_agree",
    ),
    Bug(
        "a snapshot is written over the newer half",
        "snapshot_files.py",
        "filesystem.write_at(fd, page, half - newest[0])",
        "filesystem.write_at(fd, page, newest[0])",
        f"{SNAPSHOTS}::test_a_power_cut_leaves_the_older_snapshot_or_the_newer",
    ),
    Bug(
        "a turn is never given back",
        "turns.py",
        "                if fd >= 0:\n                    self._give_back(fd, at)\n",
        "                pass\n",
        f"{FAILING}::test_a_turn_is_given_back",
    ),
    Bug(
        "a deletion that is made again does not sync the mark it finds",
        "store.py",
        "saves = after != before or not snapshots.is_synced(after)",
        "saves = after != before",
        INTERRUPTED,
    ),
    Bug(
        "a folder that is there is taken for durable",
        "filesystem.py",
        "        self.sync_folder(os.path.dirname(path))  # In any case",
        "        return  # In any case",
        INTERRUPTED,
    ),
    Bug(
        "an index stays beside the text that a truncation has shortened",
        "compaction.py",
        "filesystem.sync_folder(active.log.folder)  # First",
        "pass  # First",
        f"{HIDDEN}::test_a_power_cut_leaves_no_index_of_text_that_was_truncated",
    ),
]
