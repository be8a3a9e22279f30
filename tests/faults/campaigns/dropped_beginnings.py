"""Row 1's third workload: a store that drops the beginning of its journal, again and again, while it is written to.

Two stores of one process take turns. Each retention is noted before and after with the position at which the journal
may begin then, so that a check can say where it may begin, and what must be left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hangarlog import ANY, EventSerializer, FileEventStore, RetentionPolicy, UntypedEvent
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.testing import CrashState, Recording, Unsynced

ROUNDS, BATCHES = 5, 7
REPAIRED = 8
"""After each crash at an operation whose number it divides, the store is also repaired."""

POLICIES = (
    RetentionPolicy(max_events=12),
    RetentionPolicy(max_bytes=3_000),
    RetentionPolicy(prefix="b:", max_events=2),
    RetentionPolicy(max_events_per_stream=3),
)


def open_store(path: Path, filesystem: Any) -> FileEventStore:
    return FileEventStore(
        path,
        serializer=EventSerializer(unknown="untyped"),
        segment_bytes=1_000,
        durability="relaxed",
        filesystem=filesystem,
    )


def event(event_id: str) -> UntypedEvent:
    return UntypedEvent("Tried", {"text": "x" * 60}, event_id=event_id)


@dataclass
class Work:
    """The workload as it was done. `events` are (stream, event id) by position; `begins` what the journal then has."""

    path: Path
    recording: Recording
    events: list[tuple[str, str]] = field(default_factory=list)
    begins: list[int] = field(default_factory=lambda: [1])
    hidden: list[dict[str, int]] = field(default_factory=lambda: [{}])

    def do(self) -> None:
        with open_store(self.path, self.recording) as store, open_store(self.path, self.recording) as other:
            self.append(store, "once:1", "always")  # Of this stream soon nothing is left but its version.
            for number in range(ROUNDS):
                for batch in range(BATCHES):
                    self.append(store, f"a:{batch % 2}", "always" if batch % 3 else "relaxed")
                    self.append(other, "b:1" if batch % 2 else "b:2", "relaxed")
                self.retain(store, *POLICIES[: number % len(POLICIES) + 1])
                if number == 2:
                    store.compress()
                store, other = other, store

    def append(self, store: FileEventStore, stream_id: str, durability: Any) -> None:
        event_id = f"e-{len(self.events)}"
        self.events.append((stream_id, event_id))
        self.recording.note(("began", len(self.events)))
        store.append(stream_id, [event(event_id)], ANY, durability=durability)
        self.recording.note((durability, len(self.events)))

    def retain(self, store: FileEventStore, *policies: RetentionPolicy) -> None:
        step = len(self.begins)
        store.sync()
        self.recording.note(("always", len(self.events)))
        self.recording.note(("retains", step))
        report = store.retain(*policies)
        self.recording.note(("retained", step))
        self.begins.append(report.first_position)
        shown = {name: next(store.records(name), None) for name in {name for name, _ in self.events}}
        ends = {name: store.get_stream_version(name) for name in shown}
        self.hidden.append({n: first.stream_version - 1 if first else ends[n] for n, first in shown.items()})

    # What must be left

    def check(self, path: Path, states: list[CrashState]) -> None:
        """What is kept is there, what was dropped is not shown, and life goes on, also after a repair."""
        state = states[0]
        if state.at % REPAIRED == 0:
            with open_store(path, Unsynced()) as store:
                self._look(store, state.notes)
            list(repair(path, filesystem=Unsynced()))
        with open_store(path, Unsynced()) as store:
            first, last = self._look(store, state.notes)
            versions = {name: store.get_stream_version(name) for name in {name for name, _ in self.events}}
            for name, version in versions.items():
                assert store.append(name, [event(f"next-{name}")], version) == version + 1
            damages = list(verify(store))
            assert not damages, f"verify finds {damages[0]}"
            report = store.retain(RetentionPolicy(max_events=1))
            assert report.first_position >= first
            assert report.first_position == 1 or report.first_position > last - 12, "it is not bound any more"
            damages = list(verify(store))
            assert not damages, f"after a retention verify finds {damages[0]}"

    def _version(self, position: int) -> int:
        """The version of the event at a position."""
        name = self.events[position - 1][0]
        return sum(stream == name for stream, _ in self.events[: position - 1])

    def _look(self, store: FileEventStore, notes: list[tuple[str, int]]) -> tuple[int, int]:
        """Return the first and the last position that it holds."""
        done = max((number for what, number in notes if what == "retained"), default=0)
        began = max((number for what, number in notes if what == "retains"), default=0)
        durable = max((number for what, number in notes if what == "always"), default=0)
        first, last = store.first_position, store.last_position
        held = [(record.position, record.stream_id, record.event_id) for record in store.records()]
        assert first in self.begins[done : began + 1], f"it begins at {first}, not {self.begins[done : began + 1]}"
        assert last >= durable, f"it ends at {last}; {durable} events were acknowledged as durable"
        expected = [(at, *self.events[at - 1]) for at in range(first, last + 1)]
        may_be_erased = {each for each in expected if self._version(each[0]) <= self.hidden[began].get(each[1], -1)}
        assert held == [each for each in expected if each in held], f"it holds {held}"
        assert {*expected} - {*held} <= may_be_erased, f"it lacks {({*expected} - {*held}) - may_be_erased}"
        for name in {name for name, _ in self.events[:last]}:
            ids = [event_id for stream, event_id in self.events[:last] if stream == name]
            assert store.get_stream_version(name) == len(ids) - 1, f"{name} is at another version"
            found = [record.event_id for record in store.records(name)]
            least, most = (self.hidden[step].get(name, -1) for step in (done, began))
            possible = [ids[through + 1 :] for through in range(least, min(most, len(ids) - 1) + 1)]
            assert found in possible, f"{name} shows {found}, not one of {possible}"
        return first, last


def record(path: Path) -> Work:
    path.mkdir(mode=0o700)
    work = Work(path, Recording(path))
    work.do()
    assert len(set(work.begins)) == ROUNDS, f"blind: the journal began at {work.begins}"
    return work
