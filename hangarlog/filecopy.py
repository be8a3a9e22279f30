"""Copies of files, whole or not at all, a part at a time; what is a hole stays one, however long the file seems."""

from __future__ import annotations

import os

from hangarlog.filesystem import FileSystem

_PART = 1 << 20


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
    temporary = target + ".new"
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
        for at in range(begin, end, _PART):
            filesystem.write(copy, filesystem.read(fd, min(_PART, end - at), at))
        if end <= offset:
            return  # It was cut meanwhile.
        offset = end
