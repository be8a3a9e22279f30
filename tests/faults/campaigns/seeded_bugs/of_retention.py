"""More bugs for row 7: of retention."""

from __future__ import annotations

from .bug import Bug

BEGINNING = "tests/retention/test_beginning.py"
MIXED = "tests/filestore/recovery/test_mixed_moments.py"
CRASHES = "tests/retention/test_retention_crashes.py"
POLICIES = "tests/retention/test_policies.py"

OF_RETENTION = [
    Bug(
        "segments are removed before it is written where the journal begins",
        "dropping.py",
        "                journal.write_retained(first)\n",
        "                [journal.remove_sealed(each) for each in journal.sealed() if each < first]\n"
        "                journal.write_retained(first)\n",
        f"{CRASHES}::test_no_power_cut_in_a_retention_loses_or_shows_an_event",
    ),
    Bug(
        "segments are removed before the marks are on the device",
        "dropping.py",
        "            filesystem.sync_everything(folder.path, folder.all_folders())\n",
        "            pass\n",
        f"{CRASHES}::test_marks_of_a_process_that_died_are_on_the_device_before_segments_go",
    ),
    Bug(
        "a policy hides what a subscriber has not read",
        "retention_plan.py",
        "last = end if policy.past_subscribers else min(end, self._unread)",
        "last = end",
        f"{POLICIES}::test_never_past_a_subscriber_unless_told",
    ),
    Bug(
        "the journal drops what a subscriber has not read",
        "retaining.py",
        "        if each.following > unread:",
        "        if False:",
        f"{POLICIES}::test_what_is_hidden_stays_in_the_journal_for_a_subscriber",
    ),
    Bug(
        "opening a copy settles where its journal begins",
        "beginning.py",
        "        raise folder.journal.retained_damage(cause)",
        "        folder.journal.write_retained(first)",
        f"{BEGINNING}::test_without_the_file_only_a_repair_settles_where_the_journal_begins",
    ),
    Bug(
        "what lies before the journal's beginning is removed without a look",
        "beginning.py",
        "    if cause := _why_not_left_over(folder, journal.begins()):",
        '    if cause := "":',
        f"{BEGINNING}::test_older_files_and_a_newer_beginning_lose_nothing",
    ),
    Bug(
        "a new catalog does not know the streams whose events were all dropped",
        "recover.py",
        "            note_dropped_streams(folder, self._catalog)",
        "            pass",
        f"{BEGINNING}::test_a_recovery_begins_there",
    ),
    Bug(
        "a beginning that is lost is taken for dropped",
        "beginning.py",
        ">= events",
        ">= 0",
        f"{BEGINNING}::test_a_beginning_that_no_mark_hides_is_lost_and_named",
    ),
    Bug(
        "of lost events that were hidden nobody knows that they may have been dropped",
        "merge.py",
        "missing <= lost + dropped",
        "missing <= lost",
        "--row 5 --size 1000",
    ),
    Bug(
        "a stream of another history is overwritten",
        "replay.py",
        "            of_another.append(line)\n",
        "            pass\n",
        f"{MIXED}::test_a_stream_of_another_history_is_put_aside",
    ),
]
