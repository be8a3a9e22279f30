"""More bugs for row 7: of the compression of segments."""

from __future__ import annotations

from .bug import Bug

DAMAGE = "tests/filestore/test_compression_damage.py"
COMPRESSION = "tests/filestore/test_compression.py"

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
]
