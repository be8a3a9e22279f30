"""Row 9: an error at every call, and an interrupt at every point: nothing leaks, and memory agrees with the disk.

Every phase of a store's life (opening, appending, rolling, compacting, reading, closing) is run again and again, each
time with a fault one site later, until it runs through. What is asked of the store then is the same everywhere.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hangarlog.filestore import event_ids

from ..harness import Campaign, Figures
from .bench import FDS, Bench
from .faults import KINDS, Faults, Interrupter
from .phases import PHASES, Phase, Run, make_bases
from .upkeep import UPKEEP

AFTER = ("EIO", "KeyboardInterrupt")
POINTS = 5
"""So many places of interrupts for each site of another kind: there are as many more."""


def wrong_error(phase: Phase, site: str, outcome: BaseException, kind: str) -> str | None:
    """What is wrong about how a fault came out."""
    expected = phase.raises if kind.startswith("E") else {"MemoryError": MemoryError}.get(kind, KeyboardInterrupt)
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
        if isinstance(outcome, BaseException) and (wrong := wrong_error(phase, site, outcome, kind)):
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


def run(folder: Path, most: int, seed: int) -> Figures:
    event_ids._WORTH = 1  # Every idempotent append extends the table.
    bases = make_bases(folder / "bases")
    faults = Faults()
    bench = Bench(folder, faults)
    figures: Counter[str] = Counter()
    sites: Counter[str] = Counter()
    rng = random.Random(seed)
    with deletions_heard(bench), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What cannot be read just then may be served from its other copy.
        for phase in [*PHASES, *UPKEEP]:
            base, size = bases[phase.base], most // 2 if phase.again else most  # Those have many calls, and cost more.
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
    in_memory=True,
    missing=lambda: None if os.path.isdir(FDS) else "this system does not list open files",
)
