"""A walk over the files of a store. It ends early where there are very many, unless all are wanted."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

from hangarlog.doctor.look import Look

_MOST_ENTRIES = 10_000
"""So many entries below `streams`, and as many of each other folder, are looked at, unless the look is thorough."""

_LOG_FILE = r"[^.]+(?:(?:\.\d{20})?\.(?:jsonl(?:\.[a-z]+)?|index|times)|\.sealed\.times)"
_OURS = {
    "": re.compile(rf"(?=journal\.){_LOG_FILE}|backup\.json", re.ASCII),
    "locks": re.compile(r".+\.lock"),
    "streams": re.compile(_LOG_FILE, re.ASCII),
    "snapshots": re.compile(r"[^.]+\.json"),
    "deleted": re.compile(r"[^.]+"),
    "projections": re.compile(r"[^.]+(?:\.latest|\.latest-2|\.rebuilding)?\.json"),
}
_spare = re.compile(r"(.+?)\.(new|erased|rebuilt|damaged)(?:\.\d+)?", re.ASCII).fullmatch


class Seen(NamedTuple):
    """One entry of a store's folders.

    `top` is the folder of the store that it is in ("": the store itself). `spare` is "new", "rebuilt" or "damaged" for
    a file that waits to replace another or was replaced, else "". `ours` is False for a file that is not the store's.
    """

    path: str
    name: str
    top: str
    status: os.stat_result
    spare: str
    ours: bool

    @property
    def is_folder(self) -> bool:
        """True for a folder."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_file(self) -> bool:
        """True for a regular file."""
        return stat.S_ISREG(self.status.st_mode)


def walk(look: Look) -> Iterator[list[Seen]]:
    """Yield the entries of each folder of a store. What is left out is noted in `look.skipped`."""
    names = {os.path.basename(path) for name, path in vars(look.folder).items() if name.endswith("_path")}
    top = [*_entries(look, look.path, "", names, None)]
    yield top
    for seen in top:
        if seen.is_folder and seen.name in _OURS and seen.name:
            yield from _below(look, seen)


def _below(look: Look, folder: Seen) -> Iterator[list[Seen]]:
    left, pending, first = (None if look.thorough else _MOST_ENTRIES), [folder.path], True
    while pending:
        path = pending.pop()
        try:
            entries = [*_entries(look, path, folder.name, set(), left)]
        except PermissionError:
            if folder.name == "locks":
                return  # They are private also where others may read the store.
            raise
        if left is not None and len(entries) > left:
            look.skipped.append(folder.path)
            yield entries[:left]
            return
        left = None if left is None else left - len(entries)
        if first and folder.name in ("streams", "snapshots", "deleted"):  # Folders of categories.
            pending, first = [entry.path for entry in entries if entry.is_folder], False
        yield entries


def _entries(look: Look, path: str, top: str, names: set[str], most: int | None) -> Iterator[Seen]:
    """Yield the entries of a folder, with `most` one more than those at most."""
    ours = _OURS[top].fullmatch
    for number, entry in enumerate(look.filesystem.entries(path)):
        if most is not None and number > most:
            return
        with contextlib.suppress(FileNotFoundError):  # It is gone by now.
            spare = _spare(entry.name)
            name, kind = (spare[1], spare[2].replace("erased", "new")) if spare else (entry.name, "")
            known = name in names or ours(name) is not None or (top in _OURS and path.endswith(top) and entry.is_dir())
            yield Seen(entry.path, entry.name, top, entry.stat(), kind, known)
