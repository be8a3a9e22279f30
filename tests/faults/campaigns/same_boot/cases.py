"""Files of another past: after crashes, of one instant, put back in part, and damaged."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hangarlog import ANY
from hangarlog.testing import crash_states

from ..crash_states import REPAIRED, open_store
from ..crash_states import event as made_event
from ..proofs import Files
from .past import STATE, Moments, Past

KEPT = ("hangarlog.json", "locks")  # Without the first it is no store; the others hold nothing.


class Case(NamedTuple):
    """One state to open: the files, what was acknowledged durable, and whether a gap may be refused until a repair."""

    kind: str
    what: str
    files: Files
    durable: int
    mixed: bool = False
    moments: tuple[int, ...] = ()  # Those that the files are of.


def crashes(past: Past, rng: random.Random, per_point: int) -> Iterator[Case]:
    """Every crash state of row 1, with the shared state of the same boot."""
    for state in crash_states(past.recording.operations, rng, per_point):
        files = Files(dict(state.files), dict(state.links), list(state.folders))
        for path in [*files.contents, *files.links]:
            if os.path.dirname(path) and os.path.dirname(path) not in files.folders:
                files.contents.pop(path, None)
                files.links.pop(path, None)
        if STATE not in files.contents or rng.random() < 0.7:
            own = past.state_before(state.at, rng)
            if own is not None:
                files.contents[STATE] = own
        if "hangarlog.json" in files.contents:
            where = f"operation {state.at}, without {state.lost}"
            yield Case("crash", where, files, past.durable(state.notes), mixed=_damaged(state.notes))


def images(past: Past) -> Iterator[Case]:
    """All files at one instant, between two operations of a store that is written to."""
    for at, files in enumerate(past.moments):
        if "hangarlog.json" in files.contents:
            notes = past.notes_before(at + 1)
            where = f"all files after operation {at + 1}"
            yield Case("image", where, files, past.durable(notes), mixed=_damaged(notes))


def _damaged(notes: list[Any]) -> bool:
    """Whether the workload has damaged a stream by then, and not repaired it yet."""
    return ("always", REPAIRED) in notes and ("repaired", 0) not in notes


def group(path: str) -> str:
    """Which part of a set a file belongs to."""
    if path.startswith("journal"):
        return "journal" if path == "journal.jsonl" else "sealed journal"
    return path.partition("/")[0]


def put_back(past: Past, rng: random.Random) -> Case:
    """Some parts as they were at one moment, the others as they were at another; some deleted, some left lying."""
    older, newer = sorted(rng.sample(past.agreeing(), 2))
    then, now = past.moments[older], past.moments[newer]
    groups = sorted({group(path) for path in [*then.contents, *now.contents]} - set(KEPT))
    back = set(rng.sample(groups, rng.choice([1, 1, 2, rng.randint(1, len(groups)), len(groups)])))
    gone = set(rng.sample(groups, rng.choice([0, 0, 0, 1, 2]))) - back
    left = rng.random() < 0.5  # As `cp -r` of a backup leaves files that came after it.
    stream = rng.random() < 0.3  # One file of the streams, instead of all.
    files = Files({}, {}, sorted({*then.folders, *now.folders}))
    for path in sorted({*then.contents, *then.links, *now.contents, *now.links}):
        part = group(path)
        is_back = part in back and not (stream and part == "streams" and rng.random() < 0.5)
        if part in gone and not (part == "streams" and stream and rng.random() < 0.5):
            continue
        sources = (then, now) if is_back and left else (then,) if is_back else (now,)
        for source in sources:
            content = source.contents.get(source.links.get(path, path))
            if content is not None and (path in source.contents or path in source.links):
                files.contents[path] = content  # A second name is copied as a second file.
                break
    what = f"{sorted(back)} as after operation {older + 1}{', what came later left lying' * left}, the rest as after "
    what += f"{newer + 1}, without {sorted(gone)}{', only some of the streams' * stream}"
    return Case("put back", what, files, past.durable(past.notes_before(newer + 1)), True, (older, newer))


def damaged(past: Past, rng: random.Random) -> Case:
    """As `put_back`, and in one file of lines a bit is another one, or a line is gone."""
    case = put_back(past, rng)
    paths = sorted(path for path, content in case.files.contents.items() if path.endswith(".jsonl") and content)
    if not paths:
        return case
    path = rng.choice(paths)
    content = bytearray(case.files.contents[path])
    if rng.random() < 0.7:
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(7)
    else:
        lines = content.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        content = bytearray(b"".join(lines[:at] + lines[at + 1 :]))
    case.files.contents[path] = bytes(content)
    return case._replace(kind="damaged", what=f"{case.what}; {path} damaged at {at}")


def in_recoveries(path: Path, past: Past, case: Case, rng: random.Random) -> tuple[Past, list[Case]]:
    """Open what lies there, append, have another crash anywhere in that: the past this makes, the cases after it."""
    inner = Moments(path)
    with open_store(path, inner) as store:
        durable: dict[Any, int] = {}
        for number in range(3):
            before = store.get_event_count()
            store.append("a:1", [made_event(800 + number, 0, 50)], ANY)
            durable["always", 800 + number] = before + 1
            inner.note(("always", 800 + number))
    more = {800 + number: [("a:1", f"{800 + number}-0")] for number in range(3)}
    again = Past(inner, durable, past.commits | more)
    cases = []
    for inner_case in crashes(again, rng, 1):
        least = max(case.durable, inner_case.durable)
        what = f"{case.what}; and then {inner_case.what}"
        cases.append(inner_case._replace(kind="in a recovery", what=what, durable=least, mixed=case.mixed))
    return again, cases
