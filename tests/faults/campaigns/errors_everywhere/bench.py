"""One run of a phase with a fault, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hangarlog import ANY, FileEventStore, SyncError
from hangarlog.maintenance.verify import verify

from .faults import Faults
from .hand import Hand, HungError
from .phases import Phase, Run, event, opened, seen

ENOUGH = 5
"""After so many hangs the rest is left: they take time, and more of them say nothing new."""

FDS = "/proc/self/fd"


def open_below(path: Path) -> list[str]:
    """The files of a store that this process has open."""
    found = []
    for fd in os.listdir(FDS):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"{FDS}/{fd}")
            if target.startswith((f"{path}/", f"{path}-")):
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
        for left_over in self.folder.glob(f"{path.name}*"):
            shutil.rmtree(left_over)
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
        try:
            self._look(phase, run, not failed, "sync" in site or isinstance(outcome, SyncError))
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

    def _look(self, phase: Phase, run: Run, done: bool, sync_may_have_failed: bool) -> None:
        """The fault is gone: everybody appends and reads, and what is there is what was acknowledged."""
        store = run.store
        appended: list[str] = []
        refused = False

        def append_by(user: FileEventStore, event_id: str) -> None:
            nonlocal refused
            try:
                if phase.name == "execute":  # Nobody has the turn for ever.
                    user.execute("a:1", lambda events, version: [event(event_id)])
                else:
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
                self._compare(phase, other, done, appended)
        if usable:
            self.one.do(lambda: append_by(store, "same-store"))
            self.two.do(lambda: append_by(store, "same-store-other-thread-again"))
            self.one.do(lambda: self._compare(phase, store, done, appended))
        if store:
            self.one.do(store.close)
            self.one.do(store.close)
        if refused or phase.again:  # After a failed sync nothing is dropped until a restart.
            (run.path / "state").unlink()
        with self.two.do(lambda: opened(run.path, create=False)) as fresh:
            refused = False
            self.two.do(lambda: append_by(fresh, "fresh"))
            assert not refused, "a sync that failed once still refuses appends after a restart"
            self._compare(phase, fresh, done, appended)
            damages = self.two.do(lambda: list(verify(fresh)))
            assert damages == [], f"verify: {damages}"
            if phase.again:
                self.two.do(lambda: phase.again(run, fresh))
                self._compare(phase, fresh, True, appended)
                damages = self.two.do(lambda: list(verify(fresh)))
                assert damages == [], f"verify, when it was done again: {damages}"

    def _compare(self, phase: Phase, store: FileEventStore, done: bool, appended: list[str]) -> None:
        base = [] if phase.base == "none" else [("a:1", f"base-{n}") for n in range(3)]
        base += [("b:1", "base-3"), ("plain", "base-4")] if base else []
        after = [("a:1", event_id) for event_id in appended]
        found = [(record.stream_id, record.event_id) for record in store.records()]
        parts = [phase.adds[:n] for n in range(len(phase.adds))] if phase.in_parts else [()]
        wanted = [[*base, *added, *after] for added in ([phase.adds] if done else [*parts, phase.adds])]
        whole = next((each for each in wanted if found in self._shown(phase, each, done)), None)
        assert whole is not None, f"there is {[event_id for _, event_id in found]}"
        assert store.last_position == len(whole)
        assert found[::-1] == [(record.stream_id, record.event_id) for record in store.records(reverse=True)]
        for stream_id in {stream_id for stream_id, _ in whole}:
            of_stream = [event_id for at, event_id in whole if at == stream_id]
            here = self._compare_stream(phase, store, done, stream_id, of_stream)
            assert (stream_id in store.list_streams()) == bool(here), f"of stream {stream_id}, {here} is shown"
        name, before, to = phase.moves
        position, moved = store.cursor(name).position if base else to, done
        if phase.adds and before != to:
            moved = set(phase.adds) <= set(found)
            assert position == (to if moved else before), f"the cursor is at {position}, its append {moved}"
        assert position in ([to] if moved else [before, to]), f"the cursor is at {position}"
        snapshot = store.load_snapshot("a:1")
        assert snapshot in phase.snapshots[done:], f"the snapshot is {snapshot}"

    def _shown(self, phase: Phase, whole: list[tuple[str, str]], done: bool) -> list[list[tuple[str, str]]]:
        """What reads of the journal may show."""
        left = [each for each in whole if each[1] not in phase.drops]
        return [whole if phase.returns else left] if done else [whole, left]

    def _compare_stream(
        self, phase: Phase, store: FileEventStore, done: bool, stream_id: str, whole: list[str]
    ) -> list[str]:
        here = seen(store, stream_id)
        hidden = phase.hides.get(stream_id, 0)
        possible = [whole if phase.returns else whole[hidden:]] if done else [whole, whole[hidden:]]
        assert here in possible, f"stream {stream_id} has {here}, the journal {whole}"
        assert store.get_stream_version(stream_id) == len(whole) - 1
        return here
