"""Copying files: atomically, in pieces, and with their holes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

from hangarlog.system.filesystem import FRESH, FileSystem

DAMAGED = ".damaged"
"""The suffix of a damaged file that is kept. A number follows from the second file on."""

_PART_BYTES = 1 << 20
_MAX_NAME_BYTES = 255 - len(FRESH)  # Bytes of a name.


def copy_file(filesystem: FileSystem, source: str, target: str) -> None:
    """Copy a file to `target`, atomically and durably."""
    fd = filesystem.open_read(source)
    try:
        replace_with(filesystem, fd, filesystem.size(fd), target)
    finally:
        filesystem.close(fd)


def replace_with(filesystem: FileSystem, fd: int, size: int, target: str) -> None:
    """Copy the first `size` bytes of an open file to `target`, atomically and durably."""
    copy_open(filesystem, fd, size, target)
    filesystem.sync_folder(os.path.dirname(target))


def copy_open(filesystem: FileSystem, fd: int, size: int, target: str) -> None:
    """Copy the first `size` bytes of an open file to `target`, atomically. Does not sync the folder of `target`."""
    temporary = target + FRESH
    filesystem.remove(temporary)
    copy = filesystem.open_new(temporary)
    try:
        _copy_bytes(filesystem, fd, size, copy)
        filesystem.sync_data(copy)
    finally:
        filesystem.close(copy)
    filesystem.rename(temporary, target)


def _copy_bytes(filesystem: FileSystem, fd: int, size: int, copy: int) -> None:
    offset = 0
    while offset < size:
        begin, end = (min(at, size) for at in filesystem.data_from(fd, offset))
        if begin > offset:
            filesystem.truncate(copy, begin)
        for at in range(begin, end, _PART_BYTES):
            filesystem.write(copy, filesystem.read(fd, min(_PART_BYTES, end - at), at))
        if end <= offset:
            return  # The file was cut meanwhile.
        offset = end


def keep_damaged(filesystem: FileSystem, path: str, *, remove: bool = False) -> str:
    """Keep what is at `path` under a new name, and return that name; "" if there is nothing.

    With `remove` it is renamed, else it is copied. Anything but a regular file is always renamed.
    """
    if not filesystem.is_there(path):
        return ""
    kept = next(name for name in names_from(path, DAMAGED) if not filesystem.is_there(name))
    if remove or not filesystem.is_file(path):
        filesystem.rename(path, kept)
        filesystem.sync_folder(os.path.dirname(path))
    else:
        copy_file(filesystem, path, kept)  # Not a hard link: a store refuses to append to a file with two names.
    return kept


def names_from(path: str, suffix: str) -> Iterator[str]:
    """Yield `path` with the suffix, then with the suffix and a number from 2 on. A long name is cut to fit."""
    folder, name = os.path.split(path)
    for number in count(1):
        ending = suffix if number == 1 else f"{suffix}.{number}"
        kept = os.fsdecode(os.fsencode(name)[: _MAX_NAME_BYTES - len(ending)])
        yield os.path.join(folder, kept + ending)
