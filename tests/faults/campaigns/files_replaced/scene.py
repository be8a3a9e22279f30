"""A cell: a store in use, what is done to it, and everybody's going on."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hangarlog import (
    ANY,
    ConcurrencyError,
    FileEventStore,
    HangarlogError,
    LockTimeoutError,
    OutcomeUnknownError,
    RetentionPolicy,
    StoreOpenError,
)
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify

from ..cells import GUARD, Cell, Device, event, on_the_device, opened, power_cut, reopened, site
from ..mutations import WHOLE, is_gentle, mutations_of, shuts_out
from .store import Ledger


class Scene:
    """A cell: a store in use, what is done to it, and everybody's going on."""

    def __init__(self, cell: Cell, path: Path) -> None:
        act, at, target, mutation, self.beside, order = cell.name.split(" ")
        self.cell, self.path, self.act, self.at = cell, path / "store", act, int(at.partition(":")[0])
        self.target, self.mutation, self.order = target, mutation, order
        self.older = path.parent / "bases" / ("full" if act == "roll" else "plain")
        self.aside = path / "aside"
        # Of what an archiving hides, nothing but the marks in `snapshots` knows.
        self.gentle = is_gentle(target, mutation) and (self.act, target) != ("archive", "snapshots")
        self.ledger = Ledger(cell)
        self.shut_out = shuts_out(target, mutation)  # C is, until A or B has appended.
        self.noticeable = target == "locks"  # That it is, without C's having tried: the store's folder has changed.
        self.done = False  # What is done to the store.
        self.calls: list[tuple[str, str]] = []  # Their names and sites.
        self.armed = False
        self.tried_before: set[str] = set()  # It was done.
        self.archived: set[str] = set()  # What may be in the archive only.
        path.mkdir()
        shutil.copytree(self.older, self.path)

    # What is done

    def before(self, name: str) -> None:
        """A call of A's."""
        if not self.armed or self.done or threading.current_thread() is not threading.main_thread():
            return
        self.calls.append((name, site()))
        if len(self.calls) == self.at:
            self.done, self.tried_before = True, set(self.ledger.tried)
            self.mutate()
            if self.beside == "beside":
                self.goes_beside()

    def mutate(self) -> None:
        target = self.path / self.target
        older = self.older / self.target
        if not os.path.lexists(target):
            self.cell.figures["targets that are not there just then"] += 1
            return
        mutations_of(self.path, self.target)[self.mutation](target, older, self.aside)
        on_the_device(target)
        if self.mutation == "exchanged":
            with opened(self.path, durability="relaxed") as other:
                other.append("a:1", [event("other-0"), event("other-1")], ANY)
                other.append("b:1", [event("other-2")], ANY)

    def goes_beside(self) -> None:
        """B appends and reads while A stands in its call: it does not wait, nor write if A is inside the write lock."""
        inside = "write.lock" in self.filesystem.locked.values() and self.act != "archive"  # It has one of its own.

        def appends() -> None:
            if self.appends("B", self.b, "b:1") and inside:
                self.cell.breaks("two are inside the write lock at once")
            self.reads("B", self.b)

        thread = threading.Thread(target=appends, daemon=True)
        thread.start()
        thread.join(GUARD / 3)
        if thread.is_alive():
            self.cell.breaks("B waits for A in spite of lock_timeout=0")

    # What the users do

    @contextlib.contextmanager
    def promised(self, who: str, what: str, *, may_fail: bool) -> Iterator[None]:
        """Every error is one of hangarlog's, with the place; where nothing is lost, there is none."""
        try:
            yield
        except HangarlogError as error:
            self.cell.figures["calls refused"] += 1
            if who == "C" and self.shut_out and isinstance(error, StoreOpenError):
                self.noticeable = may_fail = True
            known = isinstance(error, (ConcurrencyError, LockTimeoutError))
            if not known and str(self.path) not in str(error) and str(self.aside) not in str(error):
                self.cell.breaks(f"{who} is not told the place: {error}")
            if not may_fail:
                self.cell.breaks(f"{who} is refused {what}: {type(error).__name__}: {error}"[:300])
        except Exception as error:
            self.cell.breaks(f"{who}: {what} ends in {error!r}"[:300])

    def appends(self, who: str, store: FileEventStore, stream_id: str, *, exact: bool = False) -> bool:
        """One append; what comes of it is noted, and whether it wrote."""
        ledger, event_id = self.ledger, f"{who}-{len(self.ledger.tried)}"
        ledger.tried.add(event_id)
        durable = store._durability == "always"
        gone = self.done and (self.target, self.mutation) == (WHOLE, "deleted")
        expected = ledger.version(stream_id) if exact and not ledger.doubted else ANY
        busy = self.armed  # A stands inside a call.
        with self.promised(who, "an append", may_fail=not self.gentle or busy):
            try:
                version = store.append(stream_id, [event(event_id)], expected)
            except OutcomeUnknownError:
                ledger.doubted.add(event_id)
                raise
            except ConcurrencyError as error:
                ledger.refused[event_id] = type(error).__name__
                if self.target != WHOLE:
                    self.cell.breaks(f"{who} meets a conflict where nobody has appended: {error}")
                raise
            except HangarlogError as error:
                ledger.refused[event_id] = type(error).__name__
                raise
            except BaseException:
                ledger.doubted.add(event_id)
                raise
            if gone:
                self.cell.figures["relaxed appends into a folder that is gone"] += not durable
                if durable:
                    self.cell.breaks(f"{who} is told that an append into a deleted folder is durable")
                return True
            if self.target == WHOLE and who == "C":
                return True  # Another folder's: looked at by itself.
            ledger.acknowledge(event_id, stream_id, version, durable=durable)
            self.shut_out &= not (who != "C" and self.done and not busy and self.noticeable)
            return True
        return False

    def reads(self, who: str, store: FileEventStore, told: dict[str, tuple[str, int]] | None = None) -> None:
        """All kinds of reads: nothing that was acknowledged is missing, nothing is there that was not written."""
        told = self.ledger.told if told is None else told
        told = {event_id: place for event_id, place in told.items() if event_id not in self.archived}
        may_fail = not self.gentle or self.armed

        def wants(what: str, missing: object) -> None:
            if missing:
                self.cell.breaks(f"{who}: {what} has fewer events than were acknowledged")

        with self.promised(who, "reading all", may_fail=may_fail):
            found = list(store.records())
            wants("reading all", told.keys() - {record.event_id for record in found})
            self.agrees(who, "reading all", [(record.stream_id, record.event_id) for record in found])
            first = found[0].position if found else 1
            if [record.position for record in found] != list(range(first, first + len(found))):
                self.cell.breaks(f"{who}: positions are not dense")
        with self.promised(who, "counting", may_fail=may_fail):
            wants("the count", store.get_event_count() < len(told))
        with self.promised(who, "listing", may_fail=may_fail):
            wants("the list of streams", {stream_id for stream_id, _ in told.values()} - set(store.list_streams()))
        for stream_id in sorted({stream_id for stream_id, _ in told.values()}):
            places = {(event_id, version) for event_id, (at, version) in told.items() if at == stream_id}
            with self.promised(who, "reading a stream", may_fail=may_fail):
                here = [(record.event_id, record.stream_version) for record in store.records(stream_id)]
                wants("a stream", places - set(here))
                self.agrees(who, "a stream", [(stream_id, event_id) for event_id, _ in here])
            with self.promised(who, "reading a stream's events", may_fail=may_fail):
                wants("a stream's events", len(store.read_stream(stream_id)) < len(places))
            with self.promised(who, "asking for a version", may_fail=may_fail):
                wants("a stream's version", store.get_stream_version(stream_id) < max(at for _, at in places))
        with self.promised(who, "loading a snapshot", may_fail=True):
            store.load_snapshot("a:1")
        if self.done and (self.target, self.mutation) == (WHOLE, "deleted") and not self.armed and who != "C":
            with contextlib.suppress(HangarlogError):
                store.read_stream("a:1")
                self.cell.breaks(f"{who} reads from a deleted folder")

    def agrees(self, who: str, what: str, found: list[tuple[str, str]]) -> None:
        """Nothing is there twice, or of nobody."""
        counts = Counter(event_id for _, event_id in found)
        if any(count > 1 for count in counts.values()):
            self.cell.breaks(f"{who}: {what} has an event twice")
        if counts.keys() - self.ledger.tried - self.ledger.told.keys():
            self.cell.breaks(f"{who}: {what} has events of nobody")

    # The cell

    def play(self) -> None:
        """Everything; `calls` says then how many there are at which something can be done."""
        on_the_device(self.path)
        self.filesystem = Device(self.before)
        durability = "relaxed" if self.act == "relaxed" else "always"
        self.a = opened(self.path, durability=durability, filesystem=self.filesystem)
        self.b = opened(self.path, filesystem=Device(), lock_timeout=0)
        for record in self.a.records():
            self.ledger.acknowledge(record.event_id, record.stream_id, record.stream_version, durable=True)
        if self.act != "roll":
            for who, store in (("A", self.a), ("B", self.b)):
                for stream_id in ("a:1", "b:1"):
                    self.appends(who, store, stream_id, exact=True)
        self.reads("A", self.a)
        self.reads("B", self.b)
        self.armed = True
        getattr(self, f"act_{self.act}")()
        self.armed = False
        if not self.done:
            return
        self.go_on()

    def act_relaxed(self) -> None:
        self.appends("A", self.a, "a:1", exact=True)

    act_durable = act_relaxed

    def act_batch(self) -> None:
        """A batch over streams that are open, closed, and new."""
        ids = [f"A-batch-{part}" for part in range(4)]
        streams = ["a:1", "plain", "b:1", "new:1"]
        self.ledger.tried |= set(ids)
        with self.promised("A", "a batch", may_fail=True):
            try:
                shares = [(stream_id, [event(each)], ANY) for stream_id, each in zip(streams, ids, strict=True)]
                versions = self.a.append_many(shares)
            except BaseException:
                self.ledger.doubted |= set(ids)
                raise
            for stream_id, event_id in zip(streams, ids, strict=True):
                self.ledger.acknowledge(event_id, stream_id, versions[stream_id], durable=True)

    def act_roll(self) -> None:
        """An append that rolls the journal and its stream."""
        self.appends("A", self.a, "big:1", exact=True)

    def act_read(self) -> None:
        with self.promised("A", "a read", may_fail=True):
            found = [record.event_id for record in self.a.records("big:1")]
            version = self.a.get_stream_version("a:1")
            if len(found) < 3 or version < self.ledger.version("a:1"):
                self.cell.breaks("A: a read that is under way has fewer events than were acknowledged")

    def act_compress(self) -> None:
        with self.promised("A", "a compression", may_fail=True), contextlib.suppress(OSError):
            self.a.compress()

    def act_retain(self) -> None:
        """A retention that keeps all, and the erasing of what no stream hides: it looks at every file."""
        with self.promised("A", "a retention", may_fail=True), contextlib.suppress(OSError):
            self.a.retain(RetentionPolicy(max_events=1_000))

    def act_archive(self) -> None:
        """The first sealed segment goes into an archive, and comes back."""
        archive, before = self.path.with_name("archive"), 3
        self.archived = {record.event_id for record in self.a.records(to_position=before - 1)}
        with self.promised("A", "archiving", may_fail=True), contextlib.suppress(OSError):
            self.a.archive(archive, before=before)
        with self.promised("A", "a restoring", may_fail=True), contextlib.suppress(OSError):
            if self.a.restore_archive(archive).segments or self.a.first_position == 1:
                self.archived = set()

    def act_open(self) -> None:
        """Another one opens the store."""
        with self.promised("D", "opening", may_fail=True), opened(self.path, filesystem=Device(self.before)):
            pass

    def act_close(self) -> None:
        with self.promised("A", "closing", may_fail=True):
            self.a.close()

    def go_on(self) -> None:
        """The call has ended: A, B and C go on in some order, and the power may be cut after one of them."""
        users: dict[str, FileEventStore] = {"A": self.a, "B": self.b}
        if self.act == "close":
            del users["A"]
        for at, who in enumerate(self.order[:3]):
            if who == "C":
                with self.promised("C", "opening", may_fail=not self.gentle):
                    users["C"] = opened(self.path, create=False, filesystem=Device())
            store = users.get(who)
            if store is None:
                continue
            self.appends(who, store, "a:1", exact=who != "C" or self.target != WHOLE)
            self.appends(who, store, "b:1")
            self.appends(who, store, f"new:{who.lower()}")
            if self.target != WHOLE or who != "C":
                self.reads(who, store)
            if at == int(self.order[3]) and self.target != WHOLE:
                self.survives_a_power_cut()
        for who, store in users.items():
            with self.promised(who, "closing", may_fail=not self.gentle):
                store.close()
        if self.target == WHOLE:
            self.look_at_folders()
        else:
            self.look(self.path, "anew", self.gentle)
            self.caches_are_back()

    def survives_a_power_cut(self) -> None:
        """What was acknowledged as durable since, and with it all before, is there after a restart."""
        if (self.target, self.mutation) == ("ring", "overwritten"):
            return  # What it had to itself is gone, and nothing about the file says so.
        wanted = self.ledger.durable
        if "journal" in self.target and not self.gentle:  # Who had nothing but the journal before has nothing now.
            wanted = (wanted & self.ledger.tried) - self.tried_before
        image = self.path.with_name("image")
        power_cut(self.path, image)
        before = self.path
        self.path = image
        try:
            self.look(image, "after a power cut", False, {each: self.ledger.told[each] for each in wanted})
        finally:
            self.path = before

    def look(self, path: Path, when: str, gentle: bool, told: dict[str, tuple[str, int]] | None = None) -> None:
        """Open a store anew; where that, or `verify`, says that it is damaged, repair it as it says."""
        told = self.ledger.told if told is None else told
        self.as_advised(path)
        damage: object = None
        try:
            with reopened(path) as store:
                damage = next(iter(verify(store)), None)
        except HangarlogError as error:
            damage = error
        except Exception as error:
            self.cell.breaks(f"{when}: opening ends in {error!r}"[:300])
            return
        if damage:
            self.cell.figures["stores repaired"] += 1
            if gentle:
                self.cell.breaks(f"{when}: it is damaged: {damage}"[:300])
            try:
                list(repair(path, filesystem=Device()))
            except Exception as error:
                self.cell.breaks(f"{when}: repair ends in {error!r}"[:300])
                return
        with self.promised(when, "opening", may_fail=False), reopened(path) as store:
            self.reads(when, store, told)
            for left in verify(store):
                self.cell.breaks(f"{when}: verify finds {left}"[:300])
            found = {record.event_id for record in store.records()}
            if lost := told.keys() - found - self.archived:
                self.cell.breaks(f"{when}: {len(lost)} acknowledged events are lost"[:300])
            if phantoms := sorted(found & self.ledger.refused.keys()):
                self.cell.breaks(f"{when}: what was refused is there ({self.ledger.refused[phantoms[0]]})")
            store.append("a:1", [event(f"{when}-last".replace(" ", "-"))], store.get_stream_version("a:1"))

    def as_advised(self, path: Path) -> None:
        """What has no copy inside the store is restored, or deleted, as the errors say."""
        if self.target == "hangarlog.json":
            shutil.copy(self.older / "hangarlog.json", path)
        elif self.target == "snapshots/a/1.json" and self.mutation != "copied":
            (path / self.target).unlink(missing_ok=True)

    def caches_are_back(self) -> None:
        for name in ("state", "ring", "locks/write.lock", "checkpoint.json", "catalog"):
            if (self.older / name).exists() and not (self.path / name).exists():
                self.cell.breaks(f"{name} does not come back")

    def look_at_folders(self) -> None:
        """The store's folder was deleted, or is elsewhere: what each one wrote is in its own, and nowhere else."""
        if self.mutation in ("deleted", "moved") and self.path.exists():
            self.cell.breaks("a folder that was deleted or moved away is there again")
        if self.mutation == "deleted":
            return
        home, self.path = self.path, self.aside
        self.look(self.aside, "in the moved folder", False)
        self.path = home
        strangers = ("other-", '"C-') if self.mutation != "moved" else ("other-",)
        if any(each in text for text in texts(self.aside) for each in strangers):
            self.cell.breaks("records of the new store are in the moved one")
        if self.mutation == "moved":
            return
        mine = {each for each in self.ledger.tried if each[0] in "AB"}
        mine -= self.tried_before if self.mutation == "copied" else set()
        if any(f'"{each}"' in text for text in texts(home) for each in mine):
            self.cell.breaks("records of the moved store are in the new one")
        with self.promised("the new store", "opening", may_fail=False), reopened(home) as store:
            for left in verify(store):
                self.cell.breaks(f"the new store is damaged: {left}"[:300])


def texts(path: Path) -> Iterator[str]:
    for file in path.rglob("*.jsonl"):
        yield file.read_text(errors="replace")
