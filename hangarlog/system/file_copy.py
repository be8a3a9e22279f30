"""Copies of files: whole or not at all, a part at a time, with their holes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

from hangarlog.system.filesystem import FRESH, FileSystem

DAMAGED = ".damaged"
"""What the name of a file that was replaced ends in; a number follows from the second one on."""

_PART_BYTES = 1 << 20
_MAX_NAME_BYTES = 255 - len(FRESH)  # Bytes of a name.


def copy_file(filesystem: FileSystem, source: str, target: str) -> None:
    """Make `target` a copy of a file, whole or not at all; its name is durable, too."""
    fd = filesystem.open_read(source)
    try:
        replace_with(filesystem, fd, filesystem.size(fd), target)
    finally:
        filesystem.close(fd)


def replace_with(filesystem: FileSystem, fd: int, size: int, target: str) -> None:
    """As `copy_open`; the name of the copy is durable, too."""
    copy_open(filesystem, fd, size, target)
    filesystem.sync_folder(os.path.dirname(target))


def copy_open(filesystem: FileSystem, fd: int, size: int, target: str) -> None:
    """Make `target` a copy of the first `size` bytes of an open file, whole or not at all."""
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
            return  # It was cut meanwhile.
        offset = end


def keep_damaged(filesystem: FileSystem, path: str, *, remove: bool = False) -> str:
    """Keep what is at `path` under a name of its own, and return that; "" where there is nothing. It may be removed."""
    if not filesystem.is_there(path):
        return ""
    kept = next(name for name in names_from(path, DAMAGED) if not filesystem.is_there(name))
    if remove or not filesystem.is_file(path):
        filesystem.rename(path, kept)
        filesystem.sync_folder(os.path.dirname(path))
    else:
        copy_file(filesystem, path, kept)  # Not linked: nobody appends to a file with another name.
    return kept


def names_from(path: str, suffix: str) -> Iterator[str]:
    """`path` with the suffix, then with a number behind that from 2 on. A name that is too long is cut before it."""
    folder, name = os.path.split(path)
    for number in count(1):
        ending = suffix if number == 1 else f"{suffix}.{number}"
        kept = os.fsdecode(os.fsencode(name)[: _MAX_NAME_BYTES - len(ending)])
        yield os.path.join(folder, kept + ending)
