"""More bugs for row 7: of archives."""

from __future__ import annotations

from .bug import Bug

ARCHIVE = "tests/archive/test_archive.py"
POWER = "tests/archive/test_archive_power_cuts.py"

OF_ARCHIVE = [
    Bug(
        "the journal begins later before its events are in the archive",
        "archiving.py",
        "            if due:\n                self._move(",
        "            drop_before(self._session, report.first_position)\n"
        "            if due:\n                self._move(",
        "tests/archive/test_archive_crashes.py::test_killed_at_any_call_no_event_is_lost_and_another_run_completes_it",
    ),
    Bug(
        "a killed archiving has dropped what the archive lacks",
        "archiving.py",
        "            if due:\n                self._move(",
        "            drop_before(self._session, report.first_position)\n"
        "            if due:\n                self._move(",
        "--row 4 --size 300",
    ),
    Bug(
        "a segment of an archive is not synced before it gets its name",
        "archive_folder.py",
        "    copy_open(filesystem, segment.fd, segment.file_bytes, path)\n",
        "    copy = filesystem.open_new(path)\n"
        "    filesystem.write(copy, filesystem.read(segment.fd, segment.file_bytes, 0))\n"
        "    filesystem.close(copy)\n",
        f"{POWER}::test_no_power_cut_loses_an_event",
    ),
    Bug(
        "what an archive has is not compared with the store",
        "archive_folder.py",
        "        if not same:",
        "        if False:",
        f"{ARCHIVE}::test_an_archive_with_other_events_is_refused",
    ),
    Bug(
        "an archive that could not write its streams is taken for whole",
        "upkeep_calls.py",
        "        with session.lock():\n"
        "            pass  # Refuses a store that may only be read, as on a full disk: it may lack the streams.\n",
        "",
        f"{ARCHIVE}::test_a_full_disk_drops_nothing_and_another_run_goes_on",
    ),
    Bug(
        "an archive takes what a subscriber has not read",
        "archiving.py",
        "unread = sys.maxsize if past_subscribers else self._first_unread()",
        "unread = sys.maxsize",
        f"{ARCHIVE}::test_never_past_a_subscriber_unless_told",
    ),
    Bug(
        "what was deleted goes into the archive",
        "archiving.py",
        "between=(begins, end), least=sys.maxsize)",
        "between=(end, end), least=sys.maxsize)",
        f"{ARCHIVE}::test_what_was_deleted_before_does_not_go_into_the_archive",
    ),
    Bug(
        "an archive that comes back shows what was deleted meanwhile",
        "unarchiving.py",
        "mark.deleted_through if mark else -1)",
        "-1)",
        f"{ARCHIVE}::test_a_stream_that_was_archived_whole_and_then_deleted_stays_deleted",
    ),
    Bug(
        "what comes back is lost if a recovery takes it for left over",
        "unarchiving.py",
        "                if not filesystem.is_there(path) or filesystem.size_at(path) != each.bytes:",
        "                if False:",
        f"{ARCHIVE}::test_a_recovery_in_the_middle_of_a_restore_loses_nothing",
    ),
]
