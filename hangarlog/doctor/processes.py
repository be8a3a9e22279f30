"""Checks of the processes that have a store open, from `/proc`, and of the limits on open files."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from hangarlog.doctor.finding import Finding, Severity, command, counted, found
from hangarlog.doctor.look import Look

_DELETED = " (deleted)"
_MOST_PROCESSES = 50_000
_COMMAND_BYTES = 200
_FULL = 0.8
_FEW_FILES = 256
_live = re.compile(r"journal\.jsonl|state|locks/\w+\.lock").fullmatch
_limit = re.compile(rb"^Max open files\s+(\d+)", re.MULTILINE).search


class _Process(NamedTuple):
    pid: int
    command: str
    files: int
    """Those of the store."""
    deleted: tuple[str, ...]
    """Those of the store that are no longer at their paths."""
    used: int
    """All open files of the process."""
    allowed: int
    """How many it may have, 0 if unknown."""


def check_processes(look: Look) -> Iterator[Finding]:
    """Yield the processes that have the store open, best effort: those of other users, or containers, stay unseen."""
    if not look.is_folder or sys.platform != "linux":
        return
    seen = [*_processes(look)]
    for process in seen:
        where = f"process {process.pid}"
        said = f"{process.command or 'a process'} has {counted(process.files, 'file')} of the store open"
        yield found("open-in", "ok", said, where, pid=process.pid, command=process.command, files=process.files)
        if process.deleted:
            said = f"it has {process.deleted[0]} of the store open, which was deleted or replaced"
            text = f"{command('ps', '-fp', str(process.pid))}  # then restart it"
            yield found("open-on-deleted", "warning", said, where, text, pid=process.pid)
        if process.allowed and process.used >= _FULL * process.allowed:
            said = f"it has {process.used:,} of {process.allowed:,} files open"
            text = command("sudo", "prlimit", "--pid", str(process.pid), f"--nofile={4 * process.allowed}")
            yield found(
                "open-files", "warning", said, where, text, pid=process.pid, used=process.used, allowed=process.allowed
            )
    if look.is_in_use and not seen:
        said = "a process that this user cannot see has it open"
        yield found("open-in", "note", said, look.path, command("sudo", "hangarlog", "doctor", look.path))
    elif not seen:
        yield found("open-in", "ok", "no process that this user can see has it open", look.path)


def check_limit(look: Look) -> Iterator[Finding]:
    """Yield how many files a process that is started here may open."""
    if sys.platform == "win32":
        return
    from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

    soft, _ = getrlimit(RLIMIT_NOFILE)
    few: Severity = "note" if soft != RLIM_INFINITY and soft < _FEW_FILES else "ok"
    shown = "any number of" if soft == RLIM_INFINITY else f"{soft:,}"
    text = "" if few == "ok" else "ulimit -n 1024"
    yield found("open-files", few, f"a process that is started here may open {shown} files", "this shell", text)


def _processes(look: Look) -> Iterator[_Process]:
    folder = os.path.realpath(look.path)
    with contextlib.suppress(OSError), os.scandir("/proc") as entries:
        for number, entry in enumerate(entries):
            if entry.name.isdecimal() and int(entry.name) != os.getpid() and number < _MOST_PROCESSES:
                with contextlib.suppress(OSError):
                    process = _process(look, folder, int(entry.name))
                    if process:
                        yield process


def _process(look: Look, folder: str, pid: int) -> _Process | None:
    """Return a process if it has files of the store open. Raises `OSError` if it may not be looked at."""
    names, used = Counter[str](), 0
    for number in os.listdir(f"/proc/{pid}/fd"):
        used += 1
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            if target in (folder, folder + _DELETED) or target.startswith(folder + os.sep):
                name = target[len(folder) :].removeprefix(os.sep)
                # A sealed segment may be shown so by the name that it had before the roll.
                there = name.endswith(_DELETED) and os.stat(f"/proc/{pid}/fd/{number}").st_nlink
                names[name.removesuffix(_DELETED) if there else name] += 1
    if not names:
        return None
    gone = {name.removesuffix(_DELETED) for name in names if name.endswith(_DELETED)}
    deleted = tuple(sorted(name or "the folder" for name in gone if not name or _live(name)))
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(_COMMAND_BYTES).rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    with open(f"/proc/{pid}/limits", "rb") as file:
        limit = _limit(file.read())
    return _Process(pid, words, names.total(), deleted, used, int(limit[1]) if limit else 0)
