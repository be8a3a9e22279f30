"""Writing a page to a file: whole or not at all, private, and in place of nothing but an earlier page."""

from __future__ import annotations

import contextlib
import errno
import os

from hangarlog.integrations.export import UNFINISHED, new_file
from hangarlog.system.filesystem import FileSystem
from hangarlog.watching.page import OPENING


def write_page(path: str, text: str, *, force: bool = False) -> None:
    """Write a page. An earlier page is replaced; with `force` any file or link, but not what a link leads to.

    Raises:
        FileExistsError: something else is there.
        OSError: it is a folder, or the operating system refused a call.
    """
    if not os.path.lexists(path):
        with new_file(path) as file:
            file.write(text.encode())
        return
    if os.path.isdir(path) and not os.path.islink(path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file", path)
    filesystem = FileSystem()
    if not (force or _is_page(filesystem, path)):
        cause = "it exists, and is not a page of hangarlog's; name another file, or give --force"
        raise FileExistsError(errno.EEXIST, cause, path)
    unfinished = f"{path}.{os.urandom(4).hex()}{UNFINISHED}"
    try:
        fd = filesystem.open_new(unfinished)
        try:
            filesystem.write(fd, text.encode())
            filesystem.sync_data(fd)
        finally:
            filesystem.close(fd)
        filesystem.rename(unfinished, path)
    finally:
        filesystem.remove(unfinished)
    filesystem.sync_folder(os.path.dirname(path))


def _is_page(filesystem: FileSystem, path: str) -> bool:
    """True if a page is there, not a link to one."""
    with contextlib.suppress(OSError):
        fd = filesystem.open_read(path)
        try:
            return filesystem.read(fd, len(OPENING), 0) == OPENING.encode()
        finally:
            filesystem.close(fd)
    return False


def store_around(path: str) -> str | None:
    """Return the store that a file at `path` would be in, None if it would be in none."""
    folder = os.path.dirname(os.path.realpath(path))
    for _ in range(4):
        if os.path.lexists(os.path.join(folder, "hangarlog.json")):
            return folder
        folder = os.path.dirname(folder)
    return None
