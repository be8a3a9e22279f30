"""The one seam between hangarlog and the operating system: nothing else writes, syncs, renames or deletes.

Tests put a failing or forgetful file system in its place. Calls raise `OSError` as the system does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from hangarlog.system.import_lock import importing
from hangarlog.system.open_folder import Beneath, walk
from hangarlog.system.platform import (
    FLOCK_RECORD,
    LOCK,
    OPEN_FLAGS,
    UNLOCK,
    WINDOWS,
    again,
    flock,
    folder_fd,
    small_file,
)

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from typing_extensions import Buffer

FRESH = ".new"
"""Behind the name of a file that is to take the place of the one without it."""

SMALL_FILE_BYTES = 64 << 10
"""Bytes that `hangarlog.json`, `checkpoint.json` and `backup.json` may have."""
_FOLDER_END = 1 << 62  # Where some file systems say that a folder ends.


NO_FILE = frozenset([errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EFBIG])
"""What opening a file fails with where something else (a link, a folder, a FIFO) is in its place."""
PRIVATE_MODE = 0o600
"""The permissions of files, where a store has no others."""


class FileSystem(Beneath):
    """The real file system. Paths are text, descriptors are ints, sizes and offsets are bytes.

    What is created is private to the user, but below a folder that was given others by `set_rights`. Where the process
    has no descriptor left, what hangarlog keeps open is given back, and the call made once more.
    """

    _rights: Mapping[str, int] = {}

    def set_rights(self, folder: str, mode: int | None) -> None:
        """From here on, give what is made below `folder` the permissions `mode`, and the owner of the folder it is in.

        Folders get the right to enter with each right to read. `folder` itself, if it is made, stays its maker's. With
        None it is as any other.
        """
        if mode is None or WINDOWS:
            self._rights = {path: mode for path, mode in self._rights.items() if path != folder}
        else:
            self._rights = {**self._rights, folder: mode}

    def open_append(self, path: str, *, create: bool = False) -> int:
        """Open for reading and appending. Symbolic links are refused."""
        return self._open(path, os.O_RDWR | os.O_APPEND, create=create)

    def open_read(self, path: str) -> int:
        """Open for reading."""
        # Without O_NONBLOCK the open of a FIFO put in a file's place would hang for ever.
        return self._open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))

    def open_new(self, path: str) -> int:
        """Create a file that does not exist yet, for reading and appending."""
        return self._create(path, os.O_RDWR | os.O_APPEND)

    def open_update(self, path: str, *, create: bool = False) -> int:
        """Open for reading and writing in place."""
        return self._open(path, os.O_RDWR, create=create)

    def open_synced(self, path: str) -> tuple[int, bool]:
        """Open for writing whole pages in place, from page-aligned memory: (descriptor, whether `write_at` syncs).

        Where it does not, because there is no such way here or it is refused, `sync_data` has to follow.
        """
        # Whoever puts something else in the place of `sync_data` is to see every sync.
        if _SYNCED and type(self).sync_data is FileSystem.sync_data:
            with contextlib.suppress(OSError):
                return self._open(path, os.O_RDWR | _SYNCED), True
        return self.open_update(path), False

    def _open(self, path: str, flags: int, *, create: bool = False) -> int:
        while True:
            kept_open = None
            try:
                parent, name, kept_open = walk(self._roots, path)
                # Before it is opened for writing: that alone may do something to a device.
                if flags & os.O_RDWR and not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                fd = self._regular(again(os.open, name, flags | OPEN_FLAGS, dir_fd=parent))
                return self._own(fd, path) if self._wary else fd
            except OSError as error:
                error.filename = path
                if not (create and isinstance(error, FileNotFoundError)):
                    raise
            finally:
                del kept_open  # From a traceback that somebody keeps, too.
            with contextlib.suppress(FileExistsError):  # Another process was quicker.
                return self._create(path, flags)

    def _create(self, path: str, flags: int) -> int:
        flags |= os.O_CREAT | os.O_EXCL | OPEN_FLAGS
        mode = self._mode_of(path)
        with self._at(path) as (parent, name):
            fd = again(os.open, name, flags, PRIVATE_MODE, dir_fd=parent)
            if mode is not None:
                try:
                    _hand_over(fd, parent, mode)
                except BaseException:
                    os.close(fd)
                    raise
            return fd

    def _mode_of(self, path: str) -> int | None:
        """The permissions that a file at `path` gets, None where it is not below a folder that was given rights."""
        if not self._rights:
            return None
        while path not in self._rights:
            path, below = os.path.dirname(path), path
            if path == below:
                return None
        return self._rights[path]

    def _own(self, fd: int, path: str) -> int:
        try:
            self._refuse_of_others(fd, path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _regular(self, fd: int) -> int:
        # lseek, not fstat: fstat of a file being written slows the next sync (docs/performance.md). It fails on FIFOs.
        try:
            regular = os.lseek(fd, 0, os.SEEK_END) < _FOLDER_END
        except OSError:
            regular = False
        if not regular:
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file")
        return fd

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def become(self, fd: int, other: int) -> None:
        """Have descriptor `fd` be of the file that `other` is of.

        Whoever uses it in another thread meets one file or the other, and never somebody else's.
        """
        os.dup2(other, fd, inheritable=False)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """As `read`, where the few bytes come at once: what is read for each append."""
        return _pread(fd, size, offset)

    def size(self, fd: int) -> int:
        """The size of an open file."""
        return _seek(fd, 0, _END)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        data = _pread(fd, size, offset)
        while len(data) < size:
            more = _pread(fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def data_from(self, fd: int, offset: int) -> tuple[int, int]:
        """(start, end) of the next stretch of an open file that is no hole, from `offset` on; at its end if none is."""
        size = self.size(fd)
        try:
            start = _seek(fd, offset, _DATA)
            return start, _seek(fd, start, _HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # Nothing but a hole follows.
                return size, size
            if error.errno != errno.EINVAL:  # Holes are not known here.
                raise
        return min(offset, size), size

    def lock(self, fd: int) -> bool:
        """Lock an open file against other descriptors of it, unless one of them has it; says whether it is locked."""
        try:
            flock(fd, LOCK)
        except BlockingIOError:
            return False
        return True

    def lock_holder(self, fd: int) -> int:
        """The process that has an open file locked, 0 where the system does not say."""
        inode = f":{self.identity(fd)} "
        with contextlib.suppress(OSError, ValueError), open("/proc/locks", encoding="ascii") as locks:
            for line in locks:
                if " FLOCK " in line and inode in line and "->" not in line:
                    return int(line.split()[4])
        return 0

    def unlock(self, fd: int) -> None:
        """Give the lock of an open file back."""
        flock(fd, UNLOCK)

    def open_folder(self, path: str) -> int:
        """Open a folder, to be asked about it later; -1 on Windows, which has no such descriptors."""
        return -1 if WINDOWS else again(os.open, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def reopen_folder(self, fd: int) -> None:
        """Open a folder anew, with the same number: what the child of a fork has is its parent's, with its locks."""
        if fd >= 0:
            own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                os.dup2(own, fd, inheritable=False)
            finally:
                os.close(own)

    def folder_changed_at(self, fd: int, path: str) -> int:
        """When the entries of an open folder, or its own name, changed last: nanoseconds since 1970."""
        return os.stat(path).st_mtime_ns if fd < 0 else os.fstat(fd).st_ctime_ns

    def touch_folder(self, path: str) -> None:
        """Have a folder changed now, for all who ask when it was."""
        with self._at(path) as (parent, name):
            os.utime(name, dir_fd=parent)

    def is_folder_at(self, fd: int, path: str) -> bool:
        """Whether the open folder is still what is at `path`."""
        try:
            return fd < 0 or os.path.samestat(os.fstat(fd), os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def hold_byte(self, fd: int, at: int) -> None:
        """Share a lock on byte `at` of an open file or folder with others that hold it, until it is closed."""
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK_RECORD.pack(fcntl.F_RDLCK, os.SEEK_SET, at, 1, 0))

    def leave_byte(self, fd: int, at: int) -> None:
        """Give it back."""
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK_RECORD.pack(fcntl.F_UNLCK, os.SEEK_SET, at, 1, 0))

    def held_byte(self, fd: int, first: int, count: int = 1) -> int | None:
        """A byte of `count` from `first` on (0: all after it) that others hold, None if they hold none of them."""
        asked = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, FLOCK_RECORD.pack(fcntl.F_WRLCK, os.SEEK_SET, first, count, 0))
        kind, _, start, _, _ = FLOCK_RECORD.unpack(asked)
        return None if kind == fcntl.F_UNLCK else int(start)

    def write(self, fd: int, data: bytes) -> None:
        """Write all of `data` at the end of a file opened for appending (or at its write position)."""
        written = _write(fd, data)
        while written < len(data):  # Short writes are real: signals, quotas, nearly full disks.
            written += _write(fd, data[written:])

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset` of a file opened for updating."""
        written = _pwrite(fd, data, offset)
        while written < len(data):
            written += _pwrite(fd, data[written:], offset + written)

    def truncate(self, fd: int, size: int) -> None:
        """Cut an open file to `size` bytes."""
        os.ftruncate(fd, size)

    def sync_data(self, fd: int) -> None:
        """Return when the bytes of an open file, and its size, are on the device."""
        _sync_data(fd)

    def sync_folder(self, path: str) -> None:
        """Return when the names in a folder are on the device. Windows has no such call, and no need of it on NTFS."""
        if WINDOWS:
            return
        with self._folder(path or ".") as fd:
            os.fsync(fd)

    def sync_everything(self, folder: str, folders: Iterator[str]) -> None:
        """Return when all that was written so far below `folder` is on the device; `folders` are all those below it."""
        below = [folder, *folders]
        devices = {self._stat(path).st_dev: path for path in below}  # A folder below may be another volume's.
        for path in devices.values():
            with self._folder(path) as fd:
                if not _sync_filesystem(fd):
                    break
        else:
            return
        for path in below:
            for entry in self.entries(path):
                if entry.is_file():
                    fd = self.open_append(entry.path)
                    try:
                        os.fsync(fd)
                    finally:
                        os.close(fd)
            self.sync_folder(path)

    def in_background(self, work: Callable[[], None], name: str) -> threading.Thread | None:
        """Have `work` done by a thread; None where it is done already."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def identity(self, fd: int) -> int:
        """A number that no other file has meanwhile."""
        return os.fstat(fd).st_ino

    def begin_alike(self, first: str, second: str) -> bool:
        """Whether one of two files begins with all that the other one has."""
        fds = self.open_read(first), self.open_read(second)
        try:
            offset, stop = 0, min(map(self.size, fds))
            while (offset := min(self.data_from(fd, offset)[0] for fd in fds)) < stop:
                size = min(stop - offset, 1 << 20)
                if self.read(fds[0], size, offset) != self.read(fds[1], size, offset):
                    return False
                offset += size
            return True
        finally:
            for fd in fds:
                self.close(fd)

    def names(self, fd: int) -> int:
        """How many names an open file has (hard links)."""
        return os.fstat(fd).st_nlink

    def roll(self, live: str, sealed: str) -> None:
        """Give `live` the name `sealed` too, then put an empty file in its place, so that `live` never is missing."""
        fresh = live + FRESH
        self.remove(fresh)
        self.close(self.open_new(fresh))
        try:
            self.link(live, sealed)
        except FileExistsError:
            # A roll that was cut short is gone on with; in a copied folder the two names have become two files.
            if self.identity_at(live) == self.identity_at(sealed):
                self.remove(sealed)  # Anew: if the sync of its first name failed, the next one would not bring it.
                self.link(live, sealed)
            elif self.size_at(live) != self.size_at(sealed) or not self.begin_alike(live, sealed):
                raise
        except (OSError, NotImplementedError):
            self.rename(live, sealed)  # No hard links here: `live` is missing for an instant, `.new` says why.
        # The first name must be durable before the second loses it.
        self.sync_folder(os.path.dirname(live))
        self.rename(fresh, live)
        self.sync_folder(os.path.dirname(live))

    def replace_file(self, path: str, content: bytes, *, sync: bool = True) -> None:
        """Make `path` hold `content`, whole or not at all: temporary name, sync, rename, sync of the folder.

        Without `sync` a power cut may leave anything of it.
        """
        temporary = path + FRESH
        self.remove(temporary)
        fd = self.open_new(temporary)
        try:
            self.write(fd, content)
            if sync:
                self.sync_data(fd)
        finally:
            self.close(fd)
        self.rename(temporary, path)
        if sync:
            self.sync_folder(os.path.dirname(path))

    def link(self, old: str, new: str) -> None:
        """Give a file a second name. Raises `FileExistsError` where there is one."""
        with self._at(old) as (here, name), self._at(new) as (there, second):
            os.link(name, second, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing what is at `new`."""
        with self._at(old) as (here, name), self._at(new) as (there, second):
            os.replace(name, second, src_dir_fd=here, dst_dir_fd=there)
        self._look_again()

    def remove(self, path: str) -> None:
        """Delete a file; nothing happens if there is none."""
        with contextlib.suppress(FileNotFoundError), self._at(path) as (parent, name):
            os.unlink(name, dir_fd=parent)

    def make_folder(self, path: str) -> None:
        """Create a folder and make its name durable; nothing happens if there is one."""
        try:
            self.create_folder(path)
        except FileExistsError:
            return
        self.sync_folder(os.path.dirname(path))

    def create_folder(self, path: str) -> None:
        """Create a folder. Raises `FileExistsError` if there is one."""
        mode = self._mode_of(path)
        self._look_again()
        with self._at(path) as (parent, name):
            os.mkdir(name, 0o700, dir_fd=parent)
            if mode is not None:
                with folder_fd(name, os.O_NOFOLLOW, dir_fd=parent) as fd:
                    if os.listdir(fd):  # It is another one, put there meanwhile.
                        raise OSError(errno.ENOTEMPTY, "the folder that was just made is not empty", path)
                    _hand_over(fd, parent, mode | (mode & 0o444) >> 2)

    def read_file(self, path: str, limit: int = SMALL_FILE_BYTES) -> bytes:
        """The whole content of a small file; more than `limit` bytes are an `OSError` (EFBIG)."""
        fd = self.open_read(path)
        try:
            size = self.size(fd)
            if size > limit:
                raise OSError(errno.EFBIG, f"{size} bytes are more than the {limit} it may have", path)
            return self.read(fd, size, 0)
        finally:
            self.close(fd)

    def mount_table(self) -> bytes:
        """What is mounted, in the form of Linux's `mountinfo`; nothing where the system does not say."""
        return small_file("/proc/self/mountinfo")

    def mount(self, folder: str) -> tuple[int, str]:
        """(the number of the mount that a folder is on, 0 if the system does not say; the folder's real path)."""
        with folder_fd(folder, os.O_PATH) as fd:
            _, _, number = small_file(f"/proc/self/fdinfo/{fd}").partition(b"mnt_id:")
            return int(number.split()[0]) if number else 0, os.readlink(f"/proc/self/fd/{fd}")


_write, _seek, _END = os.write, os.lseek, os.SEEK_END  # Of each append: looked up once.
_DATA, _HOLE = getattr(os, "SEEK_DATA", -1), getattr(os, "SEEK_HOLE", -1)  # EINVAL where there is no such thing.

if hasattr(os, "pread"):
    _pread, _pwrite = os.pread, os.pwrite
else:  # pragma: no cover - Windows

    def _pread(fd: int, size: int, offset: int) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)

    def _pwrite(fd: int, data: Buffer, offset: int, /) -> int:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def _hand_over(fd: int, parent: int | None, mode: int) -> None:
    """Give what was just made its permissions, whatever the umask, and the owner and group of the folder it is in.

    The folder is asked through its descriptor: what root makes goes only to who could have made it there. As far as the
    system lets us: the owner is changed by who is privileged only, and not every file system has any.
    """
    with contextlib.suppress(OSError):
        os.fchmod(fd, mode)
    if parent is not None:
        wanted = os.fstat(parent)
        for owner in (wanted.st_uid, -1):
            with contextlib.suppress(OSError):
                os.fchown(fd, owner, wanted.st_gid)
                return


# Past the page cache, and on the device when the call returns: a seventh less time than a write and `fdatasync`.
_SYNCED = os.O_DIRECT | os.O_DSYNC if sys.platform == "linux" else 0

_sync_data = getattr(os, "fdatasync", os.fsync)
if sys.platform == "darwin":  # pragma: no cover - macOS: fsync stops at the drive's cache

    def _sync_data(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)


def _sync_filesystem(fd: int) -> bool:
    """Sync the whole file system of an open folder in one call, where there is one that reports failures."""
    if sys.platform != "linux":
        return False
    with importing:
        import ctypes  # Only checkpoints need it.

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        return False
    if libc.syncfs(fd):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return True
