"""The private folder of a benchmark: where it is made, whether there is room, and that nothing is left of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator

import msgspec

from hangarlog.benchmark.errors import BenchmarkError, LeftFilesError
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.mounts import kind_of, refuse_unsafe

PREFIX = "hangarlog-bench-"
_META = "hangarlog.json"
_LOCK = "running"


class Place(msgspec.Struct):
    """Where a benchmark measures: in a new folder below `folder`. `store` is the named store, beside which that is."""

    folder: str
    file_system: str
    store: str | None = None


def find_place(named: str) -> Place:
    """Return where to measure for a folder or a store.

    For a store, or a folder within one, it is the folder that the store is in.

    Raises:
        OSError: there is no such folder.
        BenchmarkError: the folder that the store is in is on another file system.
        UnsafeFileSystemError: stores are refused there.
    """
    folder, store = os.path.realpath(named), None
    if not os.path.isdir(folder):
        code = errno.ENOTDIR if os.path.exists(folder) else errno.ENOENT
        raise OSError(code, os.strerror(code), named)
    above = folder
    while True:
        if os.path.isfile(os.path.join(above, _META)):
            store = above
        if above == os.path.dirname(above):
            break
        above = os.path.dirname(above)
    if store is not None:
        folder = os.path.dirname(store)
        if os.stat(folder).st_dev != os.stat(store).st_dev:
            raise BenchmarkError(
                store,
                "this store is a file system of its own, and a benchmark never writes into a store; name another "
                "folder of that file system",
            )
    filesystem = FileSystem()
    refuse_unsafe(filesystem, os.path.join(folder, PREFIX), None)  # Not what is mounted beside it.
    return Place(folder, kind_of(filesystem, folder), store)


def free_bytes(folder: str) -> int:
    """Return how many bytes this user may still write to the file system of a folder."""
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def scratch(folder: str) -> Iterator[str]:
    """Make a private folder below `folder` for the block, yield its path, and remove it with all that is in it."""
    filesystem = FileSystem()
    path = os.path.join(folder, PREFIX + secrets.token_hex(4))
    filesystem.create_folder(path)
    lock = -1
    try:
        lock = filesystem.open_new(os.path.join(path, _LOCK))
        filesystem.lock(lock)
        yield path
    finally:
        if lock >= 0:
            filesystem.close(lock)
        remove(path)


def remove(path: str) -> None:
    """Remove a folder with all that is in it. Raises `LeftFilesError` if something is left."""
    # Not through the file system layer: these files are no store's, and the folder is private.
    with contextlib.suppress(FileNotFoundError):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise LeftFilesError(path, error.strerror or str(error)) from error


def left_over(folder: str) -> list[str]:
    """Return the folders that killed benchmarks have left."""
    filesystem = FileSystem()
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(PREFIX) and os.path.isdir(path) and not os.path.islink(path):
            with contextlib.suppress(OSError):
                lock = filesystem.open_read(os.path.join(path, _LOCK))
                try:
                    if filesystem.lock(lock):
                        found.append(path)
                finally:
                    filesystem.close(lock)
    return found
