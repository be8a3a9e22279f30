"""A read-only file system, for commands that read another user's store."""

from __future__ import annotations

import errno

from hangarlog.system.filesystem import FileSystem


class ReadOnly(FileSystem):
    """A file system whose changing calls raise `PermissionError`."""

    def open_append(self, path: str, *, create: bool = False) -> int:
        """Raise `PermissionError`."""
        raise _refusal(path)

    def open_new(self, path: str) -> int:
        """Raise `PermissionError`."""
        raise _refusal(path)

    def open_update(self, path: str, *, create: bool = False) -> int:
        """Raise `PermissionError`."""
        raise _refusal(path)

    def open_synced(self, path: str) -> tuple[int, bool]:
        """Raise `PermissionError`."""
        raise _refusal(path)

    def touch_folder(self, path: str) -> None:
        """Raise `PermissionError`."""
        raise _refusal(path)

    def link(self, old: str, new: str) -> None:
        """Raise `PermissionError`."""
        raise _refusal(new)

    def rename(self, old: str, new: str) -> None:
        """Raise `PermissionError`."""
        raise _refusal(new)

    def remove(self, path: str) -> None:
        """Raise `PermissionError`."""
        raise _refusal(path)

    def create_folder(self, path: str) -> None:
        """Raise `PermissionError`."""
        raise _refusal(path)


def _refusal(path: str) -> PermissionError:
    return PermissionError(errno.EACCES, "the store is open for reading only", path)


def for_reading(path: str) -> FileSystem:
    """Return the file system for a command that only reads. In another user's store it changes and locks nothing."""
    filesystem = FileSystem()
    return filesystem if filesystem.is_ours(path) else ReadOnly()
