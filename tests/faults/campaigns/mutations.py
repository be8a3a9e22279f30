"""What people and programs do to the files of a store that is in use: editors, cleaners, sync tools, restores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

CACHES = ("locks", "state", "ring", "checkpoint.json", "catalog", ".index", ".times")
"""What comes back when it is deleted, so that nobody may be refused anything for long."""
KEEPING = ("copied", "relinked")
"""What leaves the contents as they were."""


def is_gentle(target: str, mutation: str) -> bool:
    """Whether every call has to go on correctly: nothing is gone that it cannot make again."""
    cache = target.endswith((".index", ".times")) or target.split("/")[0] in CACHES
    return target != WHOLE and (cache or mutation in KEEPING or (target == "snapshots"))


def shuts_out(target: str, mutation: str) -> bool:
    """Whether who opens the store then is refused until one that had it open has appended: the locks are others."""
    return target.split("/")[0] == "locks" and mutation != "relinked"


# Of a file at `path`; `older` is what it held some appends ago, `aside` a place outside the store.


def copied(path: Path, older: Path, aside: Path) -> None:
    """An editor or a sync tool puts an equal file in its place."""
    shutil.copy2(path, f"{path}~")
    os.replace(f"{path}~", path)


def put_back(path: Path, older: Path, aside: Path) -> None:
    """A restore puts an older file in its place."""
    shutil.copy2(older, f"{path}~")
    os.replace(f"{path}~", path)


def overwritten(path: Path, older: Path, aside: Path) -> None:
    """`rsync --inplace`, `cp`: the same file, with what it held before."""
    content = older.read_bytes()
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate()


def emptied(path: Path, older: Path, aside: Path) -> None:
    os.truncate(path, 0)


def cut_after_line(path: Path, older: Path, aside: Path) -> None:
    """Of what is no text, half is left."""
    text = path.read_bytes()
    lines = text.splitlines(keepends=True) if path.suffix in (".jsonl", ".json") else []
    os.truncate(path, sum(map(len, lines[:-1])) if lines else len(text) // 2)


def cut_within_line(path: Path, older: Path, aside: Path) -> None:
    os.truncate(path, max(0, path.stat().st_size - 20))


def deleted(path: Path, older: Path, aside: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def relinked(path: Path, older: Path, aside: Path) -> None:
    """A second name that takes the place of the first: the same file."""
    os.link(path, f"{path}~")
    path.unlink()
    os.rename(f"{path}~", path)


def moved(path: Path, older: Path, aside: Path) -> None:
    os.rename(path, aside)


# Of a folder.


def folder_copied(path: Path, older: Path, aside: Path) -> None:
    """Equal files in an equal folder, none of them the one that was there."""
    shutil.copytree(path, f"{path}~")
    os.rename(path, aside)
    os.rename(f"{path}~", path)


def folder_put_back(path: Path, older: Path, aside: Path) -> None:
    os.rename(path, aside)
    shutil.copytree(older, path)


WHOLE = "."
"""The store's own folder; what may be done to it is more than to a file."""

Mutation = Callable[[Path, Path, Path], None]
OF_FILES: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        copied,
        put_back,
        overwritten,
        emptied,
        cut_after_line,
        cut_within_line,
        deleted,
        relinked,
        moved,
    )
}
OF_FOLDERS: dict[str, Mutation] = {
    "deleted": deleted,
    "moved": moved,
    "copied": folder_copied,
    "put_back": folder_put_back,
}
OF_THE_STORE: dict[str, Mutation] = {
    "deleted": deleted,
    "moved": moved,
    "exchanged": moved,  # And a new store made in its place.
    "copied": folder_copied,
}


def mutations_of(path: Path, target: str) -> dict[str, Mutation]:
    """What can be done to a target of the store at `path`."""
    if target == WHOLE:
        return OF_THE_STORE
    return OF_FOLDERS if (path / target).is_dir() else OF_FILES
