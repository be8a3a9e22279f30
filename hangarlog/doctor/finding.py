"""What the doctor finds: kinds of findings, how bad each may be, and what to do. docs/doctor.md has the table."""

from __future__ import annotations

import shlex
from typing import Any, Literal, NamedTuple, get_args

import msgspec

Severity = Literal["ok", "note", "warning", "problem"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From harmless to bad."""


class Finding(msgspec.Struct, frozen=True):
    """One finding.

    Attributes:
        severity: "ok"; "note", good to know; "warning", should be looked at; "problem", must be.
        kind: What was found, a key of `KINDS`.
        what: What was found, in words.
        where: The file, folder, process or name that it was found at.
        next: What to do next: a command for a shell, or a sentence if no command does it. Empty if nothing is to do.
        facts: The numbers and names in `what`, for programs.
    """

    severity: Severity
    kind: str
    what: str
    where: str
    next: str = ""
    facts: dict[str, Any] = {}


class Kind(NamedTuple):
    """A kind of finding: its severities, what it means, and what to do."""

    severities: tuple[Severity, ...]
    meaning: str
    advice: str


KINDS = {
    # The folder
    "no-store": Kind(("problem",), "the folder is missing or no store", "name the right folder"),
    "damaged": Kind(
        ("problem",),
        "a file that was looked at is damaged, or no file",
        "run `hangarlog verify`, then `hangarlog repair`",
    ),
    "unreadable": Kind(
        ("warning", "problem"),
        "this user may not read the store, or a part of it",
        "run the doctor as the owner of the store",
    ),
    "check-failed": Kind(("warning",), "a check could not be made", "remove the cause that is named, and look again"),
    "skipped": Kind(("note",), "files that were not looked at, to be quick", "run it with `--thorough`"),
    # The file system
    "file-system": Kind(("ok",), "the file system is a local one that is known to be safe", ""),
    "file-system-unsafe": Kind(
        ("warning", "problem"),
        "a network or FUSE file system, where locks may not hold; a warning if you have accepted it",
        "move the store to a local disk ([file systems](file-systems.md))",
    ),
    "file-system-in-memory": Kind(
        ("warning",), "the store is in memory (tmpfs): a restart deletes it", "move the store to a disk"
    ),
    "file-system-in-container": Kind(
        ("note",), "the store is in the layer of a container, and goes with it", "put it into a volume"
    ),
    "file-system-read-only": Kind(
        ("warning",), "nothing can be appended", "mount it writable; if the system did it, check the disk first"
    ),
    "file-system-no-barriers": Kind(
        ("warning",), "mounted so that a sync does not reach the device", "mount it without that option"
    ),
    "file-system-no-links": Kind(
        ("note",),
        "a file cannot have two names there: while a log rolls, its `NAME.jsonl` is missing for an instant",
        "nothing, or move the store",
    ),
    "file-system-folds-case": Kind(
        ("note",), "upper and lower case are one there; names of streams are escaped, so none collide", "nothing"
    ),
    "space": Kind(
        ("ok", "warning", "problem"),
        "free space: a warning below 1 GiB and a tenth, a problem below 64 MiB",
        "free space there",
    ),
    "inodes": Kind(
        ("ok", "warning", "problem"), "free inodes: each stream takes one or more", "free inodes, or make more"
    ),
    "quota": Kind(
        ("ok", "warning", "problem"),
        "the disk quota of the store's owner: a warning from 90 % on, a problem from 99 %",
        "raise the quota, or free space",
    ),
    # Rights
    "rights": Kind(("ok",), "the files have the rights that the store was made with", ""),
    "rights-too-open": Kind(
        ("warning", "problem"),
        "others may read more than the store's `mode` says, or (a problem) write",
        "take the rights away with the `chmod` that is printed",
    ),
    "rights-keep-owner-out": Kind(
        ("warning",),
        "the owner of the store may not use all of its files, such as those that root has made",
        "give them back with the `chown` or `chmod` that is printed",
    ),
    "linked-files": Kind(
        ("warning",),
        "live files have a second name (a hard link, as of `cp -al`), so appends are refused",
        "run `hangarlog repair`, which makes them files of their own",
    ),
    # Who has it open
    "open-in": Kind(("ok", "note"), "the processes that have files of the store open", ""),
    "open-on-deleted": Kind(
        ("warning",),
        "a process has files open that were deleted or replaced, as by a restore while it ran",
        "restart that process",
    ),
    "open-files": Kind(
        ("ok", "note", "warning"),
        "limits on open files: a warning if a process with the store open has used four fifths of its own",
        "allow more open files",
    ),
    "held-exclusively": Kind(("note",), "a process has opened the store with `exclusive=True`", "nothing, or end it"),
    "waiting": Kind(
        ("warning",), "a writer has been waiting for the write lock for more than ten seconds", "look at its holder"
    ),
    "locks-gone": Kind(
        ("warning",),
        "lock files were deleted while the store is open, so new writers are refused",
        "append once in a process that has it open, or restart that",
    ),
    # What a crash or a failed device would leave
    "durability": Kind(
        ("ok", "note"), "how much of what is committed is known to be on the device; a note if not all", "nothing"
    ),
    "sync-failed": Kind(
        ("warning", "problem"),
        "the device has refused a sync since the machine started; a problem until the journal is written anew",
        "look at the kernel's messages, then check or replace the disk",
    ),
    "checkpoint": Kind(
        ("ok", "note", "warning"),
        "what the next opening has to recover: a note from 1 MiB on, a warning from 1 GiB on",
        "open and close the store once, as `hangarlog stats` does",
    ),
    "writer-died": Kind(
        ("note",), "a writer died while it changed files, or is at it; the next append recovers", "nothing"
    ),
    "torn-end": Kind(
        ("note",), "the journal ends within a line, as after a crash; the next opening cuts that off", "nothing"
    ),
    "copied": Kind(
        ("note",), "the folder is a copy, or was moved here from another disk; the next opening recovers it", "nothing"
    ),
    # Followers
    "followers": Kind(("ok",), "the subscribers, projections and cursors, and how far each is", ""),
    "follower-behind": Kind(("note",), "a follower has events to process", "nothing, if it gets on"),
    "follower-abandoned": Kind(
        ("warning",),
        "nobody runs a follower, and it has not moved for a day although there are events for it",
        "start it again; or delete its cursor, as `store.cursor(name).delete()` does",
    ),
    "events-parked": Kind(
        ("warning",), "a subscriber could not process events, and has put them aside", "run `hangarlog replay`"
    ),
    # Growth and clocks
    "growth": Kind(("ok",), "how much the store grows a day, weighted: the last two days count most", ""),
    "disk-full-soon": Kind(
        ("note", "warning", "problem"),
        "when the disk will be full at that rate: a note below a year (or of a store that is younger than a day), a "
        "warning below 30 days, a problem below 3",
        "free space, or move the store",
    ),
    "clock": Kind(("ok",), "the latest recorded times rise, and none is in the future", ""),
    "clock-back": Kind(
        ("note",),
        "recorded times go back by more than a second: a clock was set back, or the events were imported",
        "nothing: order is by position; see that the clock is synchronised",
    ),
    "clock-ahead": Kind(
        ("warning",),
        "events or files are from the future: a clock was ahead, or is behind now",
        "compare this machine's clock, and that of the writer",
    ),
    # Segments and other files
    "segments": Kind(("ok",), "the segments of the journal, and the number of streams", ""),
    "segment-odd-size": Kind(
        ("note",),
        "a sealed segment of the journal that is shorter than the store's segments, or much longer",
        "run `hangarlog verify`, unless a repair has made it",
    ),
    "segment-without-index": Kind(
        ("note",),
        "sealed segments without their index: single events in them are slow to find",
        "nothing, or export and import the store, which makes all indexes",
    ),
    "segment-huge": Kind(
        ("note",),
        "an active segment of more than four times the store's size of segments, as one big batch leaves",
        "nothing: the next append seals it. If it stays, the error of the append says why",
    ),
    "streams-many-small": Kind(
        ("note",),
        "more than 100,000 streams with less than a block of text each: they take more inodes and blocks than text",
        "put what belongs together into one stream",
    ),
    "damaged-kept": Kind(
        ("note",), "files that a repair has replaced and kept", "delete them when you are satisfied with the repair"
    ),
    "put-aside": Kind(
        ("warning",), "records that a recovery or a repair had to take out", "read them, then move the file away"
    ),
    "unfinished": Kind(
        ("note", "warning"),
        "new files that were to replace others (`.new`, older than an hour; a warning for `.rebuilt`, of a repair)",
        "append once; for `.rebuilt`, run `hangarlog repair` again",
    ),
    "backup-unfinished": Kind(("warning",), "this is a backup that was cut short", "run `hangarlog backup` again"),
    "foreign-files": Kind(("note",), "files that are not the store's", "move them away"),
    "cache-without-segment": Kind(("note",), "caches whose segment is gone", "delete them"),
    # The machine and the neighbours
    "checksums": Kind(("ok",), "checksums are computed by a fast library", ""),
    "checksums-slow": Kind(
        ("note",), "isal is not installed here, so checksums take ten times as long", "install `hangarlog[fast]`"
    ),
    "store-id-shared": Kind(
        ("note", "warning"),
        "a store beside this one has the same id: a copy; a warning if both have gone on by themselves",
        "append to one of them only; name the other one a backup, or export it and import it into a new store",
    ),
}
"""All kinds of findings, in the order of the checks."""


def found(kind: str, severity: Severity, what: str, where: str, advice: str = "", **facts: object) -> Finding:
    """Return a finding. Raises `ValueError` if the kind is unknown, or has no such severity."""
    if severity not in KINDS[kind].severities:
        raise ValueError(f"{kind} is never {severity}")
    return Finding(severity, kind, what, where, advice, facts)


def command(*words: str) -> str:
    """Return a command for a shell."""
    return shlex.join(words)


def counted(number: int, name: str) -> str:
    """Return a number with the name of what is counted: `1 event`, `2,000 events`."""
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"


def size(count: float) -> str:
    """Return bytes for people: `512 bytes`, `1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Return a time for people: `40 seconds`, `3.5 hours`, `12 days`."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86_400:,.0f} days"
