"""A run: rounds of turns, until the time is up, something fails, or the user has had enough."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from collections.abc import Callable, Iterator
from time import monotonic

import msgspec

from hangarlog import __version__
from hangarlog.benchmark.alone import Alone
from hangarlog.benchmark.crew import Crew
from hangarlog.benchmark.errors import BenchmarkError, LeftFilesError
from hangarlog.benchmark.payloads import Payloads
from hangarlog.benchmark.plan import Measure, Plan, Stores
from hangarlog.benchmark.reading import Reading
from hangarlog.benchmark.results import FORMAT, Results, describe_machine, describe_payload, results_of
from hangarlog.benchmark.scratch import Place, free_bytes, remove, scratch
from hangarlog.benchmark.together import Together
from hangarlog.benchmark.turn import Turn
from hangarlog.benchmark.verdict import verdict, warnings
from hangarlog.benchmark.worker import errno_of
from hangarlog.errors import HangarlogError
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.interrupts import Interrupts

Advance = Callable[[str], None]
"""Called before each turn with its title."""
Begin = Callable[[Plan, str], None]
"""Called with the plan and the private folder, once a signal ends the run in order."""
_LEAST_SECONDS = 0.002
"""The length of a turn when the time is up. It has one call at least."""
_RING_SHARE = 1 / 40
"""The most of a run that it takes to create a ring, on a slow disk."""
_FULL = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG])


class Outcome(msgspec.Struct):
    """The results of a run, and the error that ended it early, None if nothing did."""

    results: Results
    error: BaseException | None = None


def run(
    place: Place,
    payloads: Payloads,
    plan: Plan,
    advance: Advance = lambda title: None,
    begin: Begin = lambda plan, folder: None,
) -> Outcome:
    """Measure in a private folder below `place`, and remove it. An error or an interrupt does not lose the results."""
    machine, began = describe_machine(place), monotonic()
    turns: dict[str, list[Turn]] = {}
    running = _Running(place, payloads, plan, turns, advance)
    error: BaseException | None = None
    with Interrupts() as interrupts:
        try:
            with scratch(place.folder) as folder, _cleaning(interrupts, running.crew):
                begin(plan, folder)
                running.rounds(folder, interrupts, began + plan.seconds)
        except (KeyboardInterrupt, OSError, HangarlogError) as caught:
            error = running.explained(caught, interrupts)
    results = Results(
        FORMAT,
        __version__,
        machine,
        describe_payload(payloads),
        running.complete,
        monotonic() - began,
        None if error is None else "interrupted" if isinstance(error, KeyboardInterrupt) else str(error),
        results_of(plan, turns, payloads),
    )
    results.warnings, results.verdict = warnings(results), verdict(results)
    return Outcome(results, error)


@contextlib.contextmanager
def _cleaning(interrupts: Interrupts, crew: Crew) -> Iterator[None]:
    """Let signals interrupt the block, but not what follows: the workers end before their folder is removed."""
    gc.freeze()  # The payloads may be many objects, which no collection need look at.
    try:
        interrupts.release()
        yield
    finally:
        interrupts.hold()
        gc.unfreeze()
        crew.stop()


class _Running:
    """The state of a run: the turns so far, and how many rounds are complete."""

    def __init__(
        self, place: Place, payloads: Payloads, plan: Plan, turns: dict[str, list[Turn]], advance: Advance
    ) -> None:
        self._place, self._payloads, self._plan, self._turns, self._advance = place, payloads, plan, turns, advance
        self.crew = Crew(place.folder)
        self.complete = 0
        self._title = ""

    def rounds(self, folder: str, interrupts: Interrupts, deadline: float) -> None:
        """Make the rounds, the last one of which begins before the deadline."""
        plan, payloads = self._plan, self._payloads
        self.crew.start(plan.processes)
        reading = Reading(folder, payloads, plan.turn_bytes, plan.seconds)
        with contextlib.closing(reading):
            for number in range(plan.rounds):
                if number and monotonic() >= deadline:
                    break
                within = os.path.join(folder, f"round-{number + 1}")
                with _stores(within, reading, payloads, self.crew, plan) as stores:
                    # Back and forth, so that a machine that grows slower is not held against the last measure.
                    order = plan.measures[:: -1 if number % 2 else 1]
                    self._round(order, stores, interrupts, deadline, plan.rounds - number - 1)
                self.complete += 1

    def _round(
        self, order: list[Measure], stores: Stores, interrupts: Interrupts, deadline: float, rounds_left: int
    ) -> None:
        a_round = sum(measure.weight for measure in order)
        weight_left = a_round * (rounds_left + 1)
        for measure in order:
            self._title = f"{measure.group}: {measure.title}"
            self._advance(self._title)
            seconds = max(_LEAST_SECONDS, (deadline - monotonic()) * measure.weight / weight_left)
            weight_left -= measure.weight
            turn = measure.turn(stores, seconds)
            self._turns.setdefault(measure.name, []).append(turn)
            interrupts.check()

    def explained(self, error: BaseException, interrupts: Interrupts) -> BaseException:
        """Return the error to show for one that ended the run."""
        if isinstance(error, LeftFilesError):
            return error
        if interrupts.seen or isinstance(error, KeyboardInterrupt):
            return KeyboardInterrupt()  # A signal to the whole group may have ended a worker first.
        if errno_of(error) in _FULL:
            folder, needed = self._place.folder, self._plan.needed_bytes >> 20
            doing = f"measuring {self._title!r}" if self._title else "preparing"
            return BenchmarkError(
                folder,
                f"{os.strerror(errno_of(error))}, while {doing}; a run may need {needed:,} MiB, and "
                f"{free_bytes(folder) >> 20:,} MiB are free now that its files are removed. Free some space, or name a "
                "folder on another disk",
            )
        return error


@contextlib.contextmanager
def _stores(folder: str, reading: Reading, payloads: Payloads, crew: Crew, plan: Plan) -> Iterator[Stores]:
    """Make the stores of a round in a new folder, which is removed after the block, so that rounds are alike."""
    FileSystem().create_folder(folder)
    with contextlib.ExitStack() as stack:
        ring_seconds = plan.seconds * _RING_SHARE
        alone = Alone(folder, payloads, plan.turn_bytes, ring_seconds)
        stack.callback(alone.close)
        together = Together(folder, payloads, crew, plan.processes, plan.turn_bytes, ring_seconds)
        stack.callback(together.close)
        yield Stores(alone, reading, together)
    remove(folder)
