"""A process that dies at a call of the file system, as `kill -9` or a power cut would end it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hangarlog.system.filesystem import FileSystem


class Died(BaseException):
    """The process is gone: nothing it would do afterwards happens."""


class DyingFileSystem(FileSystem):
    """Counts the calls that change something, and dies in the one numbered `at`, after `share` of a write."""

    def __init__(self, at: int | None = None, share: float = 0.0) -> None:
        self.calls, self.at, self.share = 0, at, share

    def _step(self, partly: Callable[[], None] | None = None) -> None:
        if self.at is not None and self.calls >= self.at:
            if self.calls == self.at and partly:
                partly()
            self.calls += 1
            raise Died
        self.calls += 1

    def write(self, fd: int, data: bytes) -> None:
        self._step(lambda: super(DyingFileSystem, self).write(fd, data[: int(len(data) * self.share)]))
        super().write(fd, data)

    def roll(self, live: str, sealed: str) -> None:
        self._step()
        super().roll(live, sealed)

    def sync_folder(self, path: str) -> None:
        self._step()  # Also within a roll: between its two names. The machine goes on: nothing needs to be synced.

    def truncate(self, fd: int, size: int) -> None:
        self._step()
        super().truncate(fd, size)

    def rename(self, old: str, new: str) -> None:
        self._step()
        super().rename(old, new)

    def remove(self, path: str) -> None:
        self._step()
        super().remove(path)

    def make_folder(self, path: str) -> None:
        self._step()
        super().make_folder(path)

    def sync_data(self, fd: int) -> None:
        self._step()

    def open_append(self, path: str, *, create: bool = False) -> int:
        self._step()
        return super().open_append(path, create=create)

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self._step(lambda: super(DyingFileSystem, self).write_at(fd, data[: int(len(data) * self.share)], offset))
        super().write_at(fd, data, offset)

    def in_background(self, work: Callable[[], None], name: str) -> None:
        work()

    def sync_everything(self, folder: str, paths: Any) -> None:
        self._step()  # What the machine's other files have to sync is no matter here.
