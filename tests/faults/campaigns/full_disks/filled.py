"""Disks that are full: filled by appends, freed, and gone on with."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections import Counter

from hangarlog import FileEventStore, HangarlogError, RetentionPolicy, StoreOpenError

from ..disks import Disk
from .watched import OtherProcess, Watched, error_of, told


def fill(disk: Disk, rounds: int, seed: int) -> Counter[str]:
    """Fill the disk by appends, at another byte each time; free it; go on."""
    counted: Counter[str] = Counter()
    other = OtherProcess()
    disk.make()
    disk.mount()
    for number in range(rounds):
        numbers = random.Random(f"{seed} {disk.kind} {number}")
        # None or little, so that not even a store can be made; or some, without or with room for all there may be.
        room = numbers.choice([0, 40 << 10, 400 << 10, 400 << 10, 1500 << 10])
        room = room and numbers.randint(room // 4, room)
        with told(f"{disk.kind} of {disk.size} bytes, {room} of them free, round {number}, seed {seed}"):
            _fill_once(disk, room, numbers, other, counted)
        counted["filled"] += 1
    disk.umount()
    return counted


def _fill_once(disk: Disk, room: int, numbers: random.Random, other: OtherProcess, counted: Counter[str]) -> None:
    path, ballast = str(disk.folder / "store"), disk.folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        file.write(bytes(max(0, disk.free() - room)))
        while not room:
            file.write(bytes(512))
    segment_bytes = numbers.choice([20_000, 64 << 20])
    error = error_of(StoreOpenError, lambda: FileEventStore(path, segment_bytes=segment_bytes).close())
    if error is not None:
        assert os.strerror(errno.ENOSPC) in str(error), error
        counted["refused creations"] += 1
        os.truncate(ballast, ballast.stat().st_size - numbers.randint(200 << 10, 400 << 10))
    watched = Watched(path, other, numbers, segment_bytes)
    _fill_up(watched, numbers, counted)
    for full in (True, False):
        _keep_small(watched.stores["relaxed"], counted, may_fail=full)
        watched.check(here_only=full)
        if full:
            ballast.unlink()
    watched.goes_on()
    watched.close()
    shutil.rmtree(path)


def _keep_small(store: FileEventStore, counted: Counter[str], *, may_fail: bool) -> None:
    """Compress, and look for what may go; without room this is refused, and nothing changes."""
    for work in (lambda: store.compress(seal=True), lambda: store.retain(RetentionPolicy(max_events=1 << 30))):
        error = error_of((OSError, HangarlogError), work)
        assert error is None or may_fail, f"with room again it is refused: {error}"
        counted["refused compressions and retentions"] += error is not None


def _fill_up(watched: Watched, numbers: random.Random, counted: Counter[str]) -> None:
    """With ever smaller batches, so that it is full to the last block of every file."""
    streams = [f"{category}:{number}" for category in "abc" for number in range(4)]
    for longest in (6000, 300, 20):
        refused = 0
        while refused < 3:
            durability = numbers.choice(["relaxed", "relaxed", "always"])
            batch = watched.batch(numbers.sample(streams, numbers.randint(1, 4)), numbers.randint(1, 3), longest)
            refused += watched.refused(durability, batch, errno.ENOSPC)
        counted["refused appends"] += refused
        watched.check(here_only=longest > 20)
