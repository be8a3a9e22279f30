"""Writing a sealed segment anew, with some of its lines changed, beside the old one. As many lines, and as proved."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hangarlog.log.compressing import proved
from hangarlog.log.index import STRIDE_BYTES, Covered, extend
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import erased_path, index_path, text_path

_INDEXED_BYTES = 4 * STRIDE_BYTES

Change = Callable[[bytes], bytes]
"""Returns the text that takes the place of some whole lines, which are proved: as many lines."""


def write_changed(segment: Segment, first: int, change: Change, go_on: Callable[[int], None]) -> str:
    """Write the text of a segment that begins with record `first`, changed, into a new plain file, and its index.

    Return the path of the text. Both are synced, and have the names of `erased_path`. `go_on` is called with the bytes
    of text that are read, and may raise.

    Raises:
        CorruptionError: the segment is damaged.
    """
    filesystem, base = segment.filesystem, segment.base
    path, index = erased_path(text_path(base)), erased_path(index_path(base))
    covered: Covered = (0, 0)
    for old in (path, index):
        filesystem.remove(old)
    fd = filesystem.open_new(path)
    try:
        for text in _gathered(change(part) for part in _read(segment, first, go_on)):
            filesystem.write(fd, text)
            lengths = [len(line) + 1 for line in text.split(b"\n")[:-1]]
            covered = extend(filesystem, index, first, text, lengths, covered)
        filesystem.sync_data(fd)
        if covered[1] < STRIDE_BYTES:
            filesystem.remove(index)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = path  # Else nothing says which disk is full.
        forget_changed(segment)
        raise
    finally:
        filesystem.close(fd)
    return path


def forget_changed(segment: Segment) -> None:
    """Delete what `write_changed` has written, unless it was put in place."""
    for path in (text_path(segment.base), index_path(segment.base)):
        segment.filesystem.remove(erased_path(path))


def _read(segment: Segment, first: int, go_on: Callable[[int], None]) -> Iterator[bytes]:
    for text, _ in proved(segment, first):
        yield text
        go_on(len(text))


def _gathered(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield texts that are long enough for blocks of an index of the usual size."""
    texts: list[bytes] = []
    size = 0
    for part in parts:
        texts.append(part)
        size += len(part)
        if size >= _INDEXED_BYTES:
            yield b"".join(texts)
            texts, size = [], 0
    if texts:
        yield b"".join(texts)
