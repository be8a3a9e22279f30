"""CRC-32, the checksum of all stored data. isal computes it in a tenth of the time zlib takes.

Install isal with the extra `hangarlog[fast]`; without it, zlib is used.
"""

from __future__ import annotations

import contextlib
from zlib import crc32

with contextlib.suppress(ImportError):
    from isal.isal_zlib import crc32

__all__ = ["crc32"]
