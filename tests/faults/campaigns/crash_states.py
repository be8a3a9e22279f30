"""Row 1: every state that a power cut may leave is opened, and holds what was promised; also one in a recovery."""

from __future__ import annotations

import contextlib
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hangarlog.filestore.commit_ring
import hangarlog.filestore.group_sync
from hangarlog import ANY, EventSerializer, FileEventStore, UntypedEvent
from hangarlog.filestore import shared_state
from hangarlog.filestore.erasing import Erasing
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.testing import CrashState, Recording, Unsynced, crash_states

from . import dropped_beginnings, moves_and_marks
from .cells import in_two_processes
from .harness import Campaign, Figures
from .proofs import all_stored

Commit = list[tuple[str, int]]  # (stream, size of the event's text)

COMMITS: list[tuple[Commit, str]] = [
    ([("a:1", 5)], "always"),
    ([("a:1", 5)], "always"),
    ([("b:1", 40), ("b:1", 5), ("a:1", 5)], "always"),
    ([("a:1", 300)], "relaxed"),
    ([("a:2", 5)], "relaxed"),
    ([("c", 5), ("a:1", 5), ("c", 700), ("b:1", 20)], "always"),
    ([("a:1", 5)], "always"),
    ([("a:1", 2_500), ("d:1", 5)], "always"),  # More than goes through the ring here.
    ([("a:2", 5)], "always"),
    ([("a:2", 5)], "relaxed"),
    ([("b:1", 900)], "relaxed"),
    ([("e:1", 5), ("a:1", 5)], "always"),
    *[([("a:1", 200), ("f:1", 100)], "always")] * 4,
    *[([("g:1", 100)], "relaxed")] * 4,
    *[([("a:1", 100)], "always")] * 3,  # The last of them finds the ring full.
]
COMPACTED = ("a:1", 6, 4)  # A snapshot of version 4 and a compaction after commit 6.
HEALED, REPAIRED = (8, 11), 12
COMPRESSED = 9, 15  # The last time, active segments too.
ERASED = 18


def event(commit: int, part: int, size: int) -> UntypedEvent:
    return UntypedEvent("Tried", {"text": "x" * size}, event_id=f"{commit}-{part}")


@contextlib.contextmanager
def small_ring() -> Iterator[None]:
    """A ring of four frames, from the first sync on, so that a short workload fills it."""
    ring, sync = hangarlog.filestore.commit_ring, hangarlog.filestore.group_sync
    before = ring.RING_BYTES, sync.MAX_FRAME_BYTES, sync.SYNCS_BEFORE_RING
    ring.RING_BYTES, sync.MAX_FRAME_BYTES, sync.SYNCS_BEFORE_RING = 4 * ring.BLOCK_BYTES, 2_000, 0
    try:
        yield
    finally:
        ring.RING_BYTES, sync.MAX_FRAME_BYTES, sync.SYNCS_BEFORE_RING = before


class Failing(Recording):
    """A recording whose next sync of data can be made to fail, with what it should have synced lost for good."""

    failing = False

    def sync_data(self, fd: int) -> None:
        if self.failing:
            self.failing = False
            raise OSError(5, "Input/output error")
        super().sync_data(fd)


def record(path: Path, kind: type[Failing] = Failing) -> Failing:
    """The workload, with notes of what was begun and what was acknowledged."""
    path.mkdir(mode=0o700)
    recording = kind(path)
    store = open_store(path, recording, segment_bytes=1_500)
    for number, (commit, durability) in enumerate(COMMITS):
        recording.note(("began", number))
        streams: dict[str, list[UntypedEvent]] = {}
        for part, (stream_id, size) in enumerate(commit):
            streams.setdefault(stream_id, []).append(event(number, part, size))
        recording.failing = number in HEALED
        try:
            store.append_many([(s, events, ANY) for s, events in streams.items()], durability=durability)  # type: ignore[arg-type]
        except hangarlog.SyncError:
            assert number in HEALED
            recording.note(("failed", number))
        else:
            recording.note((durability, number))
        if number == COMPACTED[1]:
            store.save_snapshot(COMPACTED[0], COMPACTED[2], {})
            recording.note(("compacting", 0))
            store.compact_stream(COMPACTED[0])
        if number in COMPRESSED:
            store.compress(seal=number == COMPRESSED[-1])
        if number == ERASED:
            done = Erasing(store._write_session).run(seconds=60.0, least=0.0)
            assert done.segments, "blind: nothing was erased"
        if number == REPAIRED:
            file = path / "streams/f/1.jsonl"
            fd = recording.open_update(str(file))
            recording.write_at(fd, b"#", 30)
            recording.sync_data(fd)
            recording.close(fd)
            # The store stays open meanwhile: who finds nobody there recovers first, which mends it too.
            assert len(list(repair(path, filesystem=recording))) == 1
            recording.note(("repaired", 0))
            store.close()
            store = open_store(path, recording)
    store.close()
    return recording


def open_store(path: Path, filesystem: Any, segment_bytes: int = 1_500) -> FileEventStore:
    return FileEventStore(
        path, serializer=EventSerializer(unknown="untyped"), segment_bytes=segment_bytes, filesystem=filesystem
    )


def ids_by_commit() -> list[list[tuple[str, str]]]:
    """The (stream id, event id) pairs of each commit, in the order they are stored."""
    result = []
    for number, (commit, _) in enumerate(COMMITS):
        streams = list(dict.fromkeys(stream_id for stream_id, _ in commit))
        result.append(
            [(s, f"{number}-{n}") for s in streams for n, (stream_id, _) in enumerate(commit) if stream_id == s]
        )
    return result


IDS = ids_by_commit()


def check(path: Path, notes: list[tuple[str, int]]) -> None:
    """Everything acknowledged durable is there, in whole commits from the first on; nothing else is; life goes on."""
    began = max((number for what, number in notes if what == "began"), default=-1)
    failed = {number for what, number in notes if what == "failed"}  # Of these nobody knows.
    durable = max((number for what, number in notes if what == "always"), default=-1)
    compacting = ("compacting", 0) in notes
    with open_store(path, Unsynced()) as store:
        held = [(row[1], row[3]) for row in all_stored(store, {COMPACTED[0]: {COMPACTED[2] + 1}})]
        absent = {number for number in failed if IDS[number][0] not in held}
        whole = [
            [pair for number, commit in enumerate(IDS[: count + 1]) if number not in absent for pair in commit]
            for count in range(-1, began + 1)
        ]
        assert held in whole, f"{len(held)} events that are no whole commits: {held}"
        assert held in whole[durable + 1 :], f"{len(held)} events; {len(whole[durable + 1])} were acknowledged"
        assert store.append("next:1", [event(99, 0, 1)], ANY) == 0
        for stream_id in store.list_streams():
            expected = [event_id for stream, event_id in [*held, ("next:1", "99-0")] if stream == stream_id]
            found = [record.event_id for record in store.records(stream_id)]
            compacted = found == expected[COMPACTED[2] + 1 :] and compacting and stream_id == COMPACTED[0]
            assert found == expected or compacted, f"stream {stream_id} holds {found}, not {expected}"
        damages = list(verify(store))
        assert not damages, f"verify finds {damages[0]}"


COUNTED = ("states", "of these in a recovery", "joined from the ring", "mended from streams", "torn ends cut")

Check = Callable[[Path, list[CrashState]], None]
"""Checks what is at a path: a crash state, or the first of two of which the second is one of its recovery."""


def run(folder: Path, size: int, seed: int) -> Figures:
    """`size` states in two processes, a tenth of them cuts in the recovery of others; and a tenth as many again of each
    of the other two workloads.
    """
    with small_ring():
        recording = record(folder / "recorded")
        figures = explored(recording, lambda path, states: check(path, states[0].notes), folder, size, seed)
        with moves_and_marks.small_caches():
            work = moves_and_marks.record(folder / "moves-and-marks")
            more = explored(work.recording, work.check, folder, size // 10, seed)
        drops = dropped_beginnings.record(folder / "dropped-beginnings")
        dropped = explored(drops.recording, drops.check, folder, size // 10, seed)
    return {
        **figures,
        "states of cursors, marks and ids": more["states"],
        "states of retentions": dropped["states"],
    }


def explored(recording: Recording, check: Check, folder: Path, size: int, seed: int) -> Figures:
    """What was counted in `size` states of one workload."""
    whole = [sum(1 for o in recording.operations if o.kind == kind) for kind in ("write", "sync", "sync folder")]
    results = in_two_processes(lambda path, share: explore(path, recording, check, size, seed, share), folder, seed)
    for result in results:
        assert not result["failure"], f"HANGARLOG_SEED={seed}: {result['failure']}"
    figures: Figures = {"operations recorded": len(recording.operations), "writes": whole[0], "syncs": sum(whole[1:])}
    return {**figures, **{name: sum(result[name] for result in results) for name in COUNTED}}


def explore(scratch: Path, recording: Recording, check: Check, size: int, seed: int, share: int) -> dict[str, Any]:
    """Check every second state; what was counted, and the first failure."""
    rng = random.Random(seed)
    counted = dict.fromkeys(COUNTED, 0)
    failure = ""
    path = scratch / "store"
    try:
        count = len(recording.operations)
        per_point = max(4, size * 9 // 10 // count * 3 // 2)
        # So few that they would end somewhere in the middle: of fewer points.
        points = rng.sample(range(1, count + 1), size // 2) if size < count else None
        for number, state in enumerate(crash_states(recording.operations, rng, per_point, points)):
            if number % 2 != share:
                continue
            what = f"after operation {state.at} of {len(recording.operations)}, without {state.lost}"
            try:
                place(state, path)
                inner = Recording(path)
                try:
                    with open_store(path, inner) as store:
                        done = store.recovered
                except Exception as error:
                    raise AssertionError(f"it does not open: {error!r}") from error
                if done:
                    counted["joined from the ring"] += done.joined > 0
                    counted["mended from streams"] += done.mended > 0
                    counted["torn ends cut"] += done.journal_cut > 0
                check(path, [state])
                counted["states"] += 1
                if number % 20 == share:
                    for again in crash_states(inner.operations, rng, 1):
                        what += f"; and in its recovery after {again.at}, without {again.lost}"
                        place(again, path)
                        check(path, [state, again])
                        counted["states"] += 1
                        counted["of these in a recovery"] += 1
            except Exception as error:
                failure = f"{what}: {error or ''.join(traceback.format_exception(error))}"
                break
            if counted["states"] >= size // 2:
                break
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {**counted, "failure": failure}


def place(state: CrashState, path: Path) -> None:
    """Write the state into a new folder. Its shared state is in turn that of a copy, and that of this folder's past."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)
    state.write_to(path)
    if state.at % 2:
        make_own(path, restarted=True)


def make_own(path: Path, *, restarted: bool) -> bool:
    """Make the words of the shared state, if it has any, those of this folder, and of this boot or an earlier one.

    Return whether it has.
    """
    file, ring, filesystem = path / "state", path / "ring", Unsynced()
    raw = file.read_bytes() if file.exists() and (path / "hangarlog.json").exists() else b""
    words = memoryview(bytearray(raw[: len(raw) // 8 * 8])).cast("Q")
    if len(words) <= shared_state._BOOT or not words[shared_state._FILE]:
        return False
    home = filesystem.made_at(str(path / "hangarlog.json"))
    with contextlib.closing(shared_state.SharedState(filesystem, str(file), home, writable=False)) as state:
        words[shared_state._FILE] = state._file
    words[shared_state._BOOT] ^= restarted
    if ring.exists() and words[shared_state.RING_FILE]:
        words[shared_state.RING_FILE] = ring.stat().st_ino
    with file.open("r+b") as opened:  # It keeps its inode.
        opened.write(words)
    return True


CAMPAIGN = Campaign(
    row=1,
    fault="a power cut anywhere, also in the recovery from one",
    promise="what was acknowledged durable is there, whole commits only, and the store opens",
    how="file operations are recorded; every prefix, with what was not synced lost in every way, is opened and checked",
    ci=10_000,
    release=1_000_000,
    unit="states",
    run=run,
)
