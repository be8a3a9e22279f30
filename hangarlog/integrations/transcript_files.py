"""Which files hold transcripts, and the stream of each: the same one whatever path leads to it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from hangarlog.errors import SourceError
from hangarlog.integrations.stream_names import as_part, shortened
from hangarlog.record.line import HEAD
from hangarlog.system.filesystem import FileSystem

Kind = Literal["claude", "codex", "jsonl"]

_SUFFIXES = (".jsonl", ".ndjson")
_is_packed = re.compile(r".+\.(?:jsonl|ndjson)\.(?:gz|zst|xz|bz2|lz4|zip)").fullmatch
_EXPORT_BYTES = 64
_is_export = re.compile(re.escape(HEAD) + rb'[0-9]+,"stream_id":').match

LeaveOut = Callable[[str, str], None]
"""Called with (path, cause) for what looks like a transcript and is not read."""


class TranscriptFile(NamedTuple):
    """A file that is open as `fd`, and had `size` bytes then."""

    path: str
    stream_id: str
    fd: int
    size: int


def is_export(start: bytes) -> bool:
    """True if a text begins as what `hangarlog export` writes."""
    return _is_export(start) is not None or (start[:1] == b"{" and b'"specversion"' in start)


def transcript_files(
    filesystem: FileSystem, paths: Sequence[str], kind: Kind, leave_out: LeaveOut, target: str = ""
) -> Iterator[TranscriptFile]:
    """Yield the files at `paths` and in the folders there, each once, opened. It closes each when it goes on.

    The store at `target` is passed over, others are left out. Links in folders are not followed; a path that is given
    may be one.

    Raises:
        SourceError: one of the paths cannot be read. This comes first.
    """
    reals = [os.path.realpath(path) for path in paths]
    for path, real in zip(paths, reals, strict=True):
        if not (os.path.isfile(real) or os.path.isdir(real)):
            raise SourceError(path, "it cannot be read: there is no file or folder of this name")
    seen = set[str]()
    for real in reals:
        if os.path.isfile(real):
            yield from _opened(filesystem, real, kind, seen, leave_out)
            continue
        try:
            fd = filesystem.open_folder(real)
        except OSError as error:
            leave_out(real, f"it cannot be read: {error.strerror}")
            continue
        filesystem.enter(real, fd)  # Below it no link is followed, even one that is put there meanwhile.
        try:
            for path in _below(filesystem, real, leave_out, os.path.realpath(target)):
                yield from _opened(filesystem, path, kind, seen, leave_out)
        finally:
            filesystem.leave(fd)
            if fd >= 0:
                filesystem.close(fd)


def _below(filesystem: FileSystem, top: str, leave_out: LeaveOut, target: str) -> Iterator[str]:
    """Yield the paths of the transcripts below a folder, sorted within each folder."""
    folders = [top]
    while folders:
        folder = folders.pop()
        if filesystem.is_file(os.path.join(folder, "hangarlog.json")):
            if folder != target:
                leave_out(folder, "it is a store; use `hangarlog export` and `hangarlog import`")
            continue
        try:
            entries = sorted((entry.name, entry.is_dir(), entry.is_file()) for entry in filesystem.entries(folder))
        except OSError as error:
            leave_out(folder, f"it cannot be read: {error.strerror}")
            continue
        for name, _, is_file in entries:
            path = os.path.join(folder, name)
            if _is_packed(name):
                leave_out(path, "it is compressed; unpack it first")
            elif name.endswith(_SUFFIXES) and is_file:
                yield path
        folders += [os.path.join(folder, name) for name, is_dir, _ in reversed(entries) if is_dir]
        for name, is_dir, is_file in entries:
            path = os.path.join(folder, name)
            if not (is_dir or is_file) and (filesystem.is_link(path) or name.endswith(_SUFFIXES)):
                leave_out(path, "it is a link, or no regular file; name what it leads to")


def _opened(
    filesystem: FileSystem, path: str, kind: Kind, seen: set[str], leave_out: LeaveOut
) -> Iterator[TranscriptFile]:
    if path in seen:
        return
    seen.add(path)
    try:
        fd = filesystem.open_read(path)
    except OSError as error:
        leave_out(path, f"it cannot be read: {error.strerror}")
        return
    try:
        size, start = filesystem.size(fd), filesystem.read(fd, _EXPORT_BYTES, 0)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            leave_out(path, "it is UTF-16; convert it to UTF-8")
        elif start.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
            leave_out(path, "it is compressed; unpack it first")
        elif is_export(start):
            leave_out(path, "it is an export of hangarlog; import it by itself, without --format")
        else:
            yield TranscriptFile(path, stream_id_of(path, kind), fd, size)
    finally:
        filesystem.close(fd)


def stream_id_of(path: str, kind: Kind) -> str:
    """Return the stream of a transcript, whose absolute path without links is `path`.

    `claude:PROJECT/SESSION`, and `claude:PROJECT/SESSION/subagents%2F…` for those of its subagents, as the store of the
    Claude Agent SDK names them; `codex:` and the name of the rollout, wherever it is archived; `jsonl:` and the whole
    path.
    """
    parts = os.path.splitdrive(path)[1].strip(os.sep).split(os.sep)
    name, suffix = os.path.splitext(parts[-1])
    parts[-1] = name if suffix == ".jsonl" else parts[-1]
    if kind == "codex":
        parts = [name.removeprefix("rollout-") or name]
    elif kind == "claude":
        above = [number for number, part in enumerate(parts[:-1]) if part == "subagents" and number > 1]
        if above:
            start = above[-1]
            parts = [*parts[start - 2 : start], "/".join(parts[start:])]
        parts = parts[-3:] if above else parts[-2:]
    return shortened(f"{kind}:{'/'.join(map(as_part, parts))}")
