"""The cells of a table, each in a forked process of its own: what dies, or hangs, does so alone."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import random
import re
import selectors
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hangarlog
from hangarlog import EventSerializer, FileEventStore, UntypedEvent
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.open_folder import Beneath
from hangarlog.testing import Unsynced

from .harness import Figures
from .jobs import ring_at_once

GUARD = float(os.environ.get("HANGARLOG_GUARD", "30"))
"""Seconds after which a call hangs. Only broken promises wait for it."""
ENOUGH = int(os.environ.get("HANGARLOG_HANGS", "20"))
"""After so many hangs the rest is left: they take time, and more of them say nothing new."""
AT_ONCE = 3
LIBRARY = os.path.join(os.path.dirname(os.path.abspath(hangarlog.__file__)), "")
SHOWN = 6


class Cell:
    """What one cell has counted, and which promises it has seen broken."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.figures: Counter[str] = Counter()
        self.broken: list[str] = []

    def breaks(self, effect: str) -> None:
        """Go on, but say so: one broken promise often breaks others, and each says something."""
        if effect not in self.broken:
            self.broken.append(effect)


class _Process:
    """A cell's process, and what it has said so far."""

    def __init__(self, cell: Cell, folder: Path, work: Callable[[Cell, Path], object]) -> None:
        self.cell, self.folder, self.said = cell, folder, b""
        self.stacks = folder.with_suffix(".stacks")
        self.ends = time.monotonic() + GUARD
        self.reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writing)
            return
        os.setpgid(0, 0)  # What it starts is ended with it.
        try:
            faulthandler.register(signal.SIGUSR1, open(self.stacks, "w"))  # noqa: SIM115 - until the end
            with _failures_of_threads(cell), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # What is damaged is served from its other copy.
                work(cell, folder)
        except BaseException as error:
            places = [f"{Path(at.filename).name}:{at.lineno}" for at in traceback.extract_tb(error.__traceback__)]
            cell.breaks(f"the cell ends in {error!r:.200} at {' '.join(places[-4:])}")
        finally:
            report = json.dumps([cell.figures, [_nameless(each, folder) for each in cell.broken]])
            with open(writing, "wb") as file:
                file.write(report.encode())
            os._exit(0)

    def end(self, *, hangs: bool) -> None:
        """It has ended, or is ended, and with it all that it has started."""
        if hangs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)
            threading.Event().wait(1.0)  # It says where it is.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.reading)
        if hangs:
            self.cell.breaks(f"hangs at {_where(self.stacks)}")
        elif not self.said:
            name = signal.Signals(-code).name if code < 0 else str(code)
            self.cell.breaks(f"the process dies: {name}")
        else:
            figures, broken = json.loads(self.said)
            self.cell.figures.update(figures)
            self.cell.broken += broken
        with contextlib.suppress(FileNotFoundError):
            self.stacks.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)


def _nameless(effect: str, folder: Path) -> str:
    """An effect without what differs between cells, so that the same ones are counted as one."""
    effect = effect.replace(str(folder), "S")
    effect = re.sub(r"\d{20}", "FIRST", effect)
    return re.sub(r"(?<=[ (])-?\d+(?![\w.])", "N", effect)


def _where(stacks: Path) -> str:
    """The innermost places in the library of all threads of a process that said where it is."""
    places = []
    with contextlib.suppress(OSError):
        for thread in re.split(r"\n\n", stacks.read_text()):
            found = re.search(r'File ".*/hangarlog/([^"/]+\.py)", line (\d+) in (\S+)', thread)
            if found:
                places.append(f"{found[1]}:{found[2]} {found[3]}")
    return ", ".join(sorted(places)) or "a place of the harness's"


@contextlib.contextmanager
def _failures_of_threads(cell: Cell) -> Iterator[None]:
    """What ends a thread, or is raised in a finalizer, nobody else hears of."""
    threading.excepthook = lambda given: cell.breaks(f"a thread dies of {given.exc_value!r:.160}")
    sys.unraisablehook = lambda given: cell.breaks(f"a finalizer raises {given.exc_value!r:.160}")
    yield


def run_cells(names: Iterable[str], work: Callable[[Cell, Path], object], folder: Path, seed: int) -> Figures:
    """`work(cell, its folder)` for each name, a few at once; raises `AssertionError` with all that was broken."""
    waiting = iter(names)
    figures: Counter[str] = Counter()
    broken: dict[str, list[str]] = {}
    running: dict[int, _Process] = {}
    hangs = 0
    gc.freeze()  # A child that collects what it has inherited would copy it.
    with selectors.DefaultSelector() as selector:
        while True:
            while len(running) < AT_ONCE and hangs < ENOUGH and (name := next(waiting, None)) is not None:
                process = _Process(Cell(name), folder / f"cell-{sum(figures.values())}-{figures['cells']}", work)
                figures["cells"] += 1
                running[process.reading] = process
                selector.register(process.reading, selectors.EVENT_READ)
            if not running:
                break
            soonest = min(process.ends for process in running.values())
            ready = {key.fd for key, _ in selector.select(max(0.0, soonest - time.monotonic()))}
            for fd, process in list(running.items()):
                late = time.monotonic() >= process.ends
                if not (fd in ready or late):
                    continue
                more = os.read(fd, 1 << 16) if fd in ready else b""
                process.said += more
                if more:
                    continue
                selector.unregister(fd)
                del running[fd]
                hung = late and fd not in ready
                hangs += hung
                process.end(hangs=hung)
                figures.update(process.cell.figures)
                for effect in process.cell.broken:
                    broken.setdefault(effect, []).append(process.cell.name)
    if broken:
        raise AssertionError(_report(broken, figures, seed, hangs))
    return dict(figures)


def _report(broken: dict[str, list[str]], figures: Counter[str], seed: int, hangs: int) -> str:
    ways = [
        f"{effect} [{len(cells)}]: {'; '.join(cells[:SHOWN])}"
        for effect, cells in sorted(broken.items(), key=lambda way: -len(way[1]))
    ]
    cells = {cell for each in broken.values() for cell in each}
    left = ", the rest was left after so many hangs" if hangs >= ENOUGH else ""
    return (
        f"seed {seed}: {len(cells)} of {figures['cells']} cells break a promise, in {len(ways)} ways{left}:\n  "
        + "\n  ".join(ways)
    )


def reached(figures: Figures, what: str, cells: int) -> None:
    """Nearly every cell has come to what it is for. (How many calls there are varies with the time.)"""
    assert int(figures.get(what, 0)) >= cells * 2 // 3, f"blind: of {cells} cells {figures.get(what, 0)}: {what}"


def run_one(work: Callable[[Cell, Path], object], make_bases: Callable[[Path], object] = lambda folder: None) -> int:
    """The cell that the command line names, in this process, for whoever looks into it."""
    ring_at_once()
    folder, cell = Path(tempfile.mkdtemp(prefix="hangarlog-cell-")), Cell(sys.argv[1])
    make_bases(folder / "bases")
    work(cell, folder / "cell")
    print(dict(cell.figures), *cell.broken, sep="\n  ")
    return 1 if cell.broken else 0


# Large runs, in two processes


def in_two_processes(work: Callable[[Path, int], Any], folder: Path, seed: int) -> list[Any]:
    """What `work(a path for its files, 0 or 1)` gives, which has to be JSON, in each of two forked processes."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else folder
    children = []
    for share in range(2):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(reading)
                result = json.dumps(work(base / f"hangarlog-{os.getpid()}", share))
                with os.fdopen(writing, "w") as out:
                    out.write(result)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        children.append((pid, os.fdopen(reading)))
    texts = []
    for _, reader in children:
        with reader:
            texts.append(reader.read())
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in children]
    assert codes == [0, 0], f"seed {seed}: the processes ended with {codes}"
    return [json.loads(text) for text in texts]


# What the cells share


class Hooked(Unsynced):
    """A file system that calls `step(name, arguments)` before each call, `after(name, arguments, result)` behind it.

    Syncs are no matter here, and a checkpoint is made at once instead of in the background.
    """

    def __init__(self) -> None:
        self.locked: dict[int, str] = {}  # The locks that are held through it: {descriptor: name of the file}.

    def __init_subclass__(cls) -> None:
        methods = vars(Beneath) | vars(FileSystem) | vars(Unsynced) | vars(Hooked) | vars(cls)
        for name, method in methods.items():
            if callable(method) and not name.startswith("_") and name not in ("step", "after", "in_background"):
                setattr(cls, name, _hooked(name, method))

    def step(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Before a call."""

    def after(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        """After a call."""

    def in_background(self, work: Callable[[], None], name: str) -> threading.Thread | None:
        if "checkpoint" not in name:
            return FileSystem.in_background(self, work, name)
        work()
        return None


def _hooked(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(this: Hooked, *args: Any, **options: Any) -> Any:
        this.step(name, args)
        result = method(this, *args, **options)
        if name == "lock" and result:
            this.locked[args[0]] = os.path.basename(path_of(args[0]).removesuffix(" (deleted)"))
        elif name in ("unlock", "close"):
            this.locked.pop(args[0], None)
        this.after(name, args, result)
        return result

    return call


def path_of(fd: int) -> str:
    """The path of an open file, with " (deleted)" behind it where it has none any more; "" where it is not open."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def site(depth: int = 2) -> str:
    """Where in the library a call of the file system is made: the innermost places."""
    places: list[str] = []
    frame: Any = sys._getframe(1)
    while frame and len(places) < depth:
        path = frame.f_code.co_filename
        name = os.path.basename(path)
        if path.startswith(LIBRARY) and name != "filesystem.py":
            places.append(f"{name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(places)


def one_a_site(steps: list[tuple[str, str]], rng: random.Random) -> list[int]:
    """Of steps, (name of the call, site), the indexes of one for each name and site: many are made again and again."""
    at: dict[tuple[str, str], list[int]] = {}
    for index, step in enumerate(steps):
        at.setdefault(step, []).append(index)
    return sorted(rng.choice(indexes) for indexes in at.values())


def opened(path: Path, **options: Any) -> FileEventStore:
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), **options)


def event(event_id: str, size: int = 10) -> UntypedEvent:
    return UntypedEvent("Noted", {"text": "x" * size}, event_id=event_id)


class Device(Hooked):
    """What a power cut would leave of each file is known: as many bytes as were synced."""

    synced: dict[int, int] = {}  # noqa: RUF012 - shared by all who use the device: {inode: bytes}
    written_over: set[int] = set()  # noqa: RUF012 - in place, and not synced since

    def __init__(self, before: Callable[[str], None] = lambda name: None) -> None:
        super().__init__()
        self.before = before

    def step(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.before(name)

    def after(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        if name == "sync_data":
            found = os.fstat(arguments[0])
            self.synced[found.st_ino] = found.st_size
            self.written_over.discard(found.st_ino)
        elif name == "write_at":
            self.written_over.add(os.fstat(arguments[0]).st_ino)
        elif name == "sync_everything":
            on_the_device(Path(arguments[0]))

    def sync_data(self, fd: int) -> None:
        """Whoever has one of its own sees every sync."""


def reopened(path: Path) -> FileEventStore:
    return opened(path, create=False, filesystem=Device())


def on_the_device(path: Path) -> None:
    """All that is at `path`, or below it, is there durably."""
    for file in [path, *path.rglob("*")] if path.exists() else ():
        if file.is_file():
            found = file.stat()
            Device.synced[found.st_ino] = found.st_size


def power_cut(path: Path, image: Path) -> None:
    """Make `image` what a power cut would leave of the store at `path`, and a restart find."""
    shutil.copytree(path, image, ignore=shutil.ignore_patterns("state"))
    for file in image.rglob("*"):
        original = path / file.relative_to(image)
        if file.is_file():
            found = original.stat()
            size = min(found.st_size, Device.synced.get(found.st_ino, 0))
            os.truncate(file, 0 if found.st_ino in Device.written_over else size)


def missing() -> str | None:
    """Why the cells cannot run here."""
    return None if hasattr(os, "fork") and os.path.isdir("/proc/self/fd") else "this system has no fork, or no /proc"
