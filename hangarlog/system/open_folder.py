"""Store folders that are open, below which no symbolic link is followed, at any part of a path.

A check of a path before it is used says nothing: who may change the folder swaps a part of it in between. So each part
is opened relative to the one above, from the descriptor of the store's folder on, and the last one is given to the
call together with the descriptor it is in. On Windows, which has no such calls, there are no roots.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from time import monotonic

from hangarlog.system.platform import WINDOWS, again, folder_fd

_PART_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_FRESH_SECONDS = 0.001
"""Seconds that a folder is used again without a look at its path. Meanwhile it is the store's, or was a moment ago."""

_MAX_FOLDERS = 16  # Folders that are kept for that.


class OpenFolder:
    """A folder that is open to be used in calls; it is closed when nothing refers to it."""

    __slots__ = ("fd", "opened_at")

    def __init__(self, name: str, parent: int, flags: int = 0) -> None:
        """Raises `OSError`."""
        self.fd = -1  # For an interrupt, or a failure, before there is one.
        self.opened_at = monotonic()
        self.fd = again(os.open, name, _PART_FLAGS | flags, dir_fd=parent)

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close it now; closing twice is fine."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            close(fd)

    __del__ = close


class Root:
    """A store's folder, at `path` when it was opened, and the descriptors through which its `users` have it open."""

    def __init__(self, path: str, fd: int) -> None:
        """Raises `OSError`."""
        # A descriptor of its own: a lock taken through the other one must end when that is closed.
        self.path, self.folder, self.inode, self.users = path, OpenFolder(".", fd), os.fstat(fd).st_ino, [fd]
        self.below: dict[str, OpenFolder] = {}
        self.strangers = _whose_to_refuse(fd)

    def open(self, path: str) -> OpenFolder:
        """The folder at a path below this one. Raises `OSError`: `NotADirectoryError` where a part is a link."""
        known = self.below.get(path)
        if known and monotonic() - known.opened_at < _FRESH_SECONDS:
            return known
        found = self.folder
        try:
            for part in path.split(os.sep):
                found = OpenFolder(part, found.fd, os.O_NOFOLLOW)
        except BaseException:
            found = self.folder  # A traceback that somebody keeps must not keep the others open.
            raise
        if len(self.below) >= _MAX_FOLDERS:
            self.below.clear()
        self.below[path] = found
        return found

    def close(self) -> None:
        """Close what is open, whatever still refers to it: nobody uses it any more."""
        for folder in (*self.below.values(), self.folder):
            folder.close()


def _whose_to_refuse(fd: int) -> tuple[int, int] | None:
    """(owner, group) of a folder where this process may read more than they do; None where it may not."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return None
    its = os.fstat(fd)
    return (its.st_uid, its.st_gid) if its.st_uid else None


Roots = tuple[Root, ...]


def entered(roots: Roots, path: str, fd: int) -> Roots:
    """With the folder that is open as `fd`: `path` is that one from here on, whatever has the name later.

    Raises `OSError`.
    """
    inode = os.fstat(fd).st_ino
    for root in roots:
        if (root.path, root.inode) == (path, inode):
            root.users.append(fd)
            return roots
    return (Root(path, fd), *roots)


def left(roots: Roots, fd: int) -> Roots:
    """Without a folder that was entered, once for each time. It asks the system nothing: the disk may be dead."""
    for root in roots:
        if fd in root.users:
            root.users.remove(fd)
            if not root.users:
                root.close()
                return tuple(other for other in roots if other is not root)
            break
    return roots


def walk(roots: Roots, path: str) -> tuple[int | None, str, OpenFolder | None]:
    """(descriptor of the folder that `path` is in, its name there, what keeps that open).

    (None, `path`, None) where it is below none of the roots. Raises `OSError`: `NotADirectoryError` where a part is a
    symbolic link.
    """
    for root in roots:
        if path.startswith(root.path) and path[len(root.path) : len(root.path) + 1] in ("", os.sep):
            above, _, name = path[len(root.path) + 1 :].rpartition(os.sep)
            folder = root.open(above) if above else root.folder
            return folder.fd, name or ".", folder
    return None, path, None


@contextlib.contextmanager
def place(roots: Roots, path: str) -> Iterator[tuple[int | None, str]]:
    """The first two that `walk` gives. Errors, of the block too, name `path`."""
    kept_open = None
    try:
        parent, name, kept_open = walk(roots, path)
        yield parent, name
    except OSError as error:
        error.filename = path
        raise
    finally:
        del kept_open  # From a traceback that somebody keeps, too.


class Entry:
    """What a folder has under one name. To be asked while the listing of the folder goes on."""

    __slots__ = ("_entry", "_folder", "name")

    def __init__(self, folder: str, entry: os.DirEntry[str]) -> None:
        self._folder, self._entry, self.name = folder, entry, entry.name

    @property
    def path(self) -> str:
        """Its path."""
        return os.path.join(self._folder, self.name)

    def is_dir(self) -> bool:
        """Whether it is a folder, and no link to one."""
        return self._entry.is_dir(follow_symlinks=False)

    def is_file(self) -> bool:
        """Whether it is a regular file, and no link to one."""
        return self._entry.is_file(follow_symlinks=False)

    def stat(self) -> os.stat_result:
        """Of what has the name, as `os.lstat`."""
        return self._entry.stat(follow_symlinks=False)


class Beneath:
    """What is where: looks at paths, which are text. Below a store's folder that was entered, no link is followed."""

    _roots: Roots = ()
    _wary = False  # Whether files are to be asked whose they are.

    def enter(self, folder: str, fd: int) -> None:
        """Take what is below `folder` from the folder that is open as `fd`, and follow no link there, until `leave`."""
        if fd >= 0:
            self._roots = entered(self._roots, folder, fd)
            self._wary = any(root.strangers for root in self._roots)

    def leave(self, fd: int) -> None:
        """Let go of a folder that was entered."""
        if fd >= 0:
            self._roots = left(self._roots, fd)
            self._wary = any(root.strangers for root in self._roots)

    def is_ours(self, folder: str) -> bool:
        """Whether a folder is this user's; also where there is none, or the system has no owners."""
        try:
            return not hasattr(os, "geteuid") or self._stat(folder).st_uid == os.geteuid()
        except FileNotFoundError:
            return True

    def _refuse_of_others(self, fd: int, path: str) -> None:
        """Raise `OSError` if root has opened a file that a store's owner may not read: copies would be given to him."""
        for root in self._roots:
            if root.strangers and path.startswith(root.path + os.sep):
                owner, group = root.strangers
                its = os.fstat(fd)
                if its.st_uid != owner and not (its.st_gid == group and its.st_mode & stat.S_IRGRP):
                    raise OSError(errno.EINVAL, f"it belongs to user {its.st_uid}, the store to user {owner}")

    def entries(self, path: str) -> Iterator[Entry]:
        """What is in a folder, in no order; nothing if there is no such folder."""
        opened = contextlib.nullcontext(path) if WINDOWS else self._folder(path)
        with contextlib.suppress(FileNotFoundError), opened as folder, again(os.scandir, folder) as entries:
            for entry in entries:
                yield Entry(path, entry)

    def is_there(self, path: str) -> bool:
        """Whether something has the name `path`, of whatever kind."""
        return self._kind(path) != 0

    def is_folder(self, path: str) -> bool:
        """Whether a folder, and no link to one, is at `path`."""
        return self._kind(path) == stat.S_IFDIR

    def is_file(self, path: str) -> bool:
        """Whether a regular file, and no link to one, is at `path`."""
        return self._kind(path) == stat.S_IFREG

    def is_link(self, path: str) -> bool:
        """Whether a symbolic link is at `path`."""
        return self._kind(path) == stat.S_IFLNK

    def is_empty(self, path: str) -> bool:
        """Whether an empty regular file is at `path`."""
        return self.is_file(path) and not self._stat(path).st_size

    def has_other_names(self, path: str) -> bool:
        """Whether what is at `path` is a regular file that has other names (hard links), too."""
        return self.is_file(path) and self._stat(path).st_nlink > 1

    def identity_at(self, path: str) -> int:
        """A number of the file at `path` that no other file has meanwhile, 0 if there is none."""
        try:
            return self._stat(path).st_ino
        except FileNotFoundError:
            return 0

    def made_at(self, path: str) -> int:
        """A number of the file at `path` that a copy of it does not have: of its inode, and when that was changed."""
        status = self._stat(path)
        return status.st_ino ^ status.st_ctime_ns

    def modified_at(self, path: str) -> float:
        """When the file at `path` was written last, in seconds since 1970; 0 if there is none."""
        try:
            return self._stat(path).st_mtime
        except FileNotFoundError:
            return 0.0

    def size_at(self, path: str) -> int:
        """The size of the file at `path`."""
        return self._stat(path).st_size

    def _look_again(self) -> None:
        """Walk each path anew: a folder was made or moved."""
        for root in self._roots:
            root.below.clear()

    def _kind(self, path: str) -> int:
        try:
            return stat.S_IFMT(self._stat(path, follow=False).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def _at(self, path: str) -> contextlib.AbstractContextManager[tuple[int | None, str]]:
        return place(self._roots, path)

    @contextlib.contextmanager
    def _folder(self, path: str) -> Iterator[int]:
        with self._at(path) as (parent, name), folder_fd(name, os.O_NOFOLLOW if parent else 0, parent) as fd:
            yield fd

    def _stat(self, path: str, *, follow: bool = True) -> os.stat_result:
        """Of what is at `path`; below a store's folder never of what a link leads to."""
        kept_open = None
        try:
            parent, name, kept_open = walk(self._roots, path)
            return os.stat(name, dir_fd=parent, follow_symlinks=follow and parent is None)
        except OSError as error:
            error.filename = path
            raise
        finally:
            del kept_open
