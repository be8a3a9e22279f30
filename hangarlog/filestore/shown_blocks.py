"""What a read of a log shows of its blocks of records."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from hangarlog.errors import CorruptionError
from hangarlog.log.log import Log
from hangarlog.record.line import StoredEnvelope, is_erased


def refuse_late_beginning(log: Log, version: int | None, through: int, committed: int, exists: bool) -> None:
    """Raise if a stream that was read backwards begins after `version`, and should begin after `through`."""
    last = None if exists or version is None else log.last_record()
    if (exists or (last and last.position <= committed)) and version != through:
        raise missing_versions(log, through + 1, version or 0)


def shown(block: Sequence[StoredEnvelope], through: int, compacted: bool) -> list[StoredEnvelope]:
    """Return the records after version `through`, without an erased one whose mark is gone, unless `compacted`."""
    return [
        record
        for record in block
        if record.stream_version > through and (record.event_type or compacted or not is_erased(record))
    ]


def missing_versions(log: Log, first: int, last: int) -> CorruptionError:
    """Return the error for versions that a stream lacks."""
    cause = f"stream_version {first} to {last} are missing"
    return CorruptionError(log.active_path, os.path.basename(log.active_path), 0, cause)


def up_to(blocks: Iterator[Sequence[StoredEnvelope]], committed: int) -> Iterator[Sequence[StoredEnvelope]]:
    """Yield only committed records: a record is in its file before it is committed."""
    for block in blocks:
        if block[0].position <= committed >= block[-1].position:
            yield block
        else:
            kept = [record for record in block if record.position <= committed]
            if kept:
                yield kept
