"""The calls of a file store that keep it small, and what it does for that by itself."""

from __future__ import annotations

import contextlib
import re
import threading
from contextlib import AbstractContextManager
from time import time
from typing import TYPE_CHECKING, Any

from hangarlog.errors import CorruptionError, HangarlogError, StreamDeletedError
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.record import Event
from hangarlog.filestore.file_owners import JournalNames
from hangarlog.filestore.following_calls import FollowingCalls
from hangarlog.filestore.writer import Writer
from hangarlog.system.import_lock import importing
from hangarlog.system.open_folder import Entry

if TYPE_CHECKING:
    from hangarlog.filestore.compression import Compressed, Compression, CompressionProgress

_WORTH_SEALING_BYTES = 16 << 10
"""Compressing a smaller segment would free a block of the disk or two, and take another file."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"([0-9]{1,9})([smhdw])").fullmatch


def seconds_of(age: str) -> float | None:
    """Return the seconds of an age such as "1d", None if it is none."""
    found = _AGE(age)
    return int(found[1]) * float(_UNITS[found[2]]) if found else None


def seconds_after(compress: str | None) -> float | None:
    """Return the seconds in an option such as "after 1d", None for None. Raises `ValueError`."""
    if compress is None:
        return None
    after, _, age = compress.partition(" ") if isinstance(compress, str) else ("", "", "")
    seconds = seconds_of(age) if after == "after" else None
    if seconds is None:
        raise ValueError(f"compress must be 'after' and a time such as 'after 1d' (s, m, h, d or w), not {compress!r}")
    return seconds


def _is_due(entry: Entry, before: float | None) -> bool:
    with contextlib.suppress(FileNotFoundError):
        status = entry.stat()
        return status.st_size >= _WORTH_SEALING_BYTES and (before is None or status.st_mtime < before)
    return False


class UpkeepCalls(FollowingCalls[Event]):
    """The part of a file store that keeps it small."""

    _compress_after: float | None = None
    _behind: threading.Thread | None = None
    _compressed_layout = -1

    def __init__(self, serializer: EventSerializer | None = None) -> None:
        super().__init__(serializer)
        self._compressions: set[Compression] = set()

    if TYPE_CHECKING:
        _closed: bool
        _lock_timeout: float | None
        _writer: Writer

        def _calling(self) -> AbstractContextManager[None]: ...

    def compress(
        self,
        *,
        older_than: float = 0,
        seal: bool = False,
        progress: CompressionProgress = lambda done, total: None,
    ) -> Compressed:
        """Compress the sealed segments that were last written at least `older_than` seconds ago; return what was done.

        With `seal`, first seal the active segments of that age that have 16 KiB or more. Streams that get few events
        are never sealed otherwise.

        Other threads and processes read and write meanwhile. You may interrupt it, and run it again.

        Raises:
            MissingExtraError: zstd is not installed.
            LockTimeoutError: another process compresses the store for longer than `lock_timeout`.
            OSError: the operating system refused a call, as on a full disk. What is done stays.
            Otherwise what `append` raises.
        """
        with self._calling():
            before = time() - older_than if older_than else None
            if seal:
                self._seal(before)
            return self._run(before, progress, self._lock_timeout)

    def _seal(self, before: float | None) -> None:
        folder, names = self._write_session.folder, JournalNames(self._write_session.folder.journal)
        due = [(part, name, file.path) for part, name, file in folder.stream_files() if _is_due(file, before)]
        for category, name, path in due:
            if self._closed:
                return
            with contextlib.suppress(CorruptionError, StreamDeletedError):  # The compression will report damage.
                stream_id = folder.stream_id_at(category, name, path, names)
                if stream_id is not None:
                    self._writer.seal(stream_id)
        journal = folder.journal.active_path
        if any(file.path == journal and _is_due(file, before) for file in folder.filesystem.entries(folder.path)):
            self._writer.seal(None)

    def _run(self, before: float | None, *arguments: Any) -> Compressed:
        with importing:
            from hangarlog.filestore.compression import Compression
        compression = Compression(self._write_session)
        self._compressions.add(compression)
        try:
            if self._closed:
                compression.stop()  # `close` may have looked before it was added.
            return compression.run(before, *arguments)
        finally:
            self._compressions.discard(compression)

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
        if self._closed:
            return
        if session.state.layout != self._compressed_layout and not (self._behind and self._behind.is_alive()):
            self._behind = session.filesystem.in_background(self._compress_due, "hangarlog-compress")

    def _compress_due(self) -> None:
        with contextlib.suppress(HangarlogError, OSError):  # The next roll tries again.
            self._run(time() - (self._compress_after or 0))
            self._compressed_layout = self._write_session.state.layout

    def _stop_upkeep(self) -> None:
        """Let the compressions that run end soon."""
        for compression in self._compressions.copy():
            compression.stop()

    def _end_upkeep(self, seconds: float | None) -> None:
        """Wait for what runs in the background."""
        self._stop_upkeep()
        behind = self._behind
        if behind is not None and behind is not threading.current_thread():
            behind.join(seconds)
