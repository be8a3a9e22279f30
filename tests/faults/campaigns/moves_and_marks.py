"""Row 1's second workload: cursors, snapshots, hidden streams, idempotent appends and reads by time, all in one store.

Two stores of one process take turns. Each step is noted before and after, with what it makes of events, cursors and
streams, so that a check can say what may be left of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from hangarlog import ANY, NO_STREAM, EventSerializer, FileEventStore, StreamDeletedError, UntypedEvent
from hangarlog.filestore import event_ids, id_table
from hangarlog.filestore.cursor_file import pairs_in
from hangarlog.log import active_segment, index, index_check, log, segment
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.testing import CrashState, Recording, Unsynced

Durability = Literal["always", "relaxed"]
Event = tuple[str, str]  # (stream id, event id)


REPAIRED = 8
"""After each crash at an operation whose number it divides, the store is also repaired."""


class Step(NamedTuple):
    """`events` is how many there are after it, `holds` how many of them are durable once it is acknowledged."""

    events: int
    holds: int = 0


class Move(NamedTuple):
    """Where a step has moved a cursor. `appended` is the last position of the append that it came with, or 0."""

    step: int = -1
    position: int = 0
    durable: bool = True
    appended: int = 0
    deletes: bool = False


class Mark(NamedTuple):
    """What a step has hidden of a stream, and the (version, number) of the snapshot that it then has."""

    step: int = -1
    hidden: int = -1
    deleted: int = -1
    tombstone: bool = False
    snapshot: tuple[int, int] | None = None


SMALL: list[tuple[ModuleType, str, int]] = [
    (event_ids, "_WORTH", 6),
    (id_table, "_FILLED", 5),
    *[(module, "STRIDE_BYTES", 600) for module in (active_segment, index, index_check, log, segment)],
]
"""A table of ids that grows and is extended every few events, and indexes of short segments, which `.times` need."""


@contextlib.contextmanager
def small_caches() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module, name, value in SMALL:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        yield


def open_store(path: Path, filesystem: Any) -> FileEventStore:
    return FileEventStore(
        path,
        serializer=EventSerializer(unknown="untyped"),
        segment_bytes=2_000,
        durability="relaxed",
        filesystem=filesystem,
    )


def event(event_id: str, size: int = 5) -> UntypedEvent:
    return UntypedEvent("Tried", {"text": "x" * size}, event_id=event_id)


@dataclass
class Work:
    """The workload as it was done, and what each step of it has made."""

    path: Path
    recording: Recording
    steps: list[Step] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    moves: dict[str, list[Move]] = field(default_factory=dict)
    marks: dict[str, list[Mark]] = field(default_factory=dict)

    # The steps

    def do(self) -> None:
        with open_store(self.path, self.recording) as self.store, open_store(self.path, self.recording) as self.other:
            self._begin()
            for _ in range(2):
                self._consume()
                self._save()
                self._hide()
                self.store, self.other = self.other, self.store
        with open_store(self.path, self.recording) as self.store, open_store(self.path, self.recording) as self.other:
            self._consume()

    def _begin(self) -> None:
        for stream_id in ("in:1", "gone:1", "cut:1", "dead:1", "kept:1"):
            self.append((stream_id, 3))
        self.append(("in:1", 2), ("out:1", 1), ("in:1", 2), durability="always")

    def _consume(self) -> None:
        """Cursors of all kinds, with appends whose ids are looked for, and reads by time."""
        last = len(self.events)
        self.move("plain", last - 2)
        self.move("plain", last - 1, "always")
        self.move("plain", last)
        self.append(("in:1", 1), ("out:1", 1), move=("with", last), idempotent=True)
        self.append(("out:1", 1), move=("with", last + 1), durability="always")
        self.append(("out:1", 2), move=("with", last + 2), size=300)
        self.read_by_time()
        self.move("with", last + 3)
        self.append(("in:1", 1), ("in:2", 1), ("in:1", 1), durability="always", idempotent=True)
        self.append(("out:1", 1), move=("with", last + 6), idempotent=True)
        self.move("with", last + 7, "always")
        self.move("back", last + 2)
        self.move("back", last // 2, back=True)
        self.delete("again")
        self.append(("out:1", 1), move=("again", last))
        self.retry(self.events[-3:])
        for _ in range(3):
            self.append(("in:1", 2), idempotent=True, size=150)

    def _save(self) -> None:
        for _ in range(3):
            self.save("kept:1")
            self.store, self.other = self.other, self.store
        self.append(("kept:1", 2))
        self.save("kept:1", "always")
        self.save("in:1")

    def _hide(self) -> None:
        self.append(("gone:1", 2), ("cut:1", 2), ("kept:1", 1))
        self.save("gone:1")
        self.hide("gone:1", lambda: self.store.delete_stream("gone:1"), deletes=True)
        self.append(("in:1", 1))
        self.hide("kept:1", lambda: self.store.compact_stream("kept:1"))
        self.hide("cut:1", lambda: self.store.truncate_stream("cut:1", self.version("cut:1")))
        self.hide("dead:1", lambda: self.store.delete_stream("dead:1", permanent=True), deletes=True, tombstone=True)
        self.append(("gone:1", 1), idempotent=True)
        self.read_by_time()

    # What a step does

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        number = len(self.steps)
        self.recording.note(("began", number))
        yield
        self.recording.note(("done", number))
        assert self.store.get_event_count() == len(self.events) == self.steps[-1].events
        assert len(self.steps) == number + 1

    def ends(self, holds: int = 0) -> None:
        self.steps.append(Step(len(self.events), holds))

    def version(self, stream_id: str) -> int:
        return sum(stream == stream_id for stream, _ in self.events) - 1

    def append(
        self,
        *shares: tuple[str, int],
        durability: Durability = "relaxed",
        move: tuple[str, int] | None = None,
        idempotent: bool = False,
        size: int = 5,
    ) -> None:
        """Append a few events to each stream."""
        with self.step():
            appends = []
            for stream_id, count in shares:
                new = [(stream_id, f"e-{number}") for number in range(len(self.events), len(self.events) + count)]
                appends.append((stream_id, [event(event_id, size) for _, event_id in new], ANY))
                self.events += new
            cursor = self.store.cursor(move[0]).at(move[1]) if move else None
            results = self.store.append_many(appends, durability=durability, idempotent=idempotent, cursor=cursor)
            assert all(result.written for result in results.values())
            durable, last = durability == "always", len(self.events)
            if move:
                self.moves.setdefault(move[0], [Move()]).append(Move(len(self.steps), move[1], durable, last))
            self.ends(last if durable else 0)

    def retry(self, events: list[Event]) -> None:
        with self.step():
            results = self.store.append_many([(s, [event(e)], ANY) for s, e in events], idempotent=True)
            assert not any(result.written for result in results.values())
            self.ends()

    def move(self, name: str, to: int, durability: Durability = "relaxed", *, back: bool = False) -> None:
        with self.step():
            cursor = self.store.cursor(name)
            (cursor.reset if back else cursor.advance)(to, durability=durability)
            moves, durable = self.moves.setdefault(name, [Move()]), durability == "always"
            moves.append(Move(len(self.steps), to, durable))
            self.ends(max(to, *(move.appended for move in moves)) if durable else 0)

    def delete(self, name: str) -> None:
        with self.step():
            self.store.cursor(name).delete()
            self.moves.setdefault(name, [Move()]).append(Move(len(self.steps), deletes=True))
            self.ends()

    def save(self, stream_id: str, durability: Durability = "relaxed") -> None:
        with self.step():
            number, version = len(self.steps), self.version(stream_id)
            if durability == "always":
                self.store.sync()
            self.store.save_snapshot(stream_id, version, {"number": number, "text": "x" * number})
            marks = self.marks.setdefault(stream_id, [Mark()])
            marks.append(marks[-1]._replace(step=number, snapshot=(version, number)))
            self.ends(len(self.events) if durability == "always" else 0)

    def hide(self, stream_id: str, call: Any, *, deletes: bool = False, tombstone: bool = False) -> None:
        with self.step():
            changes = call() > 0
            marks, version = self.marks.setdefault(stream_id, [Mark()]), self.version(stream_id)
            before = marks[-1]
            kept = before.snapshot
            if deletes:
                mark = Mark(0, version, version, tombstone)
            elif stream_id.startswith("kept"):
                assert kept
                mark = before._replace(hidden=kept[0])
            else:
                mark = before._replace(hidden=version - 1, snapshot=None)
            marks.append(mark._replace(step=len(self.steps)))
            self.ends(len(self.events) if changes else 0)

    def read_by_time(self) -> None:
        """It writes caches beside the segments."""
        with self.step():
            for stream_id in (None, "in:1"):
                found = list(self.store.records(stream_id))
                since = found[len(found) // 2].recorded_at
                assert list(self.store.records(stream_id, since=since)) == [r for r in found if r.recorded_at >= since]
            self.ends()

    # What must be left

    def check(self, path: Path, states: list[CrashState]) -> None:
        """What was acknowledged is there, or hidden, or moved; nothing else is; life goes on, also after a repair."""
        state, torn = states[0], any(map(is_torn, states))
        if state.at % REPAIRED == 0:
            with open_store(path, Unsynced()) as store:
                self._look(store, state.notes, torn)
            list(repair(path, filesystem=Unsynced()))
        with open_store(path, Unsynced()) as store:
            held = self._look(store, state.notes, torn)
            self._go_on(store, held)
            damages = list(verify(store))
            assert not damages, f"verify finds {damages[0]}"

    def _look(self, store: FileEventStore, notes: list[tuple[str, int]], torn: bool) -> int:
        """How many events it holds."""
        began = max((number for what, number in notes if what == "began"), default=-1)
        done = max((number for what, number in notes if what == "done"), default=-1)
        held = [(record.stream_id, record.event_id) for record in store.records()]
        last = len(held)
        whole = {0, *(step.events for step in self.steps[: began + 1])}
        durable = max((step.holds for step in self.steps[: done + 1]), default=0)
        assert held == self.events[:last], f"other events than were appended: {held}"
        assert last in whole, f"{last} events are no whole commits"
        assert last >= durable, f"{last} events; {durable} were acknowledged as durable"
        for name, moves in self.moves.items():
            position = store.cursor(name).position
            possible = positions(moves, last, -1 if torn else done, began)
            assert position in possible, f"cursor {name} is at {position} of {last}, not in {sorted(possible)}"
        listed = store.list_streams()
        for stream_id in {stream_id for stream_id, _ in self.events}:
            self._look_at_stream(store, stream_id, held, stream_id in listed, self._marks(stream_id, done, began))
        self._look_for_ids(store, held)
        self._look_by_time(store)
        return last

    def _look_at_stream(
        self, store: FileEventStore, stream_id: str, held: list[Event], listed: bool, marks: list[Mark]
    ) -> None:
        ids = [event_id for stream, event_id in held if stream == stream_id]
        snapshot = store.load_snapshot(stream_id)
        found = [record.event_id for record in store.records(stream_id)], listed, snapshot
        possible = []
        for mark in marks:
            state = None
            if mark.snapshot and mark.snapshot[0] < len(ids):
                version, number = mark.snapshot
                state = {"version": version, "state": {"number": number, "text": "x" * number}}
            possible.append((ids[mark.hidden + 1 :], mark.deleted < len(ids) - 1, state))
        assert found in possible, f"stream {stream_id} shows {found}, not one of {possible}"
        assert store.get_stream_version(stream_id) == len(ids) - 1

    def _marks(self, stream_id: str, done: int, began: int) -> list[Mark]:
        """The marks that a stream may have. They are durable when they are acknowledged."""
        marks = [mark for mark in self.marks.get(stream_id, [Mark()]) if mark.step <= began]
        return marks[sum(mark.step <= done for mark in marks) - 1 :]

    def _look_for_ids(self, store: FileEventStore, held: list[Event]) -> None:
        """Every id that is there is found, so nothing is written again; no other one is."""
        with contextlib.suppress(StreamDeletedError):
            for stream_id, event_id in [each for each in held if each[0] == "dead:1"]:
                assert not store.append(stream_id, [event(event_id)], ANY, idempotent=True).written
        appends = [(stream_id, [event(event_id)], ANY) for stream_id, event_id in held if stream_id != "dead:1"]
        for stream_id, result in store.append_many(appends, idempotent=True).items():
            assert not result.written, f"{result.event_ids} are written again"
            assert result.event_ids == tuple(event_id for stream, event_id in held if stream == stream_id)
        lost = [event_id for _, event_id in self.events[len(held) :] if store.contains(event_id)]
        assert not lost, f"{lost} are found, and are not there"

    def _look_by_time(self, store: FileEventStore) -> None:
        found = list(store.records())
        for middle in found[len(found) // 2 : len(found) // 2 + 1]:
            since = [record.position for record in store.records(since=middle.recorded_at)]
            assert since == [record.position for record in found if record.recorded_at >= middle.recorded_at]
            until = [record.position for record in store.records(until=middle.recorded_at)]
            assert until == [record.position for record in found if record.recorded_at < middle.recorded_at]

    def _go_on(self, store: FileEventStore, held: int) -> None:
        before = {name: store.cursor(name).position for name in self.moves}
        result = store.append("next:1", [event("next")], ANY, idempotent=True)
        assert result.written
        assert result.last_position == held + 1
        for name, position in before.items():
            assert store.cursor(name).position == position <= held, f"cursor {name} passes over an event"
            store.append("next:1", [event(f"next-{name}")], ANY, cursor=store.cursor(name).at(held + 1))
            assert store.cursor(name).position == held + 1
        for stream_id, marks in self.marks.items():
            version = store.get_stream_version(stream_id)
            if version < 0:
                continue
            listed = stream_id in store.list_streams()
            try:
                assert store.append(stream_id, [event(f"next-{stream_id}")], version) == version + 1
                if not listed:
                    store.delete_stream(stream_id)
                    assert store.append(stream_id, [event(f"anew-{stream_id}")], NO_STREAM) == version + 2
            except StreamDeletedError:
                assert any(mark.tombstone for mark in marks)
                continue
            store.save_snapshot(stream_id, store.get_stream_version(stream_id), {"saved": "next"})
            loaded = store.load_snapshot(stream_id)
            assert loaded
            assert loaded["state"] == {"saved": "next"}


def positions(moves: list[Move], last: int, done: int, began: int) -> set[int]:
    """Where a cursor may be in a store with `last` events, after steps up to `done` of those up to `began`."""
    possible: set[int] = set()
    begun = [move for move in moves if move.step <= began]
    first = max(at for at, move in enumerate(begun) if move.durable and move.step <= max(done, -1))
    appended = 0
    for at, move in enumerate(begun):
        appended = 0 if move.deletes else max(appended, move.appended)
        held_later = any(0 < later.appended <= last for later in begun[at + 1 :])
        if at >= first and appended <= last and not held_later:
            possible.add(min(move.position, last))
    return possible


def is_torn(state: CrashState) -> bool:
    """Whether a line of a cursor was cut within its sector, which no device does."""
    return any(any(pair.damaged) for pair in pairs_in(state.files.get("cursors.jsonl", b"")))


def record(path: Path) -> Work:
    path.mkdir(mode=0o700)
    work = Work(path, Recording(path))
    work.do()
    return work
