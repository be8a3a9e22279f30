"""Row 17: a store is closed, forked, interrupted, or its process ends, at any step of any call.

Right after, the caller opens files of its own, which get the descriptor numbers that are free again: none of them may
be written to, closed, or lose its lock. A close waits for what is running; what is called later is refused.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from hangarlog import ANY, FileEventStore, LockTimeoutError, OutcomeUnknownError, StoreOpenError
from hangarlog.maintenance.verify import verify

from ..cells import GUARD, Cell, Hooked, event, missing, one_a_site, opened, path_of, reached, run_cells
from ..harness import Campaign, Figures
from .strangers import CALLS, LATER, MOMENT, UPKEEP, Pausing, Strangers, archive_of, make_store

PATIENT = GUARD / 3
WITHOUT_WAITING = ("read", "back", "open", "close")
"""What a close need not wait for: readers keep what they read from, and another store is none of its business."""


class Outcome:
    """What came of something that a thread of its own has done."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._do, daemon=True)
        self._thread.start()

    def _do(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error.with_traceback(None)  # Its frames would keep what they hold alive.
            self.error.__context__ = self.error.__cause__ = None
        finally:
            self.ended.set()

    def join(self) -> bool:
        """Whether it has ended, in all the time that it may take."""
        self._thread.join(PATIENT)
        return not self._thread.is_alive()


class Scene:
    """A cell: one call on a store, and what happens at one of its steps."""

    def __init__(self, cell: Cell, path: Path) -> None:
        self.kind, self.call, step = cell.name.split(" ")
        self.cell, self.path, self.nth = cell, path / "store", int(step.partition(":")[0])
        path.mkdir()
        self.acknowledged = make_store(self.path, self.call)
        self.strangers = Strangers(path / "strangers")
        self.reached, self.go_on = threading.Event(), threading.Event()

    def play(self) -> None:
        getattr(self, f"_{self.kind}")()
        for change in set(self.strangers.changed()):
            self.cell.breaks(change)
        self.look()

    def begin(
        self, act: Callable[[], None] | None = None, **options: Any
    ) -> tuple[FileEventStore, Callable[[], object]]:
        """The store, warm; and the call, which does `act` at its step (by default it stands there until `go_on`)."""
        # A close that is interrupted has closed: a system call ends before an interrupt is looked at.
        filesystem = Pausing(self.nth, act or self.stand, but_before="close" if act else "")
        do, durability = CALLS[self.call]
        store = opened(self.path, durability=durability, filesystem=filesystem, **options)
        if self.call != "roll":
            store.append("b:1", [event("warm-0")], ANY)
            self.acknowledged.append("warm-0")
        list(store.records("b:1"))

        def call() -> list[str]:
            filesystem.thread = threading.get_ident()
            return do(store)

        return store, call

    def stand(self) -> None:
        self.reached.set()
        self.go_on.wait()

    def running(self, call: Callable[[], object]) -> Outcome:
        """The call in a thread, come to its step."""
        outcome = Outcome(call)
        while not (self.reached.wait(MOMENT) or outcome.ended.is_set()):
            pass
        self.cell.figures["calls at a step"] += self.reached.is_set()
        return outcome

    # What happens

    def _close(self, closers: int = 1) -> None:
        """The store is closed by another thread, or by two."""
        store, call = self.begin()
        running = self.running(call)
        closing = [Outcome(store.close) for _ in range(closers)]
        closing[0].ended.wait(MOMENT)
        if closing[0].ended.is_set() and self.call not in WITHOUT_WAITING and self.reached.is_set():
            self.cell.breaks(f"close() does not wait for a call that is running ({self.call})")
        self.strangers.open()
        self.go_on.set()
        for each in closing:
            self.ends(each, "close()", ())
        self.ends(running, f"the call ({self.call})", (StoreOpenError,))
        self.is_closed(store)

    def _close2(self) -> None:
        self._close(2)

    def _other(self) -> None:
        """Another store on the folder, in the same process, is closed: that is no matter of this one's."""
        other = opened(self.path, filesystem=Hooked(), lock_timeout=MOMENT)
        if self.call != "roll":  # Else it would be this append that rolls.
            other.append("b:1", [event("other-0")], ANY)
            self.acknowledged.append("other-0")
        list(other.records())
        store, call = self.begin()
        running = self.running(call)
        closing = Outcome(other.close)
        closing.ended.wait(MOMENT * 2)
        self.strangers.open()
        self.go_on.set()
        self.ends(closing, "close()", (LockTimeoutError,))
        self.ends(running, f"the call ({self.call})", ())
        other.close()
        self.is_closed(other)
        store.close()

    def _fork(self) -> None:
        """A child is forked, closes the store, and ends; the call goes on."""
        store, call = self.begin(lock_timeout=MOMENT)  # The call does not go on before the child has ended.
        running = self.running(call)
        child = os.fork()
        if not child:
            status = 3
            try:
                with contextlib.suppress(LockTimeoutError, OutcomeUnknownError):
                    store.close()
                self.strangers.open()
                del store
                gc.collect()
                status = 4 if list(self.strangers.changed()) else 0
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            says = {3: "cannot close the store", 4: "changes files of its own"}.get(status, f"ends with {status}")
            self.cell.breaks(f"a forked child {says}")
        self.go_on.set()
        self.ends(running, f"the call ({self.call})", ())
        store.close()
        self.is_closed(store)

    def _interrupt(self) -> None:
        """The call is interrupted; then the store is closed by another thread."""

        def interrupts() -> NoReturn:
            raise KeyboardInterrupt

        store, call = self.begin(interrupts)
        try:
            self.acknowledged += call()  # type: ignore[arg-type, operator]
        except KeyboardInterrupt:
            self.cell.figures["calls at a step"] += 1
        store._filesystem.thread = 0  # type: ignore[attr-defined]
        closing = Outcome(store.close)
        self.ends(closing, "close() after an interrupt", ())
        self.strangers.open()
        self.is_closed(store)

    def _exit(self, way: str) -> None:
        """The process ends, and the system, too, says what it thinks of it."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"{__package__}.leaving",
                way,
                self.call,
                str(self.nth),
                str(self.path),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        output, errors = process.communicate()
        expected = 1 if way == "error" else 0
        if process.returncode != expected or (errors and way != "error") or errors.count("Traceback") > expected:
            self.cell.breaks(f"a process that ends ({way}) exits with {process.returncode}: {errors[-400:]}")
        for line in output.splitlines():
            word, _, rest = line.partition(" ")
            if word == "acknowledged":
                self.acknowledged.append(rest)
            elif word == "broken":
                self.cell.breaks(f"at exit ({way}): {rest}")
            else:
                self.cell.figures[rest] += 1

    def _exit_end(self) -> None:
        self._exit("end")

    def _exit_sys(self) -> None:
        self._exit("sys")

    def _exit_error(self) -> None:
        self._exit("error")

    def _exit_wait(self) -> None:
        self._exit("wait")

    def _exit_load(self) -> None:
        self._exit("load")

    # What must hold

    def ends(self, outcome: Outcome, what: str, allowed: tuple[type[BaseException], ...]) -> None:
        if not outcome.join():
            self.cell.breaks(f"{what} waits for ever")
        elif outcome.error and not isinstance(outcome.error, allowed):
            self.cell.breaks(f"{what} ends in {outcome.error!r}"[:300])
        elif outcome.error:
            self.cell.figures["calls refused"] += 1
        elif outcome.result:
            self.acknowledged += outcome.result

    def is_closed(self, store: FileEventStore) -> None:
        """Every later call is refused, and a second close is fine."""
        for name, later in LATER.items():
            try:
                later(store)
                self.cell.breaks(f"{name} of a closed store answers")
            except StoreOpenError:
                pass
            except Exception as error:
                self.cell.breaks(f"{name} of a closed store ends in {error!r}"[:200])
        store.close()

    def look(self) -> None:
        """Nothing is left behind, and the store opens with all that was acknowledged."""
        gc.collect()
        left = [path_of(int(fd)) for fd in os.listdir("/proc/self/fd")]
        if left := [Path(path).name for path in left if path.startswith(f"{self.path}/")]:
            self.cell.breaks(f"left open: {sorted(left)}")
        if left := [thread.name for thread in threading.enumerate() if thread.name.startswith("hangarlog")]:
            self.cell.breaks(f"threads are left: {left}")
        with opened(self.path, lock_timeout=PATIENT, filesystem=Hooked()) as store:
            store.append("a:1", [event("last")], ANY)
            found = Counter(record.event_id for record in store.records())
            if lost := set(self.acknowledged) - found.keys() - self.moved(store.first_position):
                self.cell.breaks(f"acknowledged events are lost: {sorted(lost)[:3]}")
            if max(found.values()) > 1:
                self.cell.breaks("an event is there twice")
            for damage in verify(store):
                self.cell.breaks(f"verify finds {damage}"[:300])

    def moved(self, first: int) -> set[str]:
        """What is no longer in the store: in its archive, or dropped by a retention."""
        if self.call == "retain":
            return {each for each in self.acknowledged if each.startswith("base-a:1")}
        if first == 1:
            return set()
        with opened(archive_of(self.path), create=False, filesystem=Hooked()) as archive:
            return {record.event_id for record in archive.records(to_position=first - 1)}


# The campaign

STEPS = 12
"""So many steps of each call that has many, in CI."""
BESIDE = ("other", "fork", "interrupt")
EXITS = ("exit_end", "exit_sys", "exit_error", "exit_wait", "exit_load")


def play(cell: Cell, path: Path) -> None:
    Scene(cell, path).play()


def steps_of(call: str, folder: Path) -> list[tuple[str, str]]:
    scene = Scene(Cell(f"close {call} 0"), folder / f"steps-{call}")
    store, act = scene.begin()
    act()
    filesystem = store._filesystem
    assert isinstance(filesystem, Pausing)
    filesystem.thread = 0  # The close is no step of the call: in a cell another thread closes, or nobody gets so far.
    store.close()
    return filesystem.calls


def cells(folder: Path, size: int, seed: int) -> Iterator[str]:
    """Everything at every step; in CI a close and one thing more at one step of each site, and a few exits."""
    rng = random.Random(seed)
    for call in CALLS:
        found = steps_of(call, folder)
        indexes = one_a_site(found, rng) if size <= CAMPAIGN.ci else list(range(len(found)))
        if call in UPKEEP and size <= CAMPAIGN.ci:
            indexes = sorted(rng.sample(indexes, min(STEPS, len(indexes))))
        steps = [f"{at + 1}:{found[at][0]}" for at in indexes]
        for at, step in enumerate(steps):
            beside = BESIDE if size > CAMPAIGN.ci else [BESIDE[at % len(BESIDE)]]
            for kind in ("close2" if at % 2 else "close", *beside):
                if not (kind == "interrupt" and step.endswith(":close")):  # A close that is interrupted has closed.
                    yield f"{kind} {call} {step}"
        exits = [f"{kind} {call} {step}" for kind in EXITS for step in steps]
        yield from rng.sample(exits, min(size, len(exits)))


def run(folder: Path, size: int, seed: int) -> Figures:
    names = list(cells(folder, size, seed))
    figures = run_cells(names, play, folder, seed)
    reached(figures, "calls at a step", sum(not name.startswith("exit") for name in names))
    return figures


CAMPAIGN = Campaign(
    row=17,
    fault="close(), the end of the process, a fork, an interrupt, at any step of any call",
    promise="files that the caller opens right after stay as they are; a close waits for what is running, later "
    "calls are refused with one error; what was acknowledged is there",
    how="every call of the file system in an append, a batch, a roll, a read, a snapshot, a compaction, a compression, "
    "a retention, an archiving, an opening and a close x {closed by a thread, by two, another store closed, forked, "
    "interrupted, 5 ways to exit}",
    ci=6,
    release=10_000,
    unit="exits in each call, beside everything else at every step",
    run=run,
    in_memory=True,
    missing=missing,
)
