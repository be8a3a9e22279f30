"""What differs between operating systems, and what they say about themselves; nothing here changes a file."""

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
"""What every file is opened with: children do not inherit it, links are refused, bytes stay as they are."""

if sys.platform == "win32":  # pragma: no cover
    LOCK, UNLOCK = True, False

    def flock(fd: int, locking: bool) -> None:
        """As the call of that name elsewhere."""
        from filelock import lock_descriptor, unlock_descriptor

        if not locking:
            unlock_descriptor(fd)
        elif not lock_descriptor(fd, blocking=False):
            raise BlockingIOError(errno.EAGAIN, "it is locked")

else:
    # The lock that filelock takes, without the import of it, which costs as much as that of all of hangarlog.
    import fcntl

    flock, LOCK, UNLOCK = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN

BYTE_LOCKS = sys.platform == "linux" and sys.maxsize > 1 << 32
"""Whether a folder has locks by byte that end with the descriptor they were taken through (`F_OFD_SETLK`)."""
FLOCK_RECORD = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid.


_NO_DESCRIPTOR = frozenset([errno.EMFILE, errno.ENFILE])
_Result = TypeVar("_Result")


def again(call: Callable[..., _Result], *args: Any, **options: Any) -> _Result:
    """Call it, and once more with what hangarlog keeps open given back, where the process has no descriptor left."""
    try:
        return call(*args, **options)
    except OSError as error:
        if error.errno not in _NO_DESCRIPTOR or not descriptors.give_back():
            raise
    return call(*args, **options)


@contextlib.contextmanager
def folder_fd(path: str, flags: int = 0, dir_fd: int | None = None) -> Iterator[int]:
    """The descriptor of a folder, closed at the end of the block."""
    fd = again(os.open, path, flags | os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def small_file(path: str) -> bytes:
    """What a file of the system's says; nothing where there is none, or it may not be read."""
    try:
        fd = again(os.open, path, os.O_RDONLY | OPEN_FLAGS)
    except (FileNotFoundError, PermissionError):
        return b""
    try:
        return b"".join(iter(lambda: os.read(fd, 64 << 10), b""))
    finally:
        os.close(fd)


def boot_id() -> int:
    """A number that changes when the machine restarts; 0 where the system does not say it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return int(file.read().strip().replace("-", "")[:15], 16)
    except (OSError, ValueError):  # Elsewhere there is none, and sandboxes mask it with an empty file.
        return 0
