"""The journal as its files show it: its segments and its last event."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore.folder import Folder
from hangarlog.log.segment_name import COMPRESSED, TEXT
from hangarlog.record.line import StoredEnvelope

SEGMENT = re.compile(rf"(?P<name>[^.]+)(?:\.(?P<first>[0-9]{{20}}))?(?:{re.escape(TEXT)}|{re.escape(COMPRESSED)})")
"""The name of a segment, also of a compressed one."""


class JournalFiles(msgspec.Struct, frozen=True):
    """The segments of the journal.

    Attributes:
        segments: How many there are.
        bytes: Their size.
        first: The position that the oldest one begins with, None if none is sealed.
        active_bytes: The size of the active one, which may end in what is not committed; None if it is missing.
    """

    segments: int
    bytes: int
    first: int | None
    active_bytes: int | None


def journal_files(folder: Folder) -> JournalFiles:
    """Return the segments of the journal. Raises `OSError`."""
    firsts, sizes, active = list[int](), list[int](), None
    for entry in folder.filesystem.entries(folder.path):
        found = SEGMENT.fullmatch(entry.name)
        if found and found["name"] == folder.journal.name:
            with contextlib.suppress(FileNotFoundError):  # A roll or a retention has removed it.
                size = entry.stat().st_size
                sizes.append(size)
                if found["first"] is None:
                    active = size
                else:
                    firsts.append(int(found["first"]))
    return JournalFiles(len(sizes), sum(sizes), min(firsts, default=None), active)


def first_of_active(folder: Folder) -> int | None:
    """Return the first position of the active segment, None if it has none or cannot be read."""
    with contextlib.suppress(OSError, CorruptionError):
        active = folder.journal_log().open_active()
        if active:
            with contextlib.closing(active):
                return active.first_number()
    return None


def last_event(folder: Folder, committed: int | None) -> StoredEnvelope | None:
    """Return the event at position `committed`; if that is None, the last one whose batch is complete.

    Raises `OSError` or `CorruptionError`.
    """
    for records in folder.journal_log().backward(committed or None):
        for record in records:
            if record.ends_batch:
                return record if committed in (None, record.position) else None
    return None


def event_after(folder: Folder, position: int) -> StoredEnvelope | None:
    """Return the first event after a position, None if it cannot be read."""
    with contextlib.suppress(OSError, CorruptionError):
        for block in folder.journal_log().forward(position + 1, 1):
            return block[0]
    return None


def seconds_of(recorded_at: str) -> float | None:
    """Return a recorded time in seconds since 1970, None if it is no time."""
    try:
        moment = datetime.fromisoformat(recorded_at)
        return moment.timestamp() if moment.tzinfo else None
    except (ValueError, OverflowError, OSError):
        return None
