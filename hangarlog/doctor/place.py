"""Checks of where a store is: its file system, with the traps of its type and mount, and the room that is left."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hangarlog.doctor.finding import Finding, Severity, command, found, size
from hangarlog.doctor.look import Look
from hangarlog.doctor.quota import quota_of
from hangarlog.system.mounts import Mount, accepted_kinds, is_unsafe, mount_of, unsafe_mounts

_IN_MEMORY = frozenset(["tmpfs", "ramfs"])
_NO_LINKS = frozenset(["vfat", "msdos", "exfat", "exfat-fuse"])
_NO_BARRIERS = frozenset(["nobarrier", "barrier=0", "barrier=none"])
_LITTLE_SPACE, _VERY_LITTLE_SPACE = 1 << 30, 64 << 20
_LITTLE_SHARE = 0.1
_FEW_INODES = 1000
_META = "hangarlog.json"


def check_file_system(look: Look) -> Iterator[Finding]:
    """Yield what is to be known of the file system."""
    if not look.is_folder:
        return
    mount = mount_of(look.filesystem, look.path)
    if mount is None:
        yield found("file-system", "ok", "the system does not tell the type of the file system", look.path)
    else:
        traps = [*_traps(look, mount)]
        yield from traps
        if not traps:
            yield found(
                "file-system", "ok", f"{mount.kind} ({mount.source} at {mount.place})", look.path, type=mount.kind
            )
    folded = os.path.join(look.path, _META.upper())
    if look.meta and _same_file(folded, look.folder.meta_path):
        yield found("file-system-folds-case", "note", "upper and lower case are the same here", look.path)


def _same_file(first: str, second: str) -> bool:
    try:
        return os.path.samestat(os.lstat(first), os.lstat(second))
    except OSError:
        return False


def _traps(look: Look, mount: Mount) -> Iterator[Finding]:
    what = f"{mount.kind} ({mount.source} at {mount.place})"
    below = os.path.realpath(look.path) + os.sep
    unsafe = [(place, kind) for place, kind in unsafe_mounts(look.filesystem) if place.startswith(below)]
    for place, kind in [(look.path, mount.kind), *unsafe] if is_unsafe(mount.kind) else unsafe:
        accepted = kind in accepted_kinds()
        said = "you have accepted it" if accepted else "a store is not opened there"
        move = f"copy the store to a local disk: {command('cp', '-a', look.path, '/LOCAL/DISK/')}"
        severity: Severity = "warning" if accepted else "problem"
        yield found("file-system-unsafe", severity, f"{kind}: its locks may not hold; {said}", place, move)
    if mount.kind in _IN_MEMORY:
        move = f"copy it to a disk: {command('hangarlog', 'backup', look.path, '/DISK/STORE')}"
        yield found("file-system-in-memory", "warning", f"{what}: a restart of the machine deletes it", look.path, move)
    if mount.kind == "overlay":
        move = f"copy it into a volume: {command('hangarlog', 'backup', look.path, '/VOLUME/STORE')}"
        yield found("file-system-in-container", "note", f"{what}: the files go with the container", look.path, move)
    if mount.kind in _NO_LINKS:
        yield found("file-system-no-links", "note", f"{what}: a file cannot have two names", look.path)
    if off := sorted(_NO_BARRIERS & mount.options):
        again = command("sudo", "mount", "-o", "remount,barrier", mount.place)
        said = f"{what} has the option {off[0]}: a sync ends before the data is on the device"
        yield found("file-system-no-barriers", "warning", said, look.path, again)
    if "ro" in mount.options:
        again = command("sudo", "mount", "-o", "remount,rw", mount.place)
        yield found("file-system-read-only", "warning", f"{what} is mounted read-only", look.path, again)


def check_room(look: Look) -> Iterator[Finding]:
    """Yield how much space and how many inodes are left."""
    if not look.is_folder or not hasattr(os, "statvfs"):
        return
    status = os.statvfs(look.path)
    free, whole = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    severity = _severity(free, whole, _LITTLE_SPACE, _VERY_LITTLE_SPACE, _LITTLE_SHARE)
    advice = "" if severity == "ok" else command("du", "-xsh", look.path)
    said = f"{size(free)} of {size(whole)} are free"
    yield found("space", severity, said, look.path, _with_hint(advice), free_bytes=free, bytes=whole)
    if status.f_files:
        free, whole = status.f_favail, status.f_files
        severity = _severity(free, whole, _FEW_INODES, _FEW_INODES // 10, 1.0)
        advice = "" if severity == "ok" else command("df", "-i", look.path)
        said = f"{free:,} of {whole:,} inodes are free"
        yield found("inodes", severity, said, look.path, _with_hint(advice), free_inodes=free, inodes=whole)
    yield from _quota(look)


def _with_hint(advice: str) -> str:
    return f"{advice}  # then free what is not needed" if advice else ""


def _severity(free: float, whole: float, little: float, very_little: float, share: float) -> Severity:
    if free < very_little:
        return "problem"
    return "warning" if free < little and free < whole * share else "ok"


def _quota(look: Look) -> Iterator[Finding]:
    owner = os.stat(look.path).st_uid
    quota = quota_of(look.path, owner)
    if quota is None:
        return
    for used, allowed, text in (
        (quota.bytes_used, quota.bytes_allowed, f"{size(quota.bytes_used)} of {size(quota.bytes_allowed)}"),
        (quota.inodes_used, quota.inodes_allowed, f"{quota.inodes_used:,} of {quota.inodes_allowed:,} inodes"),
    ):
        if allowed:
            severity: Severity = "problem" if used >= 0.99 * allowed else "warning" if used >= 0.9 * allowed else "ok"
            advice = "" if severity == "ok" else command("sudo", "edquota", "-u", str(owner))
            said = f"user {owner} has used {text} of the quota"
            yield found("quota", severity, said, look.path, advice, used=used, allowed=allowed)
