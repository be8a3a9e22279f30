"""The folder that is damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import hangarlog.filestore.shared_state
from hangarlog.filestore.shared_state import SharedState

from .damages import COPIED, RESTARTED, SMALL, Case, damaged
from .store import FILESYSTEM, open_store


class Folder:
    """A store whose files are damaged and put back, in place: the state knows the file that it is in.

    With `kept` somebody has it open all the while.
    """

    def __init__(self, path: str, *, kept: bool = False) -> None:
        self.path = path
        self._keeper = open_store(path) if kept else None
        self._files: dict[str, tuple[bytes, int]] = {}
        self._damaged = ""
        self._folders = {folder for folder, _, _ in os.walk(path)}
        for folder in self._folders:
            for entry in os.scandir(folder):
                if entry.is_file():
                    self._files[entry.path] = Path(entry.path).read_bytes(), entry.stat().st_mtime_ns
        self.texts = {os.path.relpath(path, self.path): text for path, (text, _) in sorted(self._files.items()) if text}

    def damage(self, case: Case) -> None:
        """Put everything back, and do what `case` says; times are as before, as rot leaves them."""
        self.put_back(case.mode)
        path = os.path.join(self.path, case.name)
        self._put(path, damaged(Path(path).read_bytes(), case), self._files[path][1])
        if case.name == "hangarlog.json":
            self._set_mode(case.mode)  # Rot does not make a store of it that has moved.
        self._damaged = path

    def put_back(self, mode: str) -> None:
        """Put everything back as it was."""
        self._restore()
        self._set_mode(mode)

    def _restore(self) -> None:
        for folder in self._folders:
            for entry in list(os.scandir(folder)):
                if entry.path not in self._files and entry.path not in self._folders:
                    shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
        for path, (text, stamp) in self._files.items():
            # Writing changes the time of a file, and only `damage` puts it back; of the state `_set_mode` takes care.
            try:
                found = os.stat(path)
                same = found.st_mtime_ns == stamp and found.st_size == len(text) and path != self._damaged
            except FileNotFoundError:
                same = False
            if not same:
                self._put(path, text, stamp)

    def _set_mode(self, mode: str) -> None:
        state = os.path.join(self.path, "state")
        if mode == COPIED:
            for name in SMALL:
                Path(self.path, name).unlink(missing_ok=True)
            return
        words = memoryview(bytearray(self._files[state][0])).cast("Q")
        home = FILESYSTEM.made_at(os.path.join(self.path, "hangarlog.json"))
        with contextlib.closing(SharedState(FILESYSTEM, state, home, writable=False)) as file:
            words[hangarlog.filestore.shared_state._FILE] = file._file
        if os.path.exists(ring := os.path.join(self.path, "ring")):  # An archive has none.
            words[hangarlog.filestore.shared_state.RING_FILE] = os.stat(ring).st_ino
        words[hangarlog.filestore.shared_state._BOOT] ^= mode == RESTARTED
        self._put(state, bytes(words), 0)

    def _put(self, path: str, text: bytes, stamp: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))
            os.utime(fd, ns=(0, stamp))
        finally:
            os.close(fd)
