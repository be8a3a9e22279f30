"""Row 18: a full or a dead disk under an open store, on ext4, xfs, btrfs and tmpfs: an error, and never a signal.

A file system that copies on write needs room for what is overwritten, and one that was shut down gives no more pages:
whoever touches a mapped one is killed. So every call is made by a process of its own, and its exit status is looked at.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hangarlog import ANY, EventSerializer, FileEventStore, HangarlogError, RetentionPolicy, UntypedEvent
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.verify import verify

from .disks import Disk, call, no_loop_mounts, no_mounts
from .harness import Campaign, Figures
from .jobs import die_with_parent, main, run_in_a_process
from .power import shut_down

BYTES = {"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 128 << 20, "tmpfs": 8 << 20}  # None of them can be much smaller.
AT_MOST = 300  # Appends until one is refused.
SEGMENT_BYTES = 2_000  # So that there is something to compress.
HANG = 60  # Seconds after which a process is killed, by a signal that fails the cell.

OPS = ("relaxed append", "durable append", "batch", "new stream", "read", "keep small", "open anew", "close")
BREAKAGES = {
    "full": ("ext4", "xfs", "btrfs", "tmpfs"),
    "full after a reflinked copy": ("xfs", "btrfs"),
    "shut down": ("ext4", "xfs"),
    "read-only": ("ext4", "xfs", "btrfs", "tmpfs"),
    "read-only by the kernel": ("ext4",),
    "state emptied": ("ext4", "xfs", "btrfs", "tmpfs"),
    "state cut": ("ext4", "xfs", "btrfs", "tmpfs"),
}
DEAD = ("shut down", "read-only by the kernel")  # The files that are open then stay dead.


# Processes, whose ends are looked at


class Child:
    """A forked process that does what it is told, and answers. `end` sees that it ended well."""

    def __init__(self, serve: Callable[[Callable[[], str], Callable[..., None]], None]) -> None:
        told, self._tell = os.pipe()
        answers, answer = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._tell)
            os.close(answers)
            self._run(serve, told, answer)
        os.close(told)
        os.close(answer)
        self._answers = os.fdopen(answers)
        self._broken = ""

    @staticmethod
    def _run(serve: Callable[[Callable[[], str], Callable[..., None]], None], told: int, answer: int) -> None:
        die_with_parent()
        signal.alarm(HANG)
        try:
            serve(lambda: os.read(told, 100).decode(), lambda **what: _send(answer, what))
            os._exit(0)
        except BaseException:
            _send(answer, {"broken": traceback.format_exc()[-1500:]})
            os._exit(1)

    def tell(self, word: str) -> None:
        os.write(self._tell, word.encode())

    def answer(self) -> dict[str, Any]:
        """What it says next; nothing where it is gone."""
        line = self._answers.readline()
        what = dict(json.loads(line)) if line.endswith("\n") else {}
        self._broken = what.get("broken", "")
        return {} if self._broken else what

    def kill(self) -> None:
        """End it in any case, also one that is left over from a failure."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def end(self) -> list[dict[str, Any]]:
        """Everything else it says, once it has ended."""
        os.close(self._tell)
        said = [json.loads(line) for line in self._answers]
        self._answers.close()
        pid, self._pid = self._pid, 0
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        broken = self._broken or next((what["broken"] for what in said if "broken" in what), "")
        assert code == 0, f"a process ended with {code} ({_name(code)}): {broken}"
        return said


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else "an exception"


def _send(fd: int, what: dict[str, Any]) -> None:
    os.write(fd, json.dumps(what).encode() + b"\n")


# What a process does


def opened(path: str, durability: Any) -> FileEventStore:
    serializer = EventSerializer(unknown="untyped")
    return FileEventStore(path, durability=durability, serializer=serializer, segment_bytes=SEGMENT_BYTES)


class User:
    """A process's store, and the events it appends. `say` hears of every one before and after it is acknowledged."""

    def __init__(self, path: str, name: str, say: Callable[..., None], durability: Any = "relaxed") -> None:
        self.path, self._name, self._say, self._number = path, name, say, 0
        self.store = opened(path, durability)

    def append(self, streams: list[str], durability: Any = None, each: int = 1) -> None:
        ids = [[f"{self._name}-{self._number + n * each + m}" for m in range(each)] for n in range(len(streams))]
        self._number += each * len(streams)
        events = [[UntypedEvent("Added", {"text": "x" * 300}, event_id=event_id) for event_id in some] for some in ids]
        flat = [event_id for some in ids for event_id in some]
        self._say(tried=flat)
        self.store.append_many(
            [(stream_id, some, ANY) for stream_id, some in zip(streams, events, strict=True)], durability=durability
        )
        self._say(done=flat, durable=durability == "always")

    def outcome(self, op: str, work: Callable[[], Any]) -> None:
        """Say how it ended. Nothing but an error of hangarlog's may come out."""
        try:
            self._say(op=op, result=work())
        except HangarlogError as error:
            self._say(op=op, error=type(error).__name__, text=str(error))

    def do(self, op: str) -> None:
        if op == "open anew":
            return  # Another process does.
        if op == "close":
            self.outcome(op, self.store.close)
        elif op == "read":
            self.outcome(op, self.read)
        elif op == "keep small":
            self.keep_small()
        else:
            self.outcome(op, lambda: [self._append_as(op, n) for n in range(AT_MOST)] and None)

    def keep_small(self) -> None:
        """These let an error of the system out."""
        store, archive = self.store, f"{self.path}-archive"
        works: dict[str, Callable[[], object]] = {
            "compress": store.compress,
            "retain": lambda: store.retain(RetentionPolicy(max_events=1_000)),
            "archive": lambda: store.archive(archive, before=store.last_position // 2),
            "restore": lambda: store.restore_archive(archive),
            "back up": lambda: backup(self.path, f"{self.path}-backup"),
        }
        for what, work in works.items():
            with contextlib.suppress(OSError):
                self.outcome(what, lambda work=work: work() and None)

    def _append_as(self, op: str, number: int) -> None:
        if op == "batch":
            self.append(["a:1", "b:1", "c:1"], "relaxed", each=3)
        elif op == "new stream":
            self.append([f"new:{self._name}-{number}"], "relaxed")
        else:
            self.append(["a:1"], "always" if op == "durable append" else "relaxed")

    def read(self) -> int:
        found = sum(len(self.store.read_stream(stream_id)) for stream_id in self.store.list_streams())
        assert found >= len(list(self.store.read_all())) - AT_MOST
        return self.store.get_event_count()


def holder(path: str, op: str, *, closes: bool) -> Callable[[Callable[[], str], Callable[..., None]], None]:
    """A process that has the store open (or had it) when its disk breaks, and goes on with it when that is over."""

    def serve(hear: Callable[[], str], say: Callable[..., None]) -> None:
        user = User(path, "held", say, 30.0 if op == "close" else "relaxed")
        for number in range(6):
            user.append(["a:1", f"b:{number % 2}"], "always" if number % 2 else "relaxed")
        if closes:
            user.store.close()
        say(ready=True)
        if hear() == "broken":
            if closes:
                user.outcome("open", lambda: setattr(user, "store", opened(path, "relaxed")))
            user.do(op)
            user.outcome("read afterwards", user.read)
            say(finished=True)
        if hear() == "mended":
            user.append(["a:1"], "always")
            say(read=user.read())
        user.outcome("close", user.store.close)

    return serve


def newcomer(path: str) -> Callable[[Callable[[], str], Callable[..., None]], None]:
    """A process that opens the store while the disk is broken."""

    def serve(hear: Callable[[], str], say: Callable[..., None]) -> None:
        try:
            user = User(path, "new", say)
        except HangarlogError as error:
            say(op="open anew", error=type(error).__name__, text=str(error))
            return
        user.outcome("open anew", user.read)
        user.outcome("append", lambda: user.append(["a:1"], "always"))
        user.outcome("close", user.store.close)

    return serve


def afterwards(path: str) -> Callable[[Callable[[], str], Callable[..., None]], None]:
    """A process that opens the store when all is well again: it says what it finds, and uses it."""

    def serve(hear: Callable[[], str], say: Callable[..., None]) -> None:
        user = User(path, "after", say)
        if os.path.exists(f"{path}-archive/hangarlog.json"):
            user.store.restore_archive(f"{path}-archive")
        say(found=[record.event_id for record in user.store.records()])
        streams = user.store.list_streams()
        user.append([*streams, "quite:new"], "always")
        count = sum(len(user.store.read_stream(stream_id)) for stream_id in user.store.list_streams())
        assert count == user.store.get_event_count(), "journal and streams differ"
        damages = [str(damage) for damage in verify(user.store)]
        assert not damages, damages[0]
        user.store.close()

    return serve


# How a disk breaks, and is mended


class Broken:
    """A disk and the ways to break it. A store of its own for each cell lies in `path`."""

    def __init__(self, kind: str, folder: Path, seed: str) -> None:
        self.disk, self._rng = Disk(kind, folder, BYTES[kind]), random.Random(seed)
        self._fillings: list[Path] = []
        self.disk.make()
        self.disk.mount()

    def store(self) -> str:
        return str(self.disk.folder / "store")

    def breaks(self, how: str) -> None:
        if how == "full after a reflinked copy":
            call("sync", "-f", str(self.disk.folder))
            # 1: the store removed a temporary file meanwhile. A file system without reflinks leaves the copies empty.
            call("cp", "--reflink=always", "-r", self.store(), str(self.disk.folder / "copy"), allowed=(0, 1))
            assert (self.disk.folder / "copy/journal.jsonl").stat().st_size, f"{self.disk.kind} makes no reflinks"
        if how.startswith("full"):
            self._fill()
        elif how == "shut down":
            call("sync", "-f", str(self.disk.folder))
            shut_down(self.disk.folder)
        elif how == "read-only":
            self.disk.remount("ro")
        elif how == "read-only by the kernel":
            call("sync", "-f", str(self.disk.folder))
            self.disk.remount("errors=remount-ro")
            Path(f"/sys/fs/ext4/{self.disk.device()}/trigger_fs_error").write_text("hangarlog tests a read-only disk")
        else:
            os.truncate(f"{self.store()}/state", 0 if how == "state emptied" else 100)

    def _fill(self) -> None:
        """To the last block: what a commit of the file system gives back is filled again."""
        for _ in range(3):
            for size in (64 << 20, 4 << 20, 256 << 10, 4 << 10):
                self._fill_by(size)
            with contextlib.suppress(OSError):
                for _ in range(3000):  # Small ones live among the names on btrfs, where they take other room.
                    self._filling().write_bytes(b"x")
            with contextlib.suppress(OSError), self._filling().open("wb", buffering=0) as file:
                while True:  # Makes xfs take back what it has put by for files that grow.
                    file.write(bytes(4096))
            call("sync", "-f", str(self.disk.folder))

    def _fill_by(self, size: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._filling().open("wb", buffering=0) as file:
                    os.posix_fallocate(file.fileno(), 0, size)

    def _filling(self) -> Path:
        self._fillings.append(self.disk.folder / f"filling-{len(self._fillings)}")
        return self._fillings[-1]

    def mend(self, how: str) -> None:
        for path in self._fillings:
            path.unlink(missing_ok=True)
        self._fillings.clear()
        shutil.rmtree(self.disk.folder / "copy", ignore_errors=True)
        if how.startswith("full"):
            call("sync", "-f", str(self.disk.folder))
        elif how == "read-only":
            self.disk.remount("rw")

    def mend_dead(self) -> None:
        """Once nobody has a file open there."""
        self.disk.umount()
        if self.disk.kind == "ext4":
            call("e2fsck", "-fy", str(self.disk.image), allowed=(0, 1))
        self.disk.mount()


def cell(broken: Broken, how: str, op: str, counted: Counter[str], there: Set[str] = frozenset()) -> None:
    """One call on one broken disk, from before it breaks until all is well again. `there`: what the store has."""
    child = Child(holder(broken.store(), op, closes=how == "read-only"))
    said: list[dict[str, Any]] = []
    while (what := child.answer()) and "ready" not in what:
        said.append(what)
    assert what, f"it did not come so far: {child.end()}"
    broken.breaks(how)
    try:
        said += _while_broken(broken, how, op, child)
    finally:
        child.kill()
        if how in DEAD:
            broken.mend_dead()
        else:
            broken.mend(how)
    found = Child(afterwards(broken.store())).end()
    _check(how, [{"tried": sorted(there), "done": sorted(there), "durable": True}, *said], found, counted)


def _while_broken(broken: Broken, how: str, op: str, child: Child) -> list[dict[str, Any]]:
    """What two processes say: the one that had the store open when the disk broke, and one that opens it then."""
    said: list[dict[str, Any]] = []
    child.tell("broken")
    while (what := child.answer()) and "finished" not in what:
        said.append(what)
    if what:  # Else it is gone, and `end` says how.
        said += Child(newcomer(broken.store())).end()
        if how not in DEAD:
            broken.mend(how)
            if op != "close" and how != "read-only":
                child.tell("mended")
    return said + child.end()


def _check(how: str, said: list[dict[str, Any]], found: list[dict[str, Any]], counted: Counter[str]) -> None:
    """Nothing acknowledged is missing, nothing is there that nobody tried; what can be read could be read all along."""
    there = set(next(what["found"] for what in found if "found" in what))
    done = {event_id for what in said for event_id in what.get("done", ()) if how not in DEAD or what["durable"]}
    tried = {event_id for what in said for event_id in what.get("tried", ())}
    assert done <= there, f"{len(done - there)} acknowledged events are gone, such as {min(done - there)}"
    assert there <= tried, f"there are events that nobody appended: {min(there - tried)}"
    for what in said:
        if "error" in what:
            counted[f"{how}: {what['op']}: {what['error']}"] += 1
            reads = what["op"] in ("read", "read afterwards")
            text = f"{what['op']}: {what['error']}: {what['text']}"
            assert not (reads and how != "shut down" and "closed" not in text), f"it could not be read: {text}"
            wrong = what["error"] == "CorruptionError" and not how.startswith("state")
            assert not wrong, f"nothing is damaged, and nothing to repair: {text}"
            if how.startswith("full") and "append" in what["op"] and what["error"] == "StorageError":
                assert os.strerror(errno.ENOSPC) in what["text"], f"it does not say why: {text}"


# The run


def every_cell(kind: str, folder: Path, size: int, seed: int) -> dict[str, Any]:
    counted: Counter[str] = Counter()
    failures: list[str] = []
    for number in range(size):
        for how in (how for how, kinds in BREAKAGES.items() if kind in kinds):
            broken = Broken(kind, folder, f"{seed} {number}")
            for op in OPS:
                try:
                    cell(broken, how, op, counted)
                except Exception as error:
                    text = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
                    failures.append(f"{kind}, {how}, {op}: {text}")
                counted["cells"] += 1
                for path in broken.disk.folder.glob("store*"):
                    shutil.rmtree(path)
            broken.disk.umount()
    assert not failures, f"{len(failures)} of {counted['cells']} cells on {kind}: " + "\n".join(failures)
    return dict(counted)


def _job(kind: str) -> Callable[[Path, int, int], dict[str, Any]]:
    return lambda folder, size, seed: every_cell(kind, folder, size, seed)


JOBS = {kind: _job(kind) for kind in BYTES}


def _missing_of(kind: str) -> str | None:
    return no_mounts() if kind == "tmpfs" else no_loop_mounts(kind)


def _found(kind: str, folder: Path, size: int, seed: int) -> tuple[Figures, str]:
    """(what was counted, what is broken) on one kind of file system."""
    if reason := _missing_of(kind):
        return {kind: f"left out: {reason}"}, ""
    try:
        found = run_in_a_process(f"{__name__}:{kind}", folder, size, seed, mounts=True)
    except AssertionError as error:
        return {}, str(error)
    refusals = sum(number for what, number in found.items() if what != "cells")
    return {f"{kind}: cells": found["cells"], f"{kind}: refusals": refusals}, ""


def run(folder: Path, size: int, seed: int) -> Figures:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda kind: _found(kind, folder, size, seed), BYTES))
    broken = "\n".join(text for _, text in results if text)
    assert not broken, f"seed {seed}: {broken}"
    return {name: number for figures, _ in results for name, number in figures.items()}


def missing() -> str | None:
    reasons = [reason for kind in BYTES if (reason := _missing_of(kind))]
    # One file system is enough to run; where everything must be there, all are wanted.
    there = bool(reasons) if os.environ.get("HANGARLOG_REQUIRE_TOOLS") else len(reasons) == len(BYTES)
    return "; ".join(reasons) if there else None


CAMPAIGN = Campaign(
    row=18,
    fault="a full or a dead disk",
    promise="a call ends with an error and never by a signal; when there is room again all works, and nothing that was "
    "acknowledged is lost",
    how="ext4, xfs, btrfs and tmpfs, filled, filled after a reflinked copy, shut down, made read-only, their shared "
    "state emptied and cut x every call, by a process of its own whose exit status is checked",
    ci=1,
    release=1,
    unit="rounds of every cell",
    run=run,
    missing=missing,
)

if __name__ == "__main__":
    main(JOBS)
