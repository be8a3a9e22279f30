"""A part of row 10: who owns a store's folder swaps its parts, while somebody else, root perhaps, works in the store.

Another process, as another user where that can be, exchanges a file or folder with a symbolic link into a store of the
victim's, thousands of times a second. Whatever the victim calls meanwhile, nothing of that other store may change, and
nothing of it may be read.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import shutil
import signal
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from hangarlog import ANY, EventSerializer, FileEventStore, HangarlogError, UntypedEvent
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.testing import Unsynced

from .part import Part

OTHER = 65534
"""The user who owns the folder, where the victim is root."""

TARGETS = (
    *("streams", "streams/a", "snapshots", "snapshots/a", "locks", "journal.jsonl", "streams/a/1.jsonl"),
    *("streams/plain.jsonl", "state", "ring", "catalog", "checkpoint.json", "snapshots/a/1.json", "hangarlog.json"),
)
_EXCHANGE = 2
_COUNT = struct.Struct("=QQ")  # Whether to stop; exchanges so far.


def exchange(first: bytes, second: bytes) -> bool:
    """Exchange two names in the current folder at one moment; says whether it could."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = -100
    return bool(libc.renameat2(here, first, here, second, _EXCHANGE) == 0)


@contextlib.contextmanager
def swapping(store: Path, name: str, link: Path, seed: int) -> Iterator[Callable[[], int]]:
    """Exchange `name` with a link, over and over, in another process; what is given says how often by now."""
    shared = mmap.mmap(-1, _COUNT.size)
    aside = f"{name}.aside"
    (store / aside).symlink_to(link)
    pid = os.fork()
    if not pid:
        try:
            os.chdir(store)
            if not os.geteuid():
                os.setgroups([])
                os.setresgid(OTHER, OTHER, OTHER)
                os.setresuid(OTHER, OTHER, OTHER)
            _swap(shared, name.encode(), aside.encode(), random.Random(seed))
        finally:
            os._exit(0)
    try:
        yield lambda: int(_COUNT.unpack_from(shared)[1])
    finally:
        shared[0:8] = struct.pack("=Q", 1)
        os.waitpid(pid, 0)
        if (store / name).is_symlink():
            os.chdir(store)
            exchange(name.encode(), aside.encode())
            os.chdir("/")
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            (store / aside).unlink()  # It may have got other names meanwhile.


def _swap(shared: mmap.mmap, name: bytes, aside: bytes, rng: random.Random) -> None:
    signal.alarm(120)  # If nobody says that it is to stop.
    count = 0
    while not _COUNT.unpack_from(shared)[0]:
        count += exchange(name, aside)
        shared[8:16] = struct.pack("=Q", count)
        for _ in range(rng.choice((0, 10, 100, 1000))):
            pass


def opened(path: Path) -> FileEventStore:
    serializer = EventSerializer(unknown="untyped")
    return FileEventStore(path, serializer=serializer, durability="relaxed", filesystem=Unsynced(), lock_timeout=1.0)


def fill(path: Path, mark: str) -> None:
    """A store with every kind of file; each event's id begins with `mark`."""
    serializer = EventSerializer(unknown="untyped")
    numbers = iter(range(1000))

    def events(count: int) -> list[UntypedEvent]:
        return [UntypedEvent("T", {"text": "x" * 900}, event_id=f"{mark}{next(numbers)}") for _ in range(count)]

    with FileEventStore(path, serializer=serializer, durability="relaxed", segment_bytes=20_000) as store:
        for _ in range(6):
            store.append_many([("a:1", events(5), ANY), ("b:1", events(1), ANY), ("plain", events(3), ANY)])
        store.save_snapshot("a:1", 5, {"mark": mark})
        store.compact_stream("a:1")
        store.sync()


def everything(path: Path) -> dict[str, tuple[int, ...] | bytes]:
    """Kind and mode, owner, group, names and time of the last change of each file and folder; what each file holds."""
    found: dict[str, tuple[int, ...] | bytes] = {}
    for each in (path, *sorted(path.rglob("*"))):
        its = each.lstat()
        found[str(each)] = (its.st_mode, its.st_uid, its.st_gid, its.st_nlink, its.st_mtime_ns)
        if each.is_file():
            found[f"{each} content"] = each.read_bytes()
    return found


def calls(path: Path, target: Path) -> dict[str, Callable[[], list[str]]]:
    """What the victim does; each gives the ids and marks of what it read."""

    def with_store(act: Callable[[FileEventStore], object]) -> Callable[[], list[str]]:
        def call() -> list[str]:
            with opened(path) as store:
                found: list[str] = []
                for _ in range(3):  # The first refusal of a call is not the last.
                    with contextlib.suppress(HangarlogError):
                        result = act(store)
                        found += result if isinstance(result, list) else []
                return found

        return call

    def appended(store: FileEventStore) -> None:
        event = UntypedEvent("T", {"text": "x" * 9000})
        for stream_id in ("a:1", "plain", "new:1"):
            with contextlib.suppress(HangarlogError):
                store.append(stream_id, [event], ANY)

    def read(store: FileEventStore) -> list[str]:
        found = [record.event_id for record in store.records()]
        for stream_id in ("a:1", "b:1", "plain"):
            found += [record.event_id for record in store.records(stream_id)]
            snapshot = store.load_snapshot(stream_id)
            found += [snapshot["state"]["mark"]] if snapshot else []
        return found

    def saved(store: FileEventStore) -> None:
        store.save_snapshot("a:1", 6, {"mark": "mine"})
        store.save_snapshot("new:2", 0, {"mark": "mine"})

    def repaired() -> list[str]:
        list(repair(path, filesystem=Unsynced(), lock_timeout=1.0))
        return []

    def backed_up() -> list[str]:
        shutil.rmtree(target, ignore_errors=True)
        backup(path, target, filesystem=Unsynced())
        with opened(target) as copy:
            return [record.event_id for record in copy.records()]

    return {
        "append": with_store(appended),
        "read": with_store(read),
        "save a snapshot": with_store(saved),
        "compact": with_store(lambda store: store.compact_stream("a:1")),
        "verify": with_store(lambda store: [damage.path for damage in verify(store)] and None),
        "repair": repaired,
        "backup": backed_up,
    }


def co_users(part: Part) -> None:
    """Every part of a store is swapped for a link to the same part of another store while every call is made."""
    victim, base = part.outside / "victim", part.folder / "base"
    fill(victim, "outside")
    fill(base, "mine")
    before = everything(victim)
    for name in (name for name in TARGETS if (base / name).exists()):
        for called in calls(part.path, part.folder / "backup"):
            for turn in range(max(6, part.size // 40)):
                shutil.rmtree(part.path, ignore_errors=True)
                shutil.copytree(base, part.path, symlinks=True)
                (part.path / "state").unlink()
                opened(part.path).close()
                if not os.geteuid():
                    for each in (part.path, *part.path.rglob("*")):
                        os.chown(each, OTHER, OTHER)
                with part.case(f"{name} is swapped during {called}, turn {turn}"):
                    _play(part, name, victim, called)
                    assert everything(victim) == before, "another store was changed"
    part.figures["of them by another user"] = 0 if os.geteuid() else part.figures["swaps"]


def _play(part: Part, name: str, victim: Path, called: str) -> None:
    call = calls(part.path, part.folder / "backup")[called]
    with warnings.catch_warnings(), swapping(part.path, name, victim / name, part.rng.getrandbits(30)) as swaps:
        warnings.simplefilter("ignore")
        while swaps() < 30:
            pass
        for _ in range(3):
            try:
                found = call()
            except (HangarlogError, OSError, ValueError):
                part.figures["refusals"] += 1
                continue
            read = [each for each in found if each.startswith("outside")]
            assert not read, f"events of another store were read: {read[:3]}"
        part.figures["swaps"] += swaps()
