"""Row 13: the same boot over another past. Nobody has the store open, the machine did not restart, and the files are
not what they were: a file system went down and came back with the shared state as it was written once, or somebody has
put an older set of files in place, whole or in part, and perhaps one of them is damaged besides. The store's folder and
files keep their inodes all the while.
"""

from __future__ import annotations

import os
import random
import shutil
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from hangarlog import ANY, CorruptionError, CorruptionWarning, FileEventStore, HangarlogError, StoreOpenError
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify
from hangarlog.testing import Unsynced, crash_states

from .cells import in_two_processes
from .crash_states import COMPACTED, IDS, REPAIRED, Failing, open_store, small_ring
from .crash_states import event as made_event
from .crash_states import record as record_workload
from .harness import Campaign, Figures
from .proofs import (
    Evidence,
    Files,
    Proved,
    Row,
    check_commits,
    check_streams,
    evidence,
    kept_aside,
    stored,
    whole_lines,
    write_in_place,
)

STATE = "state"
KEPT = ("hangarlog.json", "locks")  # Without the first it is no store; the others hold nothing.
DROPPED = {COMPACTED[0]: {COMPACTED[2] + 1}}
WORDS = {"crash": "a crash", "in a recovery": "a crash in a recovery", "image": "an image", "put back": "put back"}
WORDS["damaged"] = "put back and damaged"


class Moments(Failing):
    """A recording that keeps all files, the shared state too, as they were after each operation."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.moments: list[Files] = []
        super().__init__(folder)

    def _add(self, *rest: Any, **more: Any) -> None:
        super()._add(*rest, **more)
        self.moments.append(Files.of(self.folder, self.moments[-1].contents if self.moments else None))


class Case(NamedTuple):
    """One state to open: the files, what was acknowledged durable, and whether a gap may be refused until a repair."""

    kind: str
    what: str
    files: Files
    durable: int
    mixed: bool = False


class Past:
    """A recorded workload: its files at every moment, its commits, its acknowledgements."""

    def __init__(self, recording: Moments, durable: dict[Any, int], commits: dict[int, list[tuple[str, str]]]) -> None:
        self.recording, self.moments, self.commits = recording, recording.moments, commits
        self._durable = durable
        self.inode = os.stat(os.path.join(recording.folder, STATE)).st_ino
        self.notes = [at for at, operation in enumerate(recording.operations) if operation.kind == "note"]
        self.states = list(dict.fromkeys(files.contents[STATE] for files in self.moments if STATE in files.contents))

    def notes_before(self, at: int) -> list[Any]:
        """What was noted among the first `at` operations."""
        return [operation.note for operation in self.recording.operations[:at]]

    def durable(self, notes: list[Any]) -> int:
        """The last position that was acknowledged durable by then."""
        return max((self._durable.get(note, 0) for note in notes if note), default=0)

    @cache  # noqa: B019 - there are few pasts
    def agreeing(self) -> list[int]:
        """The moments between two calls whose lines all came to stay: none of an append that was taken back."""
        last = _lines_by_position(self.moments[-1])
        return [
            at
            for at in self.notes
            if "hangarlog.json" in self.moments[at].contents
            and _lines_by_position(self.moments[at]).items() <= last.items()
        ]

    def state_before(self, at: int, rng: random.Random) -> bytes | None:
        """The shared state as it was at some moment up to then: often the last one, which is most often believed."""
        place = at if rng.random() < 0.4 else rng.randrange(at + 1)
        return self.moments[min(place, len(self.moments) - 1)].contents.get(STATE)


def _lines_by_position(files: Files) -> dict[int, bytes]:
    texts = [
        content for path, content in files.contents.items() if path.endswith(".jsonl") and path != "put-aside.jsonl"
    ]
    return {line.position: line.line for text in texts for line in whole_lines(text)}


def recorded(path: Path) -> Past:
    """The workload of row 1."""
    recording = record_workload(path, Moments)
    assert isinstance(recording, Moments)
    durable, position = {}, 0
    commits = [note for note in (operation.note for operation in recording.operations) if note and note[0] == "always"]
    with open_store(path, Unsynced()) as store:
        last = {int(record.event_id.partition("-")[0]): record.position for record in store.records()}
    for note in commits:
        position = durable[note] = last[note[1]]
    assert position > 30
    return Past(recording, durable, dict(enumerate(IDS)))


# The cases


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
    return Case("put back", what, files, past.durable(past.notes_before(newer + 1)), mixed=True)


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


# What is promised


class _EventsLost(Exception):
    """A repair has said that events are lost: the store is no prefix of what was committed."""


class Tried:
    """One store folder, which each case is put into, and what was counted."""

    def __init__(self, path: Path, past: Past, rng: random.Random) -> None:
        self._path, self._past, self._rng = path, past, rng
        self._state, self._away = path / STATE, path.with_name(f"state-{past.inode}")
        self.counted: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self, case: Case) -> None:
        self.put(case.files)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore" if case.mixed else "error", CorruptionWarning)
                with suppress(_EventsLost):
                    held = self._opened(case)
                    self._restarted(held)
        except Exception as error:
            text = str(error) if isinstance(error, AssertionError) else _told(error)
            self.failures.append(f"{case.kind}: {case.what}: {text[:1500]}")
        self.counted[f"states of {WORDS[case.kind]}"] += 1

    def run_damaged(self, case: Case) -> None:
        """Every whole line is read up to where the store ends, and no batch of which all lines were there is gone."""
        self.put(case.files)
        before = _lines_of(self._path)
        held = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CorruptionWarning)
                with suppress(CorruptionError, StoreOpenError), open_store(self._path, Unsynced()) as store:
                    held = {record.position for record in store.records(on_damage="skip")}
                    end = store.get_event_count()
            if held is None:
                self.counted["damaged, and refused"] += 1
            else:
                unread = sorted(position for position in before if position <= end and position not in held)
                assert not unread, f"of {end} events {unread} are not read, of which there is a whole line"
            gone = before.keys() - _lines_of(self._path).keys()
            whole = [position for position in gone if _batch_of(before, position) <= before.keys()]
            assert not whole, f"no file has {sorted(whole)} any more, whose batches were whole"
        except Exception as error:
            text = str(error) if isinstance(error, AssertionError) else _told(error)
            self.failures.append(f"{case.kind}: {case.what}: {text[:1500]}")
        self.counted[f"states of {WORDS[case.kind]}"] += 1

    def put(self, files: Files) -> None:
        """Make the folder hold these files. The shared state keeps its inode, else nothing would believe it."""
        self._take_state_away()  # Where there is none, or one that has to be made anew, the inode would be lost.
        if len(files.contents.get(STATE, b"")) == len(self._past.states[-1]):
            self._give_state_back()
            own = self._state.exists() and self._state.stat().st_ino == self._past.inode
            self.counted["with the shared state in its own inode"] += own
        files.put(self._path)

    def _take_state_away(self) -> None:
        if self._state.exists() and self._state.stat().st_ino == self._past.inode:
            os.rename(self._state, self._away)

    def _give_state_back(self) -> None:
        with suppress(FileNotFoundError):
            os.rename(self._away, self._state)

    def _opened(self, case: Case) -> list[Row]:
        """Open, look, append to every stream, look again; returns what is stored then."""
        proofs = evidence(self._path)
        assert case.mixed or proofs.through() >= case.durable, "the harness is wrong: the files do not prove it"
        store, refused = self._open(case, proofs)
        with store:
            held = self._look_or_repair(store, case, proofs)
            self.counted["joined from the ring"] += bool(store.recovered and store.recovered.joined)
            for stream_id in [*store.list_streams(), f"next:{len(held)}"]:
                count = sum(1 for each in held if each[1] == stream_id)
                event = made_event(900, len(held), 1)
                version = store.append(stream_id, [event], count - 1, durability="always")
                assert version == count, f"{stream_id} is given version {version} after {count - 1}"
                held.append((len(held) + 1, stream_id, count, event.event_id))
            assert stored(store.records()) == held, "what was appended is not behind what was there"
            damages = list(verify(store))
        assert not damages or case.mixed, f"verify finds {damages[0]}"
        if damages:
            self.counted["of these repaired"] += not refused
            self._repaired(held)
        return held

    def _open(self, case: Case, proofs: Evidence) -> tuple[FileEventStore, bool]:
        try:
            return open_store(self._path, Unsynced()), False
        except (CorruptionError, StoreOpenError) as error:
            refusal = error
        assert case.mixed, f"it does not open: {refusal!r}"
        assert proofs.gap, f"it does not open, although nothing is missing: {refusal!r}"
        assert str(self._path) in str(refusal), f"the refusal names no place: {refusal}"
        self.counted["gaps refused, then repaired"] += 1
        results = list(repair(self._path, filesystem=Unsynced()))
        store = open_store(self._path, Unsynced())
        if any(isinstance(result, Lost) for result in results):
            self._without_lost(store, proofs)
        return store, True

    def _without_lost(self, store: FileEventStore, proofs: Evidence) -> None:
        """Events of which no copy is left keep their places: what is proved before and behind them can be read."""
        with store:
            held = {row[0] for row in stored(store.records(on_damage="skip"))}
            missing = set(range(1, proofs.through() + 1)) - held
            assert not missing, f"the repair has lost {sorted(missing)}, which the files prove"
            assert store.append("next:lost", [made_event(900, 0, 1)], -1) == 0
        self.counted["of these with events lost"] += 1
        raise _EventsLost

    def _look_or_repair(self, store: FileEventStore, case: Case, proofs: Evidence) -> list[Row]:
        """What is gone for good is named by the read that comes to it; a repair says what that was."""
        try:
            return self._look(store, case, proofs)
        except CorruptionError as error:
            refusal = error
        assert case.mixed, f"it cannot be read: {refusal!r}"
        assert proofs.gap, f"it cannot be read, although nothing is missing: {refusal!r}"
        assert str(self._path) in str(refusal), f"the refusal names no place: {refusal}"
        store.close()
        self.counted["gaps refused, then repaired"] += 1
        results = list(repair(self._path, filesystem=Unsynced()))
        with open_store(self._path, Unsynced()) as again:
            if not any(isinstance(result, Lost) for result in results):
                self._look(again, case, proofs)
            self._without_lost(again, proofs)
        raise AssertionError("not reached")

    def _look(self, store: FileEventStore, case: Case, proofs: Evidence) -> list[Row]:
        """What it holds is the history up to some commit, and nothing that is proved is missing."""
        held = stored(store.records())
        check_commits(held, self._past.commits)
        through = proofs.through()
        least = min(through, case.durable)
        assert len(held) >= least, f"{len(held)} events; {case.durable} were acknowledged, the files prove {through}"
        check_streams(store, held, DROPPED)
        self._named(store, case, proofs, len(held))
        return held

    def _named(self, store: FileEventStore, case: Case, proofs: Evidence, count: int) -> None:
        """What was acknowledged durable and cannot be joined is kept where a person finds it."""
        lost = [line for position, line in proofs.lines.items() if count < position <= case.durable]
        if lost:
            aside = kept_aside(self._path)
            missing = [line for line in lost if line.line not in aside]
            assert not missing, f"{len(missing)} of {len(lost)} durable events are gone without a word: {missing[0]}"
            self.counted["durable events put aside behind a gap"] += len(lost)
            self.counted["of these only streams had"] += sum(line.position in proofs.streams_only for line in lost)

    def _repaired(self, held: list[Row]) -> None:
        list(repair(self._path, filesystem=Unsynced()))
        with open_store(self._path, Unsynced()) as store:
            assert stored(store.records()) == held, "the repair has changed what was there"
            damages = list(verify(store))
            assert not damages, f"verify finds after a repair {damages[0]}"

    def _restarted(self, held: list[Row]) -> None:
        """A restart changes nothing; neither does the next time that some older shared state comes back."""
        if self._rng.random() < 0.6:
            self._take_state_away()
            with suppress(FileNotFoundError):
                os.unlink(self._state)
        else:
            self._give_state_back()
            write_in_place(self._state, self._rng.choice(self._past.states))
        with open_store(self._path, Unsynced()) as store:
            again = stored(store.records())
            assert again == held, f"opened again it holds {len(again)} events, not {len(held)}"
            check_streams(store, held, DROPPED)
            damages = list(verify(store))
            assert not damages, f"opened again, verify finds {damages[0]}"


def _lines_of(folder: Path) -> dict[int, Proved]:
    """Every whole line of every file of lines, those that were put aside too, by position."""
    files = [file for file in folder.rglob("*") if file.is_file() and ".jsonl" in file.name]
    return {line.position: line for file in files for line in whole_lines(file.read_bytes())}


def _batch_of(lines: dict[int, Proved], position: int) -> set[int]:
    """The positions from this one to the end of its batch."""
    return set(range(position, max(position, lines[position].batch_end) + 1))


def _told(error: Exception) -> str:
    """The error, and where it came from, the last calls only."""
    return "".join(traceback.format_exception(error, chain=False)[-4:])


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


# The run


def explore(scratch: Path, size: int, seed: str) -> dict[str, Any]:
    """Try `size` cases: most are crashes, some of these with another crash behind; then images and what is put back."""
    rng = random.Random(seed)
    path = scratch / "store"
    scratch.mkdir(parents=True)
    try:
        past = recorded(path)
        tried = Tried(path, past, rng)
        shares = {"crash": size * 6 // 10, "image": size // 20, "put back": size * 30 // 100}
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
        kinds = Counter(failure.partition(":")[0] for failure in tried.failures)
        first = "; ".join(next(f for f in tried.failures if f.startswith(kind)) for kind in kinds)
        return {**tried.counted, "failed": dict(kinds), "first": first}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
    assert counted["with the shared state in its own inode"] > states // 2, f"blind: {dict(counted)}"
    return {"states": states, **counted}


CAMPAIGN = Campaign(
    row=13,
    fault="another past within one boot",
    promise="nothing acknowledged durable that a file still proves is lost, no version or position is given twice; "
    "a gap is refused with its place, and repaired",
    how="every crash state of row 1 with a shared state of its own boot; older sets of files put back in place, whole "
    "and in part, some with a line damaged; images of a store that is written to; and a crash in what comes after",
    ci=6_000,
    release=500_000,
    unit="states",
    run=run,
)
