"""The campaign: histories until enough events were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from .alarms import justification, section
from .histories import Counts, History, Wrong

PAGE = Path(__file__).resolve().parents[3] / "docs" / "schema-changes.md"
HEADING = "\n## A campaign of random classes\n\n"
FOLLOWING = "\n## Tried on public projects\n"
"""The section after this one."""

_SEEDS = 1_000_000_000  # Histories that the seeds of two campaigns do not share.
_IN_A_PROCESS = 400
_SHOWN = 20


def run(events: int, seeds: Iterable[int] | None = None) -> tuple[Counts, list[Wrong]]:
    """Run histories until so many events were made. Return what was counted, and the verdicts that are wrong."""
    counts, wrong = Counts(), list[Wrong]()
    for each in seeds if seeds is not None else count():
        if counts.events >= events:
            break
        history = History(each, counts)
        history.run()
        wrong += history.wrong
    return counts, wrong


def run_in_processes(events: int, seed: int) -> tuple[Counts, list[Wrong]]:
    """The same, some hundred histories in each process, one after the other.

    Now and then msgspec crashes after it has refused and forgotten thousands of classes. Such histories do not count.
    """
    counts, wrong = Counts(), list[Wrong]()
    for first in count(seed * _SEEDS, _IN_A_PROCESS):
        if counts.events >= events:
            break
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                more, found = pool.submit(run, events, range(first, first + _IN_A_PROCESS)).result()
            except BrokenProcessPool:
                print(f"the process of the histories from {first} on crashed", flush=True)
                continue
        counts.add(more)
        wrong += found
    return counts, wrong


def unjustified(wrong: Iterable[Wrong]) -> list[Wrong]:
    """The misses, and the false alarms that are not on the list."""
    return [each for each in wrong if each.kind == "miss" or not all(map(justification, each.why))]


def record(text: str) -> None:
    """Write the section of the page anew."""
    before, _, rest = PAGE.read_text().partition(HEADING)
    PAGE.write_text(before + HEADING + section(text) + "".join(rest.partition(FOLLOWING)[1:]))


def show(counts: Counts, wrong: list[Wrong], seconds: float) -> int:
    """Print the result. Return 1 if a verdict is wrong without a justification."""
    bad = unjustified(wrong)
    bad.sort(key=lambda each: each.kind != "miss")
    for each in bad[:_SHOWN]:
        print(f"{each.kind.upper()}: {'; '.join(each.why)}")
        print(f"  again: python -m tests.schema.campaign --history {each.seed}")
        print("\n".join(f"  {line}" for line in each.shown.splitlines()))
    print("\nalarms (false ones):")
    for kind, number in counts.alarms.most_common():
        print(f"  {number:6,} ({counts.false[kind]:,}) {kind}")
    print("changes:", ", ".join(f"{title} {number:,}" for title, number in counts.changes.most_common()))
    print(figures(counts, wrong, seconds))
    return 1 if bad else 0


def figures(counts: Counts, wrong: list[Wrong], seconds: float) -> str:
    """What was counted, in a line."""
    kinds = Counter(each.kind for each in wrong)
    bad = Counter(each.kind for each in unjustified(wrong))
    untried = f", {counts.untried:,} changes that the check could not try" if counts.untried else ""
    return (
        f"{counts.pairs:,} pairs of classes, {counts.passed:,} of them passed; {counts.events:,} events made, "
        f"{counts.decoded:,} decoded by the next class; {bad['miss']:,} misses{untried}; "
        f"{counts.pairs - counts.passed:,} alarms, {kinds['false alarm']:,} of them false, "
        f"{bad['false alarm']:,} of these unjustified; {seconds:,.0f} s"
    )
