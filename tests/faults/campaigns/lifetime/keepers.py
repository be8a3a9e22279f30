"""What keeps a store of row 20 small, and copies it; each call in a process that may be killed at any moment."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hangarlog import ArchiveError, BackupError, FileEventStore
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.verify import verify

from .streams import Rules


def _opened(path: Path) -> FileEventStore[Any]:
    return FileEventStore.untyped(path, durability="relaxed", create=False)


def compress(path: Path, rules: Rules, rng: random.Random) -> None:
    with _opened(path) as store:
        store.compress(seal=rng.random() < 0.5)


def retain(path: Path, rules: Rules, rng: random.Random) -> None:
    with _opened(path) as store:
        if rng.random() < 0.2:
            store.retain(*rules.policies(), dry_run=True)
        store.retain(*rules.policies())


def free(path: Path, rules: Rules, rng: random.Random) -> None:
    """Free what deletions and truncations have hidden."""
    with _opened(path) as store:
        store.retain()


def back_up(path: Path, rules: Rules, rng: random.Random) -> None:
    """Make the backup beside the store, or bring it up to date. It is verified by that."""
    target, old = path.with_name("backup"), path.with_name("old backup")
    try:
        backup(path, target)
    except BackupError as error:
        if "has dropped all of its events" not in error.cause:
            raise
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        backup(path, target)


def check_backup(path: Path, rules: Rules, rng: random.Random) -> None:
    """Make a backup, and restore it elsewhere: it opens, takes appends, and `verify` finds nothing."""
    back_up(path, rules, rng)
    restored = path.with_name("restored")
    shutil.rmtree(restored, ignore_errors=True)
    shutil.copytree(path.with_name("backup"), restored)
    with _opened(restored) as store:
        store.append("kept:restored", [], -1)
        damage = list(verify(store))
        assert not damage, f"verify finds {damage} in a restored backup"


def archive(path: Path, rules: Rules, rng: random.Random) -> None:
    """Move the first segments into the archive beside the store; into a new one if a retention came in between."""
    target = path.with_name("archive")
    with _opened(path) as store:
        before = rng.randint(store.first_position, store.last_position)
        try:
            store.archive(target, before=before, compress=rng.random() < 0.5)
        except ArchiveError:
            target.rename(path.with_name(f"archive {store.first_position}"))
            store.archive(target, before=before)


KEEPERS: dict[str, Callable[[Path, Rules, random.Random], None]] = {
    "compress": compress,
    "retain": retain,
    "archive": archive,
    "free": free,
    "back up": back_up,
    "check a backup": check_backup,
}
