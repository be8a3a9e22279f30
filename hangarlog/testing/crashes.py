"""Every state that a power cut can leave of a folder, from a recording of what was done to its files.

    recording = Recording(folder)
    store = FileEventStore(folder, filesystem=recording)
    store.append(…); recording.note("acknowledged")
    for state in crash_states(recording.operations, random.Random(7)):
        state.write_to(another_folder)      # then open it, and see whether what `state.notes` says still holds

The model is the least that POSIX promises, less than any journaling file system gives: what was written to a file is on
the device once the file was synced, and a name once its folder was. Of everything later any part may be there and any
other missing, in any order, by sectors: each is as it was at some moment since the sync, and one that was lost before
one that was kept reads as zeros. What a sync has failed to bring to the device never comes there, whatever later syncs
say: only what is written anew does. The shared state is a file like the others where it is written through the seam;
what is written into mapped memory is not recorded.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from hangarlog.system.filesystem import FileSystem

SECTOR_BYTES = 512
"""What a device writes whole, or not."""

CACHES = frozenset(["state", "catalog"])
"""Files that nothing waits for to reach the device: any part of what is written to them may be there, or none."""

_MAX_EXHAUSTIVE = 8  # Up to so many unsynced operations every subset is a state; of more, some.


class Operation(NamedTuple):
    """What was done: `kind`, the file's number in the recording (-1: none), a path inside the folder, and the rest."""

    kind: str
    file: int = -1
    path: str = ""
    to: str = ""
    offset: int = 0
    data: bytes = b""
    note: Any = None


class Unsynced(FileSystem):
    """The real file system without its syncs, and with background work done at once: for many quick tries."""

    def sync_data(self, fd: int) -> None:
        """Nothing."""

    def sync_folder(self, path: str) -> None:
        """Nothing."""

    def sync_everything(self, folder: str, paths: Iterable[str]) -> None:
        """Nothing."""

    def in_background(self, work: Callable[[], None], name: str) -> None:
        """Do `work` now."""
        work()


class Recording(Unsynced):
    """A file system that notes what is done below `folder` in `operations`, in order. What is there already is noted
    first, as if it had been synced. The syncs whose numbers (from 0 on) are in `failing` fail.
    """

    def __init__(self, folder: str | os.PathLike[str], failing: Collection[int] = ()) -> None:
        self.folder = os.path.abspath(folder)
        self.operations: list[Operation] = []
        self.syncs = 0
        self._failing = failing
        self._numbers: dict[int, int] = {}
        self._files = 0
        for path, folders, files in os.walk(self.folder):
            for name in folders:
                self._add("folder", path=os.path.join(path, name))
            for name in files:
                full = os.path.join(path, name)
                number = self._new_file(os.stat(full).st_ino)
                self._add("create", number, full)
                self._add("write", number, data=self.read_file(full, os.stat(full).st_size))
        self._add("sync all")

    def note(self, note: Any) -> None:
        """Put a note among the operations: every state after it has it in its `notes`."""
        self._add("note", note=note)

    def _add(self, kind: str, file: int = -1, path: str = "", to: str = "", **rest: Any) -> None:
        path, to = (os.path.relpath(each, self.folder) if each else "" for each in (path, to))
        self.operations.append(Operation(kind, file, path, to, **rest))

    def _new_file(self, inode: int) -> int:
        self._numbers[inode] = self._files
        self._files += 1
        return self._numbers[inode]

    def _number(self, fd: int) -> int:
        return self._numbers[os.fstat(fd).st_ino]

    def _created(self, fd: int, path: str, existed: bool) -> int:
        if not existed:
            self._add("create", self._new_file(os.fstat(fd).st_ino), path)
        return fd

    def open_append(self, path: str, *, create: bool = False) -> int:
        """As the real one."""
        existed = os.path.lexists(path)
        return self._created(super().open_append(path, create=create), path, existed)

    def open_update(self, path: str, *, create: bool = False) -> int:
        """As the real one."""
        existed = os.path.lexists(path)
        return self._created(super().open_update(path, create=create), path, existed)

    def open_new(self, path: str) -> int:
        """As the real one."""
        return self._created(super().open_new(path), path, False)

    def write(self, fd: int, data: bytes) -> None:
        """As the real one; files are written at their end."""
        offset = self.size(fd)
        super().write(fd, data)
        self._add("write", self._number(fd), offset=offset, data=bytes(data))

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """As the real one."""
        super().write_at(fd, data, offset)
        self._add("write", self._number(fd), offset=offset, data=bytes(data))

    def truncate(self, fd: int, size: int) -> None:
        """As the real one."""
        super().truncate(fd, size)
        self._add("truncate", self._number(fd), offset=size)

    def link(self, old: str, new: str) -> None:
        """As the real one."""
        super().link(old, new)
        self._add("link", self._numbers[os.stat(old).st_ino], new)

    def rename(self, old: str, new: str) -> None:
        """As the real one."""
        super().rename(old, new)
        self._add("rename", self._numbers[os.stat(new).st_ino], old, new)

    def remove(self, path: str) -> None:
        """As the real one."""
        if os.path.lexists(path):
            super().remove(path)
            self._add("remove", path=path)

    def create_folder(self, path: str) -> None:
        """As the real one."""
        super().create_folder(path)
        self._add("folder", path=path)

    def sync_data(self, fd: int) -> None:
        """Note it."""
        self._sync("sync", self._number(fd))

    def sync_folder(self, path: str) -> None:
        """Note it."""
        self._sync("sync folder", path=path)

    def sync_everything(self, folder: str, paths: Iterable[str]) -> None:
        """Note it."""
        self._sync("sync all")

    def _sync(self, kind: str, file: int = -1, path: str = "") -> None:
        number, self.syncs = self.syncs, self.syncs + 1
        if number in self._failing:
            self._add(f"failed {kind}", file, path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._add(kind, file, path)


@dataclass
class CrashState:
    """A folder as a power cut may leave it: `files` by path inside it, `folders`, and `links`: other names of files.

    `at` is how many operations were begun, `lost` says what of them did not reach the device, `notes` what was noted
    before.
    """

    at: int
    lost: str
    notes: list[Any]
    files: dict[str, bytes]
    folders: list[str]
    links: dict[str, str] = field(default_factory=dict)

    def write_to(self, folder: str | os.PathLike[str]) -> None:
        """Make it real in an empty folder."""
        root = os.fspath(folder)
        for path in sorted(self.folders):
            os.makedirs(os.path.join(root, path), mode=0o700, exist_ok=True)
        for path, content in self.files.items():
            full = os.path.join(root, path)
            if os.path.isdir(os.path.dirname(full)):  # A name in a folder whose own name was lost is lost with it.
                fd = os.open(full, os.O_WRONLY | os.O_CREAT, 0o600)
                try:
                    os.write(fd, content)
                finally:
                    os.close(fd)
        for path, first in self.links.items():
            if os.path.exists(os.path.join(root, first)) and os.path.isdir(os.path.dirname(os.path.join(root, path))):
                os.link(os.path.join(root, first), os.path.join(root, path))


Choice = list[tuple[Operation, bool]]
"""Pending operations in order, each with whether it reached the device."""


@dataclass
class _Device:
    """What is surely on the device, and what is not yet, each operation with its place in the recording."""

    contents: dict[int, bytes] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)  # -1: a folder.
    pending: list[tuple[int, Operation]] = field(default_factory=list)
    stale: set[tuple[int, int]] = field(default_factory=set)  # Sectors (file, number) that a failed sync has lost.
    notes: list[Any] = field(default_factory=list)

    def take(self, at: int, operation: Operation) -> None:
        """Go one operation further."""
        kind = operation.kind.removeprefix("failed ")
        failed = kind != operation.kind
        if kind == "note":
            self.notes.append(operation.note)
        elif kind == "sync all":
            self._settle(lambda pending: True, failed)
        elif kind == "sync":
            self._settle(lambda p: p.kind in ("write", "truncate") and p.file == operation.file, failed)
        elif kind == "sync folder":
            self._settle(lambda pending: _names_in(pending, operation.path), failed)
        else:
            self.pending.append((at, operation))

    def _settle(self, concerned: Callable[[Operation], bool], failed: bool) -> None:
        for _, operation in self.pending:
            if concerned(operation):
                _take(operation, not failed, self.contents, self.names, self.stale)
        self.pending = [(at, operation) for at, operation in self.pending if not concerned(operation)]

    def after(self, at: int, choice: Choice, lost: str) -> CrashState:
        """The state in which of the pending operations those of the choice have reached the device."""
        contents, names = dict(self.contents), dict(self.names)
        stale = set(self.stale)
        for operation, reached in choice:
            _take(operation, reached, contents, names, stale)
        state = CrashState(at, lost, list(self.notes), {}, [path for path, number in names.items() if number < 0])
        first: dict[int, str] = {}
        for path, number in names.items():
            if number >= 0 and first.setdefault(number, path) == path:
                state.files[path] = contents.get(number, b"")
            elif number >= 0:
                state.links[path] = first[number]
        return state


def _names_in(operation: Operation, folder: str) -> bool:
    path = operation.to or operation.path
    return operation.kind not in ("write", "truncate") and (os.path.dirname(path) or ".") == (folder or ".")


def _take(
    operation: Operation, reached: bool, contents: dict[int, bytes], names: dict[str, int], stale: set[tuple[int, int]]
) -> None:
    if operation.kind in ("write", "truncate"):
        _apply_by_sector(operation, reached, contents, stale)
    elif reached:
        _apply(operation, contents, names)


def _apply(operation: Operation, contents: dict[int, bytes], names: dict[str, int]) -> None:
    kind, number, path = operation.kind, operation.file, operation.path
    if kind == "write":
        old = contents.get(number, b"").ljust(operation.offset, b"\0")
        contents[number] = old[: operation.offset] + operation.data + old[operation.offset + len(operation.data) :]
    elif kind in ("truncate", "extend"):
        kept = contents.get(number, b"") if kind == "extend" else contents.get(number, b"")[: operation.offset]
        contents[number] = kept.ljust(operation.offset, b"\0")
    elif kind == "folder":
        names[path] = -1
    elif kind in ("create", "link"):
        names[path] = number
    elif kind == "rename":
        names.pop(path, None)
        names[operation.to] = number
    elif kind == "remove":
        names.pop(path, None)


def _apply_by_sector(
    operation: Operation, reached: bool, contents: dict[int, bytes], stale: set[tuple[int, int]]
) -> None:
    """A sector that reaches the device has all that was written to it before: after a lost write, nothing later."""
    number, offset, data = operation.file, operation.offset, operation.data
    if operation.kind == "truncate":
        if not reached:
            stale.update(
                (number, sector)
                for sector in range(offset // SECTOR_BYTES, len(contents.get(number, b"")) // SECTOR_BYTES + 1)
            )
        elif not any(file == number for file, _ in stale):
            _apply(operation, contents, {})
        return
    for sector in range(offset // SECTOR_BYTES, -(-(offset + len(data)) // SECTOR_BYTES)):
        if reached and offset <= sector * SECTOR_BYTES and offset + len(data) >= (sector + 1) * SECTOR_BYTES:
            stale.discard((number, sector))  # Written anew, whole.
        if not reached:
            stale.add((number, sector))
        elif (number, sector) not in stale:
            start = max(0, sector * SECTOR_BYTES - offset)
            part = data[start : (sector + 1) * SECTOR_BYTES - offset]
            _apply(operation._replace(offset=offset + start, data=part), contents, {})


def crash_states(
    operations: list[Operation], rng: Random, per_point: int = 1 << 30, points: Container[int] | None = None
) -> Iterator[CrashState]:
    """The states after each operation, or those in `points` (from 1 on), at most `per_point` of each, by `rng`.

    After each operation: every subset of those not yet synced (of more than 8, some hundred subsets), and each write
    among them torn at every sector, within and around its last line at every byte, or with a sector lost. Of what is
    written to `CACHES` some is there, by `rng`: there is so much of it that nothing else would be seen to be lost.
    """
    device = _Device()
    caches = _files_of(operations, CACHES)
    seen: set[int] = set()
    begun = False
    for at, operation in enumerate(operations, 1):
        device.take(at, operation)
        begun = begun or operation.kind == "sync all"  # What the recording found is no work of the recorded.
        if not begun or (points is not None and at not in points) or operation.kind == "note":
            continue
        if operation.file in caches and operation.kind == "write":
            continue
        places = [n for n, (_, p) in enumerate(device.pending) if p.file not in caches or p.kind != "write"]
        losses = _losses([device.pending[n] for n in places], rng)
        if len(losses) > per_point:
            losses = rng.sample(losses, per_point)
        for loss in losses:
            choice, lost = _choice(device.pending, _with_caches(loss, places, len(device.pending), rng))
            state = device.after(at, choice, lost)
            names = (*state.folders, *sorted(state.links))
            known = hash((tuple(sorted(state.files.items())), names, len(state.notes)))
            if known not in seen:
                seen.add(known)
                yield state


def _files_of(operations: list[Operation], names: Container[str]) -> set[int]:
    """The files that have one of these names at some time, or are written to get it."""
    last = ((each.file, os.path.basename(each.to or each.path)) for each in operations if each.to or each.path)
    return {file for file, name in last if name.removesuffix(".new") in names}


class _Loss(NamedTuple):
    """One way to lose what is pending: what is not in `mask`, and some bytes of write number `write`."""

    mask: int
    write: int = -1
    start: int = 0
    stop: int = 0
    but_size: bool = False


def _with_caches(loss: _Loss, places: list[int], pending: int, rng: Random) -> _Loss:
    """The loss of the operations at `places`, put among all that are pending: those of caches were lost by chance."""
    mask = rng.choice([0, (1 << pending) - 1, (1 << rng.randrange(pending + 1)) - 1, rng.getrandbits(pending or 1)])
    for bit, place in enumerate(places):
        mask = mask & ~(1 << place) | (loss.mask >> bit & 1) << place
    return loss._replace(mask=mask, write=places[loss.write] if loss.write >= 0 else -1)


def _losses(pending: list[tuple[int, Operation]], rng: Random) -> list[_Loss]:
    count = len(pending)
    everything = (1 << count) - 1
    if count <= _MAX_EXHAUSTIVE:
        masks: Iterable[int] = range(1 << count)
    else:
        # All, none, all up to one, all but one, from one on, and any.
        masks = {0, everything, *((1 << n) - 1 for n in range(count)), *(everything ^ 1 << n for n in range(count))}
        masks |= {everything ^ ((1 << n) - 1) for n in range(count)} | {rng.getrandbits(count) for _ in range(256)}
    losses = [_Loss(mask) for mask in sorted(masks)]
    for n, (_, operation) in enumerate(pending):
        if operation.kind == "write":
            for mask in ((2 << n) - 1, everything):  # With everything after it, and alone.
                losses += _losses_in(operation, n, mask)
    return losses


def _losses_in(write: Operation, n: int, mask: int) -> Iterator[_Loss]:
    """The ways in which only a part of a write reaches the device."""
    size, offset = len(write.data), write.offset
    sectors = range(SECTOR_BYTES - offset % SECTOR_BYTES, size, SECTOR_BYTES)
    last_line = write.data.rfind(b"\n", 0, -1) + 1
    lines = b"\n" in write.data and size < 1 << 14
    for cut in {*sectors, *range(last_line, size)} if lines else sectors:
        yield _Loss(mask, n, cut, size)
    for start in (0, *sectors):
        yield _Loss(mask, n, start, min(size, start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES))
    yield _Loss(mask, n, 0, size, True)


def _choice(pending: list[tuple[int, Operation]], loss: _Loss) -> tuple[Choice, str]:
    """(what reaches the device and what does not, the latter in words)."""
    choice: Choice = []
    lost: list[str] = []
    for n, (at, operation) in enumerate(pending):
        if not loss.mask >> n & 1:
            choice.append((operation, False))
            lost.append(f"{kind_of(operation)} {at}")
        elif n == loss.write:
            lost.append(f"bytes {loss.start} to {loss.stop} of write {at}{' but for its size' * loss.but_size}")
            data, offset = operation.data, operation.offset
            if loss.but_size:
                choice.append((operation._replace(kind="extend", offset=offset + len(data)), True))
            for start, stop in ((0, loss.start), (loss.start, loss.stop), (loss.stop, len(data))):
                part = operation._replace(data=data[start:stop], offset=offset + start)
                choice.append((part, start != loss.start or stop != loss.stop))
        else:
            choice.append((operation, True))
    return choice, ", ".join(lost) or "nothing"


def kind_of(operation: Operation) -> str:
    """What an operation is called where it is missing."""
    return f"{operation.kind} of {operation.path}" if operation.path else operation.kind
