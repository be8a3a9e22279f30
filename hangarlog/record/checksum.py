"""CRC-32, the checksum of all stored data, and BLAKE2b, the hash of the caches' keys.

isal computes a CRC-32 in a tenth of the time zlib takes. Install it with the extra `hangarlog[fast]`; without it, zlib
is used.
"""

from __future__ import annotations

import contextlib
from zlib import crc32

from hangarlog.system.import_lock import importing

with contextlib.suppress(ImportError):
    from isal.isal_zlib import crc32

try:
    from _blake2 import blake2b  # As in hashlib, without loading OpenSSL, which takes longer than opening a store.
except ImportError:  # pragma: no cover
    with importing:
        from hashlib import blake2b

__all__ = ["blake2b", "crc32"]
