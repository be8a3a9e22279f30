"""Writing a compressed segment: the same text in frames, proved to be the same before it counts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hangarlog.log.compressed_segment import CompressedSegment, segment_of
from hangarlog.log.compressed_text import tables
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import compressed_path
from hangarlog.log.zstd import Packer
from hangarlog.record.checksum import crc32
from hangarlog.system.filesystem import FRESH, FileSystem

FRAME_BYTES = 128 << 10
"""The most text in a frame of short lines, unpacked in 60 µs. Larger ones are hardly denser."""
LONG_FRAME_BYTES, _WINDOW_LOG = 16 << 20, 24
"""Text in a frame of a segment that repeats itself at long distances, as the transcripts of agents do."""
_MUCH = 1.5
"""Long frames are taken if they are smaller by this factor: finding an event in one takes milliseconds."""


class _Part(NamedTuple):
    """Whole lines, and how many they are."""

    text: bytes
    lines: int


def write_compressed(segment: Segment, first: int, go_on: Callable[[int], None]) -> str:
    """Write the text of a segment that begins with record `first` into a new compressed file, and return its path.

    The file is synced and read back; it still has a temporary name. `go_on` is called with the bytes of text that are
    done, and may raise.

    Raises:
        CorruptionError: the segment is damaged.
        MissingExtraError: there is no zstd.
    """
    filesystem, path = segment.filesystem, compressed_path(segment.base)
    temporary = path + FRESH
    if not segment.size:
        raise segment.damage(0, "a sealed segment is empty")
    long = _repeats_itself(segment, first, path)
    packer, frame_bytes = (Packer(path, _WINDOW_LOG), LONG_FRAME_BYTES) if long else (Packer(path), FRAME_BYTES)
    packed, sizes, counts = [], [], []
    crc = 0
    filesystem.remove(temporary)
    fd = filesystem.open_new(temporary)
    try:
        for part in _parts(segment, first, frame_bytes):
            frame = packer.pack(part.text)
            filesystem.write(fd, frame)
            packed.append(len(frame))
            sizes.append(len(part.text))
            counts.append(part.lines)
            crc = crc32(part.text, crc)
            go_on(len(part.text))
        filesystem.write(fd, tables(first, packed, sizes, counts))
        filesystem.sync_data(fd)
        written, fd = fd, -1  # First: a close that fails, or is interrupted, has closed.
        filesystem.close(written)
        if not holds(filesystem, temporary, crc, segment):
            raise segment.damage(0, "what was compressed reads differently; the disk or the memory may be faulty")
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = temporary  # Else nothing says which disk is full.
        if fd >= 0:
            filesystem.close(fd)
        filesystem.remove(temporary)
        raise
    return temporary


def _repeats_itself(segment: Segment, first: int, path: str) -> bool:
    """True if the text of the first long frame is much smaller as one frame than as many."""
    packer, small, size = Packer(path), 0, 0
    sample: list[bytes] = []
    for part in _parts(segment, first, FRAME_BYTES):
        small += len(packer.pack(part.text))
        sample.append(part.text)
        size += len(part.text)
        if size >= LONG_FRAME_BYTES:
            break
    return len(sample) > 1 and len(Packer(path, _WINDOW_LOG).pack(b"".join(sample))) * _MUCH < small


def _parts(segment: Segment, first: int, frame_bytes: int) -> Iterator[_Part]:
    """Yield the text of a segment in parts of about this size. Every line of them is proved."""
    texts: list[bytes] = []
    lines = size = 0
    for text, count in proved(segment, first):
        if texts and size + len(text) > frame_bytes:
            yield _Part(b"".join(texts), lines)
            texts, lines, size = [], 0, 0
        texts.append(text)
        lines, size = lines + count, size + len(text)
    if texts:
        yield _Part(b"".join(texts), lines)


def proved(segment: Segment, first: int) -> Iterator[tuple[bytes, int]]:
    """Yield (text, number of lines) of proved parts of a segment, in order.

    Raises:
        CorruptionError: a line is damaged, or out of order.
    """
    number, offset = first, 0
    for block in segment.verified_blocks(first, first):
        yield block.text, block.size
        number, offset = number + block.size, offset + len(block.text)
    while offset < segment.size:
        lines, following = segment.lines_at(offset)
        if not lines:
            raise segment.damage(offset, "a sealed segment ends within a line")
        segment.decode(lines, offset, number)
        yield b"".join([line + b"\n" for line in lines]), len(lines)
        number, offset = number + len(lines), following


def holds(filesystem: FileSystem, path: str, crc: int, segment: Segment) -> bool:
    """True if the compressed file at `path` has the text of a segment, whose checksum is `crc`."""
    found = size = 0
    with contextlib.closing(segment_of(filesystem, path, segment.field, filesystem.open_read(path))) as copy:
        assert isinstance(copy, CompressedSegment)
        text = copy.compressed
        for at in range(len(text.frames) if text.has_tables else 0):
            part = text.intact(at)
            if part is None:
                return False
            found, size = crc32(part, found), size + len(part)
    return (found, size) == (crc, segment.size)
