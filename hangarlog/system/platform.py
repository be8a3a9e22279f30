"""Differences between operating systems, and facts about the running one. Nothing here changes a file."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hangarlog.system import descriptors

WINDOWS = sys.platform == "win32"
OPEN_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""The flags of every open: child processes do not inherit the file, links are refused, bytes are not translated."""

if sys.platform == "win32":  # pragma: no cover
    LOCK, UNLOCK = True, False

    def flock(fd: int, locking: bool) -> None:
        """Lock or unlock an open file, as `flock` does elsewhere."""
        from filelock import lock_descriptor, unlock_descriptor

        if not locking:
            unlock_descriptor(fd)
        elif not lock_descriptor(fd, blocking=False):
            raise BlockingIOError(errno.EAGAIN, "it is locked")

else:
    # filelock takes the same lock, but importing it takes as long as importing all of hangarlog.
    import fcntl

    flock, LOCK, UNLOCK = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN

BYTE_LOCKS = sys.platform == "linux" and sys.maxsize > 1 << 32
"""True if bytes of a folder can be locked until a descriptor is closed (`F_OFD_SETLK`)."""
FLOCK_RECORD = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid.


_NO_DESCRIPTOR = frozenset([errno.EMFILE, errno.ENFILE])
_Result = TypeVar("_Result")


def retry_emfile(call: Callable[..., _Result], *args: Any, **options: Any) -> _Result:
    """Call `call`. If the process has no descriptor left, close the files that hangarlog keeps open, and try again."""
    try:
        return call(*args, **options)
    except OSError as error:
        if error.errno not in _NO_DESCRIPTOR or not descriptors.give_back():
            raise
    return call(*args, **options)


@contextlib.contextmanager
def folder_fd(path: str, flags: int = 0, dir_fd: int | None = None) -> Iterator[int]:
    """Open a folder for the block, and yield its descriptor."""
    fd = retry_emfile(os.open, path, flags | os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def small_file(path: str) -> bytes:
    """Return the content of a system file, nothing if it is missing or may not be read."""
    try:
        fd = retry_emfile(os.open, path, os.O_RDONLY | OPEN_FLAGS)
    except (FileNotFoundError, PermissionError):
        return b""
    try:
        return b"".join(iter(lambda: os.read(fd, 64 << 10), b""))
    finally:
        os.close(fd)


def boot_id() -> int:
    """Return a number that changes when the machine restarts, 0 if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return int(file.read().strip().replace("-", "")[:15], 16)
    except (OSError, ValueError):  # Other systems have none, and sandboxes mask it with an empty file.
        return 0
