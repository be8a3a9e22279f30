"""What a store of row 20 must have, from the diaries of its writers; and what it has."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hangarlog import FileEventStore
from hangarlog.filestore.folder import Folder
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem

from .actors import PAIR, number_of
from .diary import APPEND, DELETE, DONE, SNAPSHOT, TRUNCATE, entries
from .streams import LINE_BYTES, Rules, category, stream_id, text_bytes


class Known(NamedTuple):
    """An event that is known to be committed."""

    stream: int
    version: int
    number: int
    time: float


class Model:
    """All that was ever committed to one store."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known: dict[int, Known] = {}
        self._read: dict[Path, int] = {}  # Bytes of the diaries that were read.
        self._tried: dict[int, tuple[int, int, float]] = {}  # {number: (stream, version, time)} not acknowledged.
        self._hidden: Counter[int] = Counter()  # {stream: how many versions its deletions and truncations may hide}
        self._snapshots: Counter[int] = Counter()  # {stream: how many versions its snapshots may cover}
        self._saved: Counter[int] = Counter()  # {stream: how many versions its acknowledged snapshots cover}
        self._gone: set[int] = set()  # Positions that are shown no more.
        self.operations = self.last = 0

    def learn(self, diaries: list[Path]) -> None:
        """Take in what the writers have done since the last time."""
        for diary in diaries:
            for entry in list(entries(diary))[self._read.get(diary, 0) :]:
                self._read[diary] = self._read.get(diary, 0) + 1
                self.operations += entry.done
                if entry.act == APPEND:
                    for at in range(entry.count):
                        number, version = entry.number + at, entry.version - entry.count + 1 + at
                        if entry.done == DONE:
                            position = entry.position - entry.count + 1 + at
                            del self._tried[number]
                            assert position not in self._known, f"position {position} was given twice"
                            self._known[position] = Known(entry.stream, version, number, entry.time)
                        else:
                            self._tried[number] = entry.stream, version, entry.time
                elif entry.act in (DELETE, TRUNCATE):
                    self._hidden[entry.stream] = max(self._hidden[entry.stream], entry.version + 1)
                elif entry.act == SNAPSHOT:
                    for found in (self._snapshots, self._saved) if entry.done else (self._snapshots,):
                        found[entry.stream] = max(found[entry.stream], entry.version + 1)

    def check(self, path: Path, settled_at: float | None = None) -> None:
        """Compare a store that nobody changes with what is known.

        `settled_at` is when the policies were last applied to it, if they were applied after all appends.
        """
        with FileEventStore.untyped(path, create=False) as store:
            damage = list(verify(store))
            assert not damage, f"verify finds {damage}"
            shown = self._check_journal(store)
            rules = Applied(self._rules, self._known, self._tried, self._hidden, self._snapshots, self._saved)
            gone = self._known.keys() - shown
            archived = self._archived(path.parent)
            lost = gone - rules.may_go(time.time()) - archived
            assert not lost, f"{len(lost)} events are lost: at {min(lost)}, {self._known[min(lost)]}"
            self._gone |= gone
            in_streams = self._check_streams(store, shown)
            lost = self._known.keys() - in_streams - rules.may_go(time.time()) - archived
            assert not lost, f"{len(lost)} are lost in their streams: at {min(lost)}, {self._known[min(lost)]}"
            if settled_at is not None:
                kept = in_streams & rules.must_go(settled_at, sealed_ends(path))
                assert not kept, f"{len(kept)} events stayed: at {min(kept)}, {self._known[min(kept)]}"

    def _check_journal(self, store: FileEventStore[Any]) -> set[int]:
        """Return the positions that reads of the whole store show. What was tried, and is there, is known now."""
        shown: set[int] = set()
        last = 0
        for record in store.records():
            position, number = record.position, number_of(record.event_id)
            assert position > last, f"position {position} comes after {last}"
            last = position
            known = self._at(position, number)
            there = record.stream_id, record.stream_version, number
            assert there == (stream_id(known.stream), known.version, known.number), f"{position} has {there}: {known}"
            shown.add(position)
        returned = shown & self._gone
        assert not returned, f"positions {sorted(returned)[:5]} are shown again"
        self.last = max(last, max(self._known, default=0))
        return shown

    def _archived(self, folder: Path) -> set[int]:
        """Return the positions that the archives have. Each is a store of its own.

        One whose run was killed may have streams that end before its journal, until the next run.
        """
        found = set()
        for archive in folder.glob("archive*"):
            if not (archive / "hangarlog.json").exists():
                continue  # It was killed before anything was moved.
            with FileEventStore.untyped(archive, create=False) as store:
                for record in store.records():
                    assert self._at(record.position, number_of(record.event_id)).version == record.stream_version
                    found.add(record.position)
        return found

    def _at(self, position: int, number: int) -> Known:
        """Return the event at a position, which shows the event `number`. If that was only tried, it is known now."""
        if number in self._tried:
            stream, version, moment = self._tried.pop(number)
            assert position not in self._known, f"position {position} was given twice"
            self._known[position] = Known(stream, version, number, moment)
        assert position in self._known, f"position {position} has event {number}, which nobody appended"
        return self._known[position]

    def _check_streams(self, store: FileEventStore[Any], shown: set[int]) -> set[int]:
        """Return the positions that reads of the streams show. Each stream shows the last events it has."""
        by_stream: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for position in sorted(self._known):
            by_stream[self._known[position].stream].append((self._known[position].version, position))
        found = set()
        for stream, events in by_stream.items():
            name = stream_id(stream)
            versions = {version for each, version, _ in self._tried.values() if each == stream} | {events[-1][0]}
            assert store.get_stream_version(name) in versions, f"{name} is at another version than {versions}"
            here = [(record.stream_version, record.position) for record in store.records(name)]
            assert here == events[len(events) - len(here) :], f"{name} shows {here[:3]} to {here[-3:]}: {events[-3:]}"
            found |= {position for _, position in here}
        assert found <= shown, f"streams show {min(found - shown)}, the journal does not"
        return found

    def learn_deliveries(self, logs: list[Path]) -> None:
        """Take in what the followers were given. It may be gone since, without an acknowledgement."""
        for log in logs:
            for position, number in pairs(log):
                assert self._at(position, number).number == number, f"{log.name}: {number} came at {position}"

    def check_followers(self, logs: list[Path], last: int) -> int:
        """Return how many events the followers were given: in order, and all that are shown."""
        deliveries = 0
        for log in logs:
            before = 0
            for position, _ in pairs(log):
                assert position > before, f"{log.name}: {position} came after {before}"
                missed = [
                    each for each in range(before + 1, position) if each in self._known and each not in self._gone
                ]
                assert not missed, f"{log.name}: {missed[:3]} did not come before {position}"
                before, deliveries = position, deliveries + 1
            assert before >= last, f"{log.name}: the last event came not, but {before} of {last}"
        return deliveries


def pairs(log: Path) -> Iterator[tuple[int, int]]:
    """Yield (position, number of its event) of all that a follower was given."""
    content = log.read_bytes()
    return PAIR.iter_unpack(content[: len(content) // PAIR.size * PAIR.size])


class Applied:
    """The policies of a store, applied to all that was ever committed to it."""

    def __init__(
        self,
        rules: Rules,
        known: dict[int, Known],
        tried: dict[int, tuple[int, int, float]],
        hidden: Counter[int],
        snapshots: Counter[int],
        saved: Counter[int],
    ) -> None:
        self._rules, self._known, self._hidden, self._snapshots = rules, known, hidden, snapshots
        self._tried, self._saved = tried, saved

    def may_go(self, now: float) -> set[int]:
        """Return the positions of events that a policy, a truncation or a deletion may have dropped until `now`."""
        rules = self._rules
        return {
            position
            for position, known, later in self._counted(maybe=True)
            if known.version < self._hidden[known.stream]
            or (rules.all_events and later.all >= rules.all_events)
            or (rules.all_bytes and later.most_bytes >= rules.all_bytes)
            or self._category_drops(known, later, now, self._snapshots)
        }

    def must_go(self, settled_at: float, sealed: list[int]) -> set[int]:
        """Return those that must be gone once the policies were applied. `sealed` are the ends of sealed segments."""
        rules, counted = self._rules, [*self._counted()]
        ends = {position: later for position, _, later in counted if position in sealed}
        gone = set()
        for position, known, later in counted:
            end = next((each for each in sealed if each >= position), None)
            if end is None:
                continue
            behind = ends.get(end)
            if (
                self._category_drops(known, later, settled_at, self._saved)
                or (rules.all_events and behind and behind.all >= rules.all_events)
                or (rules.all_bytes and behind and behind.least_bytes >= rules.all_bytes)
            ):
                gone.add(position)
        return gone

    def _category_drops(self, known: Known, later: Later, now: float, covered: Counter[int]) -> bool:
        rules = self._rules
        match category(known.stream):
            case "new":
                return later.new >= rules.new_events
            case "few":
                return later.of_stream >= rules.few_events
            case "saved":
                return known.version < covered[known.stream]
            case "old":
                return known.time <= now - rules.old_seconds
        return False

    def _counted(self, *, maybe: bool = False) -> Iterator[tuple[int, Known, Later]]:
        """Yield (position, event, what comes after it), the last event first.

        With `maybe`, count what was tried, too: it may have been committed, and dropped before anybody has seen it.
        """
        tried = self._tried if maybe else {}
        new = sum(category(stream) == "new" for stream, _, _ in tried.values())
        later = Later(len(tried), new, 0, 0, sum(LINE_BYTES + text_bytes(number) for number in tried))
        of_stream = Counter(stream for stream, _, _ in tried.values())
        for position in sorted(self._known, reverse=True):
            known = self._known[position]
            yield position, known, later._replace(of_stream=of_stream[known.stream])
            of_stream[known.stream] += 1
            size = text_bytes(known.number)
            is_new = category(known.stream) == "new"
            later = Later(
                later.all + 1, later.new + is_new, 0, later.least_bytes + size, later.most_bytes + size + LINE_BYTES
            )


class Later(NamedTuple):
    """How much comes after an event: events of all streams, of the streams `new:`, of its own stream, and bytes."""

    all: int
    new: int
    of_stream: int
    least_bytes: int
    most_bytes: int


def sealed_ends(path: Path) -> list[int]:
    """Return the last positions of the journal's sealed segments."""
    log = Folder(FileSystem(), str(path)).journal
    firsts = log.sealed()
    active = log.open_active()
    assert active
    with contextlib.closing(active):
        following = active.first_number()
    return [first - 1 for first in firsts[1:]] + ([following - 1] if firsts and following else [])
