"""A file system that is only read: for commands that look at what belongs to another user."""

from __future__ import annotations

import errno

from hangarlog.system.filesystem import FileSystem


class ReadOnly(FileSystem):
    """A file system on which nothing is made or changed: what would, fails with `PermissionError`."""

    def open_append(self, path: str, *, create: bool = False) -> int:
        """Refused."""
        raise _only_read(path)

    def open_new(self, path: str) -> int:
        """Refused."""
        raise _only_read(path)

    def open_update(self, path: str, *, create: bool = False) -> int:
        """Refused."""
        raise _only_read(path)

    def open_synced(self, path: str) -> tuple[int, bool]:
        """Refused."""
        raise _only_read(path)

    def touch_folder(self, path: str) -> None:
        """Refused."""
        raise _only_read(path)

    def link(self, old: str, new: str) -> None:
        """Refused."""
        raise _only_read(new)

    def rename(self, old: str, new: str) -> None:
        """Refused."""
        raise _only_read(new)

    def remove(self, path: str) -> None:
        """Refused."""
        raise _only_read(path)

    def create_folder(self, path: str) -> None:
        """Refused."""
        raise _only_read(path)


def _only_read(path: str) -> PermissionError:
    return PermissionError(errno.EACCES, "it is only read here", path)


def for_reading(path: str) -> FileSystem:
    """What a command that only reads uses for the store at `path`: in another user's, it changes and locks nothing."""
    filesystem = FileSystem()
    return filesystem if filesystem.is_ours(path) else ReadOnly()
