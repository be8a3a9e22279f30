"""The calls of a file store that keep it small, and what it does for that by itself."""

from __future__ import annotations

import contextlib
import re
import threading
from contextlib import AbstractContextManager
from time import time
from typing import TYPE_CHECKING

from hangarlog.errors import HangarlogError
from hangarlog.eventstore.record import Event
from hangarlog.filestore.following_calls import FollowingCalls
from hangarlog.system.import_lock import importing

if TYPE_CHECKING:
    from hangarlog.filestore.compression import Compressed, Compression, CompressionProgress

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AFTER = re.compile(r"after ([0-9]{1,9})([smhdw])").fullmatch


def seconds_after(compress: str | None) -> float | None:
    """Return the seconds in an option such as "after 1d", None for None. Raises `ValueError`."""
    if compress is None:
        return None
    found = _AFTER(compress) if isinstance(compress, str) else None
    if found is None:
        raise ValueError(f"compress must be 'after' and a time such as 'after 1d' (s, m, h, d or w), not {compress!r}")
    return int(found[1]) * float(_UNITS[found[2]])


class UpkeepCalls(FollowingCalls[Event]):
    """The part of a file store that keeps it small."""

    _compress_after: float | None = None
    _compression: Compression | None = None
    _behind: threading.Thread | None = None
    _compressed_layout = -1

    if TYPE_CHECKING:
        _lock_timeout: float | None

        def _calling(self) -> AbstractContextManager[None]: ...

    def compress(
        self,
        *,
        older_than: float = 0,
        progress: CompressionProgress = lambda done, total: None,
    ) -> Compressed:
        """Compress the sealed segments that were last written at least `older_than` seconds ago; return what was done.

        Other threads and processes read and write meanwhile. You may interrupt it, and run it again.

        Raises:
            MissingExtraError: zstd is not installed.
            LockTimeoutError: another process compresses the store for longer than `lock_timeout`.
            Otherwise what `append` raises.
        """
        with self._calling():
            compression = self._new_compression()
            try:
                return compression.run(time() - older_than if older_than else None, progress, self._lock_timeout)
            finally:
                self._compression = None

    def _new_compression(self) -> Compression:
        with importing:
            from hangarlog.filestore.compression import Compression
        compression = self._compression = Compression(self._write_session)
        return compression

    def _begin_upkeep(self, after: float | None) -> None:
        self._compress_after = after
        if after is not None:
            with importing:
                from hangarlog.log.zstd import zstd
            zstd(self._write_session.path)  # Raise now what the thread could tell nobody.
            self._write_session.checkpointing.afterwards = self._compress_behind

    def _compress_behind(self) -> None:
        """Compress in a thread what is due, if segments were sealed since it was last done here."""
        session = self._write_session
        if session.state.layout != self._compressed_layout and not (self._behind and self._behind.is_alive()):
            self._behind = session.filesystem.in_background(self._compress_due, "hangarlog-compress")

    def _compress_due(self) -> None:
        with contextlib.suppress(HangarlogError, OSError):  # The next roll tries again.
            self._new_compression().run(time() - (self._compress_after or 0))
            self._compressed_layout = self._write_session.state.layout

    def _end_upkeep(self, seconds: float | None) -> None:
        """Stop what runs in the background, and wait for it."""
        compression, behind = self._compression, self._behind
        if compression is not None:
            compression.stop()
        if behind is not None and behind is not threading.current_thread():
            behind.join(seconds)
