"""Zstandard: the standard library's from Python 3.14 on, before that the one of the extra `hangarlog[zstd]`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hangarlog.errors import MissingExtraError
from hangarlog.system.import_lock import importing

if TYPE_CHECKING:
    from types import ModuleType

MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of a frame."""

_LEVEL, _LONG_LEVEL = 1, 3
_LEAST_MATCH_BYTES = 7
"""Of events, level 1 with longer matches leaves a tenth less than level 3, at twice the speed: docs/performance.md."""


def zstd(path: str) -> ModuleType:
    """Return the module that reads and writes zstd. Raises `MissingExtraError` for the file at `path` without it."""
    with importing:
        try:
            if sys.version_info >= (3, 14):
                from compression import zstd as module
            else:
                from backports import zstd as module
        except ImportError as error:
            raise MissingExtraError(path, "it is compressed with zstd", "zstd") from error
    return module


class Unpacker:
    """Unpacks single frames."""

    def __init__(self, path: str) -> None:
        self._zstd = zstd(path)

    def unpack(self, frame: bytes, size: int) -> bytes | None:
        """Return the `size` bytes of a frame, None if the frame is damaged or has another size."""
        try:
            unpacker = self._zstd.ZstdDecompressor()
            text: bytes = unpacker.decompress(frame, size + 1)
        except self._zstd.ZstdError:
            return None
        return text if unpacker.eof and not unpacker.unused_data and len(text) == size else None

    def unpack_first(self, data: bytes, most: int) -> tuple[bytes, int] | None:
        """Return (text, size of the frame) of the frame that `data` begins with, None if it is not whole or damaged.

        A frame with more than `most` bytes of text counts as damaged.
        """
        try:
            unpacker = self._zstd.ZstdDecompressor()
            text = unpacker.decompress(data, most + 1)
        except self._zstd.ZstdError:
            return None
        whole = unpacker.eof and len(text) <= most
        return (text, len(data) - len(unpacker.unused_data)) if whole else None


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
