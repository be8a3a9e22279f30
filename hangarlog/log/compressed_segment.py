"""Sealed segments that are compressed: read as any other segment, by the offsets of their text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hangarlog.errors import CorruptionError
from hangarlog.log.compressed_text import CompressedText
from hangarlog.log.index import Index
from hangarlog.log.segment import CHUNK_BYTES, Segment
from hangarlog.log.segment_name import base_of, compressed_path, is_compressed
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, decode_record
from hangarlog.record.verified_block import VerifiedBlock
from hangarlog.system.filesystem import FileSystem

_RETRIES = 3
_PART_BYTES = 1 << 20


class CompressedSegment(Segment):
    """An open compressed segment. Its frames are its verified blocks, so it needs no index."""

    compressed: CompressedText

    @staticmethod
    def path_of(base: str) -> str:
        """Return the path of the compressed segment with this base."""
        return compressed_path(base)

    def _measured(self) -> int:
        self.compressed = CompressedText(self.filesystem, self.fd, self.path)
        return self.compressed.size

    def again(self, *, grown: bool = True) -> Segment:
        """As `Segment.again`; it never grows."""
        again = super().again(grown=False)
        assert isinstance(again, CompressedSegment)
        again.compressed = self.compressed
        return again

    def has_tables_for(self, first: int) -> bool:
        """True if its tables are there, and say that it begins with record `first`."""
        return self.compressed.has_tables and self.compressed.frames.first == first

    def read(self, size: int, offset: int) -> bytes:
        """Return `size` bytes of text from `offset`, fewer only at the end. A damaged frame reads as damaged lines."""
        return self.compressed.read(size, offset)

    def data_from(self, offset: int) -> tuple[int, int]:
        """Return (`offset`, size): there are no holes."""
        return min(offset, self.size), self.size

    def index(self, first: int) -> Index | None:
        """Return None: its frames are its index."""
        return None

    def seek(self, number: int, first: int) -> tuple[int, int]:
        """Return the (offset, number) of the first record in the frame with record `number`."""
        text = self.compressed
        frames = text.frames
        if number <= first or not self.has_tables_for(first):
            return 0, first
        if number >= frames.numbers[-1]:
            return self.size, frames.numbers[-1]
        at = text.of(number)
        try:
            lines, _ = self.lines_at(frames.starts[at], 1)
            found = self.number_of(decode_record(lines[0]))
        except (LineError, IndexError):
            found = -1
        return (frames.starts[at], found) if found == frames.numbers[at] else (0, first)

    def records_at(self, number: int, first: int, count: int) -> list[StoredEnvelope]:
        """As `Segment.records_at`."""
        text = self.compressed
        frames = text.frames
        if not (self.has_tables_for(first) and first <= number < frames.numbers[-1]):
            return []
        at = text.of(number)
        content, start = text.text(at), 0
        lines: list[bytes] = []
        for _ in range(number - frames.numbers[at]):
            start = content.find(b"\n", start) + 1
        offset = frames.starts[at] + start
        while len(lines) < count and (end := content.find(b"\n", start)) >= 0:
            lines.append(content[start:end])
            start = end + 1
        try:
            return self.decode(lines, offset, number)
        except CorruptionError:
            return []

    def verified_blocks(self, number: int, first: int) -> Iterator[VerifiedBlock]:
        """Yield the frames from that of record `number` on, up to the first one that is damaged."""
        text = self.compressed
        frames = text.frames
        if not self.has_tables_for(first) or number >= frames.numbers[-1]:
            return
        begin = text.of(max(first, number))
        for at in range(begin, len(frames)):
            # The first is kept, because a page may end in it, and the next one begin there.
            content = text.text(at) if at == begin else text.intact(at)
            begins, following = frames.numbers[at : at + 2]
            if content is None:
                return
            offset = frames.starts[at]
            for part in _parts_of(content):
                lines = part.count(b"\n") if part is not content else following - begins
                block = self._block(part, lines, offset, begins)
                if block is None:
                    return
                if begins + lines > number:
                    yield block
                begins, offset = begins + lines, offset + len(part)

    def lines_at(self, offset: int, size: int = CHUNK_BYTES) -> tuple[list[bytes], int]:
        """Return whole lines of one frame from `offset` on, about `size` bytes, and the offset after them."""
        if offset >= self.size:
            return [], offset
        text, start = self._frame_text(offset)
        stop = _line_end(text, start, start + size)
        lines = text[start:stop].split(b"\n")
        lines.pop()
        return lines, offset + stop - start

    def lines_before(self, offset: int, size: int = CHUNK_BYTES) -> tuple[list[bytes], int]:
        """Return whole lines of one frame that end at `offset`, about `size` bytes, and the offset of the first."""
        if offset <= 0:
            return [], 0
        text, last = self._frame_text(offset - 1)
        stop = last + 1
        start = text.rfind(b"\n", 0, max(0, stop - size)) + 1
        lines = text[start:stop].split(b"\n")
        lines.pop()
        return lines, offset - (stop - start)

    def _frame_text(self, offset: int) -> tuple[bytes, int]:
        """Return (text, place) of the frame with the text at `offset`, and where that is in it."""
        at = self.compressed.at(offset)
        return self.compressed.text(at), offset - self.compressed.frames.starts[at]

    def end_offset(self) -> int:
        """Return the size: every frame ends with a whole line."""
        return self.size

    def damage(self, offset: int, cause: str, *event: Any) -> CorruptionError:
        """Return the error for damage at `offset` of the text. Its own offset is that of the frame, in the file."""
        text = getattr(self, "compressed", None)  # Missing if the file could not be opened.
        if text is None or not text.size:
            return super().damage(0, cause, *event)
        at = min(text.at(offset), len(text.frames) - 1)
        if not text.is_intact(at):
            cause = "its frame is damaged"
        return super().damage(text.frames.offsets[at], cause, *event)


def _parts_of(text: bytes) -> Iterator[bytes]:
    """Yield the text in parts of whole lines, so that a long frame is not decoded at once."""
    start = 0
    while start < len(text):
        stop = _line_end(text, start, start + _PART_BYTES)
        yield text if stop - start == len(text) else text[start:stop]
        start = stop


def _line_end(text: bytes, start: int, stop: int) -> int:
    """Return the end of the last line between `start` and `stop`; if none ends there, of the first one after it."""
    return (text.rfind(b"\n", start, stop) + 1) or (text.find(b"\n", start) + 1)


def open_segment(filesystem: FileSystem, base: str, field: str) -> Segment:
    """Open the segment with this base, compressed or not. Raises `FileNotFoundError` if there is neither."""
    for left in reversed(range(_RETRIES)):  # It may be compressed at this moment, or the reverse.
        try:
            return Segment(filesystem, base, field)
        except FileNotFoundError:
            try:
                return CompressedSegment(filesystem, base, field)
            except FileNotFoundError:
                if not left:
                    raise
    raise AssertionError


def segment_of(filesystem: FileSystem, path: str, field: str, fd: int) -> Segment:
    """Return the segment in the open file at `path`, which it closes."""
    return (CompressedSegment if is_compressed(path) else Segment)(filesystem, base_of(path), field, fd)
