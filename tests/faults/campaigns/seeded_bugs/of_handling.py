"""More bugs for row 7: of what rows 13 to 18 show, and of what came with them."""

from __future__ import annotations

from .bug import Bug

FAILING = "tests/faults/test_failing_calls.py"
RESTART = "tests/filestore/recovery/test_restart.py"
DURABILITY = "tests/filestore/test_durability.py"
SHARP = "tests/faults/test_sharp_handling.py"
IN_USE = "tests/faults/test_files_in_use.py"
HANDLING = "tests/faults/test_handling.py"
REBUILD = "tests/maintenance/test_rebuild.py"
DEADLINES = "tests/concurrency/test_deadlines.py"
CLOSING = "tests/concurrency/test_closing.py"

OF_HANDLING = [
    # Another past within one boot (row 13).
    Bug(
        "an open store holds nothing that shows that it is there",
        "session.py",
        "filesystem.hold_byte(fd, number)",
        "pass",
        f"{SHARP}::test_who_opens_a_store_that_is_open_takes_part_and_recovers_nothing",
    ),
    Bug(
        "a recovery in the same boot does not look into the ring",
        "recover.py",
        "ring = Found() if state.valid else read_ring",
        "ring = Found() if state.valid or state.of_this_boot else read_ring",
        f"{HANDLING}::test_a_disk_that_went_down_and_came_back_within_one_boot_has_lost_nothing",
    ),
    Bug(
        "the ring's generations begin at 1 again",
        "recover.py",
        "state.made_durable(journal, (self._ring.generation + 1, 0))",
        "state.made_durable(journal, (1, 0))",
        f"{HANDLING}::test_the_ring_goes_on_after_a_disk_came_back_so_that_a_restart_loses_nothing",
    ),
    Bug(
        "what the shared state promised is not asked for",
        "recover.py",
        "self._settled, self._wanted = (0, 0) if whole else state.promised",
        "self._settled, self._wanted = (0, 0)",
        f"{SHARP}::test_an_older_set_of_files_beside_the_latest_state_is_refused",
    ),
    Bug(
        "a frame of the ring need not follow the line before it",
        "commit_ring.py",
        "if frame.after and (frame.after in skipped or (known and frame.after != known)):",
        "if False:",
        f"{SHARP}::test_a_frame_of_another_history_is_not_joined",
    ),
    Bug(
        "a checkpoint need not fit the journal",
        "recover.py",
        "fit = checkpoint.mark != 0 and fits(checkpoint, self._folder)",
        "fit = True",
        f"{SHARP}::test_a_checkpoint_of_another_journal_is_not_believed",
    ),
    Bug(
        "the catalog's mark is not compared with the checkpoint's",
        "recover.py",
        "if fit and catalog.open() and checkpoint.mark in catalog.marks():",
        "if fit and catalog.open():",
        f"{SHARP}::test_a_catalog_that_is_older_than_the_checkpoint_is_not_believed",
    ),
    Bug(
        "a checkpoint does not mark the catalog",
        "checkpoint.py",
        "catalog.mark(before.mark, checkpoint.mark)",
        "pass",
        f"{SHARP}::test_the_last_one_to_close_a_store_leaves_little_to_replay",
    ),
    Bug(
        "a checkpoint covers the store's own volume only",
        "filesystem.py",
        "{self._stat(path).st_dev: path for path in below}",
        "{self._stat(path).st_dev: path for path in below[:1]}",
        f"{SHARP}::test_a_checkpoint_syncs_every_volume_below_the_store",
    ),
    # Files in use (row 14).
    Bug(
        "an append does not compare a stream's end with the catalog",
        "open_streams.py",
        "return version < 0 if known is None else known.version == version and known.is_at(position)",
        "return True",
        f"{IN_USE}::test_a_stream_that_was_changed_by_hand_gives_no_version_twice",
    ),
    Bug(
        "a read does not compare a stream's end with the catalog",
        "reader.py",
        "if known is None or known.version <= version or (wanted is not None and wanted <= version):",
        "if True:",
        f"{IN_USE}::test_a_stream_that_was_changed_by_hand_gives_no_version_twice",
    ),
    Bug(
        "a read shows what only the stream has",
        "reader.py",
        "last = known.version if known else sys.maxsize",
        "last = sys.maxsize",
        f"{SHARP}::test_a_record_that_only_the_stream_has_is_not_shown",
    ),
    Bug(
        "a stream whose file was replaced is written to further",
        "open_streams.py",
        "right, end.seen_at = active is not None and active.is_in_place, now",
        "right, end.seen_at = True, now",
        f"{IN_USE}::test_a_file_replaced_by_its_own_copy_is_written_to",
    ),
    Bug(
        "a journal that was replaced is written to further",
        "write_session.py",
        "if self.journal and changed and not self.journal.is_in_place:",
        "if False:",
        f"{SHARP}::test_a_journal_replaced_by_its_copy_is_on_the_device_with_the_next_durable_append",
    ),
    Bug(
        "a sync goes on with a journal that was replaced",
        "group_sync.py",
        "(words[JOURNAL_FIRST], words[LAYOUT], self._replacements)",
        "(words[JOURNAL_FIRST], 0, 0)",
        f"{SHARP}::test_a_journal_replaced_by_its_copy_is_on_the_device_with_the_next_durable_append",
    ),
    Bug(
        "nobody looks whether the folder has changed",
        "session.py",
        "return self._racy or self.now() != self._looked_at",
        "return False",
        f"{SHARP}::test_what_is_deleted_while_a_store_is_open_comes_back_with_the_next_append",
    ),
    Bug(
        "a folder that was moved is used further",
        "folder.py",
        "if not self.filesystem.is_folder_at(self.fd, self.path):",
        "if False:",
        f"{IN_USE}::test_a_moved_folder_and_a_new_one_in_its_place_stay_apart",
    ),
    Bug(
        "a process that joins a session does not check that its lock files are the same",
        "session.py",
        "if self._filesystem.held_byte(lock.fd, number) is None:",
        "if False:",
        f"{IN_USE}::test_locks_deleted_in_a_commit_let_nobody_in",
    ),
    Bug(
        "a member of a session does not check that its lock files are still in place",
        "write_session.py",
        "if not (in_place and state.is_in_place and state.valid):",
        "if not (state.is_in_place and state.valid):",
        f"{IN_USE}::test_locks_deleted_between_commits_keep_writers_apart",
    ),
    Bug(
        "a ring that was deleted is written to further",
        "group_sync.py",
        "if self._filesystem.identity_at(self._folder.ring_path) != words[RING_FILE]:",
        "if False:",
        f"{IN_USE}::test_a_ring_deleted_while_open_is_made_anew",
    ),
    Bug(
        "a state that was deleted is used further",
        "shared_state.py",
        "if not self.is_in_place:\n            create_state",
        "if False:\n            create_state",
        f"{SHARP}::test_what_is_deleted_while_a_store_is_open_comes_back_with_the_next_append",
    ),
    Bug(
        "a sync does not look whether the files have changed since the commit",
        "group_sync.py",
        "if self._lock.opened or changed() or not state.believes(words):\n                return None",
        "if self._lock.opened or not state.believes(words):\n                return None",
        f"{SHARP}::test_a_journal_replaced_before_its_sync_is_not_taken_for_the_one_that_was_written",
    ),
    # Copies made file by file (row 15).
    Bug(
        "a copy with a gap is refused",
        "recover.py",
        "with contextlib.suppress(CorruptionError):\n        refuse_gaps",
        "with contextlib.nullcontext():\n        refuse_gaps",
        f"{SHARP}::test_a_copy_without_a_part_of_the_journal_opens_with_what_comes_before_it",
    ),
    Bug(
        "a copy does not know that it is one",
        "shared_state.py",
        "return words[_FORMAT] == _MAGIC and words[_FILE] not in (0, self._file)",
        "return False",
        f"{SHARP}::test_a_copy_without_a_part_of_the_journal_opens_with_what_comes_before_it",
    ),
    Bug(
        "what does not connect is dropped instead of put aside",
        "journal_end.py",
        "if unconnected:\n            self._folder.put_aside(unconnected)",
        "if False:\n            pass",
        f"{RESTART}::test_a_sector_that_the_device_has_as_it_was_when_the_file_ended_in_it_is_a_hole",
    ),
    Bug(
        "what is cut off a stream is dropped instead of put aside",
        "stream_ends.py",
        "if aside:\n            folder.put_aside(aside)",
        "if False:\n            pass",
        f"{RESTART}::test_what_reached_a_stream_but_not_the_journal_never_happened",
    ),
    Bug(
        "what a rebuild leaves out is dropped instead of put aside",
        "rebuild.py",
        "self._folder.put_aside(self._aside)",
        "pass",
        f"{SHARP}::test_a_copy_without_a_part_of_the_journal_opens_with_what_comes_before_it",
    ),
    Bug(
        "a repair writes through hard links",
        "repair.py",
        "for path in break_links(folder)]",
        "for path in ()]",
        f"{REBUILD}::test_hard_linked_copies_are_repaired_and_their_originals_left_alone",
    ),
    Bug(
        "an append writes through hard links",
        "active_segment.py",
        "if not new:\n                self._refuse_other_names()",
        "if False:\n                pass",
        f"{SHARP}::test_nothing_is_appended_to_a_file_that_has_another_name",
    ),
    Bug(
        "a damage that a recovery has mended is not said",
        "recover.py",
        "warnings.warn(CorruptionWarning(str(damage)), stacklevel=2)",
        "pass",
        f"{RESTART}::test_damage_in_the_middle_of_the_journal_is_mended_from_the_streams",
    ),
    # Waits (row 16).
    Bug(
        "the sync lock is waited for without limit",
        "group_sync.py",
        "deadline = None if seconds is None else monotonic() + seconds\n            done = self._try",
        "deadline = None\n            done = self._try",
        f"{DEADLINES}::test_a_stopped_sync_keeps_nobody_beyond_the_deadline",
    ),
    Bug(
        "a recovery waits for the sync lock without limit",
        "write_session.py",
        "with held(self._sync_lock, self._left()):  # Else",
        "with held(self._sync_lock):  # Else",
        f"{DEADLINES}::test_a_recovery_waits_for_a_stopped_sync_no_longer_than_the_deadline",
    ),
    Bug(
        "a new session waits for the sync lock without limit",
        "write_session.py",
        "with held(self._sync_lock, left):",
        "with held(self._sync_lock):",
        f"{DEADLINES}::test_a_store_without_its_state_is_opened_in_time_or_not_at_all",
    ),
    Bug(
        "a call's time begins when the other threads have had theirs",
        "writer.py",
        "entered = enter(threads, session.lock_seconds)\n",
        "entered, now = enter(threads, None), monotonic()\n",
        f"{DEADLINES}::test_threads_of_one_store_wait_together",
    ),
    Bug(
        "the threads of a store are waited for without limit",
        "file_lock.py",
        "threads.acquire(True, -1 if seconds is None else max(0.0, seconds))",
        "threads.acquire()",
        f"{DEADLINES}::test_a_thread_that_stands_in_an_append_keeps_the_others_no_longer_than_the_deadline",
    ),
    Bug(
        "the gate is waited for without limit",
        "file_lock.py",
        "if not self._gate.acquire(seconds):",
        "if not self._gate.acquire():",
        f"{DEADLINES}::test_who_stands_behind_another_at_the_gate_waits_no_longer_than_the_deadline",
    ),
    # The end of a store and of its process (row 17).
    Bug(
        "close() does not wait for the calls that run",
        "store.py",
        "if self._calls.wait(self._lock_timeout, self._close):",
        "if True:",
        f"{CLOSING}::test_close_under_threads_that_append_changes_no_file_of_the_callers",
    ),
    Bug(
        "the end of any call closes the files of those that still run",
        "running_calls.py",
        "        if self._active():\n            return\n",
        "",
        f"{CLOSING}::test_a_call_that_a_close_did_not_wait_for_keeps_its_files_while_other_calls_are_refused",
    ),
    Bug(
        "the end of the process closes stores under its threads",
        "group_sync.py",
        "            store.sync()",
        "            store._close()",
        f"{CLOSING}::test_the_end_of_a_process_closes_nothing_under_a_daemon_thread",
    ),
    Bug(
        "every thread that appends first begins a sync thread",
        "store.py",
        "if not self._closed and (self._interval is None or not self._interval.is_alive()):",
        "if not self._closed:",
        f"{CLOSING}::test_threads_that_append_for_the_first_time_at_once_share_one_sync_thread",
    ),
    Bug(
        "a closed store is not refused before it is used",
        "store.py",
        "            self._refuse_closed()\n            yield",
        "            yield",
        f"{CLOSING}::test_a_closed_store_refuses_every_call",
    ),
    Bug(
        "a commit that readers may have seen is taken back",
        "writer.py",
        "if not published:",
        "if True:",
        f"{FAILING}::test_an_interrupt_after_the_commit_leaves_nothing_stale",
    ),
    # Full and dead disks (row 18).
    Bug(
        "a read that the device refuses is called damage",
        "reader.py",
        "return\n            except (CorruptionError, FileNotFoundError) as error:",
        "return\n            except (CorruptionError, OSError) as error:\n"
        "                if not isinstance(error, FileNotFoundError):\n"
        '                    raise CorruptionError(log.active_path, "", 0, str(error)) from error',
        f"{FAILING}::test_a_read_that_is_refused_does_not_speak_of_writing",
    ),
    Bug(
        "a device that fails in another call than a sync is believed further",
        "write_session.py",
        "if error.errno == errno.EIO:",
        "if False:",
        f"{SHARP}::test_a_device_that_fails_in_a_write_has_the_journal_written_anew",
    ),
    Bug(
        "a shared state that was cut is an error of another sort",
        "shared_state.py",
        "return _all.unpack(raw) if len(raw) == _all.size else _NOTHING",
        "return _all.unpack(raw)",
        f"{HANDLING}::test_a_shared_state_that_is_cut_while_the_store_is_open_kills_nobody",
    ),
    Bug(
        "a ring for which there is no room fails the append",
        "group_sync.py",
        "except OSError:\n            self._syncs_without_ring = _PAUSE",
        "except ZeroDivisionError:\n            self._syncs_without_ring = _PAUSE",
        f"{SHARP}::test_a_ring_for_which_there_is_no_room_costs_nothing_but_time",
    ),
    Bug(
        "a read of what is durable shows what is not",
        "store.py",
        "return min(self._state.durable, committed) if self._state.valid else committed",
        "return committed",
        f"{DURABILITY}::test_what_is_not_durable_yet_is_not_seen_by_who_asks_for_durable",
    ),
]
