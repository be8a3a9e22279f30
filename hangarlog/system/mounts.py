"""The check for unsafe file systems, on which locks or shared memory may not work.

Their files may be reachable in a second way: from another machine, from a virtual machine's host, through a mirrored
folder. A process that comes that way may see neither the locks nor the shared memory of this one. docs/file-systems.md
says what was tested.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from hangarlog.errors import UnsafeFileSystemError
from hangarlog.system.filesystem import FileSystem

VARIABLE = "HANGARLOG_UNSAFE_FILE_SYSTEM"
"""The environment variable that lists accepted unsafe types, separated by commas."""

# Every FUSE type is unsafe too, except fuseblk (NTFS and exFAT): its disk belongs to one machine and is mounted once.
_UNSAFE = frozenset(
    b"9p acfs afs beegfs ceph cifs coda davfs drvfs fakeowner fuse gfs gfs2 gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs "
    b"osxfs panfs prl_fs pvfs2 smb3 smbfs vboxsf virtiofs vmhgfs wekafs".split()
)


def refuse_unsafe(filesystem: FileSystem, folder: str, accepted: str | None) -> None:
    """Raise `UnsafeFileSystemError` if a folder, or one mounted below it, is on an unsafe file system.

    `accepted` lists unsafe types to accept, separated by commas; None takes the list from the environment.
    """
    unsafe = list(_unsafe(filesystem.mount_table()))
    if not unsafe:
        return
    above = folder  # If the folder does not exist yet, ask its nearest parent.
    while not os.path.isdir(above) and above != os.path.dirname(above):
        above = os.path.dirname(above)
    mount, real = filesystem.mount(above)
    folder = os.path.normpath(os.path.join(real, os.path.relpath(folder, above)))
    names = os.environ.get(VARIABLE, "") if accepted is None else accepted
    known = {name.strip() for name in names.split(",")}
    for number, place, kind in unsafe:
        if (number == mount or place.startswith(folder.rstrip("/") + "/")) and kind not in known:
            raise UnsafeFileSystemError(folder if number == mount else place, kind)


class Mount(NamedTuple):
    """A mount: the type of its file system, where it is, what is mounted there, and its options."""

    kind: str
    place: str
    source: str
    options: frozenset[str]


def mount_of(filesystem: FileSystem, folder: str) -> Mount | None:
    """Return the mount that a folder is on, None if unknown."""
    table = filesystem.mount_table()
    number = b"%d" % filesystem.mount(folder)[0] if table else b""
    for line in table.splitlines():
        mount, _, source = line.partition(b" - ")
        fields, (kind, device, *more) = mount.split(b" "), [*source.split(b" "), b"", b""]
        if fields[0] == number and len(fields) > 5:
            options = b",".join([fields[5], *more]).decode("utf-8", "replace").split(",")
            return Mount(kind.decode("utf-8", "replace"), _place(fields[4]), _place(device), frozenset(options))
    return None


def kind_of(filesystem: FileSystem, folder: str) -> str:
    """Return the type of the file system that a folder is on, "" if unknown."""
    mount = mount_of(filesystem, folder)
    return mount.kind if mount else ""


def is_unsafe(kind: str) -> bool:
    """True if a file system of this type is refused unless it is named."""
    return kind.encode() in _UNSAFE or kind.startswith("fuse.")


def accepted_kinds() -> set[str]:
    """Return the unsafe types that the environment names as accepted."""
    return {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}


def unsafe_mounts(filesystem: FileSystem) -> list[tuple[str, str]]:
    """Return the (path, type) of each unsafe mount."""
    return [(place, kind) for _, place, kind in _unsafe(filesystem.mount_table())]


def _place(field: bytes) -> str:
    """Return a path of the table of mounts without its escapes."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes((int(found[1], 8),)), field))


def _unsafe(table: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield the (number, path, type) of each unsafe mount."""
    for line in table.splitlines():
        mount, _, source = line.partition(b" - ")
        kind = source.partition(b" ")[0]
        if kind in _UNSAFE or kind.startswith(b"fuse."):
            number, _, _, _, place, *_ = mount.split(b" ")
            yield int(number), _place(place), kind.decode()
