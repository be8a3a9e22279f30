"""Row 6: a real power cut of a file system: ext4, xfs and btrfs in an image, with nothing flushed, mounted again.

The image outlives the cut and so does its store, which meets the next one; mounts are in a mount namespace of the run's
own. In every second round the shared state is taken away, as nobody trusts it after a restart. In the others it is left
as the cut left it: the file system went down and came back under a machine that goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import multiprocessing
import os
import random
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from hangarlog import ANY, FileEventStore, HangarlogError, UntypedEvent
from hangarlog.maintenance.verify import verify
from hangarlog.record.envelope import Envelope, LineError
from hangarlog.record.line import decode_record
from hangarlog.system.filesystem import FileSystem

from .disks import no_loop_mounts, no_mounts
from .harness import Campaign, Figures
from .jobs import die_with_parent, main, run_in_a_process
from .power import BYTES, Powered, powered

STORE_BYTES = 12 << 20  # A store of this size begins anew: reading it would be most of a round.
LONGEST_ROUND = 0.15
CONTROL_ROUNDS = 10  # At most; the first loss ends them.


class NeverSyncing(FileSystem):
    """Says that data is on the device without having brought it there."""

    def sync_data(self, fd: int) -> None:
        pass


# The writers


def event_id(writer: str, batch: int, number: int, count: int, size: int) -> str:
    """All that is known of an event, so that it can be checked from its id."""
    return f"{writer}.{batch}.{number}.{count}.{size}"


def text_of(identity: str) -> str:
    """The text that the event of that id must have."""
    size = int(identity.rpartition(".")[2])
    return (f"{identity} " * (size // len(identity) + 1))[:size]


def make_batch(writer: str, batch: int, numbers: random.Random) -> list[tuple[str, list[UntypedEvent], int]]:
    """A batch over one to three streams: well-known ones that all writers share, and some new ones."""
    streams = numbers.sample(["a:1", "a:2", "b:1", "plain"], numbers.randint(1, 3))
    if numbers.random() < 0.2:
        streams[-1] = f"new:{writer}-{batch}"
    if numbers.random() < 0.2:
        streams.append(streams[0])  # A stream that is named twice, with others between.
    shares = [numbers.choice([1, 1, 1, 2, 5]) for _ in streams]
    ids = [
        event_id(writer, batch, number, sum(shares), 100_000 if numbers.random() < 0.01 else numbers.randint(10, 900))
        for number in range(sum(shares))
    ]
    events = [UntypedEvent("Written", {"text": text_of(identity)}, event_id=identity) for identity in ids]
    return [
        (stream_id, [events.pop() for _ in range(share)], ANY) for stream_id, share in zip(streams, shares, strict=True)
    ]


def write(path: str, writer: str, seed: str, pipe: int, *, syncs: bool) -> None:
    """Append until the disk is gone; say through the pipe what was acknowledged, and when it began and ended."""
    die_with_parent()
    numbers = random.Random(seed)
    filesystem = FileSystem() if syncs else NeverSyncing()
    segment_bytes = numbers.choice([20_000, 100_000, 1 << 20])
    share = numbers.choice([0.02, 0.3, 0.3, 1.0])  # Of appends that are durable: so the end that is not has any length.

    def tell(*what: Any) -> None:
        os.write(pipe, json.dumps([writer, *what]).encode() + b"\n")

    batch = -1
    try:
        durable, relaxed, often = (
            FileEventStore(path, durability=durability, segment_bytes=segment_bytes, filesystem=filesystem)
            for durability in ("always", "relaxed", 0.02)
        )
        written_back = numbers.choice([0.0, 0.05, 0.3]) if syncs else 0.0
        for batch in range(1 << 30):
            appends = make_batch(writer, batch, numbers)
            store = durable if numbers.random() < share else often if numbers.random() < share / 2 else relaxed
            began = time.monotonic_ns()
            versions = store.append_many(appends)
            ended = time.monotonic_ns()
            is_durable = store is durable
            if store is relaxed and numbers.random() < share / 4:
                tell(batch, began, ended, False, versions)
                store.sync()
                is_durable, ended = True, time.monotonic_ns()
            tell(batch, began, ended, is_durable, versions)
            if numbers.random() < written_back:
                _write_back(path, numbers)
    except (HangarlogError, OSError) as error:
        tell(batch, "failed", type(error).__name__, str(error))
    signal.pause()  # Its files stay open over the cut.


def _write_back(path: str, numbers: random.Random) -> None:
    """Some pages or other of a file, as the kernel's own threads may choose them.

    And perhaps what a sync of another program's file on the same disk brings with it, the log of the file system.
    """
    names = ["journal.jsonl", "journal.jsonl", "streams/a/1.jsonl", "streams/b/1.jsonl", "streams/plain.jsonl", "state"]
    with contextlib.suppress(OSError):
        with open(f"{path}/{numbers.choice(names)}", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = numbers.choice([size // 4096, numbers.randrange(size // 4096 + 1)]) * 4096
            pages = numbers.choice([1, 2, 1 << 20]) * 4096
            ctypes.CDLL(None).sync_file_range(file.fileno(), ctypes.c_int64(first), ctypes.c_int64(pages), 2)
        if numbers.random() < 0.3:
            with open(f"{path}-of-another-program", "wb", buffering=0) as file:
                file.write(b"unrelated")
                os.fsync(file.fileno())


# One round


class Acknowledged:
    """What the writers of a round said before the cut."""

    def __init__(self) -> None:
        self.batches: dict[tuple[str, int], tuple[int, int, bool, dict[str, int]]] = {}
        self.failed: dict[str, tuple[int, str, str]] = {}
        self.cut_at = 0

    def take(self, line: bytes) -> None:
        writer, batch, *rest = json.loads(line)
        if rest[0] == "failed":
            self.failed[writer] = (batch, rest[1], rest[2])
        else:
            self.batches[writer, batch] = tuple(rest)

    def durable(self) -> set[tuple[str, int]]:
        """The batches that were acknowledged durable before the cut.

        Not those of the same instant: a file system that is shutting down may let a sync of it pass, which with the
        power gone nobody would have heard of.
        """
        return {key for key, (_, ended, durable, _) in self.batches.items() if durable and ended < self.cut_at}

    def lasting(self) -> set[tuple[str, int]]:
        """The batches that must be there: acknowledged durable, or acknowledged at all before such an append began.

        What was committed before the sync has a lower position, and is on the device with it.
        """
        durable = self.durable()
        began = max((self.batches[key][0] for key in durable), default=0)
        return durable | {key for key, (_, ended, *_) in self.batches.items() if ended < began}


def run_until_the_cut(disk: Powered, path: str, name: str, numbers: random.Random, *, syncs: bool) -> Acknowledged:
    """Two or three processes write; then the power goes."""
    told = Acknowledged()
    context = multiprocessing.get_context("fork")
    reading, writing = os.pipe()
    writers = [
        context.Process(
            target=write, args=(path, f"{name}{letter}", f"{numbers.random()}", writing), kwargs={"syncs": syncs}
        )
        for letter in "xyz"[: numbers.randint(2, 3)]
    ]
    text = b""
    try:
        for writer in writers:
            writer.start()
        os.close(writing)
        if numbers.random() < 0.8:  # Else it may go while the store is made, or recovers, or before anything is said.
            select.select([reading], [], [], 10)
        deadline = time.monotonic() + numbers.uniform(0.0, LONGEST_ROUND)
        while (left := deadline - time.monotonic()) > 0:
            if select.select([reading], [], [], left)[0]:
                text += os.read(reading, 1 << 16)
        told.cut_at = time.monotonic_ns()
        disk.cut()
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    codes = [writer.exitcode for writer in writers]
    assert set(codes) == {-signal.SIGKILL}, f"the writers ended with {codes}, not all by the signal they were sent"
    while part := os.read(reading, 1 << 16):
        text += part
    os.close(reading)
    for line in text.splitlines(keepends=True):
        if line.endswith(b"\n"):
            told.take(line)
    return told


def written_through(ring: str) -> bool:
    """Whether the ring is written as `open_synced` says: its writes are then on the device when they return."""
    try:
        fd, synced = FileSystem().open_synced(ring)
    except FileNotFoundError:
        return False
    os.close(fd)
    return synced


class Machine:
    """One file system, and the store on it that meets one cut after another."""

    def __init__(self, kind: str, folder: Path, seed: int) -> None:
        self.kind, self._seed, self._folder = kind, seed, folder
        self._disk = powered(kind, folder)
        self._path = str(self._disk.folder / "store")
        self._lasting: set[str] = set()  # The ids of events that were on the device once; they stay for ever.
        self._fresh = True
        self.counted: Counter[str] = Counter()
        self.broken: list[str] = []

    def round(self, number: int) -> None:
        """Write, cut, and check. What is broken is kept in `broken`, with the store as it was found after the cut."""
        numbers = random.Random(f"{self._seed} {self.kind} {number}")
        # A file system begins anew now and then; commit=1 has ext4's log written every second and not every five.
        options = numbers.choice(["", ",commit=1"]) if self.kind == "ext4" else ""
        if self._fresh:
            self._begin(options)
        told = run_until_the_cut(self._disk, self._path, f"{self.kind}{number}", numbers, syncs=True)
        self._disk.return_power(options)
        found = self._folder / "found"
        try:
            self._mounted_again(found, restarted=number % 2 == 0)
            self._check(told)
        except Exception as error:
            boot = "restarted" if number % 2 == 0 else "the same boot"
            self.broken.append(f"{self.kind}, round {number}, {boot}, seed {self._seed}: {self._kept(error, found)}")
            self._fresh = True
        gc.collect()  # A read that was broken off by an error may still have files open.
        self.counted["rounds"] += 1
        self.counted["of them in the same boot"] += number % 2
        self.counted["of them with a ring written past the cache"] += written_through(f"{self._path}/ring")
        shutil.rmtree(found, ignore_errors=True)
        used = (
            sum(file.stat().st_size for file in Path(self._path).rglob("*") if file.is_file()) if not self._fresh else 0
        )
        self._fresh = self._fresh or used > STORE_BYTES or numbers.random() < 0.1
        if self._fresh:
            self._disk.umount()

    def control(self, number: int) -> bool:
        """Whether a store that does not sync is caught: it loses what it acknowledged, or cannot be opened."""
        numbers = random.Random(f"{self._seed} {self.kind} control {number}")
        self._begin("")
        told = run_until_the_cut(self._disk, self._path, f"{self.kind}{number}", numbers, syncs=False)
        self._disk.return_power()
        caught = False
        try:
            self._mounted_again(None, restarted=True)
            self._check(told)
        except (AssertionError, HangarlogError):
            caught = bool(told.durable())  # Without any there was nothing to lose.
        finally:
            self._disk.umount()
        return caught

    def _begin(self, options: str) -> None:
        self._disk.make()
        self._disk.mount(options)
        self._lasting = set()
        self._fresh = False

    def _mounted_again(self, copy: Path | None, *, restarted: bool) -> None:
        """The machine did not restart: where it is to look so, the shared state goes, as nobody would trust it then."""
        if restarted:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._path}/state")
        if os.path.isdir(self._path):
            self._look_at_the_end()
            if copy:
                shutil.copytree(self._path, copy)

    def _look_at_the_end(self) -> None:
        """Count what the cut left at the end of the journal that is no whole batch."""
        with contextlib.suppress(FileNotFoundError), open(f"{self._path}/journal.jsonl", "rb") as file:
            text = file.read()
            whole, at = 0, 0
            while end := text.find(b"\n", at) + 1:
                try:
                    record = decode_record(text[at : end - 1])
                except LineError:
                    break
                at = end
                whole = end if record.ends_batch else whole
            self.counted["torn ends of the journal"] += len(text) > whole
            self.counted["torn ends with NULs"] += b"\0" in text[whole:]

    def _check(self, told: Acknowledged) -> None:
        """The promises, and then an append, which is on the device from then on as well."""
        lasting = told.lasting()
        with FileEventStore(self._path, segment_bytes=100_000) as store:
            if store.recovered:
                self.counted["recoveries"] += 1
            found = [envelope for block in store.envelopes() for envelope in block]
            check_records(store, found)
            check_places(store, found, random.Random(f"{self._seed} {self.counted['rounds']}"))
            batches = check_batches(found)
            ids = {envelope.event_id for envelope in found}
            lost = sorted(self._lasting - ids)
            assert not lost, f"{len(lost)} events are lost that were on the device before, such as {lost[0]}"
            gone = sorted(lasting - batches)
            assert not gone, (
                f"{len(gone)} batches are lost that were acknowledged durable, such as {self._facts(told, gone[0])}"
            )
            self._check_others(told, batches, found)
            damage = list(verify(store))
            assert not damage, f"verify finds {damage[0]}"
            self._count(told, lasting, batches)
            identity = event_id(f"after{self.counted['rounds']}", 0, 0, 1, 50)
            store.append("after:1", [UntypedEvent("Written", {"text": text_of(identity)}, event_id=identity)], ANY)
            assert store.get_event_count() == len(found) + 1
            self._lasting = ids | {identity}

    def _check_others(self, told: Acknowledged, batches: set[tuple[str, int]], found: list[Envelope]) -> None:
        """What nobody was told is in flight at most, one batch a writer; what was told is where it was said to be."""
        ends = {(envelope.stream_id, envelope.stream_version): envelope.event_id for envelope in found}
        names = {writer for writer, _ in told.batches} | told.failed.keys()
        for writer in names:
            last = max((batch for name, batch in told.batches if name == writer), default=-1)
            beyond = [batch for name, batch in batches if name == writer and batch > last + 1]
            assert not beyond, f"{writer} had acknowledged {last}, and there is {beyond}"
            failed = told.failed.get(writer)
            # A batch that was acknowledged is there; what failed then was a sync of it.
            if failed and failed[1] == "StorageError" and failed[0] > last:
                assert (writer, failed[0]) not in batches, (
                    f"{writer} was told that {failed[0]} was not written: {failed}"
                )
        for (writer, batch), (_, _, _, versions) in told.batches.items():
            if (writer, batch) in batches:
                for stream_id, version in versions.items():
                    there = ends.get((stream_id, version), "nothing")
                    assert there.startswith(f"{writer}.{batch}."), (
                        f"{stream_id} {version} is {there}, not {writer}.{batch}"
                    )

    @staticmethod
    def _facts(told: Acknowledged, key: tuple[str, int]) -> str:
        began, ended, durable, versions = told.batches[key]
        before = f"{(told.cut_at - began) / 1e6:.2f} to {(told.cut_at - ended) / 1e6:.2f} ms before the cut"
        return f"{key}, {versions}, {'durable' if durable else 'relaxed'}, {before}"

    def _count(self, told: Acknowledged, lasting: set[tuple[str, int]], batches: set[tuple[str, int]]) -> None:
        durable = told.durable()
        self.counted["batches acknowledged durable"] += len(durable)
        self.counted["relaxed batches that had to stay"] += len(lasting - durable)
        self.counted["relaxed batches lost"] += len(told.batches.keys() - batches)

    def _kept(self, error: Exception, found: Path) -> str:
        text = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        if self.broken or not found.exists():
            return text
        kept = tempfile.mkdtemp(prefix="hangarlog-power-cut-")
        shutil.copytree(found, f"{kept}/store")
        return f"the store as the cut left it is kept in {kept}/store: {text}"


def check_records(store: FileEventStore, found: list[Envelope]) -> None:
    """Positions and versions are dense, every event is there once, and is what was written, in its stream too."""
    streams: dict[str, list[str]] = {}
    for number, envelope in enumerate(found, 1):
        assert envelope.position == number, f"position {envelope.position} is where {number} should be"
        versions = streams.setdefault(envelope.stream_id, [])
        assert envelope.stream_version == len(versions), (
            f"{envelope.stream_id} has {envelope.stream_version} out of turn"
        )
        versions.append(envelope.event_id)
        text = json.loads(bytes(envelope.data))["text"]
        assert text == text_of(envelope.event_id), f"position {number} holds {text[:60]!r}, not what was written"
    assert len({envelope.event_id for envelope in found}) == len(found), "an event is there twice"
    assert store.get_event_count() == len(found)
    names = store.list_streams()
    assert names == sorted(streams), f"of {len(streams)} streams these differ: {set(names) ^ streams.keys()}"
    for stream_id, ids in streams.items():
        there = [envelope.event_id for block in store.envelopes(stream_id) for envelope in block]
        assert there == ids, f"stream {stream_id} differs from the journal"


def check_places(store: FileEventStore, found: list[Envelope], numbers: random.Random) -> None:
    """What is read from some place on, or backwards, is the same: so an index that the cut has spoilt leads nowhere."""
    for place in numbers.sample(range(len(found)), min(8, len(found))):
        wanted = found[place]
        after = [envelope for block in store.envelopes(from_position=place, limit=2) for envelope in block]
        assert after == found[place : place + 2], f"read from position {place}, there is {after}"
        before = [e for block in store.envelopes(from_position=place + 2, limit=2, reverse=True) for e in block]
        assert before == found[max(0, place - 1) : place + 1][::-1], f"read backwards from {place + 2}, it is {before}"
        blocks = store.envelopes(wanted.stream_id, from_version=wanted.stream_version, limit=1)
        assert next(blocks) == [wanted], f"{wanted.stream_id} from {wanted.stream_version} on is something else"


def check_batches(found: list[Envelope]) -> set[tuple[str, int]]:
    """The batches there are, each of which must be whole."""
    events: Counter[tuple[str, int, int]] = Counter()
    for envelope in found:
        writer, batch, _, count, _ = envelope.event_id.split(".")
        events[writer, int(batch), int(count)] += 1
    for (writer, batch, count), there in events.items():
        assert there == count, f"of batch {batch} of {writer} there are {there} events of {count}"
    return {(writer, batch) for writer, batch, _ in events}


# The run


def _cuts(kind: str, folder: Path, size: int, seed: int) -> dict[str, Any]:
    machine = Machine(kind, folder, seed)
    for number in range(size):
        machine.round(number)
    if not machine._fresh:
        machine._disk.umount()
    controls = next((number + 1 for number in range(CONTROL_ROUNDS) if machine.control(number)), 0)
    if not controls:
        machine.broken.append(f"{kind}, seed {seed}: blind: a store that never syncs lost nothing")
    if machine.broken:
        raise AssertionError(f"{len(machine.broken)} of {size} rounds: " + "\n".join(machine.broken[:3]))
    return {**machine.counted, "rounds until a store that never syncs was caught": controls}


JOBS = {
    "ext4": lambda folder, size, seed: _cuts("ext4", folder, size, seed),
    "xfs": lambda folder, size, seed: _cuts("xfs", folder, size, seed),
    "btrfs": lambda folder, size, seed: _cuts("btrfs", folder, size, seed),
}


def run(folder: Path, size: int, seed: int) -> Figures:
    figures: Figures = {}
    reasons = {kind: _missing_of(kind) for kind in BYTES}
    kinds = [kind for kind, reason in reasons.items() if not reason]
    torn, broken = 0, []
    for place, kind in enumerate(kinds):
        share = size // len(kinds) + (place < size % len(kinds))
        try:
            found = run_in_a_process(f"{__name__}:{kind}", folder, share, seed, mounts=True)
        except AssertionError as error:
            broken.append(str(error))
            continue
        figures |= {f"{kind}: {what}": number for what, number in found.items()}
        torn += found.get("torn ends of the journal", 0)
    figures |= {kind: f"left out: {reason}" for kind, reason in reasons.items() if reason}
    assert not broken, "\n".join(broken)
    assert torn or size < 200, f"blind: none of {size} cuts tore the end of a journal, seed {seed}"
    return figures


def _missing_of(kind: str) -> str | None:
    return no_loop_mounts(kind) or (no_loop_mounts("xfs") if kind == "btrfs" else None)  # Its image lies on xfs.


def missing() -> str | None:
    reasons = [_missing_of(kind) for kind in BYTES]
    # One file system is enough to run; where everything must be there, all are wanted.
    there = any if os.environ.get("HANGARLOG_REQUIRE_TOOLS") else all
    return no_mounts() or ("; ".join(filter(None, reasons)) if there(reasons) else None)


CAMPAIGN = Campaign(
    row=6,
    fault="a power cut",
    promise="the store opens, and every event that was acknowledged durable is there once, in a whole batch",
    how="a loop-mounted ext4 and xfs, shut down by ioctl with nothing flushed while processes write, and a btrfs whose "
    "image is taken at one instant; mounted again, as after a restart and in the same boot",
    ci=54,
    release=1_002,
    unit="rounds",
    run=run,
    missing=missing,
)

if __name__ == "__main__":
    main(JOBS)
