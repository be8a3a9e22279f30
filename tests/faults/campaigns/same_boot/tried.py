"""What is promised of each case."""

from __future__ import annotations

import random
import re
import traceback
import warnings
from collections import Counter
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from hangarlog import CorruptionError, CorruptionWarning, FileEventStore, StoreOpenError
from hangarlog.filestore.shared_state import SharedState
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify
from hangarlog.testing import Unsynced

from ..crash_states import COMPACTED, make_own, open_store
from ..crash_states import event as made_event
from ..proofs import (
    META,
    Evidence,
    Files,
    Proved,
    Row,
    all_stored,
    check_commits,
    check_streams,
    evidence,
    kept_aside,
    text_in,
    whole_lines,
    write_in_place,
)
from .cases import Case
from .past import STATE, Past, last_of

SEALED = re.compile(r"/streams/.*\.[0-9]{20}\.jsonl(\.zst)?$").search
DROPPED = {COMPACTED[0]: {COMPACTED[2] + 1}}
WORDS = {"crash": "a crash", "in a recovery": "a crash in a recovery", "image": "an image", "put back": "put back"}
WORDS["damaged"] = "put back and damaged"


class _EventsLost(Exception):
    """A repair has said that events are lost: the store is no prefix of what was committed."""


class Tried:
    """One store folder, which each case is put into, and what was counted."""

    def __init__(self, path: Path, past: Past, rng: random.Random) -> None:
        self._path, self._past, self._rng = path, past, rng
        self._state = path / STATE
        self.counted: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self, case: Case) -> None:
        self.put(case.files)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore" if case.mixed else "error", CorruptionWarning)
                warnings.filterwarnings("ignore", ".*no whole history leads to", CorruptionWarning)
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
        before, committed = _lines_of(self._path), evidence(self._path).committed
        before = {at: line for at, line in before.items() if not (line.is_erased or self._is_hidden(line))}
        held = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CorruptionWarning)
                with suppress(CorruptionError, StoreOpenError), open_store(self._path, Unsynced()) as store:
                    held = {row[0] for row in all_stored(store, DROPPED, skip=True)}
                    end = store.get_event_count()
            if held is None:
                self.counted["damaged, and refused"] += 1
            else:
                unread = sorted(position for position in before if position <= end and position not in held)
                assert not unread, f"of {end} events {unread} are not read, of which there is a whole line"
            gone = before.keys() - _lines_of(self._path).keys()
            # A batch that the journal has begun and not ended is cut off: a crash leaves it so.
            ended = {position for position in gone if max(_batch_of(before, position)) <= committed}
            whole = [position for position in ended if _batch_of(before, position) <= before.keys()]
            assert not whole, f"no file has {sorted(whole)} any more, whose batches were whole"
        except Exception as error:
            text = str(error) if isinstance(error, AssertionError) else _told(error)
            self.failures.append(f"{case.kind}: {case.what}: {text[:1500]}")
        self.counted[f"states of {WORDS[case.kind]}"] += 1

    def _is_hidden(self, line: Proved) -> bool:
        """True if a stream hides the line: its copy there is erased, so the journal's is the only one."""
        if line.stream_id != COMPACTED[0] or line.version > COMPACTED[2]:
            return False
        in_journal = {each.position for file in self._path.glob("journal*") for each in _whole_in(file)}
        return (self._path / "snapshots").exists() and line.position not in in_journal

    def put(self, files: Files) -> None:
        """Make the folder hold these files. The shared state is its own, else nothing would believe it."""
        files.put(self._path)
        self._unjoined: set[bytes] = set()
        own = make_own(self._path, restarted=False)
        self._promised = _promised(self._path) if own else 0
        self.counted["with a shared state of its own"] += self._promised > 0

    def _opened(self, case: Case) -> list[Row]:
        """Open, look, append to every stream, look again; returns what is stored then."""
        proofs = evidence(self._path)
        assert case.mixed or proofs.through() >= case.durable, "the harness is wrong: the files do not prove it"
        store, refused = self._open(case, proofs)
        with ExitStack() as opened:
            opened.enter_context(store)
            held = self._look_or_repair(store, case, proofs)
            self.counted["joined from the ring"] += bool(store.recovered and store.recovered.joined)
            for stream_id in [*store.list_streams(), f"next:{len(held)}"]:
                count = sum(1 for each in held if each[1] == stream_id)
                event = made_event(900, len(held), 1)
                try:
                    version = store.append(stream_id, [event], count - 1, durability="always")
                except CorruptionError as error:
                    store = opened.enter_context(self._mended(case, store, error))
                    version = store.append(stream_id, [event], count - 1, durability="always")
                assert version == count, f"{stream_id} is given version {version} after {count - 1}"
                held.append((len(held) + 1, stream_id, count, event.event_id))
            assert all_stored(store, DROPPED) == held, "what was appended is not behind what was there"
            damages = list(verify(store))
        assert not damages or case.mixed, f"verify finds {damages[0]}"
        if damages:
            self.counted["of these repaired"] += not refused
            self._repaired(held)
        gone = self._unjoined - kept_aside(self._path)
        assert not gone, f"{len(gone)} of {len(self._unjoined)} durable events are not kept aside in the end"
        return held

    def _mended(self, case: Case, store: FileEventStore, refusal: CorruptionError) -> FileEventStore:
        """Repair a stream that takes no appends, because older files of it lie beside newer ones."""
        assert case.mixed, f"it takes no appends: {refusal!r}"
        assert str(self._path) in str(refusal), f"the refusal names no place: {refusal}"
        store.close()
        self.counted["appends refused, then repaired"] += 1
        list(repair(self._path, filesystem=Unsynced()))
        return open_store(self._path, Unsynced())

    def _open(self, case: Case, proofs: Evidence) -> tuple[FileEventStore, bool]:
        try:
            return open_store(self._path, Unsynced()), False
        except (CorruptionError, StoreOpenError) as error:
            refusal = error
        assert case.mixed, f"it does not open: {refusal!r}"
        assert self._has_gap(proofs), f"it does not open, although nothing is missing: {refusal!r}"
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
            held = {row[0] for row in all_stored(store, DROPPED, skip=True)}
            missing = set(range(1, proofs.through() + 1)) - held
            assert not missing, f"the repair has lost {sorted(missing)}, which the files prove"
            assert store.append("next:lost", [made_event(900, 0, 1)], -1) == 0
        self.counted["of these with events lost"] += 1
        raise _EventsLost

    def _has_gap(self, proofs: Evidence) -> bool:
        """True if something was committed that no file has, or only an erased line that no mark hides."""
        marked = (self._path / "snapshots/a/1.json").exists()
        erased = [line for line in proofs.lines.values() if line.is_erased]
        return proofs.gap or self._promised > proofs.through() or (bool(erased) and not marked)

    def _look_or_repair(self, store: FileEventStore, case: Case, proofs: Evidence) -> list[Row]:
        """What is gone for good is named by the read that comes to it; a repair says what that was."""
        try:
            return self._look(store, case, proofs)
        except CorruptionError as error:
            refusal = error
        assert case.mixed, f"it cannot be read: {refusal!r}"
        assert self._has_gap(proofs), f"it cannot be read, although nothing is missing: {refusal!r}"
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
        held = all_stored(store, DROPPED)
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
            kept = kept_aside(self._path) | self._in_left_over_segments(store)
            missing = [line for line in lost if line.line not in kept]
            assert not missing, f"{len(missing)} of {len(lost)} durable events are gone without a word: {missing[0]}"
            self._unjoined = {line.line for line in lost}
            self.counted["durable events put aside behind a gap"] += len(lost)
            self.counted["of these only streams had"] += sum(line.position in proofs.streams_only for line in lost)

    def _in_left_over_segments(self, store: FileEventStore) -> set[bytes]:
        """The lines of sealed segments of streams that `verify` names as damaged."""
        named = {Path(damage.path) for damage in verify(store) if SEALED(damage.path)}
        self.counted["segments left over, and named"] += len(named)
        return {line.line for path in named for line in _whole_in(path)}

    def _repaired(self, held: list[Row]) -> None:
        list(repair(self._path, filesystem=Unsynced()))
        with open_store(self._path, Unsynced()) as store:
            assert all_stored(store, DROPPED) == held, "the repair has changed what was there"
            damages = list(verify(store))
            assert not damages, f"verify finds after a repair {damages[0]}"

    def _restarted(self, held: list[Row]) -> None:
        """A restart changes nothing; neither does the next time that some older shared state comes back."""
        if self._rng.random() < 0.6:
            self._state.unlink(missing_ok=True)
        else:
            older = [words for words in self._past.states if last_of(words) <= len(held)]
            write_in_place(self._state, self._rng.choice(older))
            make_own(self._path, restarted=False)
        with open_store(self._path, Unsynced()) as store:
            again = all_stored(store, DROPPED)
            assert again == held, f"opened again it holds {len(again)} events, not {len(held)}"
            check_streams(store, held, DROPPED)
            damages = list(verify(store))
            assert not damages, f"opened again, verify finds {damages[0]}"


def _promised(path: Path) -> int:
    """The last position that a shared state of this folder and this boot says was committed, 0 without one."""
    filesystem = Unsynced()
    home = filesystem.made_at(str(path / META))
    with closing(SharedState(filesystem, str(path / STATE), home, writable=False)) as state:
        return max(state.promised) if state.of_this_boot and not state.is_of_copy else 0


def _lines_of(folder: Path) -> dict[int, Proved]:
    """Every whole line of every file of lines, also of what was put aside, by position; erased ones last."""
    files = [file for file in folder.rglob("*") if file.is_file() and ".jsonl" in file.name]
    lines = [line for file in files for line in _whole_in(file)]
    return {line.position: line for line in sorted(lines, key=lambda line: not line.is_erased)}


def _whole_in(file: Path) -> list[Proved]:
    return list(whole_lines(text_in(file.name, file.read_bytes())))


def _batch_of(lines: dict[int, Proved], position: int) -> set[int]:
    """The positions from this one to the end of its batch."""
    return set(range(position, max(position, lines[position].batch_end) + 1))


def _told(error: Exception) -> str:
    """The error, and where it came from, the last calls only."""
    return "".join(traceback.format_exception(error, chain=False)[-4:])
