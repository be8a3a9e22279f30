"""File systems in an image whose power can be cut: mounted again, they have what was flushed, and nothing else."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from .disks import Disk, call

SHUT_DOWN = 0x8004587D  # FS_IOC_GOINGDOWN, of ext4 and xfs alike.
NO_LOG_FLUSH = struct.pack("I", 2)
BYTES = {"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 128 << 20}  # mkfs makes nothing much smaller of the last two.
HOST_BYTES = 1 << 30


def shut_down(folder: Path) -> None:
    """Drop what is dirty in the page cache and in the file system's own log, as a power cut does."""
    root = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(root, SHUT_DOWN, NO_LOG_FLUSH)
    finally:
        os.close(root)


class Powered(Disk):
    """A disk that is shut down by ioctl, and outlives it with its files."""

    def __init__(self, kind: str, folder: Path) -> None:
        super().__init__(kind, folder, BYTES[kind])

    def cut(self) -> None:
        """Cut the power. Files that are open stay open, and are of no use any more."""
        shut_down(self.folder)

    def return_power(self, options: str = "") -> None:
        """Mount what the device has. Nobody may have a file open there."""
        self.umount()
        self.mount(options)


class Snapshotted(Powered):
    """A disk without such an ioctl (btrfs): a cut is a copy of the image at one instant, by the reflink of its host.

    What the file system has not written to the image by then is missing from the copy.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        super().__init__(kind, folder)
        self._host = Disk("xfs", folder, HOST_BYTES)
        self._host.folder = folder / "host-mounted"
        self._host.folder.mkdir(exist_ok=True)
        self.image = self._host.folder / "image"
        self._copy = self._host.folder / "copy"

    def make(self) -> None:
        if not os.path.ismount(self._host.folder):
            self._host.make()
            self._host.mount()
        super().make()

    def cut(self) -> None:
        call("cp", "--reflink=always", str(self.image), str(self._copy))

    def return_power(self, options: str = "") -> None:
        self.umount()
        os.replace(self._copy, self.image)
        self.mount(options)


def powered(kind: str, folder: Path) -> Powered:
    """A disk of that kind."""
    return Snapshotted(kind, folder) if kind == "btrfs" else Powered(kind, folder)
