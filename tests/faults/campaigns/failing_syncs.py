"""Row 2: the device refuses one sync, or two in a row, of any kind; then it is well again, and forgot what it had."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hangarlog import (
    ANY,
    FileEventStore,
    HangarlogError,
    OutcomeUnknownError,
    RetentionPolicy,
    StorageError,
    UntypedEvent,
)
from hangarlog.filestore.erasing import Erasing
from hangarlog.maintenance.verify import verify
from hangarlog.testing import Recording, Unsynced, crash_states

from . import moves_and_marks
from .crash_states import open_store, place, small_ring
from .harness import Campaign, Figures

SIZES = [5, 40, 300, 5, 700, 2_500, 5, 900, 5, 5, 300, 200, 100, 5, 1_200, 5, 5, 5, 600, 5, 5, 5, 5, 400, 5, 5]


B_1 = [number for number in range(len(SIZES)) if number % 3 == 0 and number % 5 == 1]  # The appends to stream b:1.
MOVED, SAVED, DELETED = (3, 4, 8, 13, 14, 19, 20), (5, 6, 12, 17), (7, 22)
FOLDERS = ("snapshots", "snapshots/a", "snapshots/b", "deleted", "deleted/b")
"""There from the beginning: that a device forgets the name of a folder, which it refused to sync, nobody can see."""
COMPRESSED, FREED = (11,), (24,)
"""After these appends the store is compressed, and what deletions have hidden is erased."""
ARCHIVED = (15,)
"""After these its first segments go into an archive, and come back."""
RETAINED = (18,)
"""After these a retention looks at all, and keeps it."""
CUTS = 2


STORE, ARCHIVE = "store", "archive"


class Work:
    """A workload with a failing sync, in turn by two stores on one folder; it notes what it was told."""

    def __init__(self, folder: Path, failing: set[int]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        self.path, self.recording = folder / STORE, Recording(folder, failing)
        self.recording.create_folder(str(self.path))
        self.recording._add("sync folder", path=str(folder))
        self.failed_at = 0
        self.unknown: set[str] = set()
        self.refused: set[str] = set()

    def run(self, two: bool) -> None:
        """Append `SIZES`, one after the other, whatever fails."""
        with contextlib.ExitStack() as stack:
            stores: list[FileEventStore] = []
            for number, size in enumerate(SIZES):
                while len(stores) < 1 + two:
                    with self.noting_failure():
                        stores.append(stack.enter_context(open_store(self.path, self.recording)))
                if number == 0:
                    self.make_folders()
                store = stores[number % len(stores)]
                self.append(store, number, size)
                if number in MOVED:
                    position = store.get_event_count()
                    move = partial(store.cursor("worker").advance, position, durability="always")
                    self.call(("moved", position), move)
                if number in SAVED:
                    version = store.get_stream_version("a:1")
                    self.call(("saved", version), partial(store.save_snapshot, "a:1", version, {"at": version}))
                if number in COMPRESSED:
                    self.call(("compressed", number), store.compress)
                if number in ARCHIVED:
                    self.call(("archived", number), partial(self.archive, store))
                if number in RETAINED:
                    self.call(("retained", number), partial(self.retain, store))
                if number in FREED:
                    self.call(("freed", number), partial(self.free, store))
                if number in DELETED:
                    version = store.get_stream_version("b:1")
                    self.call(("deleted", version), partial(store.delete_stream, "b:1"))

    def make_folders(self) -> None:
        for folder in FOLDERS:
            self.recording.create_folder(str(self.path / folder))
            self.recording._add("sync folder", path=os.path.dirname(self.path / folder))

    def archive(self, store: FileEventStore) -> None:
        """Take the first segments out of the store, and bring them back, whatever became of the first half."""
        try:
            store.archive(self.path.with_name(ARCHIVE), before=store.last_position // 2)
        finally:
            self.restore(store)

    def restore(self, store: FileEventStore) -> None:
        """Bring back what is in the archive, if it came so far."""
        if (archive := self.path.with_name(ARCHIVE)).joinpath("hangarlog.json").exists():
            store.restore_archive(archive)

    def retain(self, store: FileEventStore) -> None:
        """Look at all, and keep it. This erases what is hidden, also what a restore that failed has brought back."""
        store.retain(RetentionPolicy(max_events=1_000))

    def free(self, store: FileEventStore) -> None:
        """Erase what is hidden, in the same way."""
        Erasing(store._write_session).run(seconds=60.0, least=0.0)

    def call(self, note: tuple[str, int], call: Callable[[], object]) -> None:
        """A call that is durable when it returns; what it has done is noted then, and whether it began."""
        self.recording.note((f"began {note[0]}", note[1]))
        with self.noting_failure(), _as_error_of_the_store(self.path):
            call()
            self.recording.note(note)

    def append(self, store: FileEventStore, number: int, size: int) -> None:
        event_id = f"{number}"
        event = UntypedEvent("Tried", {"text": "x" * size}, event_id=event_id)
        appends = [("a:1", [event], ANY)]
        if number % 3 == 0:
            appends.append((f"b:{number % 5}", [UntypedEvent("Tried", {}, event_id=event_id + "+")], ANY))
        self.recording.note(("began", event_id))
        try:
            with self.noting_failure(reraise=True):
                store.append_many(appends, idempotent=number % 2 == 0)
        except OutcomeUnknownError:
            self.unknown.add(event_id)
        except StorageError:
            self.refused.add(event_id)
            self.recording.note(("refused", event_id))
        else:
            self.recording.note(("durable", event_id))

    @contextlib.contextmanager
    def noting_failure(self, reraise: bool = False) -> Iterator[None]:
        try:
            yield
        except HangarlogError:
            self.failed_at = self.failed_at or len(self.recording.operations)
            if reraise:
                raise

    def check(self, folder: Path, notes: list[tuple[str, str]]) -> None:
        """What was acknowledged is there once, what was refused is not, of what is unknown nothing is there twice."""
        durable = [event_id for what, event_id in notes if what == "durable"]
        with open_store(folder / STORE, Unsynced()) as store:
            if (folder / ARCHIVE / "hangarlog.json").exists():
                store.restore_archive(folder / ARCHIVE)
            held = [record.event_id for record in store.records()]
            missing = [event_id for event_id in durable if held.count(event_id) != 1]
            assert not missing, f"{missing} of the acknowledged are not there once: {held}"
            refused = {event_id for what, event_id in notes if what == "refused"}
            assert not refused.intersection(held), f"refused, and yet there: {refused.intersection(held)}"
            assert len(set(held)) == len(held), f"something is there twice: {held}"
            own = [event_id for event_id in held if not event_id.endswith("+")]
            assert own == sorted(own, key=int), f"out of order: {own}"
            erases = {("began freed", FREED[0]), ("began archived", ARCHIVED[0])}
            erased = {f"{number}+" for number in B_1} if erases.intersection(notes) else set()
            halves = [e for e in own if int(e) % 3 == 0 and f"{e}+" not in {*held, *erased}]
            assert not halves, f"batches are not whole: {halves} of {held}"
            self.check_calls(store, notes, store.last_position)
            store.append("next:1", [UntypedEvent("Tried", {})], ANY)
            again = [("a:1", [UntypedEvent("Tried", {}, event_id=event_id)], ANY) for event_id in own]
            assert not any(result.written for result in store.append_many(again, idempotent=True).values())
            damages = list(verify(store))
            assert not damages, f"verify finds {damages[0]}"

    def check_calls(self, store: FileEventStore, notes: list[tuple[str, Any]], last: int) -> None:
        """Cursor, snapshot and deletion are those of the last call that was acknowledged, or of one begun later."""
        found = {
            "moved": store.cursor("worker").position,
            "saved": (store.load_snapshot("a:1") or {}).get("version", -1),
            "deleted": next((record.stream_version - 1 for record in store.records("b:1")), None),
        }
        if found["deleted"] is None:
            found["deleted"] = store.get_stream_version("b:1")
        for what, least in (("moved", 0), ("saved", -1), ("deleted", -1)):
            at = max((n for n, note in enumerate(notes) if note[0] == what), default=-1)
            possible = {notes[at][1] if at >= 0 else least}
            possible |= {note[1] for note in notes[at + 1 :] if note[0] == f"began {what}"}
            if what == "moved":
                possible = {min(position, last) for position in possible}
            if what == "saved":  # An event that was lost takes its snapshot along.
                possible |= {-1} if max(possible) > store.get_stream_version("a:1") else set()
            assert found[what] in possible, f"what was {what} is {found[what]}, not of {possible}"


@contextlib.contextmanager
def _as_error_of_the_store(path: Path) -> Iterator[None]:
    """What keeps a store small lets an error of the system out."""
    try:
        yield
    except OSError as error:
        raise StorageError(str(path), error.errno or 0, str(error)) from error


def run(folder: Path, size: int, seed: int) -> Figures:
    """Syncs of the workload fail (at most `size`), alone or with the next one, for one store and for two."""
    figures = {"syncs": 0, "failures": 0, "power cuts after them": 0, "outcomes unknown": 0, "appends refused": 0}
    rng = random.Random(seed)
    scratch = folder / "crashed"
    with small_ring(), moves_and_marks.small_caches():
        plain = Work(folder / "work", set())
        plain.run(two=False)
        figures["syncs"] = plain.recording.syncs
        for site in sorted(rng.sample(range(plain.recording.syncs), min(size, plain.recording.syncs))):
            for failing, two in (({site}, False), ({site}, True), ({site, site + 1}, True)):
                work = Work(folder / "work", failing)
                where = failure = f"HANGARLOG_SEED={seed}: syncs {sorted(failing)} fail, {1 + two} stores"
                try:
                    work.run(two)
                    work.check(work.path.parent, [o.note for o in work.recording.operations if o.kind == "note"])
                    first = next((n for n, o in enumerate(work.recording.operations) if o.kind.startswith("failed")), 0)
                    figures["failures"] += len(failing)
                    figures["outcomes unknown"] += len(work.unknown)
                    figures["appends refused"] += len(work.refused)
                    count = len(work.recording.operations)
                    points = {count - 1, *(rng.randrange(first, count) for _ in range(CUTS))}
                    for state in crash_states(work.recording.operations, rng, 2, points):
                        where = f"{failure}, power cut after operation {state.at} without {state.lost}"
                        place(state, scratch)
                        work.check(scratch, state.notes)
                        figures["power cuts after them"] += 1
                except (AssertionError, HangarlogError) as error:
                    raise AssertionError(f"{where}: {error}") from error
        figures["threads told"] = threads_learn_of_it(folder / "threads")
    return dict(figures)


def threads_learn_of_it(path: Path) -> int:
    """Eight threads wait for one sync, which fails: each is told that nobody knows, and none waits on."""
    told: list[BaseException | int] = []
    everybody = threading.Barrier(8)

    class Refusing(Unsynced):
        refuses = False

        def sync_data(self, fd: int) -> None:
            if self.refuses:
                while store.get_event_count() < 9:
                    everybody_waits.wait(0.001)
                Refusing.refuses = False
                raise OSError(5, "Input/output error")

    everybody_waits = threading.Event()
    with open_store(path, Refusing(), segment_bytes=1 << 20) as store:
        store.append("a:0", [UntypedEvent("Tried", {})], ANY)
        Refusing.refuses = True

        def append(number: int) -> None:
            everybody.wait()
            try:
                told.append(store.append(f"a:{number}", [UntypedEvent("Tried", {})], -1))
            except HangarlogError as error:
                told.append(error)

        threads = [threading.Thread(target=append, args=(number,)) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        unknown = sum(isinstance(result, OutcomeUnknownError) for result in told)
        assert unknown == len(told) == 8, f"of eight threads {unknown} were told: {told}"
        assert store.append("a:0", [UntypedEvent("Tried", {})], 0) == 1
        assert list(verify(store)) == []
    return unknown


CAMPAIGN = Campaign(
    row=2,
    fault="the device refuses a sync (of data, of a folder, of everything), then is well again",
    promise="nobody is told that what it refused is durable; appends go on, and hold through a power cut",
    how="each sync of a workload fails once or twice, what it should have written never reaching the device; one store "
    "or two go on; then the power is cut in every way",
    ci=100,
    release=10_000,
    unit="syncs at most",
    run=run,
    in_memory=True,
)
