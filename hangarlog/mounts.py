"""Which file systems a store is on, and those where it is not safe: their locks or shared memory may not hold.

They have, or may have, a second way to the same files: another machine, a virtual machine's host, a folder that is
mirrored. Whoever comes that way may neither see the locks nor the memory that is shared here. docs/file-systems.md says
what was tried.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from hangarlog.errors import UnsafeFileSystemError
from hangarlog.filesystem import FileSystem

VARIABLE = "HANGARLOG_UNSAFE_FILE_SYSTEM"
"""The environment variable with the types that are used nevertheless, separated by commas."""

# Not fuseblk (NTFS and exFAT by a program, of a local disk): the device is one machine's, and mounted once.
_UNSAFE = re.compile(
    rb" - (9p|acfs|afs|beegfs|ceph|cifs|coda|davfs|drvfs|fakeowner|fuse(?:\.[^ ]+)?|gfs2?|gpfs|lustre|ncpfs|nfs4?"
    rb"|ocfs2|orangefs|osxfs|panfs|prl_fs|pvfs2|smb3|smbfs|vboxsf|virtiofs|vmhgfs|wekafs) "
)


def refuse_unsafe(filesystem: FileSystem, folder: str, accepted: str | None) -> None:
    """Raise `UnsafeFileSystemError` if a folder, or one mounted below it, is on an unsafe file system.

    `accepted` are the types that are used nevertheless, separated by commas; None: those that the environment names.
    """
    table = filesystem.mount_table()
    unsafe = list(_UNSAFE.finditer(table))
    if not unsafe:
        return
    above = folder  # Where it will be, if it is still to be made.
    while not os.path.isdir(above) and above != os.path.dirname(above):
        above = os.path.dirname(above)
    mount, real = filesystem.mount(above)
    folder = os.path.normpath(os.path.join(real, os.path.relpath(folder, above)))
    names = os.environ.get(VARIABLE, "") if accepted is None else accepted
    known = {name.strip() for name in names.split(",")}
    for place, kind in _places(table, unsafe, mount, folder):
        if kind not in known:
            raise UnsafeFileSystemError(place, kind)


def _places(table: bytes, unsafe: list[re.Match[bytes]], mount: int, folder: str) -> Iterator[tuple[str, str]]:
    """(path, type) of those of the unsafe mounts that the folder is on, or that are below it."""
    below = folder.rstrip("/") + "/"
    for found in unsafe:
        line = table.rfind(b"\n", 0, found.start()) + 1
        number, _, _, _, point, *_ = table[line : found.start()].split(b" ")
        place = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda escaped: bytes((int(escaped[1], 8),)), point))
        if int(number) == mount:
            yield folder, found[1].decode()
        elif place.startswith(below):
            yield place, found[1].decode()
