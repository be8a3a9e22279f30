"""The states in which a power cut can leave a folder, from a recording of the operations on its files.

    recording = Recording(folder)
    store = FileEventStore(folder, filesystem=recording)
    store.append(…); recording.note("acknowledged")
    for state in crash_states(recording.operations, random.Random(7)):
        state.write_to(another_folder)      # then open it, and check that what `state.notes` says still holds

The model assumes only what POSIX promises, which is less than any journaling file system provides. Written data is on
the device once its file was synced, and a name once its folder was synced. Of later operations, any part may have
reached the device, in any order. Data is kept or lost by sectors: each sector is as it was at some moment since the
sync, and a lost sector before a kept one reads as zeros. Data of a failed sync never reaches the device, whatever later
syncs report, unless it is written again. The shared state is recorded like any other file, but writes into mapped
memory are not recorded.
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
"""A device writes this many bytes completely or not at all."""

CACHES = frozenset(["state", "catalog"])
"""Files that are written without waiting for a sync, so the device may have any part of the writes."""

_MAX_EXHAUSTIVE = 8  # Up to this many unsynced operations, every subset becomes a state; beyond it, some do.


class Operation(NamedTuple):
    """An operation on a file: its `kind`, the file's number in the recording (-1: none), and its arguments.

    Paths are relative to the folder. `offset` is in bytes.
    """

    kind: str
    file: int = -1
    path: str = ""
    to: str = ""
    offset: int = 0
    data: bytes = b""
    note: Any = None


class Unsynced(FileSystem):
    """The real file system without syncs, and with background work done at once: it makes tests fast."""

    def sync_data(self, fd: int) -> None:
        """Do nothing."""

    def sync_folder(self, path: str) -> None:
        """Do nothing."""

    def sync_everything(self, folder: str, paths: Iterable[str]) -> None:
        """Do nothing."""

    def in_background(self, work: Callable[[], None], name: str) -> None:
        """Do `work` at once."""
        work()


class Recording(Unsynced):
    """A file system that records the operations below `folder` in `operations`.

    Existing files come first in the recording, as synced. Syncs whose numbers (from 0) are in `failing` fail.
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
        """Record a note. Every later state has it in its `notes`."""
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
        """Open a file, and record its creation."""
        existed = os.path.lexists(path)
        return self._created(super().open_append(path, create=create), path, existed)

    def open_update(self, path: str, *, create: bool = False) -> int:
        """Open a file, and record its creation."""
        existed = os.path.lexists(path)
        return self._created(super().open_update(path, create=create), path, existed)

    def open_new(self, path: str) -> int:
        """Create a file, and record it."""
        return self._created(super().open_new(path), path, False)

    def write(self, fd: int, data: bytes) -> None:
        """Write at the end of a file, and record it."""
        offset = self.size(fd)
        super().write(fd, data)
        self._add("write", self._number(fd), offset=offset, data=bytes(data))

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write at an offset, and record it."""
        super().write_at(fd, data, offset)
        self._add("write", self._number(fd), offset=offset, data=bytes(data))

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file, and record it."""
        super().truncate(fd, size)
        self._add("truncate", self._number(fd), offset=size)

    def link(self, old: str, new: str) -> None:
        """Give a file a second name, and record it."""
        super().link(old, new)
        self._add("link", self._numbers[os.stat(old).st_ino], new)

    def rename(self, old: str, new: str) -> None:
        """Rename a file, and record it."""
        super().rename(old, new)
        self._add("rename", self._numbers[os.stat(new).st_ino], old, new)

    def remove(self, path: str) -> None:
        """Delete a file, and record it."""
        if os.path.lexists(path):
            super().remove(path)
            self._add("remove", path=path)

    def create_folder(self, path: str) -> None:
        """Create a folder, and record it."""
        super().create_folder(path)
        self._add("folder", path=path)

    def sync_data(self, fd: int) -> None:
        """Record the sync."""
        self._sync("sync", self._number(fd))

    def sync_folder(self, path: str) -> None:
        """Record the sync."""
        self._sync("sync folder", path=path)

    def sync_everything(self, folder: str, paths: Iterable[str]) -> None:
        """Record the sync."""
        self._sync("sync all")

    def _sync(self, kind: str, file: int = -1, path: str = "") -> None:
        number, self.syncs = self.syncs, self.syncs + 1
        if number in self._failing:
            self._add(f"failed {kind}", file, path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._add(kind, file, path)


@dataclass
class CrashState:
    """A folder as a power cut may leave it.

    `files` maps paths inside it to contents, `links` maps further names of files to their first. `at` is the number of
    operations begun, `lost` describes those that did not reach the device, and `notes` has the notes so far.
    """

    at: int
    lost: str
    notes: list[Any]
    files: dict[str, bytes]
    folders: list[str]
    links: dict[str, str] = field(default_factory=dict)

    def write_to(self, folder: str | os.PathLike[str]) -> None:
        """Write the state into an empty folder."""
        root = os.fspath(folder)
        for path in sorted(self.folders):
            os.makedirs(os.path.join(root, path), mode=0o700, exist_ok=True)
        for path, content in self.files.items():
            full = os.path.join(root, path)
            if os.path.isdir(os.path.dirname(full)):  # If a folder's name was lost, so are its files.
                fd = os.open(full, os.O_WRONLY | os.O_CREAT, 0o600)
                try:
                    os.write(fd, content)
                finally:
                    os.close(fd)
        for path, first in self.links.items():
            if os.path.exists(os.path.join(root, first)) and os.path.isdir(os.path.dirname(os.path.join(root, path))):
                os.link(os.path.join(root, first), os.path.join(root, path))


Choice = list[tuple[Operation, bool]]
"""The pending operations in order, each with True if it reached the device."""


@dataclass
class _Device:
    """What is certainly on the device, and the pending operations, each with its number in the recording."""

    contents: dict[int, bytes] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)  # -1: a folder.
    pending: list[tuple[int, Operation]] = field(default_factory=list)
    stale: set[tuple[int, int]] = field(default_factory=set)  # The sectors (file, number) that a failed sync lost.
    notes: list[Any] = field(default_factory=list)

    def take(self, at: int, operation: Operation) -> None:
        """Advance by one operation."""
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
        """Return the state in which the chosen ones of the pending operations have reached the device."""
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
    """Apply a write or a cut sector by sector. A sector with a lost write gets no later write either."""
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
            stale.discard((number, sector))  # The whole sector is written again.
        if not reached:
            stale.add((number, sector))
        elif (number, sector) not in stale:
            start = max(0, sector * SECTOR_BYTES - offset)
            part = data[start : (sector + 1) * SECTOR_BYTES - offset]
            _apply(operation._replace(offset=offset + start, data=part), contents, {})


def crash_states(
    operations: list[Operation], rng: Random, per_point: int = 1 << 30, points: Container[int] | None = None
) -> Iterator[CrashState]:
    """Yield the possible states after each operation, or after those numbered in `points` (from 1 on).

    They are all subsets of the operations not yet synced (some hundred subsets if there are more than 8), and each
    unsynced write torn at every sector, torn at every byte of its last line, or with one sector lost. `rng` picks at
    most `per_point` states per operation. It also picks which writes to `CACHES` survive: trying all of these would
    leave too few states for the others.
    """
    device = _Device()
    caches = _files_of(operations, CACHES)
    seen: set[int] = set()
    begun = False
    for at, operation in enumerate(operations, 1):
        device.take(at, operation)
        begun = begun or operation.kind == "sync all"  # Before that, the recording only lists existing files.
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
    """Return the files that get one of these names at some time, or are written to replace one of them."""
    last = ((each.file, os.path.basename(each.to or each.path)) for each in operations if each.to or each.path)
    return {file for file, name in last if name.removesuffix(".new") in names}


class _Loss(NamedTuple):
    """One way to lose pending operations: those not in `mask`, and bytes `start` to `stop` of write number `write`.

    With `but_size`, that write still extends the file.
    """

    mask: int
    write: int = -1
    start: int = 0
    stop: int = 0
    but_size: bool = False


def _with_caches(loss: _Loss, places: list[int], pending: int, rng: Random) -> _Loss:
    """Extend a loss of operations at `places` to all pending ones: `rng` picks which cache writes are lost."""
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
        # All, none, all before one, all but one, all from one on, and random ones.
        masks = {0, everything, *((1 << n) - 1 for n in range(count)), *(everything ^ 1 << n for n in range(count))}
        masks |= {everything ^ ((1 << n) - 1) for n in range(count)} | {rng.getrandbits(count) for _ in range(256)}
    losses = [_Loss(mask) for mask in sorted(masks)]
    for n, (_, operation) in enumerate(pending):
        if operation.kind == "write":
            for mask in ((2 << n) - 1, everything):  # All later operations are lost too, or none.
                losses += _losses_in(operation, n, mask)
    return losses


def _losses_in(write: Operation, n: int, mask: int) -> Iterator[_Loss]:
    """Yield the ways in which only a part of a write reaches the device."""
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
    """Return (the choice of operations that reach the device, a description of the lost ones)."""
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
    """Return a description of an operation for `CrashState.lost`."""
    return f"{operation.kind} of {operation.path}" if operation.path else operation.kind
