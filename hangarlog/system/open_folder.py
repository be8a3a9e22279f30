"""Path resolution below open store folders that follows no symbolic link in any part of a path.

Checking a path before using it is no protection: another user may swap a part of it in between. So each part is opened
relative to the descriptor of the part above it, from the store's folder down, and calls get the last part together with
the descriptor of its folder. Windows lacks these calls, so there are no roots on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from time import monotonic

from hangarlog.system.platform import WINDOWS, folder_fd, retry_emfile

_PART_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_FRESH_SECONDS = 0.001
"""Seconds that an open folder is used again without resolving its path. It was the store's folder a moment ago."""

_MAX_FOLDERS = 16  # The most folders that are kept open for that.


class OpenFolder:
    """An open folder. It closes when nothing refers to it any more."""

    __slots__ = ("fd", "opened_at")

    def __init__(self, name: str, parent: int, flags: int = 0) -> None:
        """Open `name` in the folder that is open as `parent`. Raises `OSError`."""
        self.fd = -1  # `close` needs it even if the open fails or is interrupted.
        self.opened_at = monotonic()
        self.fd = retry_emfile(os.open, name, _PART_FLAGS | flags, dir_fd=parent)

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close it now; closing twice is fine."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            close(fd)

    __del__ = close


class Root:
    """A store's folder: its `path` when it was opened, and the descriptors through which its `users` have it open."""

    def __init__(self, path: str, fd: int) -> None:
        """Raises `OSError`."""
        # It opens its own descriptor: a lock taken through `fd` must end when its user closes `fd`.
        self.path, self.folder, self.inode, self.users = path, OpenFolder(".", fd), os.fstat(fd).st_ino, [fd]
        self.below: dict[str, OpenFolder] = {}
        self.owner = _owner_if_other(fd)

    def open(self, path: str) -> OpenFolder:
        """Return the folder at a path below this one. Raises `OSError`, `NotADirectoryError` if a part is a link."""
        known = self.below.get(path)
        if known and monotonic() - known.opened_at < _FRESH_SECONDS:
            return known
        found = self.folder
        try:
            for part in path.split(os.sep):
                found = OpenFolder(part, found.fd, os.O_NOFOLLOW)
        except BaseException:
            found = self.folder  # A kept traceback must not keep the other folders open.
            raise
        if len(self.below) >= _MAX_FOLDERS:
            self.below.clear()
        self.below[path] = found
        return found

    def close(self) -> None:
        """Close all folders, even if something still refers to them: nobody uses them any more."""
        for folder in (*self.below.values(), self.folder):
            folder.close()


def _owner_if_other(fd: int) -> tuple[int, int] | None:
    """Return the (owner, group) of a folder if this process is root and the owner is not, else None."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return None
    its = os.fstat(fd)
    return (its.st_uid, its.st_gid) if its.st_uid else None


Roots = tuple[Root, ...]


def with_root(roots: Roots, path: str, fd: int) -> Roots:
    """Return the roots with the folder that is open as `fd`. `path` means that folder, whatever has the name later.

    Raises `OSError`.
    """
    inode = os.fstat(fd).st_ino
    for root in roots:
        if (root.path, root.inode) == (path, inode):
            root.users.append(fd)
            return roots
    return (Root(path, fd), *roots)


def without_root(roots: Roots, fd: int) -> Roots:
    """Return the roots without one use of a folder. It does not read the disk, which may be dead."""
    for root in roots:
        if fd in root.users:
            root.users.remove(fd)
            if not root.users:
                root.close()
                return tuple(other for other in roots if other is not root)
            break
    return roots


def resolve(roots: Roots, path: str) -> tuple[int | None, str, OpenFolder | None]:
    """Return (descriptor of the folder that `path` is in, its name there, the object that keeps the descriptor open).

    Return (None, `path`, None) if `path` is below none of the roots. Raises `OSError`, `NotADirectoryError` if a part
    is a symbolic link.
    """
    for root in roots:
        if path.startswith(root.path) and path[len(root.path) : len(root.path) + 1] in ("", os.sep):
            above, _, name = path[len(root.path) + 1 :].rpartition(os.sep)
            folder = root.open(above) if above else root.folder
            return folder.fd, name or ".", folder
    return None, path, None


@contextlib.contextmanager
def resolved(roots: Roots, path: str) -> Iterator[tuple[int | None, str]]:
    """Yield the first two results of `resolve`. An `OSError`, even one raised in the block, names `path`."""
    kept_open = None
    try:
        parent, name, kept_open = resolve(roots, path)
        yield parent, name
    except OSError as error:
        error.filename = path
        raise
    finally:
        del kept_open  # A kept traceback must not keep the folder open.


class Entry:
    """One entry of a folder. Use it only while the folder is being listed."""

    __slots__ = ("_entry", "_folder", "name")

    def __init__(self, folder: str, entry: os.DirEntry[str]) -> None:
        self._folder, self._entry, self.name = folder, entry, entry.name

    @property
    def path(self) -> str:
        """The path of the entry."""
        return os.path.join(self._folder, self.name)

    def is_dir(self) -> bool:
        """True if the entry is a folder, not a link to one."""
        return self._entry.is_dir(follow_symlinks=False)

    def is_file(self) -> bool:
        """True if the entry is a regular file, not a link to one."""
        return self._entry.is_file(follow_symlinks=False)

    def stat(self) -> os.stat_result:
        """Return the status of the entry itself, as `os.lstat` does."""
        return self._entry.stat(follow_symlinks=False)


class Beneath:
    """Queries about paths, which are text. Below a store's folder that was entered, they follow no symbolic link."""

    _roots: Roots = ()
    _checks_owners = False

    def enter(self, folder: str, fd: int) -> None:
        """Resolve paths below `folder` from the folder that is open as `fd`, without following links, until `leave`."""
        if fd >= 0:
            self._roots = with_root(self._roots, folder, fd)
            self._checks_owners = any(root.owner for root in self._roots)

    def leave(self, fd: int) -> None:
        """Undo one `enter` of a folder."""
        if fd >= 0:
            self._roots = without_root(self._roots, fd)
            self._checks_owners = any(root.owner for root in self._roots)

    def is_ours(self, folder: str) -> bool:
        """True if a folder belongs to this user, does not exist, or the system has no owners."""
        try:
            return not hasattr(os, "geteuid") or self._stat(folder).st_uid == os.geteuid()
        except FileNotFoundError:
            return True

    def _check_owner(self, fd: int, path: str) -> None:
        """Raise `OSError` if root opened a file that the store's owner may not read: copies would go to that owner."""
        for root in self._roots:
            if root.owner and path.startswith(root.path + os.sep):
                owner, group = root.owner
                its = os.fstat(fd)
                if its.st_uid != owner and not (its.st_gid == group and its.st_mode & stat.S_IRGRP):
                    raise OSError(errno.EINVAL, f"it belongs to user {its.st_uid}, the store to user {owner}")

    def entries(self, path: str) -> Iterator[Entry]:
        """Yield the entries of a folder in no particular order, none if there is no such folder."""
        opened = contextlib.nullcontext(path) if WINDOWS else self._folder(path)
        with contextlib.suppress(FileNotFoundError), opened as folder, retry_emfile(os.scandir, folder) as entries:
            for entry in entries:
                yield Entry(path, entry)

    def is_there(self, path: str) -> bool:
        """True if there is anything at `path`."""
        return self._kind(path) != 0

    def is_folder(self, path: str) -> bool:
        """True if there is a folder at `path`, not a link to one."""
        return self._kind(path) == stat.S_IFDIR

    def is_file(self, path: str) -> bool:
        """True if there is a regular file at `path`, not a link to one."""
        return self._kind(path) == stat.S_IFREG

    def is_link(self, path: str) -> bool:
        """True if there is a symbolic link at `path`."""
        return self._kind(path) == stat.S_IFLNK

    def is_empty(self, path: str) -> bool:
        """True if there is an empty regular file at `path`."""
        return self.is_file(path) and not self._stat(path).st_size

    def has_other_names(self, path: str) -> bool:
        """True if there is a regular file at `path` that has other names (hard links)."""
        return self.is_file(path) and self._stat(path).st_nlink > 1

    def identity_at(self, path: str) -> int:
        """Return the inode number of the file at `path`, 0 if there is none."""
        try:
            return self._stat(path).st_ino
        except FileNotFoundError:
            return 0

    def made_at(self, path: str) -> int:
        """Return a number, from inode and ctime, that tells the file at `path` from its copies."""
        status = self._stat(path)
        return status.st_ino ^ status.st_ctime_ns

    def mark_at(self, path: str) -> tuple[int, int, int, int] | None:
        """Return numbers that change whenever the file at `path` is changed or replaced; None if there is none.

        They are its size, its inode, and when its content and its status last changed, in nanoseconds.
        """
        try:
            status = self._stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns

    def modified_at(self, path: str) -> float:
        """Return when the file at `path` was last written, in seconds since 1970; 0 if there is none."""
        try:
            return self._stat(path).st_mtime
        except FileNotFoundError:
            return 0.0

    def size_at(self, path: str) -> int:
        """Return the size of the file at `path`, in bytes."""
        return self._stat(path).st_size

    def _forget_folders(self) -> None:
        """Resolve each path anew from now on, because a folder was created or moved."""
        for root in self._roots:
            root.below.clear()

    def _kind(self, path: str) -> int:
        try:
            return stat.S_IFMT(self._stat(path, follow=False).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def _at(self, path: str) -> contextlib.AbstractContextManager[tuple[int | None, str]]:
        return resolved(self._roots, path)

    @contextlib.contextmanager
    def _folder(self, path: str) -> Iterator[int]:
        with self._at(path) as (parent, name), folder_fd(name, os.O_NOFOLLOW if parent else 0, parent) as fd:
            yield fd

    def _stat(self, path: str, *, follow: bool = True) -> os.stat_result:
        """Return the status of `path`. Below a store's folder, a link is never followed."""
        kept_open = None
        try:
            parent, name, kept_open = resolve(self._roots, path)
            return os.stat(name, dir_fd=parent, follow_symlinks=follow and parent is None)
        except OSError as error:
            error.filename = path
            raise
        finally:
            del kept_open
