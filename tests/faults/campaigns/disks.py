"""File systems that a campaign mounts, and whether it can."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

MAKE = {
    "ext4": ["mkfs.ext4", "-qF", "-E", "nodiscard"],
    "xfs": ["mkfs.xfs", "-qfK"],
    "btrfs": ["mkfs.btrfs", "-qfK"],
}


class Disk:
    """A file system of this mount namespace. Unmounted when the namespace ends, if not before."""

    def __init__(self, kind: str, folder: Path, size: int) -> None:
        self.kind, self.folder, self.size = kind, folder / f"{kind}-mounted", size
        self.image = folder / f"{kind}.image"
        self.folder.mkdir(exist_ok=True)

    def make(self) -> None:
        if self.kind != "tmpfs":
            self.image.unlink(missing_ok=True)
            with self.image.open("wb") as file:
                file.truncate(self.size)
            call(*MAKE[self.kind], str(self.image))

    def mount(self, options: str = "") -> None:
        if self.kind == "tmpfs":
            call("mount", "-t", "tmpfs", "-o", f"size={self.size}{options}", "hangarlog", str(self.folder))
        else:
            call("mount", "-t", self.kind, "-o", f"loop{options}", str(self.image), str(self.folder))

    def remount(self, options: str) -> None:
        call("mount", "-o", f"remount,{options}", str(self.folder))

    def umount(self) -> None:
        """The kernel may let go of a process's files a moment after it has told of the process's end."""
        for _ in range(100):
            done = subprocess.run(["umount", str(self.folder)], capture_output=True, text=True, check=False)
            if "is busy" not in done.stderr:
                break
            time.sleep(0.1)
        assert done.returncode == 0, done.stderr

    def free(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bfree * found.f_frsize

    def device(self) -> str:
        number = os.stat(self.folder).st_dev
        return os.path.basename(os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"))


def call(*command: str, allowed: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in allowed, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def no_mounts() -> str | None:
    """Why no file system can be mounted here, None if one can."""
    if os.getuid() != 0:
        return "needs root"
    for program in ("unshare", "mount", "umount"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "hangarlog", "/tmp"], capture_output=True, check=False
    )
    return None if tried.returncode == 0 else "no mounts are allowed here"


def no_loop_mounts(kind: str) -> str | None:
    """Why no image with a file system of this kind can be mounted here, None if one can."""
    if reason := no_mounts():
        return reason
    if shutil.which(f"mkfs.{kind}") is None:
        return f"mkfs.{kind} is not installed"
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    if f"\t{kind}\n" not in Path("/proc/filesystems").read_text():
        loaded = shutil.which("modprobe") and subprocess.run(["modprobe", kind], capture_output=True, check=False)
        if not loaded or loaded.returncode:
            return f"the kernel has no {kind}"
    return None
