"""Row 3: a disk that is full at every byte, read-only, forbidden, or gone, while a store is open in two processes.

Limits of file sizes (RLIMIT_FSIZE) refuse at any byte without root. A tmpfs and an ext4 in an image are filled for
real; they are mounted in a mount namespace of the run's own, so nothing of them is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hangarlog.filestore.catalog
from hangarlog import (
    ANY,
    FileEventStore,
    OutcomeUnknownError,
    StorageError,
    StoreOpenError,
    UntypedEvent,
)
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem

from .harness import Campaign, Figures

NOBODY = 65534
TMPFS_BYTES = 3 << 20
IMAGE_BYTES = 8 << 20
MAKE = {
    "ext4": ["mkfs.ext4", "-qF", "-E", "nodiscard"],
    "xfs": ["mkfs.xfs", "-qfK"],
    "btrfs": ["mkfs.btrfs", "-qfK"],
}

Batch = list[tuple[str, list[tuple[str, str]]]]  # Of each stream, the id and the text of each event.
Content = list[tuple[str, str, str]]  # Stream, id and text of each event.


# What a store must hold, asked from two processes


def append(store: FileEventStore, batch: Batch) -> None:
    store.append_many(
        (stream_id, [UntypedEvent("Added", {"text": text}, event_id=event_id) for event_id, text in events], ANY)
        for stream_id, events in batch
    )


def digest(content: Content) -> tuple[int, int]:
    return len(content), zlib.crc32(repr(content).encode())


def content_of(store: FileEventStore, stream_id: str | None = None) -> Content:
    return [
        (envelope.stream_id, envelope.event_id, json.loads(bytes(envelope.data))["text"])
        for block in store.envelopes(stream_id)
        for envelope in block
    ]


def error_of(kinds: Any, work: Callable[..., object], *arguments: Any) -> Any:
    """The error of one of these kinds that it ends with, None if it succeeds."""
    try:
        work(*arguments)
    except kinds as error:
        return error
    return None


def look(store: FileEventStore, expected: tuple[int, int]) -> None:
    """It holds exactly that, in the journal and in every stream, and nothing is damaged."""
    content = content_of(store)
    assert digest(content) == expected, f"it holds {len(content)} events, not these {expected[0]}"
    assert store.get_event_count() == expected[0]
    streams: dict[str, Content] = {}
    for event in content:
        streams.setdefault(event[0], []).append(event)
    assert store.list_streams() == sorted(streams)
    for stream_id, events in streams.items():
        assert content_of(store, stream_id) == events, f"stream {stream_id} differs from the journal"
        assert store.get_stream_version(stream_id) == len(events) - 1
    damage = list(verify(store))
    assert not damage, f"verify finds {damage[0]}"


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _serve(connection: Connection) -> None:
    """The other process: does what it is told to open stores, and answers with what went wrong."""
    die_with_parent()
    stores: dict[str, FileEventStore] = {}
    while True:
        try:
            path, work, argument = connection.recv()
        except EOFError:
            os._exit(0)
        problem = ""
        try:
            if work == "close":
                stores.pop(path).close()
            else:
                store = stores.get(path) or stores.setdefault(path, FileEventStore(path))
                {"append": append, "look": look}[work](store, argument)
        except Exception:
            problem = traceback.format_exc()
        connection.send(problem)


class OtherProcess:
    """A process that was forked before anything was refused, and has its own stores open all the time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, path: str, work: str, argument: Any = None) -> None:
        try:
            self._connection.send((path, work, argument))
            problem = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            problem = f"it ended with {self._process.exitcode}"
        assert not problem, f"in the other process: {problem}"


class Watched:
    """A store that is open here twice, durable and relaxed, and in another process, and what it must hold."""

    def __init__(self, path: str, other: OtherProcess, numbers: random.Random, segment_bytes: int = 64 << 20) -> None:
        self.path, self._other, self._numbers = path, other, numbers
        self.content: Content = []
        self._known_there = False
        self._ids = 0
        self.stores = {
            durability: FileEventStore(path, durability=durability, segment_bytes=segment_bytes)
            for durability in ("relaxed", "always")
        }

    def batch(self, streams: list[str], each: int = 1, longest: int = 9) -> Batch:
        return [(stream_id, [self._event(longest) for _ in range(each)]) for stream_id in streams]

    def _event(self, longest: int) -> tuple[str, str]:
        self._ids += 1
        return f"e{self._ids}", "x" * self._numbers.randint(0, longest)

    def append(self, durability: str, batch: Batch) -> None:
        append(self.stores[durability], batch)
        self._count(batch)

    def append_there(self, batch: Batch) -> None:
        self._known_there = True
        self._other.ask(self.path, "append", batch)
        self._count(batch)

    def _count(self, batch: Batch) -> None:
        self.content += [(stream_id, *event) for stream_id, events in batch for event in events]

    def refused(self, durability: str, batch: Batch, code: int) -> bool:
        """Whether that append is refused, in which case it must say why, and that nothing was written."""
        error = error_of(StorageError, self.append, durability, batch)
        if error is not None:
            assert error.errno == code, f"refused with {error.errno}, not {code}: {error}"
            assert isinstance(error.__cause__, OSError), f"it has no cause: {error!r}"
            assert os.strerror(code) in str(error), error
        return error is not None

    def check(self, *, here_only: bool = False) -> None:
        """Seen by the stores that are open; and by a fresh one and the other process, which need no limit lifted."""
        expected = digest(self.content)
        for store in self.stores.values():
            look(store, expected)
        if not here_only:
            self._known_there = True
            with FileEventStore(self.path) as fresh:
                look(fresh, expected)
            self._other.ask(self.path, "look", expected)

    def goes_on(self) -> None:
        """The next appends succeed: from either store here, from the other process, and from here again."""
        first, second = self._numbers.sample(sorted(self.stores), 2)
        self.append(first, self.batch(["a:1", "b:1"]))
        self.append_there(self.batch(["b:1", "new:there"]))
        self.append(second, self.batch(["b:1", "a:1"]))
        self.check()

    def close(self) -> None:
        for store in self.stores.values():
            store.close()
        if self._known_there:
            self._other.ask(self.path, "close")


@contextlib.contextmanager
def told(facts: str) -> Iterator[None]:
    """Whatever goes wrong inside is a broken promise, and is told with what is needed to see it again."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{facts}: {error}\n{traceback.format_exc()}") from error


# Limits of file sizes


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process may be written beyond `size` bytes: the kernel takes what fits, then refuses."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


class Died(BaseException):
    """The process is gone."""


class Dying(FileSystem):
    """Does nothing any more after so many writes."""

    writes_left = 1 << 60

    def write(self, fd: int, data: bytes) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise Died
        super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        if self.writes_left < 0:
            raise Died
        super().truncate(fd, size)


class Limits:
    """One limit after the other, a byte further each, in six places of a small workload."""

    def __init__(self, folder: Path, many: Path, seed: int) -> None:
        self._folder, self._many, self._seed = folder, many, seed
        self._other = OtherProcess()
        self._stores = 0
        self._watched: Watched | None = None
        self.counted: Counter[str] = Counter()

    def run(self, size: int) -> None:
        with patch.object(
            hangarlog.filestore.catalog, "_MIN_SLOTS", 16
        ):  # Else the catalog would be the longest file, and meet it.
            self._run(size)

    def _run(self, size: int) -> None:
        # The shares are such that 1,000 limits are every byte of a batch of two in each place.
        places = [(self.journal, 37), (self.first_stream, 18), (self.last_stream, 18)]
        places += [(self.creation, 13), (self.recovery, 8), (self.ring, 6)]
        done = [0] * len(places)
        for number in range(size):
            turn = max(range(len(places)), key=lambda at: places[at][1] * (number + 1) - 100 * done[at])
            place, byte = places[turn][0], done[turn]
            done[turn] += 1
            with told(f"limit {number} of {size}, seed {self._seed}: byte {byte} of {place.__name__}"):
                place(byte, random.Random(f"{self._seed} {number}"))
            self.counted["limits"] += 1
        self._drop()

    def _path(self, folder: Path | None = None) -> str:
        self._stores += 1
        return str((folder or self._many) / str(self._stores))

    def _drop(self) -> None:
        if self._watched:
            self._watched.close()
            shutil.rmtree(self._watched.path)
            self._watched = None

    def _meet(self, watched: Watched, limit: int, streams: list[str]) -> None:
        """Append in both ways until the limit refuses; look from everywhere; go on when it is lifted."""
        with limited(limit):
            for durability in watched.stores:
                # What a limit leaves room for is written; the workload is small, so it is met soon.
                assert any(watched.refused(durability, watched.batch(streams), errno.EFBIG) for _ in range(60))
                self.counted["refused appends"] += 1
            watched.check(here_only=True)
        watched.check()
        watched.goes_on()

    def journal(self, byte: int, numbers: random.Random) -> None:
        """The journal is the longest file of lines, so it is the one that meets the limit, at any byte of a batch."""
        watched, end = self._grown(numbers)
        streams = [*numbers.sample(["a:1", "b:1", "c:1", "d"], numbers.randint(1, 3)), f"new:{byte}"]
        self._meet(watched, end + byte, streams[: numbers.randint(1, 4)] if byte % 4 else ["a:1", "b:1"])

    def _grown(self, numbers: random.Random) -> tuple[Watched, int]:
        """A store that is used until it is no longer small, and the size of its journal."""
        if self._watched is None or len(self._watched.content) > 400:
            self._drop()
            self._watched = Watched(self._path(self._folder), self._other, numbers)
            self._watched.append("relaxed", self._watched.batch(["a:1", "b:1"], 2))
        return self._watched, os.path.getsize(f"{self._watched.path}/journal.jsonl")

    def ring(self, byte: int, numbers: random.Random) -> None:
        """The journal has room, and the commit ring's next block has not: it is as if there were no ring."""
        watched, _ = self._grown(numbers)
        for _ in range(12):
            watched.append("always", watched.batch(["a:1"]))
        end = os.path.getsize(f"{watched.path}/journal.jsonl")
        with limited(end + 700 + byte):
            watched.append("always", watched.batch(["a:1", "b:1"]))
            watched.check(here_only=True)
        watched.check()
        self._meet(watched, os.path.getsize(f"{watched.path}/journal.jsonl") + byte, ["a:1", "b:1"])

    def first_stream(self, byte: int, numbers: random.Random) -> None:
        self._stream(byte, numbers, ["a:1", "b:1"])

    def last_stream(self, byte: int, numbers: random.Random) -> None:
        self._stream(byte, numbers, ["b:1", "c:1", "a:1"])

    def _stream(self, byte: int, numbers: random.Random, streams: list[str]) -> None:
        """A journal that has just begun a segment is shorter than a stream that has not, which meets the limit then."""
        watched = Watched(self._path(), self._other, numbers, segment_bytes=6000)
        try:
            watched.append("relaxed", watched.batch(["b:1"], 8))
            while os.path.getsize(f"{watched.path}/journal.jsonl") < 6000:
                watched.append("relaxed", watched.batch(["a:1"]))
            watched.append("relaxed", watched.batch(["b:1"]))
            end = os.path.getsize(f"{watched.path}/streams/a/1.jsonl")
            assert os.path.getsize(f"{watched.path}/journal.jsonl") + 700 < end < 5800
            # A batch that fits is followed by another, so the limit has to be in the first one.
            self._meet(watched, end + byte % 160, streams)
        finally:
            watched.close()
        shutil.rmtree(watched.path)

    def creation(self, byte: int, numbers: random.Random) -> None:
        """A folder that could not become a store becomes one as soon as there is room."""
        limit = byte if byte < 130 or byte % 2 else 4096 - 70 + byte // 2
        path = self._path()

        def create_and_append() -> None:
            with FileEventStore(path) as store:
                append(store, [("a:1", [("x", "y" * 5000)])])

        with limited(limit):
            error = error_of((StorageError, StoreOpenError), create_and_append)
        assert os.strerror(errno.EFBIG) in str(error), error
        self.counted["refused creations"] += isinstance(error, StoreOpenError)
        watched = Watched(path, self._other, numbers)
        try:
            watched.check()
            watched.goes_on()
        finally:
            watched.close()
        shutil.rmtree(path)

    def recovery(self, byte: int, numbers: random.Random) -> None:
        """What a dead writer left cannot be finished under a limit, and is finished when it is lifted."""
        watched = Watched(self._path(), self._other, numbers)
        try:
            watched.append("relaxed", watched.batch(["a:1", "b:1"], 4))
            dying = Dying()
            with FileEventStore(watched.path, durability="relaxed", filesystem=dying) as store:
                batch = watched.batch(["c:1", "a:1"])
                dying.writes_left = 1 + byte % 2  # The journal's; and the first stream's.
                with contextlib.suppress(Died):
                    append(store, batch)
            watched._count(batch)  # It is whole in the journal, so it counts.
            end = os.path.getsize(f"{watched.path}/streams/a/1.jsonl")
            with limited(end + byte):
                for durability in watched.stores:
                    assert watched.refused(durability, watched.batch(["b:1"]), errno.EFBIG)
                    self.counted["refused recoveries"] += 1
            watched.goes_on()
        finally:
            watched.close()
        shutil.rmtree(watched.path)


# Disks that are full


class Disk:
    """A file system of this mount namespace. Unmounted when the namespace ends, if not before."""

    def __init__(self, kind: str, folder: Path, size: int) -> None:
        self.kind, self.folder, self.size = kind, folder / f"{kind}-mounted", size
        self.image = folder / f"{kind}.image"
        self.folder.mkdir(exist_ok=True)

    def make(self) -> None:
        if self.kind != "tmpfs":
            self.image.unlink(missing_ok=True)
            with self.image.open("wb") as file:
                file.truncate(self.size)
            call(*MAKE[self.kind], str(self.image))

    def mount(self, options: str = "") -> None:
        if self.kind == "tmpfs":
            call("mount", "-t", "tmpfs", "-o", f"size={self.size}{options}", "hangarlog", str(self.folder))
        else:
            call("mount", "-t", self.kind, "-o", f"loop{options}", str(self.image), str(self.folder))

    def remount(self, options: str) -> None:
        call("mount", "-o", f"remount,{options}", str(self.folder))

    def umount(self) -> None:
        call("umount", str(self.folder))

    def free(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bfree * found.f_frsize

    def device(self) -> str:
        number = os.stat(self.folder).st_dev
        return os.path.basename(os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"))


def call(*command: str, allowed: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in allowed, f"{' '.join(command)}: {done.stdout}{done.stderr}"


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
    ballast.unlink()
    watched.check()
    watched.goes_on()
    watched.close()
    shutil.rmtree(path)


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


# Disks that refuse for another reason


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


# The run


def run_in_a_process(job: str, folder: Path, size: int, seed: int, *, mounts: bool = False) -> dict[str, Any]:
    """What `JOBS[job]` of a module counts, run in a process of its own, with mounts that nobody else sees."""
    module, _, name = job.partition(":")
    done = subprocess.run(
        [
            *(["unshare", "-m", "--"] if mounts else []),
            sys.executable,
            "-m",
            module,
            name,
            folder,
            *map(str, (size, seed)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, f"{job} ended with {done.returncode}: {done.stderr[-6000:]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert "broken" not in found, found["broken"]
    return found


def main(jobs: dict[str, Callable[[Path, int, int], dict[str, Any]]]) -> None:
    """The other end of `run_in_a_process`."""
    die_with_parent()
    name, folder, size, seed = sys.argv[1:]
    try:
        found: dict[str, Any] = jobs[name](Path(folder), int(size), int(seed))
    except AssertionError as error:
        found = {"broken": str(error)}
    print(json.dumps(found))


def no_mounts() -> str | None:
    """Why no file system can be mounted here, None if one can."""
    if os.getuid() != 0:
        return "needs root"
    for program in ("unshare", "mount", "umount"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "hangarlog", "/tmp"], capture_output=True, check=False
    )
    return None if tried.returncode == 0 else "no mounts are allowed here"


def no_loop_mounts(kind: str) -> str | None:
    """Why no image with a file system of this kind can be mounted here, None if one can."""
    if reason := no_mounts():
        return reason
    if shutil.which(f"mkfs.{kind}") is None:
        return f"mkfs.{kind} is not installed"
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    if f"\t{kind}\n" not in Path("/proc/filesystems").read_text():
        loaded = shutil.which("modprobe") and subprocess.run(["modprobe", kind], capture_output=True, check=False)
        if not loaded or loaded.returncode:
            return f"the kernel has no {kind}"
    return None


def _limits(folder: Path, size: int, seed: int) -> dict[str, Any]:
    return _limits_in(folder, folder, size, seed)


def _limits_and_memory(folder: Path, size: int, seed: int) -> dict[str, Any]:
    """With the stores of which each limit wants a new one in memory, where making them takes no time."""
    disk = Disk("tmpfs", folder, 64 << 20)
    disk.mount()
    return _limits_in(folder, disk.folder, size, seed)


def _limits_in(folder: Path, many: Path, size: int, seed: int) -> dict[str, Any]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = Limits(folder, many, seed)
    limits.run(size)
    return dict(limits.counted + vanished(many, seed) + forbidden(seed))


def _tmpfs(folder: Path, size: int, seed: int) -> dict[str, Any]:
    disk = Disk("tmpfs", folder, TMPFS_BYTES)
    return dict(fill(disk, size, seed) + read_only(disk, seed))


def _ext4(folder: Path, size: int, seed: int) -> dict[str, Any]:
    disk = Disk("ext4", folder, IMAGE_BYTES)
    return dict(fill(disk, size, seed) + read_only(disk, seed))


JOBS = {"limits": _limits, "limits-and-memory": _limits_and_memory, "tmpfs": _tmpfs, "ext4": _ext4}


def run(folder: Path, size: int, seed: int) -> Figures:
    mounts = no_mounts() is None
    job = f"{__name__}:limits-and-memory" if mounts else f"{__name__}:limits"
    figures: Figures = dict(run_in_a_process(job, folder, size, seed, mounts=mounts))
    rounds = max(2, size // 25)
    for kind, missing in (("tmpfs", no_mounts()), ("ext4", no_loop_mounts("ext4"))):
        if missing:
            figures[kind] = f"left out: {missing}"
            continue
        found = run_in_a_process(f"{__name__}:{kind}", folder, rounds, seed, mounts=True)
        figures |= {f"{kind}: {what}": number for what, number in found.items()}
    return figures


def missing() -> str | None:
    # Without root the limits still run; where everything must be there, that is not enough.
    return (no_mounts() or no_loop_mounts("ext4")) if os.environ.get("HANGARLOG_REQUIRE_TOOLS") else None


CAMPAIGN = Campaign(
    row=3,
    fault="a full disk, a read-only one, a folder that is forbidden or gone",
    promise="the append fails whole with its cause, everything stays readable, the next one works when there is room",
    how="RLIMIT_FSIZE at successive bytes; a tmpfs and a loop-mounted ext4 filled, freed and gone on with",
    ci=1_000,
    release=1_000,
    unit="limits",
    run=run,
    missing=missing,
)

if __name__ == "__main__":
    main(JOBS)
