"""Checks of what a crash would leave: syncs that failed, what is not on the device yet, what must be recovered."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from hangarlog.doctor.finding import Finding, Severity, command, counted, duration, found, size
from hangarlog.doctor.look import Look
from hangarlog.filestore.checkpoint import Checkpoint, fits, load_checkpoint
from hangarlog.filestore.shared_state import LOCK_WAITERS, SharedState

_WAITED_SECONDS = 10.0
_MUCH_BYTES, _VERY_MUCH_BYTES = 1 << 20, 1 << 30
_NOT_OURS = "a process that this user cannot see"


def check_syncs(look: Look) -> Iterator[Finding]:
    """Yield syncs that have failed, and how much is not known to be on the device."""
    state = look.state
    if state is None:
        return
    if state.of_this_boot and not state.is_of_copy and state.failures:
        severity: Severity = "problem" if state.sync_failed else "warning"
        more = "; the next append writes the journal anew" if state.sync_failed else ""
        said = f"{counted(state.failures, 'sync')} failed since the machine started{more}"
        text = "sudo dmesg --level=err,crit | tail -n 40  # then check the disk, and restart the machine"
        yield found("sync-failed", severity, said, look.folder.journal.active_path, text, count=state.failures)
    if state.valid:
        durable, committed = state.durable, state.committed
        left = max(0, committed - durable)
        said = f"{counted(left, 'committed event')} may not be on the device yet" if left else "all is on the device"
        ring = look.filesystem.is_file(look.folder.ring_path)
        said += "; syncs go through a commit ring" if ring else "; syncs go to the journal"
        severity = "note" if left else "ok"
        where = look.folder.state_path
        yield found("durability", severity, said, where, "", committed=committed, durable=durable, ring=ring)


def check_locks(look: Look) -> Iterator[Finding]:
    """Yield who keeps writers out."""
    state = look.state
    if state is None or not look.is_in_use:
        return
    if state.exclusive and _is_alive(state.exclusive):
        said = f"process {state.exclusive} holds the store exclusively"
        yield found("held-exclusively", "note", said, f"process {state.exclusive}", pid=state.exclusive)
    gone = [name for name in ("write", "sync") if not _is_of_session(look, state, name)]
    if gone:
        names = " and ".join(f"{name}.lock" for name in gone)
        said = f"{names} of the processes that have the store open were deleted; new writers are refused"
        text = "append once in a process that has it open, or restart that: see `open-in`"
        yield found("locks-gone", "warning", said, look.folder.locks_path, text)
        return
    since = state.look()[LOCK_WAITERS]
    waited = (time.monotonic_ns() - since) / 1e9 if since else 0.0
    if waited > _WAITED_SECONDS:
        holder = _holder(look)
        by = f"process {holder}" if holder else _NOT_OURS
        said = f"a writer has been waiting for {duration(waited)} for the write lock, which {by} holds"
        text = command("ps", "-fp", str(holder)) if holder else "sudo lslocks"
        yield found("waiting", "warning", said, look.folder.lock_path("write"), text, seconds=waited, pid=holder)


def _is_of_session(look: Look, state: SharedState, name: str) -> bool:
    """True if a lock file is the one that the members of the session have. Locks that may not be read are believed."""
    try:
        fd = look.filesystem.open_read(look.folder.lock_path(name))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return look.filesystem.held_byte(fd, state.session) is not None
    finally:
        look.filesystem.close(fd)


def _holder(look: Look) -> int:
    with contextlib.suppress(OSError):
        fd = look.filesystem.open_read(look.folder.lock_path("write"))
        try:
            return look.filesystem.lock_holder(fd)
        finally:
            look.filesystem.close(fd)
    return 0


def check_recovery(look: Look) -> Iterator[Finding]:
    """Yield what the next opening, or the next append, has to recover."""
    if look.meta is None:
        return
    state, journal = look.state, look.folder.journal.active_path
    if state and state.is_of_copy and not look.is_in_use:
        yield found("copied", "note", "it was made by copying; the next opening recovers it", look.path)
    if state and look.is_in_use:
        said = "processes have it open, and know what is committed"
        yield found("checkpoint", "ok", said, look.folder.checkpoint_path, bytes=state.tail)
        if state.writing and not _is_alive(state.writing):
            said = f"process {state.writing} died while it changed files; the next append recovers"
            yield found("writer-died", "note", said, journal, pid=state.writing)
        return
    yield from _torn_end(look)
    checkpoint = load_checkpoint(look.folder)
    usable = checkpoint.position > 0 and fits(checkpoint, look.folder)
    left = _bytes_after(look, checkpoint) if usable else look.journal_bytes
    severity: Severity = "warning" if left >= _VERY_MUCH_BYTES else "note" if left >= _MUCH_BYTES else "ok"
    why = "" if usable or not left else ", as there is no checkpoint that fits"
    boot = "" if state is None or state.of_this_boot else ", after a restart of the machine"
    said = f"nobody has it open; the next opening compares {size(left)} of the journal with the streams{why}{boot}"
    text = "" if severity == "ok" else command("hangarlog", "stats", look.path)
    yield found("checkpoint", severity, said, look.folder.checkpoint_path, text, bytes=left, usable=usable)


def _torn_end(look: Look) -> Iterator[Finding]:
    active = look.folder.journal.open_active()
    if active:
        with contextlib.closing(active):
            end = active.end_offset()
            if end != active.size:
                said = f"{active.size - end:,} bytes after the last whole line; the next opening cuts them off"
                yield found("torn-end", "note", said, active.path, offset=end)


def _bytes_after(look: Look, checkpoint: Checkpoint) -> int:
    """Return the bytes of the journal after a checkpoint that fits."""
    with contextlib.suppress(FileNotFoundError):
        active = look.filesystem.size_at(look.folder.journal.active_path)
        later = sum(file.size for file in look.sealed if file.first > checkpoint.first)
        own = next((file.size for file in look.sealed if file.first == checkpoint.first), None)
        if own is None:
            return max(0, active - checkpoint.end)
        return max(0, own - checkpoint.end) + later + active
    return 0


def _is_alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}") or not os.path.isdir("/proc/self")
