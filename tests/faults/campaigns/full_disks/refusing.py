"""Disks and folders that refuse for another reason: read-only, forbidden, gone."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import shutil
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from hangarlog import FileEventStore, OutcomeUnknownError, StorageError, StoreOpenError

from ..disks import Disk, call
from ..jobs import die_with_parent
from .watched import OtherProcess, Watched, append, digest, error_of, look, told

NOBODY = 65534


def read_only(disk: Disk, seed: int) -> Counter[str]:
    """A disk that is remounted read-only and back; and, for ext4, one that the kernel makes read-only by itself."""
    numbers = random.Random(f"{seed} read-only {disk.kind}")
    other = OtherProcess()
    path = str(disk.folder / "read-only")
    disk.make()
    disk.mount()
    with told(f"{disk.kind} remounted read-only, seed {seed}"):
        watched = Watched(path, other, numbers, segment_bytes=3000)
        for _ in range(8):
            watched.goes_on()
        watched.close()  # The kernel does not remount a disk on which files are open for writing.
        disk.remount("ro")
        with FileEventStore(path) as reader:
            look(reader, digest(watched.content))
            _refused_for_ever(reader)
            disk.remount("rw")
            look(reader, digest(watched.content))
            again = _again(watched, other, numbers)
            again.goes_on()
            look(reader, digest(again.content))
        counted = Counter({"read-only": 1})
        if disk.kind == "ext4":
            counted += _made_read_only_by_the_kernel(disk, again, other, numbers)
            again = _again(again, other, numbers)
            again.check()
            again.goes_on()
        again.close()
    disk.umount()
    return counted


def _refused_for_ever(reader: FileEventStore) -> None:
    error = error_of(StoreOpenError, append, reader, [("a:1", [("never", "")])])
    assert "only be read" in str(error), error


def _again(watched: Watched, other: OtherProcess, numbers: random.Random) -> Watched:
    again = Watched(watched.path, other, numbers)
    again.content, again._ids = watched.content, watched._ids
    return again


def _made_read_only_by_the_kernel(
    disk: Disk, watched: Watched, other: OtherProcess, numbers: random.Random
) -> Counter[str]:
    """What ext4 does at an error in its own blocks: files that are open for writing refuse from one call to the next.

    It cannot be remounted after that, so the stores are closed and the disk is mended in between.
    """
    counted = Counter({"read-only": 1})
    trigger = Path(f"/sys/fs/ext4/{disk.device()}/trigger_fs_error")
    disk.remount("errors=remount-ro")
    watched.goes_on()
    call("sync", "-f", str(disk.folder))  # What is not on the device yet would be lost here, and that is another row.
    trigger.write_text("hangarlog tests a disk that becomes read-only")
    for streams in (["a:1"], ["a:1", "b:1"], ["new:1"], ["a:1"]):
        error = error_of((StorageError, OutcomeUnknownError), watched.append, "relaxed", watched.batch(streams))
        # It could perhaps not be taken back either; nothing of it may be seen all the same.
        assert os.strerror(errno.EROFS) in str(error), error
        counted["read-only: outcome unknown"] += isinstance(error, OutcomeUnknownError)
    watched.check(here_only=True)
    watched.close()
    disk.umount()
    call("e2fsck", "-fy", str(disk.image), allowed=(0, 1))
    disk.mount()
    return counted


def forbidden(seed: int) -> Counter[str]:
    """The permission to write goes, and comes back, while an ordinary user has the store open."""
    base = tempfile.mkdtemp(prefix="hangarlog-forbidden-")
    try:
        if os.getuid() == 0:
            os.chown(base, NOBODY, NOBODY)
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_forbidden_to_nobody, args=(theirs, base, seed))
        process.start()
        theirs.close()
        try:
            problem = ours.recv()
        except EOFError:
            problem = "it said nothing"
        process.join()
        assert (problem, process.exitcode) == ("", 0), f"a process ended with {process.exitcode}: {problem}"
    finally:
        shutil.rmtree(base)
    return Counter({"permission lost": 3})


def _forbidden_to_nobody(connection: Connection, base: str, seed: int) -> None:
    die_with_parent()
    problem = ""
    try:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        for place in (".", "streams", "streams/a"):
            with told(f"no permission to write to the store's folder {place}, seed {seed}"):
                _forbidden_at(f"{base}/store", place, OtherProcess(), random.Random(f"{seed} {place}"))
    except BaseException as error:
        problem = str(error)
    connection.send(problem)


def _forbidden_at(path: str, place: str, other: OtherProcess, numbers: random.Random) -> None:
    watched = Watched(path, other, numbers)
    watched.goes_on()
    folder = os.path.normpath(f"{path}/{place}")
    journal = f"{path}/journal.jsonl"
    os.chmod(folder, 0o500)
    os.chmod(journal, 0o400)
    # What is open stays open, so the streams at hand go on. A new file is refused.
    watched.append("relaxed", watched.batch(["a:1"]))
    if place != ".":
        name = "a:new" if place == "streams/a" else "other:new"
        assert watched.refused("relaxed", watched.batch(["a:1", name]), errno.EACCES)
    watched.check(here_only=True)
    # Who opens it now may read all of it, and is told why not more.
    with FileEventStore(path) as late:
        look(late, digest(watched.content))
        error = error_of(StorageError, append, late, [("a:1", [("never", "")])])
        assert error is not None, "it wrote to a journal that it has no permission to write to"
        assert error.errno == errno.EACCES, error
    os.chmod(folder, 0o700)
    os.chmod(journal, 0o600)
    watched.check()
    watched.goes_on()
    watched.close()
    shutil.rmtree(path)


def vanished(folder: Path, seed: int) -> Counter[str]:
    """The store's folder is renamed away and back while it is open, as where a disk is mounted over it."""
    numbers = random.Random(f"{seed} vanished")
    other = OtherProcess()
    path = str(folder / "vanishing")
    for number in range(4):
        with told(f"vanished folder, time {number}, seed {seed}"):
            watched = Watched(path, other, numbers, segment_bytes=2000)
            for _ in range(number * 3):
                watched.goes_on()
            if number % 2 == 0:
                watched.append("relaxed", watched.batch(["a:1"]))
            os.rename(path, path + "-away")
            for n in range(3):
                batch = watched.batch(["a:1", f"new:{n}"])
                error = error_of(StoreOpenError, watched.append, "relaxed", batch)
                assert "its folder was moved" in str(error), error
            os.rename(path + "-away", path)
            watched.check()
            watched.goes_on()
            watched.close()
            shutil.rmtree(path)
    return Counter({"folder vanished": 4})
