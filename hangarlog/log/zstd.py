"""Zstandard: the standard library's from Python 3.14 on, before that the one of the extra `hangarlog[zstd]`."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import TYPE_CHECKING, NamedTuple

from hangarlog.errors import MissingExtraError
from hangarlog.system.import_lock import importing
from hangarlog.system.import_path import elsewhere

if TYPE_CHECKING:
    from types import ModuleType

MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of a frame."""

_PART_BYTES = 1 << 20
_LEVEL, _LONG_LEVEL = 1, 3
_LEAST_MATCH_BYTES = 7
"""Of events, level 1 with longer matches leaves 6 to 9 % less than level 3, in two thirds of the time."""


def zstd(path: str) -> ModuleType:
    """Return the module that reads and writes zstd. Raises `MissingExtraError` for the file at `path` without it."""
    with importing:
        try:
            if sys.version_info >= (3, 14):
                from compression import zstd as module
            else:
                _find_backports()
                from backports import zstd as module
        except ImportError as error:
            raise MissingExtraError(path, "it is compressed; run: pip install 'hangarlog[zstd]'") from error
    return module


def _find_backports() -> None:
    """Import the package `backports`, which is only a folder: a `backports.py` in the current one would go first."""
    found = None if "backports" in sys.modules else PathFinder.find_spec("backports", elsewhere(sys.path))
    if found is not None:
        sys.modules["backports"] = module_from_spec(found)


class Measured(NamedTuple):
    """A frame has `length` bytes in its file, 0 if it ends later; its text has `size` bytes and so many `lines`."""

    length: int
    size: int
    lines: int


class Unpacker:
    """Unpacks single frames."""

    def __init__(self, path: str) -> None:
        self._zstd = zstd(path)

    def unpack(self, frame: bytes, size: int) -> bytes | None:
        """Return the `size` bytes of a frame, None if the frame is damaged or has another size."""
        try:
            unpacker = self._zstd.ZstdDecompressor()
            # In parts, whose memory is used again: to unpack a long frame at once takes three times as long.
            parts = [unpacker.decompress(frame, min(size + 1, _PART_BYTES))]
            while len(parts) * _PART_BYTES <= size and not unpacker.eof:
                parts.append(unpacker.decompress(b"", _PART_BYTES))
        except self._zstd.ZstdError:
            return None
        text = b"".join(parts) if len(parts) > 1 else parts[0]
        return text if unpacker.eof and not unpacker.unused_data and len(text) == size else None

    def measure_first(self, data: bytes, most: int) -> Measured | None:
        """Measure the frame that `data` begins with. Return None if it is damaged.

        A frame with more than `most` bytes of text counts as damaged, and one that does not end with a newline.
        """
        size, lines, last = 0, 0, b"\n"
        try:
            unpacker = self._zstd.ZstdDecompressor()
            part = unpacker.decompress(data, _PART_BYTES)
            while part and size <= most:
                size, lines, last = size + len(part), lines + part.count(b"\n"), part[-1:]
                part = b"" if unpacker.eof else unpacker.decompress(b"", _PART_BYTES)
        except self._zstd.ZstdError:
            return None
        if size > most or (unpacker.eof and last != b"\n"):
            return None
        return Measured(len(data) - len(unpacker.unused_data) if unpacker.eof else 0, size, lines)


class Packer:
    """Packs texts into frames, each with its size and a checksum. No frame needs another one.

    `window_log`: find what is repeated within 2^`window_log` bytes, 0 within a megabyte or two.
    """

    def __init__(self, path: str, window_log: int = 0) -> None:
        module = zstd(path)
        parameter = module.CompressionParameter
        options = {parameter.compression_level: _LEVEL, parameter.min_match: _LEAST_MATCH_BYTES}
        if window_log:
            options = {parameter.compression_level: _LONG_LEVEL, parameter.window_log: window_log}
            options[parameter.enable_long_distance_matching] = 1
        self._packer = module.ZstdCompressor(options={**options, parameter.checksum_flag: 1})

    def pack(self, text: bytes) -> bytes:
        """Return a frame with the text."""
        frame: bytes = self._packer.compress(text, self._packer.FLUSH_FRAME)
        return frame
