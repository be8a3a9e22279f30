"""Bugs for row 7: what is wrong in a copy of the library, and which check must see it."""

from __future__ import annotations

from .bug import Bug

CUTS = "--row 1 --size 1000"
REFUSALS = "--row 2 --size 40"
HISTORIES = "--row 8 --size 20000"
DYING = "tests/faults/test_dying_writer.py"
FAILING = "tests/faults/test_failing_calls.py"
RESTART = "tests/filestore/recovery/test_restart.py"
BY_HAND = "tests/faults/test_damage_by_hand.py"
DURABILITY = "tests/filestore/test_durability.py"
PROCESSES = "tests/concurrency/test_processes.py"
DESCRIPTORS = "tests/system/test_descriptors.py"
SHARP = "tests/faults/test_sharp.py"
RING = "tests/filestore/test_commit_ring.py"
CONFLICTS = "tests/concurrency/test_conflicts.py"

OF_CRASHES = [
    Bug(
        "an append is acknowledged without a sync of the ring",
        "commit_ring.py",
        "self._filesystem.sync_data(self._fd)",
        "pass",
        CUTS,
    ),
    Bug(
        "the ring begins again without a sync of the journal",
        "group_sync.py",
        "self._filesystem.sync_data(fd)\n            return generation + 1, 0",
        "return generation + 1, 0",
        f"{DURABILITY}::test_a_full_ring_syncs_the_journal_once_and_begins_again",
    ),
    Bug(
        "a roll does not sync the folder between its two names",
        "filesystem.py",
        "self.sync_folder(os.path.dirname(active))\n        self.rename(fresh, active)",
        "self.rename(fresh, active)",
        f"{SHARP}::test_a_power_cut_between_the_names_of_a_roll_costs_nothing",
    ),
    Bug(
        "a roll is finished only where its fresh file has kept its name",
        "log.py",
        'return "" if first is None else self.sealed_path(first)',
        'return self.sealed_path(first or 0) if self.filesystem.is_there(self.active_path + ".new") else ""',
        f"{BY_HAND}::test_a_folder_in_the_middle_of_a_roll_opens",
    ),
    Bug(
        "a sync that failed is simply tried again",
        "group_sync.py",
        "state.mark_sync_failed()",
        "return self._sync(words)",
        REFUSALS,
    ),
    Bug(
        "a version is taken from a cache",
        "open_streams.py",
        "active = end.active\n        try:  # noqa: SIM105",
        "return end\n        try:  # noqa: SIM105",
        f"{PROCESSES}::test_two_stores_on_one_folder_in_one_process_simply_work",
    ),
    Bug(
        "a stream is closed under its writer where another store needs descriptors",
        "open_streams.py",
        "self._ends.popitem(last=False)\n\n",
        "self._ends.popitem(last=False)[1].close()\n\n",
        f"{DESCRIPTORS}::test_what_is_taken_out_of_a_store_while_it_writes_and_reads_stays_open_until_then",
    ),
    Bug(
        "a file that cannot be opened for want of a descriptor is taken for damage",
        "segment.py",
        "if error.errno not in NO_FILE:",
        "if error.errno in (2, 13):",
        f"{DESCRIPTORS}::test_a_file_the_system_refuses_to_open_is_no_damage",
    ),
    Bug(
        "what is made in a store does not get the store's permissions",
        "filesystem.py",
        "os.fchmod(fd, mode)",
        "pass",
        "tests/filestore/test_owners.py::test_a_mode_reaches_every_file_that_is_made_later",
    ),
    Bug(
        "an index is trusted that covers what was lost",
        "replay.py",
        "def forget_index(active: ActiveSegment, *, restarted: bool) -> None:",
        "def forget_index(active: ActiveSegment, *, restarted: bool) -> None:\n    return",
        f"{BY_HAND}::test_a_power_cut_at_the_end_of_a_line_leaves_no_index_that_covers_more",
    ),
    Bug(
        "the lock's file is deleted when it is given back",
        "file_lock.py",
        "def release(self, *, everybody: bool = False) -> None:",
        "def release(self, *, everybody: bool = False) -> None:\n"
        "        with contextlib.suppress(OSError):\n            os.unlink(self.path)",
        f"{PROCESSES}::test_eight_processes_with_expected_versions_lose_and_double_nothing",
    ),
    Bug(
        "a short write is taken for a whole one",
        "filesystem.py",
        "while written < len(data):  # Short",
        "while False:  # Short",
        f"{FAILING}::test_a_real_limit_of_file_sizes_is_met_at_every_byte",
    ),
    Bug(
        "the expected version is not checked",
        "expected_version.py",
        "matches = is_at(expected, actual, deleted)",
        "matches = True",
        HISTORIES,
    ),
    Bug(
        "what a sync covers is asked after it instead of before",
        "group_sync.py",
        "state.made_durable(published, following)",
        "state.made_durable(state.published() or published, following)",
        f"{SHARP}::test_what_is_written_during_a_sync_is_not_covered_by_it",
    ),
    Bug(
        "a commit is published before its streams are written",
        "writer.py",
        "journal.append(data, lengths)",
        "journal.append(data, lengths)\n            state.finish(last, first, journal.size)",
        f"{FAILING}::test_no_reader_sees_a_commit_before_it_is_published",
    ),
    Bug(
        "damage in the middle is taken for a torn end",
        "journal_end.py",
        "if unconnected and not (",
        "if False and not (",
        f"{BY_HAND}::test_a_torn_batch_may_have_its_later_pages_on_the_device_first",
    ),
    Bug(
        "recovery does not look into the ring",
        "recover.py",
        "ring = Found() if state.valid else read_ring",
        "ring = Found() if True else read_ring",
        CUTS,
    ),
    Bug(
        "a file is replaced without a sync of its text",
        "filesystem.py",
        "self.sync_data(fd)",
        "pass",
        CUTS,
    ),
    Bug(
        "a file is replaced without a sync of its folder",
        "filesystem.py",
        "self.rename(temporary, path)\n        if sync:",
        "self.rename(temporary, path)\n        if False:",
        CUTS,
    ),
    Bug(
        "a journal segment is sealed without a sync",
        "writer.py",
        "session.sync_now(journal)\n        session.folder.refuse_moved()",
        "session.folder.refuse_moved()",
        CUTS,
    ),
    Bug(
        "a stream's segment is sealed without a sync",
        "writer.py",
        "session.sync_now(active)",
        "pass",
        f"{SHARP}::test_a_power_cut_in_a_roll_costs_nothing",
    ),
    Bug(
        "a stream's segment is sealed before the journal is synced",
        "writer.py",
        "session.sync_now(session.journal)  # First",
        "pass  # First",
        f"{DURABILITY}::test_a_segment_is_sealed_only_when_it_is_on_the_device",
    ),
    Bug(
        "a checkpoint is said of streams that were not synced",
        "checkpoint.py",
        "filesystem.sync_everything(folder.path, folder.all_folders())",
        "pass",
        CUTS,
    ),
    Bug(
        "what a recovery wrote into the journal is not synced",
        "recover.py",
        "            _sync(folder, active, state)",
        "            pass",
        f"{SHARP}::test_what_a_recovery_took_from_the_ring_stays_when_the_ring_is_written_over",
    ),
    Bug(
        "after a failed sync the journal is not written anew",
        "recover.py",
        "if state.failures:",
        "if False:",
        REFUSALS,
    ),
    Bug(
        "the first ring is made without a sync of the journal",
        "group_sync.py",
        "self._filesystem.sync_data(fd)\n        try:\n            state.ring_file",
        "try:\n            state.ring_file",
        CUTS,
    ),
    Bug(
        "what was taken back is not synced",
        "writer.py",
        "session.sync_now(session.journal)  # Else",
        "pass  # Else",
        f"{SHARP}::test_what_was_taken_back_does_not_come_back_in_a_power_cut",
    ),
    Bug(
        "an opener that finds nobody believes the shared state",
        "write_session.py",
        "self.state.session = last if self._session.others_in(last) else 0",
        "self.state.session = last",
        f"{SHARP}::test_a_state_of_before_a_restart_is_not_believed",
    ),
    Bug(
        "a torn end of the journal is not cut off",
        "journal_end.py",
        "active.cut(self._batches_end + kept)",
        "pass",
        f"{DYING}::test_a_writer_may_die_at_any_call[0.5]",
    ),
    Bug(
        "streams are not completed after the death of a writer",
        "replay.py",
        'active.append(b"".join([line + b"\\n" for line in missing]))',
        "pass",
        f"{DYING}::test_a_writer_may_die_at_any_call[1.0]",
    ),
    Bug(
        "what reached a stream but not the journal is left there",
        "recover.py",
        "_cut_uncommitted(folder, report.since, known, report, begun)",
        "pass",
        f"{RESTART}::test_what_reached_a_stream_but_not_the_journal_never_happened",
    ),
    Bug(
        "a failed append leaves its batch in the journal",
        "writer.py",
        "if session.journal.cut(size):",
        "if False:",
        f"{FAILING}::test_a_full_disk_fails_the_append_whole",
    ),
    Bug(
        "a sync that failed during a commit is taken for what the writer left",
        "shared_state.py",
        "return raw[: COMMITTED * 8] + data + raw[WRITING * 8 : STANDING]",
        "return self.raw()[:STANDING]",
        f"{SHARP}::test_a_sync_that_fails_while_somebody_commits_is_healed_by_the_next_append",
    ),
    Bug(
        "readers see what is not committed yet",
        "shown_blocks.py",
        "def up_to(",
        "def up_to(blocks: Iterator[list[Envelope]], committed: int) -> Iterator[list[Envelope]]:\n"
        "    return blocks\n\n\ndef _up_to_committed(",
        f"{FAILING}::test_no_reader_sees_a_commit_before_it_is_published",
    ),
    Bug(
        "a failed write past the cache is taken for one that had no room",
        "commit_ring.py",
        "if error.errno not in _NO_ROOM:",
        "if False:",
        f"{RING}::test_a_device_that_fails_in_a_write_through_has_failed_a_sync",
    ),
    Bug(
        "a hole of less than a sector is taken for damage",
        "journal_end.py",
        "self._zeroed |= len(line) >= rest",
        "self._zeroed |= False and len(line) >= rest",
        f"{RESTART}::test_a_sector_that_the_device_has_as_it_was_when_the_file_ended_in_it_is_a_hole",
    ),
    Bug(
        "the children of a fork write frames from the same memory",
        "commit_ring.py",
        "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS",
        "mmap.MAP_SHARED | mmap.MAP_ANONYMOUS",
        f"{RING}::test_a_forked_child_writes_frames_from_memory_of_its_own",
    ),
    Bug(
        "a conflict is told of what is not committed",
        "active_segment.py",
        "if last.position <= committed:",
        "if True:",
        f"{CONFLICTS}::test_what_is_not_committed_is_no_conflict_yet",
    ),
    Bug(
        "a retry is refused as a conflict",
        "open_streams.py",
        "retried = first.event_id == pending.events[0][1]",
        "retried = False",
        f"{CONFLICTS}::test_a_retry_is_not_taken_for_a_conflict",
    ),
]
