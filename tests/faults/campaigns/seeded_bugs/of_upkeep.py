"""More bugs for row 7: of the compression of segments, and of the erasing of events."""

from __future__ import annotations

from .bug import Bug

DAMAGE = "tests/filestore/test_compression_damage.py"
COMPRESSION = "tests/filestore/test_compression.py"
SHUT = "tests/filestore/test_compression_mishaps.py"
BACKUP = "tests/maintenance/test_backup.py"
ERASING, MISHAPS = "tests/erasing/test_erasing.py", "tests/erasing/test_erased_mishaps.py"

OF_UPKEEP = [
    Bug(
        "a plain segment is deleted before the compressed one's name is on the device",
        "compression.py",
        "self._filesystem.sync_folder(log.folder)  # First",
        "pass  # First",
        f"{DAMAGE}::test_no_power_cut_loses_an_event",
    ),
    Bug(
        "a compressed file is not synced before it gets its name",
        "compressing.py",
        "filesystem.sync_data(fd)",
        "pass",
        f"{DAMAGE}::test_no_power_cut_loses_an_event",
    ),
    Bug(
        "damage is compressed",
        "compressing.py",
        "segment.decode(lines, offset, number)",
        "pass",
        f"{DAMAGE}::test_a_damaged_segment_is_left_as_it_is",
    ),
    Bug(
        "two processes compress at once",
        "compression.py",
        "contextlib.closing(lock), held(lock, seconds):",
        "contextlib.closing(lock):",
        f"{COMPRESSION}::test_two_compressions_do_not_meet",
    ),
    Bug(
        "a compression goes on when its store is closed",
        "compression.py",
        "            if self._stopped:\n                raise",
        "            if False:\n                raise",
        f"{COMPRESSION}::test_closing_stops_a_compression",
    ),
    Bug(
        "reads show what is left of erased events",
        "reader.py",
        "return filter(None, map(without_erased, self._whole_journal(span, committed)))",
        "return self._whole_journal(span, committed)",
        f"{ERASING}::test_every_span_of_the_journal_gives_what_is_left",
    ),
    Bug(
        "the ring keeps what was erased",
        "erasing.py",
        "self._give_up_ring()\n",
        "pass\n",
        f"{ERASING}::test_the_ring_gives_the_text_up",
    ),
    Bug(
        "the ring is deleted before the journal has what it has",
        "erasing.py",
        "self._session.sync_journal()  # First",
        "pass  # First",
        f"{MISHAPS}::test_the_ring_goes_only_when_the_journal_has_it",
    ),
    Bug(
        "the text without erased events is not synced before it gets its name",
        "rewriting.py",
        "filesystem.sync_data(fd)",
        "pass",
        f"{MISHAPS}::test_a_power_cut_at_every_step[plain]",
    ),
    Bug(
        "an index stays beside another text",
        "erasing.py",
        "for cache in (index_path(base), times_path(base)):",
        "for cache in (times_path(base),):",
        f"{MISHAPS}::test_a_power_cut_leaves_no_index_of_what_was_erased",
    ),
    Bug(
        "a compressed twin keeps what was erased",
        "erasing.py",
        "filesystem.remove(compressed_path(base))  # A",
        "pass  # A",
        f"{MISHAPS}::test_a_compressed_twin_with_what_was_erased_goes",
    ),
    Bug(
        "a backup takes a segment for the one that it has",
        "erasing.py",
        "if filesystem.size_at(path) == segment.size:",
        "if False:",
        f"{ERASING}::test_a_segment_is_never_as_long_as_it_was",
    ),
    Bug(
        "what a subscriber has not read is erased",
        "erasing.py",
        "and each[1] <= between[1]]",
        "]",
        f"{ERASING}::test_what_a_subscriber_has_not_read_stays",
    ),
    Bug(
        "an id is forgotten with its event",
        "reader.py",
        "return self._whole_journal(span, moment.committed, passes=True)",
        "return self._journal_blocks(span, moment.committed)",
        f"{ERASING}::test_ids_of_erased_events",
    ),
    Bug(
        "a recovery believes an erased line more than a stream that has the event",
        "replay.py",
        "_refuse_to_erase(active, erased, version, sealed=bool(sealed))",
        "",
        f"{MISHAPS}::test_a_recovery_takes_nothing_from_a_stream_because_the_journal_has_erased_it",
    ),
    Bug(
        "an erased line needs no mark",
        "journal_check.py",
        "is_erased(record) and not self._is_hidden(record):",
        "is_erased(record) and False:",
        f"{MISHAPS}::test_a_copy_without_the_marks_keeps_what_its_streams_show",
    ),
    Bug(
        "a repair does not tell an erased line from an event",
        "rebuild.py",
        "return follows, hidden, strict,",
        "return follows, not candidate.erased, strict,",
        f"{MISHAPS}::test_a_repair_prefers_what_is_erased",
    ),
    Bug(
        "a close that is interrupted is closed again",
        "compressing.py",
        "written, fd = fd, -1  #",
        "written = fd  #",
        f"{SHUT}::test_an_interrupt_in_a_close_is_not_lost_in_another_one",
    ),
    Bug(
        "a backup that was interrupted at its first file cannot be made again",
        "backup.py",
        'begun = {"locks", _MARKER_NAME + FRESH}',
        'begun = {"locks"}',
        f"{BACKUP}::test_a_backup_that_died_before_it_was_marked_as_one_is_made_again",
    ),
]
