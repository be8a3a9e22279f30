"""Two histories of one store that drops the beginning of its journal: from one moment on, other events at the same
positions, because an older set of its files was put back whole and used further.

Of what is put back afterwards, some parts may be of one history and some of the other. Every line is whole, so only
what the parts say of each other can show it. Then it is said, and no event vanishes.
"""

from __future__ import annotations

import random
import traceback
import warnings
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hangarlog import ANY, CorruptionError, CorruptionWarning, FileEventStore, Record, RetentionPolicy, StoreOpenError
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify
from hangarlog.testing import Unsynced

from ..dropped_beginnings import event, open_store
from ..proofs import Files, Proved, evidence, text_in, whole_lines
from .cases import Case
from .past import STATE

STREAMS = ("a:1", "a:2", "b:1", "b:2", "c:1")
COMMON, OWN = 25, 30
"""Calls before the histories part, and of each of them after that."""

Durability = Literal["always", "relaxed"]


class Told(NamedTuple):
    """What had happened when a moment's files were taken: `hidden` is the last hidden version of each stream."""

    history: int
    durable: int
    hidden: dict[str, int]


@dataclass
class Histories:
    """The files at every moment of both, and of each its `events` by position: (stream, version, id)."""

    path: Path
    moments: list[Files] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    events: list[list[tuple[str, int, str]]] = field(default_factory=list)
    parted: int = 0  # The last position that both have in common.

    def do(self, rng: random.Random) -> None:
        self.path.mkdir(mode=0o700)
        self.events.append([])
        with open_store(self.path, Unsynced()) as store:
            self._calls(store, COMMON, rng)
        common, parted = list(self.events[0]), Files.of(self.path)
        self.parted = len(common)
        for history in range(2):
            if history:
                parted.put(self.path)
                self.events.append(list(common))
            with open_store(self.path, Unsynced()) as store:
                self._calls(store, OWN, rng)
                assert store.first_position > 1, "blind: nothing was dropped"
        assert min(map(len, self.events)) > len(common), "blind: they have no positions in common"

    def _calls(self, store: FileEventStore, count: int, rng: random.Random) -> None:
        """Appends of one or two events, and now and then what keeps a store small."""
        durable, hidden = len(self.events[-1]), self.told[COMMON - 1].hidden if len(self.told) >= COMMON else {}
        for number in range(count):
            act = rng.random() if number > 8 else 1.0
            if act < 0.14 or number == 20:
                store.retain(RetentionPolicy(max_events=rng.choice([8, 15])))
                hidden = {name: _hidden_of(store, name) for name, _, _ in self.events[-1]}
                durable = len(self.events[-1])
            elif act < 0.17:
                store.compress()
            else:
                durability: Durability = rng.choice(["always", "relaxed"])
                self._append(store, rng.sample(STREAMS, rng.choice([1, 1, 1, 2])), durability)
                durable = len(self.events[-1]) if durability == "always" else durable
            self.moments.append(Files.of(self.path, self.moments[-1].contents if self.moments else None))
            self.told.append(Told(len(self.events) - 1, durable, hidden))

    def _append(self, store: FileEventStore, streams: list[str], durability: Durability) -> None:
        events, shares = self.events[-1], []
        for stream_id in streams:
            event_id = f"{len(self.events)}-{len(events)}"
            events.append((stream_id, sum(each == stream_id for each, _, _ in events), event_id))
            shares.append((stream_id, [event(event_id)], ANY))
        store.append_many(shares, durability=durability)

    # As a `Past`, for `put_back`.

    def agreeing(self) -> list[int]:
        return list(range(len(self.moments)))

    def notes_before(self, at: int) -> list[Any]:
        return [("moment", at - 1)]

    def durable(self, notes: list[Any]) -> int:
        return self.told[notes[0][1]].durable

    @cached_property
    def states(self) -> list[bytes]:
        return list(dict.fromkeys(files.contents[STATE] for files in self.moments))


def _hidden_of(store: FileEventStore, stream_id: str) -> int:
    shown = next(store.records(stream_id), None)
    return shown.stream_version - 1 if shown else store.get_stream_version(stream_id)


class Look(NamedTuple):
    """What a store shows: its records, those of each stream, and what `verify` finds."""

    first: int
    records: list[Record]
    streams: dict[str, list[Record]]
    damages: list[CorruptionError]


class Mixed:
    """A case that was put into a store's folder: what is promised of it."""

    def __init__(self, path: Path, past: Histories, case: Case, counted: Counter[str]) -> None:
        self._path, self._past, self._case, self._counted = path, past, case, counted
        self._told = [past.told[at] for at in case.moments]
        self._proofs = evidence(path)
        journal = {line.event_id[0] for line in _lines_in(path, "journal*") if line.position > past.parted}
        self._both = len(journal) > 1  # Lines of both histories are in the journal.
        lines = _lines_in(path, "*.jsonl", "*.jsonl.zst")
        there = {(line.position, line.stream_id, line.version, line.event_id) for line in lines}
        self._contradictory = len({position for position, *_ in there}) < len(there)  # Else one may go on as the other.
        self._before = {line.event_id: line for line in lines}

    def failure(self) -> str:
        try:
            self._try()
        except Exception as error:
            text = str(error) if isinstance(error, AssertionError) else ""
            text = text or "".join(traceback.format_exception(error, chain=False)[-4:])
            return f"{self._case.kind}: {self._case.what}: {text[:1500]}"
        return ""

    def _try(self) -> None:
        refusal = ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", CorruptionWarning)
            try:
                with closing(open_store(self._path, Unsynced())) as store:
                    look = self._look(store)
            except (CorruptionError, StoreOpenError) as error:
                refusal = str(error)
                self._counted["of another history, and refused"] += 1
            else:
                said = bool(warned or look.damages)
                self._counted["of two histories, and said"] += self._mixes(look) and said
                mixes = self._mixes(look) and self._contradictory
                assert said or not mixes, f"two histories are mixed, and nobody says so: {_shown(look)}"
                self._kept(look, said)
            assert not refusal or str(self._path) in refusal, f"the refusal names no place: {refusal}"
            lost = any(isinstance(result, Lost) for result in repair(self._path, filesystem=Unsynced()))
            self._repaired(lost)

    def _look(self, store: FileEventStore, on_damage: Literal["raise", "skip"] = "raise") -> Look:
        records = list(store.records(on_damage=on_damage))
        streams = {name: list(store.records(name, on_damage=on_damage)) for name in store.list_streams()}
        return Look(store.first_position, records, streams, list(verify(store)))

    def _mixes(self, look: Look) -> bool:
        """True if no history has all of these records in these places."""
        there = {(each.position, each.stream_id, each.stream_version, each.event_id) for each in look.records}
        histories = [{(at, *each) for at, each in enumerate(events, 1)} for events in self._past.events]
        return not any(there <= history for history in histories)

    def _kept(self, look: Look, said: bool) -> None:
        """Of one history, nothing is gone that was acknowledged durable, and that the files prove."""
        if self._told[0].history != self._told[1].history or said:
            return
        last = look.records[-1].position if look.records else look.first - 1
        least = min(self._proofs.through(look.first), self._case.durable)
        assert last >= least, f"it ends at {last}; {self._case.durable} were acknowledged, the files prove {least}"

    def _repaired(self, lost: bool) -> None:
        """A repair ends with a store that works, and with every event in it or aside."""
        with open_store(self._path, Unsynced()) as store:
            look = self._look(store, "skip" if lost else "raise")
            # Of a journal of both, half a batch may be left.
            assert lost or self._both or not look.damages, f"after a repair verify finds {look.damages[0]}"
            positions = [each.position for each in look.records]
            assert positions == sorted(set(positions)), f"positions {positions}"
            ids = [each.event_id for each in look.records]
            assert len(ids) == len(set(ids)), f"an event is there twice: {sorted(ids)}"
            for name, records in look.streams.items():
                versions = [each.stream_version for each in records]
                dense = list(range(versions[0], versions[0] + len(versions))) if versions else []
                assert lost or versions == dense, f"{name} has versions {versions}"
                last = store.get_stream_version(name)
                assert not versions or versions[-1] == last, f"{name} is at {last}, and shows {versions}"
                assert store.append(name, [event(f"next-{name}")], last) == last + 1
            shown = {each.event_id for records in look.streams.values() for each in records}
        kept = {
            line.event_id for line in _lines_in(self._path, "put-aside.jsonl", "*.jsonl.damaged*", "*.zst.damaged*")
        }
        # Of a batch that is not whole, a crash may have left what there is.
        left = [
            line for event_id, line in self._before.items() if event_id not in shown | kept and self._is_whole(line)
        ]
        gone = [line[:4] for line in left if line.position >= look.first and not self._is_hidden(line)]
        assert not gone, f"no file has {gone} any more; shown {_shown(look)}"

    def _is_whole(self, line: Proved) -> bool:
        """True if the rest of the batch of a line was there, too."""
        return set(range(line.position, line.batch_end + 1)) <= {each.position for each in self._before.values()}

    def _is_hidden(self, line: Proved) -> bool:
        return line.is_erased or any(line.version <= told.hidden.get(line.stream_id, -1) for told in self._told)


def _shown(look: Look) -> str:
    places = [f"{each.stream_id}#{each.stream_version}={each.event_id}" for each in look.records]
    return f"{look.first}: {' '.join(places)}"


def _lines_in(folder: Path, *patterns: str) -> list[Proved]:
    files = [file for pattern in patterns for file in folder.rglob(pattern) if file.is_file()]
    return [line for file in files for line in whole_lines(text_in(file.name, file.read_bytes()))]
