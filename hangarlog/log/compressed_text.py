"""The file of a compressed segment: frames of zstd, each with whole lines, and two tables at its end.

docs/format.md has the bytes. Any zstd tool unpacks the file as a whole; with the tables, one frame is enough to find a
record. They may be damaged: then the frames are found by unpacking them. A damaged frame reads as damaged lines, as
many as it had, so whatever reads segments handles it as it handles a damaged line.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate, count

from hangarlog.log.zstd import MAGIC, Measured, Unpacker
from hangarlog.record.checksum import crc32
from hangarlog.record.envelope import MAX_NUMBER
from hangarlog.record.line import MAX_LINE_BYTES, MIN_LINE_BYTES
from hangarlog.system.filesystem import FileSystem

_SKIPPED = struct.Struct("<II")  # The magic number and the size of a frame that readers of the text skip.
_NUMBERS_MAGIC, _TABLE_MAGIC, _END_MAGIC = 0x184D2A57, 0x184D2A5E, 0x8F92EAB1
_NUMBERS = struct.Struct("<8sQ")
_NUMBERS_NAME = b"HLFRAMES"
_CRC = struct.Struct("<I")
_NUMBERS_START = struct.pack("<I", _NUMBERS_MAGIC)
_END = struct.Struct("<IBI")  # Of the table: the number of frames, its form, the magic number.

_MAX_FRAME_BYTES = MAX_LINE_BYTES + (64 << 20)
"""The most text of a frame: a longest line, and what comes before it."""
_MAX_TEXT_BYTES = 1 << 32
_MAX_FRAMES, _MAX_DAMAGED = 1 << 16, 1 << 12
"""Looked for where the tables are damaged: the most text, in frames of 64 KiB. A hostile file may begin millions."""
_FIRST_BYTES = 4 << 10
"""Read where a frame may begin: there may be millions of such places that begin none."""
_KEPT_BYTES = 32 << 20


class Frames:
    """Where the frames of a text are: in the file, in the text, and by the numbers of their records."""

    def __init__(self, first: int, packed: Sequence[int], sizes: Sequence[int], counts: Sequence[int]) -> None:
        self.first = first
        self.offsets = array("Q", accumulate(packed, initial=0))
        self.starts = array("Q", accumulate(sizes, initial=0))
        self.numbers = array("Q", accumulate(counts, initial=first))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def size(self) -> int:
        """The size of the text, in bytes."""
        return self.starts[-1]


def tables(first: int, packed: Sequence[int], sizes: Sequence[int], counts: Sequence[int]) -> bytes:
    """Return the tables after frames of these packed sizes, text sizes and numbers of lines."""
    entries = _little([*(each for pair in zip(packed, sizes, strict=True) for each in pair)])
    numbers = _NUMBERS.pack(_NUMBERS_NAME, first) + _little(counts)
    numbers += _CRC.pack(crc32(entries, crc32(numbers)))
    return _framed(numbers, entries)


def _framed(numbers: bytes, entries: bytes) -> bytes:
    """Return both tables as two frames that readers of the text skip."""
    first = _skipped(_NUMBERS_MAGIC, numbers)
    table = entries + _little([len(first), 0]) + _END.pack(len(entries) // 8 + 1, 0, _END_MAGIC)
    return first + _skipped(_TABLE_MAGIC, table)


def _skipped(magic: int, content: bytes) -> bytes:
    return _SKIPPED.pack(magic, len(content)) + content


def _little(numbers: Sequence[int]) -> bytes:
    words = array("I", numbers)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def _from_little(data: bytes) -> array[int]:
    words = array("I", data)
    if sys.byteorder == "big":
        words.byteswap()
    return words


def read_tables(filesystem: FileSystem, fd: int) -> Frames | None:
    """Return what the tables of an open file say, None if they are damaged or missing."""
    size = filesystem.size(fd)
    frames, form, magic = _unpacked(_END, filesystem.read(fd, _END.size, max(0, size - _END.size)))
    start = size - _END.size - 8 * frames
    numbers_at = start - 2 * _SKIPPED.size - _NUMBERS.size - 4 * (frames - 1) - _CRC.size
    if (form, magic) != (0, _END_MAGIC) or frames < 2 or numbers_at < 0:
        return None
    data = filesystem.read(fd, size - numbers_at, numbers_at)
    at = start - numbers_at
    numbers, entries = data[_SKIPPED.size : at - _SKIPPED.size], data[at : at + 8 * (frames - 1)]
    name, first = _NUMBERS.unpack_from(numbers)
    if first > MAX_NUMBER:
        return None
    if name != _NUMBERS_NAME or _CRC.pack(crc32(entries, crc32(numbers[: -_CRC.size]))) != numbers[-_CRC.size :]:
        return None
    if data != _framed(numbers, entries):  # Tools that unpack the file read these headers, too.
        return None
    words, counts = _from_little(entries), _from_little(numbers[_NUMBERS.size : -_CRC.size])
    packed, sizes = words[::2], words[1::2]
    if sum(packed) != numbers_at:
        return None
    likely = all(0 < lines <= size // MIN_LINE_BYTES for lines, size in zip(counts, sizes, strict=True))
    bounded = max(sizes) <= _MAX_FRAME_BYTES and sum(sizes) <= _MAX_TEXT_BYTES
    return Frames(first, packed, sizes, counts) if likely and bounded else None


def _unpacked(form: struct.Struct, data: bytes) -> tuple[int, ...]:
    return form.unpack(data) if len(data) == form.size else form.unpack(bytes(form.size))


class CompressedText:
    """The text of an open compressed file. Offsets and sizes are those of the text, in bytes."""

    def __init__(self, filesystem: FileSystem, fd: int, path: str) -> None:
        """Raises `MissingExtraError` without zstd."""
        self._filesystem, self._fd = filesystem, fd
        self._unpacker = Unpacker(path)
        found = read_tables(filesystem, fd)
        self.has_tables = found is not None
        """False if they are damaged or missing."""
        self.frames = found or self._found_frames()
        self._key = next(_keys)
        self._looked_at = -1, False

    @property
    def size(self) -> int:
        """The size of the text."""
        return self.frames.size

    def at(self, offset: int) -> int:
        """Return the frame with the text at `offset`."""
        return bisect_right(self.frames.starts, offset) - 1

    def of(self, number: int) -> int:
        """Return the frame with record `number`."""
        return bisect_right(self.frames.numbers, number) - 1

    def intact(self, frame: int) -> bytes | None:
        """Return the text of a frame, None if it is damaged."""
        frames = self.frames
        begin, end = frames.offsets[frame : frame + 2]
        if end - begin > _MAX_FRAME_BYTES:
            return None
        size = frames.starts[frame + 1] - frames.starts[frame]
        text = self._unpacker.unpack(self._filesystem.read(self._fd, end - begin, begin), size)
        return text if text is None or text.endswith(b"\n") else None

    def is_intact(self, frame: int) -> bool:
        """True if a frame is intact. The last answer is kept: each of its lines may ask."""
        if self._looked_at[0] != frame:
            self._looked_at = frame, self.intact(frame) is not None
        return self._looked_at[1]

    def text(self, frame: int) -> bytes:
        """Return the text of a frame; of a damaged one, as many lines without a record as it had."""
        kept = _kept.get((self._key, frame))
        if kept is None:
            kept = self.intact(frame) or self._damaged(frame)
            _kept.put((self._key, frame), kept)
        return kept

    def tables_agree(self) -> bool:
        """True if every frame that is intact has as many lines as the tables say. This unpacks all."""
        numbers = self.frames.numbers
        for frame in range(len(self.frames)):
            text = self.intact(frame)
            if text is not None and text.count(b"\n") != numbers[frame + 1] - numbers[frame]:
                return False
        return True

    def _damaged(self, frame: int) -> bytes:
        starts, numbers = self.frames.starts, self.frames.numbers
        size, lines = starts[frame + 1] - starts[frame], numbers[frame + 1] - numbers[frame]
        rest = b"\0\n" * (lines - 1)
        return bytes(size - len(rest) - 1) + b"\n" + rest

    def read(self, size: int, offset: int) -> bytes:
        """Return `size` bytes of text from `offset`, fewer only at the end."""
        stop = min(offset + size, self.size)
        if not 0 <= offset < stop:
            return b""
        first, last = self.at(offset), self.at(stop - 1)
        begin = offset - self.frames.starts[first]
        if first == last:
            return self.text(first)[begin : begin + stop - offset]
        text = b"".join(map(self.text, range(first, last + 1)))
        return text[begin : begin + stop - offset]

    # Without tables

    def _found_frames(self) -> Frames:
        """Find the frames by unpacking them. What is no frame counts as a damaged one with one line."""
        packed, sizes, counts = [], [], []
        total = 0
        for part in self._parts():
            packed.append(part.length)
            sizes.append(part.size or 2)
            counts.append(part.lines or 1)
            total += sizes[-1]
            if total > _MAX_TEXT_BYTES:
                break
        return Frames(0, packed, sizes, counts)

    def _parts(self) -> Iterator[Measured]:
        """Yield all parts; the text of one that is damaged, or no frame, has the size 0."""
        size, at, damaged = self._filesystem.size(self._fd), 0, 0
        frames = places = 0
        while at < size and frames < _MAX_FRAMES and places < _MAX_DAMAGED:
            found = self._frame_at(at, size)
            if found is None:
                following = self._magic_after(at + 1, size)
                damaged, at, places = damaged + following - at, following, places + 1
            else:
                if damaged:
                    yield Measured(damaged, 0, 0)
                frames += 1
                damaged, at = 0, at + found.length
                yield found
        damaged += size - at
        if damaged and not self._begin_tables(size - damaged):
            yield Measured(damaged, 0, 0)

    def _begin_tables(self, at: int) -> bool:
        """True if the tables begin at a place in the file, although one of their marks may be damaged."""
        start = self._filesystem.read(self._fd, _SKIPPED.size + len(_NUMBERS_NAME), at)
        return start.startswith(_NUMBERS_START) or start.endswith(_NUMBERS_NAME)

    def _frame_at(self, at: int, size: int) -> Measured | None:
        """Return the frame at a place in the file, None if there is no whole one."""
        length = _FIRST_BYTES
        while True:
            data = self._filesystem.read(self._fd, min(length, size - at), at)
            if not data.startswith(MAGIC):
                return None
            found = self._unpacker.measure_first(data, _MAX_FRAME_BYTES)
            if found is None or found.length:
                likely = found is not None and 0 < found.lines <= found.size // MIN_LINE_BYTES + 1
                return found if likely else None
            if length >= min(size - at, _MAX_FRAME_BYTES):
                return None
            length = min(8 * length, _MAX_FRAME_BYTES)

    def _magic_after(self, at: int, size: int) -> int:
        """Return the place in the file where a frame may begin, from `at` on; its size if there is none."""
        while at < size:
            at = self._filesystem.data_from(self._fd, at)[0]
            data = self._filesystem.read(self._fd, _FIRST_BYTES, at)
            found = data.find(MAGIC)
            if found >= 0:
                return at + found
            at += max(1, len(data) - len(MAGIC) + 1)
        return size


class _KeptFrames:
    """The texts of the frames that were read last, of all files together."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int]) -> bytes | None:
        """Return the text of a frame, None if it is not kept."""
        with self._lock:
            if key in self._texts:
                self._texts.move_to_end(key)
            return self._texts.get(key)

    def put(self, key: tuple[int, int], text: bytes) -> None:
        """Keep a text, and let go of the ones read before if there are too many."""
        with self._lock:
            self._bytes += len(text) - len(self._texts.pop(key, b""))
            self._texts[key] = text
            while self._bytes > _KEPT_BYTES and len(self._texts) > 1:
                self._bytes -= len(self._texts.popitem(last=False)[1])

    def forked(self) -> None:
        """In a forked child: a thread that had the lock does not exist here."""
        self.__init__()  # type: ignore[misc]


_kept = _KeptFrames()
_keys = count()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_kept.forked)
