"""A cell: a store, its users, who holds a lock, and what they were told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hangarlog import (
    ANY,
    FileEventStore,
    HangarlogError,
    LockTimeoutError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreOpenError,
    SyncError,
)
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.verify import verify

from ..cells import GUARD, Cell, Hooked, event, opened
from ..harness import ROOT
from .holders import ACTS, BASE, Holder, Stopping, ThreadHolder, append

PATIENT = GUARD / 3
TOGETHER = 1.5
"""The deadline of the threads that wait together; one after the other they would take six times as long."""

THREADS = 6


class Scene:
    """A cell: a store, its users, the holder, and what they were told."""

    def __init__(self, cell: Cell, path: Path) -> None:
        who, self.held, nth, self.deadline, self.end = cell.name.split(" ")
        self.cell, self.path = cell, path / "store"
        self.kind, _, act = who.rpartition("-")
        self.act, self.nth = act, int(nth)
        self.acknowledged: set[str] = set()
        self.refused: dict[str, str] = {}
        self.tried: set[str] = set()
        self.seconds = TOGETHER if self.deadline == "together" else float(self.deadline.partition("-")[0])
        self.filesystem = Stopping(self.held, self.nth)
        self.users: dict[str, FileEventStore] = {}
        path.mkdir()
        segment_bytes = 500 if self.act in ("compress", "retain", "archive") else 3_000
        with opened(self.path, segment_bytes=segment_bytes, durability="relaxed", filesystem=Hooked()) as store:
            for number in range(BASE // 2):
                store.append_many([(each, [event(f"base-{each}-{number}")], ANY) for each in ("a:1", "c:1")])
            for stream_id in ("a:1", "c:1"):
                store.save_snapshot(stream_id, 1, {"n": 1})
            self.acknowledged |= {record.event_id for record in store.records()}

    def play(self) -> None:
        holder = self.holder()
        if not holder.begin():
            self.cell.figures["holders that came to their end"] += 1
            self.let_go(holder, stopped=False)
            return
        self.cell.figures["holders stopped"] += 1
        if self.kind == "gate":
            assert self.in_front.end("continued") == 0
        if self.deadline == "together":
            self.together()
        elif self.deadline.endswith("stateless"):
            os.unlink(self.path / "state")
            self.all_at_once({"opening without a state": lambda: self.opens(self.seconds)})
        else:
            self.all_at_once(self.calls())
        self.let_go(holder, stopped=True)

    def holder(self) -> Holder | ThreadHolder:
        """Whoever will hold a lock; and the users, who have the store open before."""
        threads = self.kind == "thread"
        if self.kind == "gate":  # It stands behind another one.
            self.in_front = Holder(self.path, "relaxed", "write.lock", 1)
        holder = None if threads else Holder(self.path, self.act, self.held, self.nth)
        self.open_users("always" if threads else "relaxed")
        if self.act == "recover":
            self.somebody_dies()
        if self.kind == "gate":
            assert self.in_front.begin()
        if threads:
            return ThreadHolder(self.users["relaxed"], self.filesystem, self.act)
        assert holder
        return holder

    def open_users(self, first: str) -> None:
        kinds = {"relaxed": first, "durable": "always", "interval": 0.01}
        for name, durability in {**kinds, "closes durable": "always", "closes interval": 30.0}.items():
            filesystem = self.filesystem if name == "relaxed" else Stopping()
            self.users[name] = opened(
                self.path, lock_timeout=self.seconds, durability=durability, filesystem=filesystem
            )
            if self.act != "exclusive":
                self.begins_to_append(name, "relaxed" if name != "closes interval" else None)
        if self.act == "roll":
            # By one with time to wait: another user's sync may be under way.
            with opened(self.path, durability="always", filesystem=Hooked()) as store:
                store.append("a:1", [event("base-large", 5_000)], ANY)
            self.acknowledged.add("base-large")

    def begins_to_append(self, user: str, durability: Any) -> None:
        """Its first append, tried again where another user's thread has the lock for a moment."""
        while True:
            try:
                return self.appends(user, durability)
            except LockTimeoutError:
                continue

    def somebody_dies(self) -> None:
        """A writer is killed with half of its record written."""
        pid = os.fork()
        if not pid:
            filesystem = Stopping()
            store = opened(self.path, durability="relaxed", filesystem=filesystem)
            filesystem.dies = True
            store.append("a:1", [event("dead")], ANY)
        os.waitpid(pid, 0)

    # What they do

    def appends(self, user: str, durability: Any = None) -> None:
        event_id = f"{user}-{len(self.tried)}".replace(" ", "-")
        self.tried.add(event_id)
        store = self.users[user]
        try:
            store.append(f"user:{user.replace(' ', '-')}", [event(event_id)], ANY, durability=durability)
        except OutcomeUnknownError:
            raise
        except HangarlogError as error:
            self.refused[event_id] = type(error).__name__
            raise
        self.acknowledged.add(event_id)

    def batch(self) -> None:
        event_ids = ["batch-0", "batch-1"]
        shares = [(f"batch:{at}", [event(event_id)], ANY) for at, event_id in enumerate(event_ids)]
        try:
            self.users["durable"].append_many(shares)
        except OutcomeUnknownError:
            raise
        except HangarlogError as error:
            self.refused |= dict.fromkeys(event_ids, type(error).__name__)
            raise
        self.acknowledged |= set(event_ids)

    def opens(self, seconds: float, **options: Any) -> None:
        with opened(self.path, lock_timeout=seconds, filesystem=Hooked(), **options) as store:
            self.has_all(set(self.acknowledged), list(store.records()))  # In this order.

    def has_all(self, wanted: set[str], records: list[Any]) -> None:
        wanted -= self.dropped()
        if wanted - {record.event_id for record in records}:
            self.cell.breaks("a read has fewer events than were acknowledged before")

    def dropped(self) -> set[str]:
        """What a retention may have let go of, or an archive may have taken."""
        goes = self.act in ("retain", "archive")
        return {each for each in self.acknowledged if goes and each.startswith("base-")}

    def reads(self, stream_id: str | None) -> None:
        wanted = set(self.acknowledged)
        records = list(self.users["relaxed"].records(stream_id))
        self.has_all({each for each in wanted if each.startswith("base-a")} if stream_id else wanted, records)

    def command_line(self) -> None:
        """It is refused as the library is, with exit code 1."""
        options = ["--lock-timeout", str(self.seconds), "append", str(self.path), "c:1", "--type", "Added"]
        process = subprocess.Popen(
            [sys.executable, "-m", "hangarlog", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        said = process.communicate()
        if process.returncode not in (0, 1) or "Traceback" in said[1]:
            self.cell.breaks(f"the command line exits with {process.returncode}: {said[1]}")

    def calls(self) -> dict[str, Callable[[], object]]:
        users = self.users
        calls: dict[str, Callable[[], object]] = {
            "a relaxed append": lambda: self.appends("relaxed", "relaxed"),
            "a durable append": lambda: self.appends("durable"),
            "an interval append": lambda: self.appends("interval"),
            "a batch": self.batch,
            "opening": lambda: self.opens(self.seconds),
            "opening exclusively": lambda: self.opens(self.seconds, exclusive=True),
            "closing a durable store": users["closes durable"].close,
            "closing an interval store": users["closes interval"].close,
            "sync": users["durable"].sync,
            "compressing": users["durable"].compress,
            "a retention": lambda: users["durable"].retain(dry_run=True),
            "archiving": lambda: users["durable"].archive(f"{self.path}-theirs", before=1),
            "a backup": lambda: backup(self.path, f"{self.path}-copy", lock_timeout=self.seconds),
            "a snapshot": lambda: users["relaxed"].save_snapshot("a:1", 2, {"n": 3}),
            "compacting": lambda: users["durable"].compact_stream("c:1") if self.act != "archive" else None,
            "reading a stream": lambda: self.reads("a:1") if self.act not in ("compact", "retain", "archive") else None,
            "reading all": lambda: self.reads(None),
            "counting": users["durable"].get_event_count,
            "asking for a version": lambda: users["durable"].get_stream_version("a:1"),
            "listing": users["durable"].list_streams,
            "verify": lambda: list(verify(users["durable"])),
        }
        if self.seconds and self.kind != "thread":
            calls["the command line"] = self.command_line
        if self.kind == "thread":
            calls["closing the same store"] = users["relaxed"].close
        return calls

    def all_at_once(self, calls: dict[str, Callable[[], object]]) -> None:
        """Each call ends, with success or with the error that says why not."""
        running = {}
        for name, call in calls.items():
            running[name] = threading.Thread(target=self.ends_well, args=(name, call), daemon=True)
            running[name].start()
        until = time.monotonic() + PATIENT
        for name, thread in running.items():
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self.cell.breaks(f"{name} waits for ever")

    def ends_well(self, name: str, call: Callable[[], object]) -> None:
        self.cell.figures["calls"] += 1
        try:
            call()
        except (LockTimeoutError, StoreBusyError):
            self.cell.figures["calls refused"] += 1
        except OutcomeUnknownError as error:
            self.cell.figures["outcomes unknown"] += 1
            if isinstance(error, SyncError) or not any(kind in name for kind in ("append", "batch", "sync", "closing")):
                self.cell.breaks(f"{name} ends in {error!r}"[:300])
        except Exception as error:
            if not (self.kind == "thread" and isinstance(error, StoreOpenError)):  # There it is closed meanwhile.
                self.cell.breaks(f"{name} ends in {error!r}"[:300])

    def together(self) -> None:
        """Threads of one store wait at the same time, not one after the other."""
        began = time.monotonic()
        ended: list[float] = []
        user = "relaxed" if self.kind == "thread" else "durable"

        def work() -> None:
            self.ends_well("an append of many threads", lambda: self.appends(user))
            ended.append(time.monotonic() - began)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, began + TOGETHER * THREADS * 2 - time.monotonic()))
        if len(ended) < THREADS or max(ended) > TOGETHER * (THREADS - 2):
            self.cell.breaks("threads wait one after the other, or for ever")

    # Afterwards

    def let_go(self, holder: Holder | ThreadHolder, *, stopped: bool) -> None:
        """All go on, and what was acknowledged is there."""
        code = holder.end(self.end) if stopped or self.kind == "thread" else 0
        if isinstance(holder, ThreadHolder) and holder.error:
            self.cell.breaks(f"the holder's own call ends in {holder.error!r}"[:300])
        if code != (0 if self.end == "continued" or not stopped or self.kind == "thread" else -signal.SIGKILL):
            self.cell.breaks(f"the holder ends with {code}")
        succeeded = holder.succeeded if isinstance(holder, ThreadHolder) else stopped and self.end == "continued"
        if succeeded and ACTS[self.act][0] is append:
            self.acknowledged.add("holder-0")
        if self.kind == "thread":
            del self.users["relaxed"]
        for user in ("relaxed", "durable", "interval"):
            if user in self.users and not self.deadline.endswith("stateless"):
                self.afterwards(f"a {user} append afterwards", lambda user=user: self.appends(user))
        for user, store in self.users.items():
            self.afterwards(f"closing a {user} store afterwards", store.close)
        self.look()

    def look(self) -> None:
        """All is there, in the store or in its archive."""
        with opened(self.path, filesystem=Hooked()) as store:
            found = Counter(record.event_id for record in store.records())
            for damage in verify(store):
                self.cell.breaks(f"verify finds {damage}"[:300])
        if (archive := self.path.with_name("store-archive")).joinpath("hangarlog.json").exists():
            with opened(archive, filesystem=Hooked()) as store:
                found |= Counter(record.event_id for record in store.records())
        if self.acknowledged - found.keys() - (self.dropped() if self.act == "retain" else set()):
            self.cell.breaks("acknowledged events are lost")
        for event_id in found.keys() & self.refused.keys():
            self.cell.breaks(f"what was refused with {self.refused[event_id]} is there")
        if max(found.values()) > 1:
            self.cell.breaks("an event is there twice")

    def afterwards(self, name: str, call: Callable[[], object]) -> None:
        """With the holder gone everything succeeds; a deadline of 0 ends as soon as somebody is just at it."""
        failures: list[str] = []
        until = time.monotonic() + PATIENT

        def work() -> object:
            while True:
                try:
                    return call()
                except Exception as error:
                    short = not self.seconds and isinstance(error, (LockTimeoutError, OutcomeUnknownError))
                    if not short or isinstance(error, SyncError) or time.monotonic() >= until:
                        failures.append(f"{type(error).__name__}: {error}"[:250])
                        return None

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(PATIENT)
        if failures or thread.is_alive():
            self.cell.breaks(f"{name}: {failures[0] if failures else 'waits for ever'}")
