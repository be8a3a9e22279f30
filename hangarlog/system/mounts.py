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
from hangarlog.system.filesystem import FileSystem

VARIABLE = "HANGARLOG_UNSAFE_FILE_SYSTEM"
"""The environment variable with the types that are used nevertheless, separated by commas."""

# And every kind of FUSE; but not fuseblk (NTFS and exFAT by a program): its disk is one machine's, and mounted once.
_UNSAFE = frozenset(
    b"9p acfs afs beegfs ceph cifs coda davfs drvfs fakeowner fuse gfs gfs2 gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs "
    b"osxfs panfs prl_fs pvfs2 smb3 smbfs vboxsf virtiofs vmhgfs wekafs".split()
)


def refuse_unsafe(filesystem: FileSystem, folder: str, accepted: str | None) -> None:
    """Raise `UnsafeFileSystemError` if a folder, or one mounted below it, is on an unsafe file system.

    `accepted` are the types that are used nevertheless, separated by commas; None: those that the environment names.
    """
    unsafe = list(_unsafe(filesystem.mount_table()))
    if not unsafe:
        return
    above = folder  # Where it will be, if it is still to be made.
    while not os.path.isdir(above) and above != os.path.dirname(above):
        above = os.path.dirname(above)
    mount, real = filesystem.mount(above)
    folder = os.path.normpath(os.path.join(real, os.path.relpath(folder, above)))
    names = os.environ.get(VARIABLE, "") if accepted is None else accepted
    known = {name.strip() for name in names.split(",")}
    for number, place, kind in unsafe:
        if (number == mount or place.startswith(folder.rstrip("/") + "/")) and kind not in known:
            raise UnsafeFileSystemError(folder if number == mount else place, kind)


def _unsafe(table: bytes) -> Iterator[tuple[int, str, str]]:
    """(number, path, type) of each unsafe mount."""
    for line in table.splitlines():
        mount, _, source = line.partition(b" - ")
        kind = source.partition(b" ")[0]
        if kind in _UNSAFE or kind.startswith(b"fuse."):
            number, _, _, _, place, *_ = mount.split(b" ")
            yield (
                int(number),
                os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes((int(found[1], 8),)), place)),
                kind.decode(),
            )
