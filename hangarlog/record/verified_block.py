"""Verified blocks: records that one checksum has verified together, decoded on first access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import overload

from hangarlog.errors import CorruptionError
from hangarlog.record.envelope import LineError
from hangarlog.record.line import (
    ERASED_MARK,
    LONG_LINE_BYTES,
    StoredEnvelope,
    decode_long,
    decode_proved,
    decode_proved_lines,
    is_erased,
)

_event_type = attrgetter("event_type")


class VerifiedBlock(Sequence[StoredEnvelope]):
    """A sequence of envelopes, kept as `text`: `size` whole lines at `offset` of the segment at `path`."""

    __slots__ = ("_records", "first", "last", "offset", "path", "segment", "size", "text")

    def __init__(self, text: bytes, size: int, path: str, segment: str, offset: int) -> None:
        """Raises `LineError` if the first or the last line is not a record."""
        self.text, self.size, self.path, self.segment, self.offset = text, size, path, segment, offset
        last = len(text) - 1
        self.first = self.last = _decode(text, 0, text.find(b"\n") if size > 1 else last)
        if size > 1:
            self.last = _decode(text, text.rfind(b"\n", 0, last) + 1, last)
        self._records: list[StoredEnvelope] | None = None

    @property
    def records(self) -> list[StoredEnvelope]:
        """All records, decoded. Raises `CorruptionError` if they are not as many as the index says, or not records."""
        if self._records is None:
            try:
                records = decode_proved_lines(self.text)
                if len(records) != self.size:
                    raise LineError(f"there are {len(records)} lines here, the index has {self.size}")
            except LineError as error:
                raise CorruptionError(self.path, self.segment, self.offset, str(error)) from error
            self._records = records
        return self._records

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, at: int) -> StoredEnvelope: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[StoredEnvelope]: ...
    def __getitem__(self, at: int | slice) -> StoredEnvelope | Sequence[StoredEnvelope]:
        if at == 0:
            return self.first
        if at == -1:
            return self.last
        if isinstance(at, slice):
            start, stop, step = at.indices(self.size)
            return self._part(start, stop) if step == 1 and start < stop else self.records[at]
        return self.records[at]

    def __iter__(self) -> Iterator[StoredEnvelope]:
        return iter(self.records)

    def _part(self, start: int, stop: int) -> Sequence[StoredEnvelope]:
        """Return the records `start` to `stop` as a verified block."""
        if (start, stop) == (0, self.size):
            return self
        lines = self.text.split(b"\n", stop)
        offset = sum(len(line) + 1 for line in lines[:start])
        text = b"\n".join(lines[start:stop]) + b"\n"
        return VerifiedBlock(text, stop - start, self.path, self.segment, self.offset + offset)


def _decode(text: bytes, start: int, stop: int) -> StoredEnvelope:
    return decode_proved(text[start:stop]) if stop - start < LONG_LINE_BYTES else decode_long(text, start, stop)


def without_erased(block: Sequence[StoredEnvelope]) -> Sequence[StoredEnvelope]:
    """Return the records of a block of the journal but those of erased lines: the block itself if there are none."""
    if type(block) is not VerifiedBlock:
        whole = all(map(_event_type, block))
        return block if whole else [record for record in block if record.event_type or not is_erased(record)]
    if ERASED_MARK not in block.text:
        return block
    lines = block.text.split(b"\n")[: block.size]
    kept = [line for line in lines if ERASED_MARK not in line or not _is_erased(line)]
    if len(kept) == len(lines):
        return block
    text = b"\n".join([*kept, b""])
    return VerifiedBlock(text, len(kept), block.path, block.segment, block.offset) if kept else []


def _is_erased(line: bytes) -> bool:
    try:
        return is_erased(decode_proved(line))
    except LineError:
        return False  # It is damage, and reported when it is read.
