"""Events byte for byte as they are stored, for display or export. A line that is not a record is damage.

An engine without files has no such bytes: its events get the lines that a file would have.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from hangarlog.errors import CorruptionError, CorruptionWarning
from hangarlog.eventstore.base import EventStore
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.salvage import journal_part
from hangarlog.filestore.store import FileEventStore
from hangarlog.record.envelope import Envelope
from hangarlog.record.line import StoredEnvelope, encode_envelope, stored_crc
from hangarlog.record.strict import are_strict, record_or_cause, strict_record
from hangarlog.record.verified_block import VerifiedBlock

StoredBlock = tuple[Sequence[StoredEnvelope], Sequence[bytes]]
"""Records, and their lines without newlines."""


def as_stored(
    store: EventStore[Any], blocks: Iterable[Sequence[Envelope]], *, skip_damaged: bool = False
) -> Iterator[StoredBlock]:
    """Yield the records of `blocks`, which `store` has read, with their lines.

    Each line is checked against the whole format, as in `verify`. A damaged record comes from the other copy, with a
    `CorruptionWarning`. With `skip_damaged`, one that is damaged in both copies is skipped with a warning.

    Raises:
        CorruptionError: an event is damaged in both copies; raised in its turn.
    """
    for block in cast("Iterable[Sequence[StoredEnvelope]]", blocks):
        if not isinstance(store, FileEventStore):
            yield from _encoded(store, block, skip_damaged)
            continue
        lines = _lines(block)
        if None not in lines and are_strict(block, whole := [line for line in lines if line is not None]):
            yield block, whole
        elif block:
            yield from _one_by_one(store.folder, block, lines, skip_damaged)


def _encoded(store: EventStore[Any], block: Sequence[StoredEnvelope], skip: bool) -> Iterator[StoredBlock]:
    """Yield the records of an engine that has no files, with the lines that a file would have."""
    lines = [encode_envelope(record)[:-1] for record in block]
    if are_strict(block, lines):
        yield block, lines
        return
    for record, line in zip(block, lines, strict=True):
        if not (cause := _cause(line)):
            yield [record], [line]
            continue
        path, place = getattr(store, "path", "memory"), (record.position, record.stream_id, record.stream_version)
        damage = CorruptionError(path, "events", 0, cause, *place, mendable=False)
        if not skip:
            raise damage
        warnings.warn(CorruptionWarning(f"passed over: {damage}"), stacklevel=2)


def _lines(block: Sequence[StoredEnvelope]) -> list[bytes | None]:
    """Return the lines that records were read from; None for a line that this version would write differently."""
    if type(block) is VerifiedBlock:
        return [*block.text.split(b"\n")[: len(block.records)]]
    lines = [encode_envelope(record)[:-1] for record in block]
    # If the checksum is equal, the stored line has these bytes.
    return [
        line if stored_crc(line) == record.crc.encode() else None for line, record in zip(lines, block, strict=True)
    ]


def _one_by_one(
    folder: Folder, block: Sequence[StoredEnvelope], lines: Sequence[bytes | None], skip: bool
) -> Iterator[StoredBlock]:
    causes = {
        record.position: "this version would write it differently" if line is None else _cause(line)
        for record, line in zip(block, lines, strict=True)
    }
    doubtful = {position: cause for position, cause in causes.items() if cause}
    found = _lines_from_files(folder, block, doubtful) if doubtful else {}
    sound: list[bytes] = []
    for record, line in zip(block, lines, strict=True):
        stored = found.get(record.position, line)
        if isinstance(stored, bytes):
            sound.append(stored)
            continue
        if sound:
            yield [strict_record(one) for one in sound], sound
            sound = []
        assert stored is not None
        if not skip:
            raise stored
        warnings.warn(CorruptionWarning(f"passed over: {stored}"), stacklevel=2)
    if sound:
        yield [strict_record(one) for one in sound], sound


def _cause(line: bytes) -> str:
    found = record_or_cause(line)
    return found if isinstance(found, str) else ""


def _lines_from_files(
    folder: Folder, block: Sequence[StoredEnvelope], doubtful: dict[int, str]
) -> dict[int, bytes | CorruptionError]:
    """Return {doubtful position: its line from the files, or the damage if neither copy has one}."""
    found: dict[int, bytes | CorruptionError] = {}
    by_position = {record.position: record for record in block}
    first, last = min(doubtful), max(doubtful)
    while first <= last:
        record = by_position[first]
        part = journal_part(folder, folder.journal_log(), _damage(folder, record, doubtful[first]), (first, last))
        for position in doubtful.keys() & range(first, part.last + 1):
            line = part.own.get(position) or part.other.get(position)
            found[position] = line or part.damage(position)
            if line and by_position[position].crc.encode() != stored_crc(line):
                served = _damage(folder, by_position[position], doubtful[position])
                warnings.warn(CorruptionWarning(f"served from the other copy: {served}"), stacklevel=2)
        first = min((position for position in doubtful if position > part.last), default=last + 1)
    return found


def _damage(folder: Folder, record: StoredEnvelope, cause: str) -> CorruptionError:
    """Return the error for a record whose place in a file is unknown."""
    path = folder.journal.active_path
    place = (record.position, record.stream_id, record.stream_version)
    return CorruptionError(path, os.path.basename(path), 0, cause, *place)
