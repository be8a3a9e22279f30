"""Row 13: the same boot over another past. Nobody has the store open, the machine did not restart, and the files are
not what they were: a file system went down and came back with the shared state as it was written once, or somebody has
put an older set of files in place, whole or in part, and perhaps one of them is damaged besides. The store's folder and
files keep their inodes all the while.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from itertools import chain, count
from pathlib import Path
from typing import Any

from hangarlog import HangarlogError

from ..cells import in_two_processes
from ..crash_states import small_ring
from ..harness import Campaign, Figures
from .cases import Case, crashes, damaged, images, in_recoveries, put_back
from .past import Past, recorded
from .tried import Tried, _told
from .two_histories import Histories, Mixed

CASES_OF_A_STORE = 100


def explore(scratch: Path, size: int, seed: str) -> dict[str, Any]:
    """Try `size` cases: most are crashes, some of these with another crash behind; then images and what is put back."""
    rng = random.Random(seed)
    path = scratch / "store"
    scratch.mkdir(parents=True)
    try:
        past = recorded(path)
        tried = Tried(path, past, rng)
        shares = {"crash": size * 5 // 10, "image": size // 20, "put back": size * 25 // 100}
        per_point = max(3, shares["crash"] // len(past.recording.operations) // 4)
        rounds = chain.from_iterable(crashes(past, rng, per_point) for _ in count())  # Each over the whole workload.
        done = 0
        while done < shares["crash"]:
            case = next(rounds)
            tried.run(case)
            done += 1
            if done % 100 == 0:
                done += _again(path, past, case, rng, tried)
        pictures = list(images(past))
        for case in rng.sample(pictures, min(len(pictures), shares["image"])):
            tried.run(case)
        for _ in range(shares["put back"]):
            tried.run(put_back(past, rng))
        for _ in range(size // 20):
            tried.run_damaged(damaged(past, rng))
        _of_two_histories(scratch, size * 15 // 100, rng, tried)
        kinds = Counter(failure.partition(":")[0] for failure in tried.failures)
        first = "; ".join(next(f for f in tried.failures if f.startswith(kind)) for kind in kinds)
        return {**tried.counted, "failed": dict(kinds), "first": first}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _of_two_histories(scratch: Path, size: int, rng: random.Random, tried: Tried) -> None:
    """Of other stores, which drop the beginnings of their journals: cases of two histories each."""
    for number in range(size):
        if number % CASES_OF_A_STORE == 0:
            past = Histories(scratch / f"histories-{number}")
            past.do(rng)
            inner = Tried(past.path, past, rng)
        case = (put_back if rng.random() < 0.9 else damaged)(past, rng)
        inner.put(case.files)
        if failure := Mixed(past.path, past, case, tried.counted).failure():
            tried.failures.append(failure)
        tried.counted["states of two histories"] += 1
    tried.counted += inner.counted


def _again(path: Path, past: Past, case: Case, rng: random.Random, tried: Tried) -> int:
    tried.put(case.files)
    try:
        again, cases = in_recoveries(path, past, case, rng)
    except HangarlogError as error:
        tried.failures.append(f"{case.kind}: {case.what}: appending: {_told(error)}")
        return 0
    inner = Tried(path, again, rng)
    for each in cases:
        inner.run(each)
    tried.counted += inner.counted
    tried.failures += inner.failures
    return len(cases)


def run(folder: Path, size: int, seed: int) -> Figures:
    """In two processes, each with a store of its own."""
    with small_ring():
        results = in_two_processes(lambda scratch, share: explore(scratch, size // 2, f"{seed} {share}"), folder, seed)
    failed: Counter[str] = sum((Counter(result.pop("failed")) for result in results), Counter())
    first = "\n".join(result.pop("first") for result in results)
    counted: Counter[str] = sum((Counter(result) for result in results), Counter())
    assert not failed, f"seed {seed}: of {dict(counted)} failed {dict(failed)}: {first}"
    states = sum(number for name, number in counted.items() if name.startswith("states of"))
    assert counted["with a shared state of its own"] > states // 2, f"blind: {dict(counted)}"
    return {"states": states, **counted}


CAMPAIGN = Campaign(
    row=13,
    fault="another past within one boot",
    promise="nothing acknowledged durable that a file still proves is lost, no version or position is given twice; "
    "a gap is refused with its place, and repaired",
    how="every crash state of row 1 with a shared state of its own boot; older sets of files put back in place, whole "
    "and in part, some with a line damaged; images of a store that is written to; a crash in what comes after; and of "
    "stores that dropped the beginning of their journal, files of two histories that have the same positions",
    ci=5_000,
    release=500_000,
    unit="states",
    run=run,
)
