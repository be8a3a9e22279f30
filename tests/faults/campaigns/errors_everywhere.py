"""An error at every call, and an interrupt at every point: nothing leaks, and memory agrees with the disk afterwards.

Every phase of a store's life (opening, appending, rolling, compacting, reading, closing) is run again and again, each
time with a fault one site later, until it runs through. What is asked of the store then is the same everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import queue
import random
import shutil
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import hangarlog
import hangarlog.system.file_lock
import hangarlog.system.futex
from hangarlog import ANY, EventSerializer, FileEventStore, HangarlogError, SyncError, UntypedEvent
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.open_folder import Beneath
from hangarlog.testing import Unsynced

from .harness import Campaign, Figures

GUARD = 20.0
"""Seconds after which a call hangs. Only broken promises wait for it."""
ENOUGH = 5
"""After so many hangs the rest is left: they take time, and more of them say nothing new."""

LIBRARY = os.path.dirname(os.path.abspath(hangarlog.__file__))
FDS = "/proc/self/fd"


# The faults


class Faults:
    """Raises in the call numbered `at` of those made while armed: instead of it, or after it was done."""

    def __init__(self) -> None:
        self.arm(0, KeyboardInterrupt)
        self.armed = False

    def arm(self, at: int, kind: Callable[[], BaseException], *, after: bool = False) -> None:
        self.at, self.kind, self.after = at, kind, after
        self.calls, self.fired, self.armed, self.thread = 0, "", True, threading.get_ident()

    def call(self, name: str, real: Callable[[], Any]) -> Any:
        if not self.armed or threading.get_ident() != self.thread or (self.after and name in LOOKING):
            return real()
        # A close that fails has closed: so it is on Linux.
        late = self.after or name == "close"
        result = real() if late else None
        self.calls += 1
        if self.calls != self.at:
            return result if late else real()
        self.fired = f"{name}, call {self.calls}, {caller(sys._getframe())}"
        if late and name.startswith("open_"):
            os.close(result[0] if isinstance(result, tuple) else result)  # Nobody was given it.
        raise self.kind()

    def filesystem(self) -> FileSystem:
        """A file system all of whose public methods may fail, also those called by others of them."""

        def failing(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
            return lambda this, *args, **options: self.call(name, lambda: method(this, *args, **options))

        methods = {
            name: failing(name, method)
            for name, method in {**vars(Beneath), **vars(FileSystem), **vars(Unsynced)}.items()
            if callable(method) and not name.startswith("_")
        }
        return type("FailingFileSystem", (FileSystem,), methods)()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def beside_the_seam(self) -> Iterator[None]:
        """The call that does not go through the file system: mapping."""

        def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **options: self.call(name, lambda: real(*args, **options))

        mapping = hangarlog.system.futex.mmap
        try:
            hangarlog.system.futex.mmap = SimpleNamespace(**{**vars(mapping), "mmap": failing("mmap", mapping.mmap)})
            yield
        finally:
            hangarlog.system.futex.mmap = mapping


def caller(frame: FrameType | None) -> str:
    """Where in the library a call was made."""
    while frame and (name := os.path.relpath(frame.f_code.co_filename, LIBRARY)).startswith(
        ("..", "system/filesystem")
    ):
        frame = frame.f_back
    return f"{name}:{frame.f_lineno} {frame.f_code.co_name}" if frame else ""


LOOKING = frozenset(
    [
        "read",
        "pread",
        "size",
        "size_at",
        "identity",
        "identity_at",
        "names",
        "read_file",
        "entries",
        "open_read",
        "held_byte",
        "lock_holder",
        "is_folder_at",
        "folder_changed_at",
        "made_at",
        "modified_at",
        "is_ours",
        "mount",
        "mount_table",
    ]
)
"""Calls that change nothing; after any other one an error may come when it is done."""

KINDS: dict[str, Callable[[], BaseException]] = {
    "EIO": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    "EMFILE": lambda: OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "EACCES": lambda: OSError(errno.EACCES, os.strerror(errno.EACCES)),
    "MemoryError": MemoryError,
    "KeyboardInterrupt": KeyboardInterrupt,
}
AFTER = ("EIO", "KeyboardInterrupt")
POINTS = 5
"""So many places of interrupts for each site of another kind: there are as many more."""


class Interrupter:
    """A trace function that interrupts at the point numbered `at` of those where a signal's handler may really run:
    after a call, at the start of a function, and at the end of a loop's turn.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.points, self.fired = 0, ""
        self._before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        path = frame.f_code.co_filename
        if path == __file__ or path.endswith(("threading.py", "weakref.py", "_weakrefset.py")):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        self._before[frame] = "RESUME"
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode":
            before = self._before.get(frame, "")
            self._before[frame] = _operation(frame.f_code, frame.f_lasti)
            if before == "RESUME" or before.startswith(("CALL", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")):
                self._point(frame)
        elif event == "exception":
            self._before[frame] = ""  # A call that raises goes straight to the handler.
        elif event == "return":
            self._before.pop(frame, None)
            # Python looks for signals when a call of its own begins, not when it returns (but from a class's it does).
            if frame.f_back in self._before and frame.f_code.co_name != "__init__" and not frame.f_code.co_flags & 0x20:
                self._before[frame.f_back] = ""
        return self._opcode

    def _point(self, frame: FrameType) -> None:
        self.points += 1
        if self.points == self.at:
            path = os.path.relpath(frame.f_code.co_filename, os.path.dirname(LIBRARY))
            caller = frame.f_back
            back = f" < {os.path.basename(caller.f_code.co_filename)}:{caller.f_lineno}" if caller else ""
            self.fired = f"{path}:{frame.f_lineno} {frame.f_code.co_name}{back}"
            self._before.clear()  # A frame that is kept keeps all that it has.
            raise KeyboardInterrupt


_operations: dict[CodeType, dict[int, str]] = {}


def _operation(code: CodeType, offset: int) -> str:
    if code not in _operations:
        import dis

        _operations[code] = {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
    return _operations[code].get(offset, "")


# Threads that are told what to do


class HungError(Exception):
    """A call did not come back."""


class Hand:
    """A thread that does what it is told, so that a call that never comes back is noticed and left behind."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="hand").start()

    def _work(self) -> None:
        while order := self._orders.get():
            result, failure = None, None
            try:
                result = order()
            except BaseException as error:
                failure = error.with_traceback(None)  # Its frames would keep what they hold alive.
                failure.__context__ = None
            self._results.put((result, failure))
            del order, result, failure

    def do(self, order: Callable[[], Any]) -> Any:
        self._orders.put(order)
        try:
            result, failure = self._results.get(timeout=GUARD)
        except queue.Empty:
            raise HungError from None
        if failure:
            raise failure
        return result

    def end(self) -> None:
        self._orders.put(None)


# The phases


def event(event_id: str, size: int = 10) -> UntypedEvent:
    return UntypedEvent("Added", {"text": "x" * size}, event_id=event_id)


def opened(path: Path, **options: Any) -> FileEventStore:
    options = {"durability": "relaxed", "filesystem": Unsynced(), **options}
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), **options)


def seen(store: FileEventStore, stream_id: str | None = None, *, reverse: bool = False) -> list[str]:
    return [record.event_id for record in store.records(stream_id, reverse=reverse)]


@dataclass
class Run:
    """One phase on one copy of its store, with one fault."""

    path: Path
    filesystem: FileSystem
    store: FileEventStore | None = None

    def open(self, **options: Any) -> None:
        self.store = opened(self.path, filesystem=self.filesystem, **options)


@dataclass
class Phase:
    """What is done with the fault, on a store of which base, and which events it appends (to a stream each)."""

    name: str
    base: str
    act: Callable[[Run], Any]
    adds: tuple[tuple[str, str], ...] = ()
    durability: str = "relaxed"
    opens: bool = False
    reads: bool = False
    interrupts: bool = True
    at_first: Callable[[Run], Any] = lambda run: None


BATCH = (("a:1", "act-1"), ("b:1", "act-2"), ("new:1", "act-3"), ("plain", "act-4"))


def append(run: Run) -> None:
    run.store.append("a:1", [event("act-1")], ANY)


def append_batch(run: Run) -> None:
    run.store.append_many([(stream_id, [event(event_id)], ANY) for stream_id, event_id in BATCH])


def append_large(run: Run) -> None:
    run.store.append("a:1", [event("act-1", 70_000)], ANY)


def save(run: Run) -> None:
    run.store.save_snapshot("a:1", 1, {"n": 1})


def ask(run: Run) -> Any:
    store = run.store
    return store.list_streams(), store.list_streams("a:"), store.get_stream_version("a:1"), store.get_event_count()


PHASES = [
    Phase("create", "none", lambda run: run.open(segment_bytes=600), opens=True),
    Phase("open", "rolled", lambda run: run.open(), opens=True, at_first=lambda run: opened(run.path).close()),
    Phase("open and recover", "torn", lambda run: run.open(), opens=True),
    Phase("open exclusively", "wide", lambda run: run.open(exclusive=True), opens=True, interrupts=False),
    Phase("append", "wide", append, BATCH[:1]),
    Phase("durable append", "wide", append, BATCH[:1], durability="always"),
    Phase("batch", "wide", append_batch, BATCH),
    Phase("append that rolls", "rolled", append, BATCH[:1], durability="always"),
    Phase("batch that rolls", "rolled", append_batch, BATCH, interrupts=False),
    Phase("append with an index", "indexed", append_large, BATCH[:1], interrupts=False),
    Phase("snapshot", "rolled", save),
    Phase("compact", "rolled", lambda run: run.store.compact_stream("a:1"), at_first=save),
    Phase("read a stream", "rolled", lambda run: seen(run.store, "a:1"), reads=True),
    Phase("read all backwards", "rolled", lambda run: seen(run.store, reverse=True), reads=True),
    Phase("list", "rolled", ask, reads=True, interrupts=False),
    Phase("close", "wide", lambda run: run.store.close(), durability="always"),
]


def make_bases(folder: Path) -> dict[str, Path]:
    """The stores that the phases begin with."""
    bases = {name: folder / name for name in ("wide", "rolled", "indexed", "torn", "none")}
    for name, segment_bytes, size in (("wide", 1 << 20, 10), ("rolled", 500, 10), ("indexed", 66_000, 66_000)):
        with opened(bases[name], segment_bytes=segment_bytes) as store:
            for number in range(3):
                store.append("a:1", [event(f"base-{number}", size)], ANY)
            store.append_many([("b:1", [event("base-3")], ANY), ("plain", [event("base-4")], ANY)])
    shutil.copytree(bases["wide"], bases["torn"])
    with open(bases["torn"] / "journal.jsonl", "ab") as journal:
        journal.write(b'{"position":6,"stream_id":"a:1"')
    stream = bases["torn"] / "streams/a/1.jsonl"
    os.truncate(stream, stream.stat().st_size - 100)
    return bases


# What must hold afterwards


def open_below(path: Path) -> list[str]:
    """The files of a store that this process has open."""
    found = []
    for fd in os.listdir(FDS):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"{FDS}/{fd}")
            if target.startswith(f"{path}/"):
                found.append(os.path.relpath(target, path))
    return sorted(found)


BROKEN = (Exception, KeyboardInterrupt)


@dataclass
class Bench:
    """Where the runs are made: their folder, the two threads, and every broken promise so far."""

    folder: Path
    faults: Faults
    one: Hand = field(default_factory=Hand)
    two: Hand = field(default_factory=Hand)
    broken: dict[str, list[str]] = field(default_factory=dict)
    unraisable: list[str] = field(default_factory=list)
    swallowed: int = 0
    left_by_interrupts: int = 0
    hung: int = 0
    hung_in: int = 0
    runs: int = 0

    def breaks(self, phase: Phase, effect: str, site: str) -> None:
        self.broken.setdefault(effect, []).append(f"{site} ({phase.name})")

    def run(self, phase: Phase, base: Path, fault: Callable[[Run, Callable[[], Any]], tuple[str, Any]]) -> str:
        """One run. `fault(run, act)` does the phase with the fault; the site where it came, "" if it did not."""
        self.runs += 1
        path = self.folder / f"run-{self.runs}"
        if base.exists():
            shutil.copytree(base, path)
        run = Run(path, self.faults.filesystem())
        site = "before anything"
        try:
            site = self._run(phase, run, fault)
        except HungError:
            self._hangs(phase, site)
        except BROKEN as error:
            if self.hung >= ENOUGH:
                raise
            self.breaks(phase, f"then {type(error).__name__}: {error}"[:240].replace(str(path), "S"), site)
            self._leave(run.store)
        del run
        if self.hung_in == self.runs:
            return site
        if open_below(path):
            gc.collect()
        left = open_below(path)
        if left and " call " not in site and len(left) <= 2:
            self.left_by_interrupts += len(left)
        elif left:
            self.breaks(phase, f"open for ever: {' '.join(left)}", site)
        shutil.rmtree(path)
        return site

    def _run(self, phase: Phase, run: Run, fault: Callable[[Run, Callable[[], Any]], tuple[str, Any]]) -> str:
        if not phase.opens:
            self.one.do(lambda: run.open(durability=phase.durability))
        self.one.do(lambda: phase.at_first(run))
        site, outcome = self.one.do(lambda: fault(run, lambda: phase.act(run)))
        failed = isinstance(outcome, BaseException)
        if not site:
            assert not failed, f"without a fault {outcome!r}"
        self.swallowed += bool(site) and not failed
        if phase.reads and not failed:
            expected = self.one.do(lambda: phase.act(run))
            assert outcome == expected, f"it reads {outcome} with the fault, {expected} without"
        acknowledged = phase.adds if not failed else ()
        try:
            self._look(phase, run, acknowledged, "sync" in site or isinstance(outcome, SyncError))
        except HungError:
            self._hangs(phase, site)
        except BROKEN as error:
            effect = f"then {type(error).__name__}: {error}"[:240].replace(str(run.path), "S")
            self.breaks(phase, effect, f"{site} {outcome!r:.60}")
            self._leave(run.store)
        return site

    def report(self) -> str:
        ways = [f"{effect} [{len(at)}]: {'; '.join(dict.fromkeys(at))}" for effect, at in self.broken.items()]
        return f"{len(ways)} ways to break:\n  " + "\n  ".join(ways)

    def _hangs(self, phase: Phase, site: str) -> None:
        """The threads that hang keep what they have: go on with others."""
        self.hung += 1
        self.hung_in = self.runs
        self.breaks(phase, "hangs", site)
        if self.hung >= ENOUGH:
            raise AssertionError(f"{self.hung} hangs, the last at {site} ({phase.name}); {self.report()}")
        self.one, self.two = Hand(), Hand()

    def _leave(self, store: FileEventStore | None) -> None:
        if store:
            with contextlib.suppress(*BROKEN):
                self.one.do(store.close)

    def _look(
        self, phase: Phase, run: Run, acknowledged: tuple[tuple[str, str], ...], sync_may_have_failed: bool
    ) -> None:
        """The fault is gone: everybody appends and reads, and what is there is what was acknowledged."""
        store = run.store
        appended: list[str] = []
        refused = False

        def append_by(user: FileEventStore, event_id: str) -> None:
            nonlocal refused
            try:
                user.append("a:1", [event(event_id)], ANY)
                appended.append(event_id)
            except SyncError:
                if not sync_may_have_failed:
                    raise
                refused = True

        usable = store is not None and phase.name != "close"
        if usable:
            self.two.do(lambda: append_by(store, "same-store-other-thread"))
        if not (usable and phase.name == "open exclusively"):
            with self.two.do(lambda: opened(run.path)) as other:
                self.two.do(lambda: append_by(other, "other-store"))
                self._compare(phase, other, acknowledged, appended)
        if usable:
            self.one.do(lambda: append_by(store, "same-store"))
            self.two.do(lambda: append_by(store, "same-store-other-thread-again"))
            self.one.do(lambda: self._compare(phase, store, acknowledged, appended))
        if store:
            self.one.do(store.close)
            self.one.do(store.close)
        if refused:
            (run.path / "state").unlink()
        with self.two.do(lambda: opened(run.path, create=False)) as fresh:
            refused = False
            self.two.do(lambda: append_by(fresh, "fresh"))
            assert not refused, "a sync that failed once still refuses appends after a restart"
            self._compare(phase, fresh, acknowledged, appended)
            damages = self.two.do(lambda: list(verify(fresh)))
            assert damages == [], f"verify: {damages}"

    def _compare(
        self, phase: Phase, store: FileEventStore, acknowledged: tuple[tuple[str, str], ...], appended: list[str]
    ) -> None:
        base = [] if phase.base == "none" else [("a:1", f"base-{n}") for n in range(3)]
        base += [("b:1", "base-3"), ("plain", "base-4")] if base else []
        after = [("a:1", event_id) for event_id in appended]
        found = [(record.stream_id, record.event_id) for record in store.records()]
        wanted = [[*base, *phase.adds, *after]] + ([] if acknowledged else [[*base, *after]])
        assert found in wanted, f"there is {[event_id for _, event_id in found]}"
        assert store.get_event_count() == len(found)
        assert found[::-1] == [(record.stream_id, record.event_id) for record in store.records(reverse=True)]
        streams = {stream_id for stream_id, _ in found}
        assert store.list_streams() == sorted(streams), f"streams {store.list_streams()}"
        for stream_id in streams:
            whole = [event_id for at, event_id in found if at == stream_id]
            here = seen(store, stream_id)
            compacted = phase.name == "compact" and stream_id == "a:1" and here == whole[2:]
            assert here == whole or compacted, f"stream {stream_id} has {here}, the journal {whole}"
            assert store.get_stream_version(stream_id) == len(whole) - 1


# The campaign


def wrong_error(site: str, outcome: BaseException, kind: str) -> str | None:
    """What is wrong about how a fault came out."""
    expected = HangarlogError if kind.startswith("E") else {"MemoryError": MemoryError}.get(kind, KeyboardInterrupt)
    if isinstance(outcome, expected) or not site:
        return None
    return f"comes out as {outcome!r:.120}"


def every_call(
    bench: Bench,
    phase: Phase,
    base: Path,
    kind: str,
    after: bool,
    most: int,
    rng: random.Random,
    seen_sites: Counter[str],
) -> int:
    """A fault of one kind at each of a phase's calls; how many there were."""

    def fault(run: Run, act: Callable[[], Any]) -> tuple[str, Any]:
        bench.faults.arm(at, KINDS[kind], after=after)
        try:
            outcome = act()
        except BaseException as error:
            outcome = error.with_traceback(None)
            outcome.__context__ = None
        finally:
            bench.faults.armed = False
        site = f"{kind} {'after' if after else 'at'} {bench.faults.fired}" if bench.faults.fired else ""
        if isinstance(outcome, BaseException) and (wrong := wrong_error(site, outcome, kind)):
            bench.breaks(phase, wrong, site)
        elif site and not isinstance(outcome, BaseException) and not kind.startswith("E") and not bench.unraisable:
            bench.breaks(phase, f"the {kind} is swallowed", site)
        return site, outcome

    at, done = 0, 0
    bench.run(phase, base, fault)
    for at in _sample(bench.faults.calls, most, rng):  # noqa: B007 - what `fault` looks at
        bench.unraisable.clear()
        if bench.run(phase, base, fault):  # Else there were fewer calls this time.
            seen_sites[bench.faults.fired.partition(",")[0]] += 1
            done += 1
    return done


def _sample(count: int, most: int, rng: random.Random) -> list[int]:
    """Numbers from 1 to `count`: all, or so many of them."""
    return sorted(rng.sample(range(1, count + 1), min(most, count)))


def every_point(bench: Bench, phase: Phase, base: Path, most: int, rng: random.Random) -> int:
    """An interrupt at each point of a phase; how many there were."""

    points = 0

    def fault(run: Run, act: Callable[[], Any]) -> tuple[str, Any]:
        nonlocal points
        interrupter = Interrupter(at)
        before = sys.gettrace()
        sys.settrace(interrupter)
        try:
            outcome = act()
        except KeyboardInterrupt as error:
            outcome = error.with_traceback(None)
            outcome.__context__ = None
        finally:
            sys.settrace(before)
            interrupter._before.clear()
            points = points or interrupter.points
        site = interrupter.fired
        if site and not isinstance(outcome, BaseException) and not bench.unraisable:
            bench.breaks(phase, "the interrupt is swallowed", site)
        return site, outcome

    at, done = 0, 0
    bench.run(phase, base, fault)
    for at in _sample(points, most, rng):  # noqa: B007 - what `fault` looks at
        bench.unraisable.clear()
        done += bool(bench.run(phase, base, fault))
    return done


@contextlib.contextmanager
def deletions_heard(bench: Bench) -> Iterator[None]:
    """What is raised while an object is being deleted nobody can catch: Python says so and goes on."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda given: bench.unraisable.append(repr(given.exc_value))
    try:
        yield
    finally:
        sys.unraisablehook = hook


def run(folder: Path, size: int, seed: int) -> Figures:
    bases = make_bases(folder / "bases")
    faults = Faults()
    bench = Bench(folder, faults)
    figures: Counter[str] = Counter()
    sites: Counter[str] = Counter()
    rng = random.Random(seed)
    with deletions_heard(bench), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What cannot be read just then may be served from its other copy.
        for phase in PHASES:
            base = bases[phase.base]
            with faults.beside_the_seam():
                for kind in KINDS:
                    figures["errors before a call"] += every_call(bench, phase, base, kind, False, size, rng, sites)
                for kind in AFTER:
                    figures["errors after a call"] += every_call(bench, phase, base, kind, True, size, rng, sites)
            if phase.interrupts:
                figures["interrupts after a call"] += every_point(bench, phase, base, size * POINTS, rng)
    bench.one.end()
    bench.two.end()
    assert not bench.broken, f"seed {seed}, {sum(figures.values())} sites: {bench.report()}"
    return {
        **figures,
        "kinds of calls": len(sites),
        "faults that nobody had to know of": bench.swallowed,
        "descriptors left open by an interrupt": bench.left_by_interrupts,
    }


CAMPAIGN = Campaign(
    row=9,
    fault="an error at every call, and an interrupt at every point",
    promise="no lock leaks, nor a descriptor (an interrupt may cost one), and memory agrees with the disk",
    how="the phases of a store's life with EIO, EMFILE, EACCES, MemoryError and KeyboardInterrupt at each call and an "
    "interrupt at each place where the interpreter takes one; then two threads and a second store go on",
    ci=8,
    release=100_000,
    unit="sites of a kind in each phase at most",
    run=run,
    missing=lambda: None if os.path.isdir(FDS) else "this system does not list open files",
)
