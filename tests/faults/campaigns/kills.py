"""Row 4: kill -9 of processes that write, again and again, wherever they are; then every batch is asked for.

Beside them others compress, archive, free and back up the store, and are killed as well.
The writers are forked from this process, warm, so that a kill costs a few milliseconds. What a batch holds follows from
the seed, its writer and its number: the check makes it once more and compares.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import select
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import msgspec

from hangarlog import ANY, BackupError, FileEventStore, Record
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.verify import verify
from hangarlog.testing import registered

from .child import Child
from .harness import Campaign, Figures

AT_ONCE = 3
STORE_BYTES = 32 << 20  # A store of this size is checked and dropped: so a kill costs the same in any run.
STORE_ROUNDS = 60

ACTS = {"c": "a compression", "a": "an archiving", "f": "a retention", "b": "a backup"}

TEXT = "".join(random.Random(4).choices("abcdefgh", k=4_000)) * 99 + '"\\é\n\u2028' * 200

Share = tuple[str, list["Written"], int]


class Written(msgspec.Struct, frozen=True):
    number: int
    text: str
    event_id: str


LAST = Written(0, "", "next")


def batch(seed: int, writer: int, number: int) -> list[Share]:
    """What a writer appends as its batch of this number: to the stream of all, and to its own or its slot's."""
    rng = random.Random(f"{seed} {writer} {number}")
    longest = rng.choice([100, 5_000, 300_000, 300_000, 300_000, 300_000])  # Large ones, so that kills tear them.
    events = []
    for part in range(rng.choice([2, 2, 4, 8])):
        length = rng.randint(100, longest)
        start = rng.randrange(len(TEXT) - length)
        events.append(Written(number, TEXT[start : start + length], f"{writer}-{number}-{part}"))
    cut = rng.randint(1, len(events) - 1)
    other = f"own:{writer}" if writer % 4 else f"slot:{writer % AT_ONCE}"
    return [("s:all", events[:cut], ANY), (other, events[cut:], ANY)]


def write_until_killed(path: Path, seed: int, writer: int, report: int) -> None:
    with registered(Written=Written):
        store = FileEventStore(path, durability="always" if writer % 7 == 0 else "relaxed")
        for number in itertools.count():
            store.append_many(batch(seed, writer, number))
            os.write(report, b"%d\n" % number)  # Before the next one is begun: at most one is in doubt.


def keep_until_killed(path: Path, rng: random.Random, report: int) -> None:
    """Keep a store small, and copy it, again and again. What is moved into the archive is asked for there."""
    with registered(Written=Written), FileEventStore(path, durability="relaxed") as store:
        while True:
            act = rng.choice("ccaaafb")
            os.write(report, act.encode())
            if act == "c":
                store.compress(seal=rng.random() < 0.5)
            elif act == "a":
                before = rng.randint(store.first_position, store.last_position + 1)
                store.archive(path.with_name("archive"), before=before, compress=rng.random() < 0.5)
            elif act == "f":
                store.retain()
            else:
                back_up(path)
            os.write(report, b".")


def back_up(path: Path) -> None:
    """Bring the backup beside the store up to date. It is made anew if all of its events are in the archive now."""
    target = path.with_name("backup")
    try:
        backup(path, target)
    except BackupError as error:
        if "has dropped all" not in error.cause:
            raise
        shutil.rmtree(target)
        backup(path, target)


class Killing:
    """The state of a run: the store of now, and what its writers were told."""

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self.folder, self.size, self.seed = folder, size, seed
        self.rng = random.Random(seed)
        self.kills = self.torn = self.whole = self.absent = self.batches = self.stores = self.archived = 0
        self.within: Counter[str] = Counter()  # What was done to a store by those who were killed in it.
        self.path = folder
        self.told: dict[int, int] = {}  # Writer: how many of its batches were acknowledged.

    def facts(self) -> str:
        return f"seed {self.seed}, size {self.size}, after {self.kills} kills, store {self.path}"

    def run(self) -> None:
        while self.kills < self.size:
            self.path, self.told = self.folder / f"store-{self.stores}", {}
            with FileEventStore(self.path, segment_bytes=self.rng.choice([100_000, 4 << 20, 64 << 20, 64 << 20])):
                pass
            for _ in range(STORE_ROUNDS):
                self.round()
                if self.kills >= self.size or self.bytes_written() > STORE_BYTES:
                    break
            self.check()
            for folder in self.folder.iterdir():
                shutil.rmtree(folder)
            self.stores += 1

    def round(self) -> None:
        """Start writers, wait until each has been told of a batch (or not even that), and kill them all."""
        rng, children, keeper = self.rng, dict[int, Child](), None
        try:
            for writer in range(self.kills, self.kills + AT_ONCE):
                children[writer] = Child(
                    lambda report, writer=writer: write_until_killed(self.path, self.seed, writer, report)
                )
            rounds = rng.choice([0, 0, 1])
            if rng.random() < 0.25:
                keeper = Child(lambda report: keep_until_killed(self.path, rng, report))
            did = ""
            while keeper and did.count(".") < rounds:
                did += keeper.reported().decode()
            told = dict.fromkeys(children, b"")
            if rng.random() < 0.85:  # Else they may be opening the store, or recovering it.
                told = {writer: child.reported() for writer, child in children.items()}
            one_by_one = rng.random() < 0.25  # Then those who live find what a dead one left.
            if rng.random() < 0.6:
                wait_until_it_grows(self.path / "journal.jsonl")
            else:
                select.select([], [], [], rng.random() ** 2 * 0.03)
            for child in [*children.values(), *filter(None, [keeper])]:
                child.kill()
                if one_by_one:
                    select.select([], [], [], rng.random() * 0.005)
            for writer, child in children.items():
                status = child.wait()
                lines = (told[writer] + child.rest()).split(b"\n")[:-1]
                assert status == -signal.SIGKILL, f"{self.facts()}: writer {writer} ended by itself: {status}"
                assert lines == [b"%d" % number for number in range(len(lines))]
                self.told[writer] = len(lines)
            if keeper:
                assert keeper.wait() == -signal.SIGKILL, f"{self.facts()}: a keeper ended by itself: {keeper.status}"
                did += keeper.rest().decode()
                self.within[did[-1:]] += not did.endswith(".")
        except AssertionError as error:
            raise AssertionError(f"{self.facts()}: {error}") from error
        finally:
            for child in [*children.values(), *filter(None, [keeper])]:
                child.end()
        self.kills += AT_ONCE
        self.torn += ends_torn(self.path / "journal.jsonl")

    def bytes_written(self) -> int:
        return sum(file.stat().st_size for file in self.path.glob("journal.*"))

    def check(self) -> None:
        """All that was acknowledged is there, in whole batches, once; and life goes on."""
        try:
            with registered(Written=Written), FileEventStore(self.path, durability="relaxed") as store:
                store.append("s:all", [LAST], ANY)  # First: the next writer settles what a dead one has left.
                records = self.records(store)
                ends = dense(records)
                assert records.pop().event == LAST, "the new append is not the last"
                self.compare(whole_batches(self.seed, records))
                shown = {record.stream_id for record in records if record.position >= store.first_position}
                assert shown <= {*store.list_streams()} <= ends.keys(), f"the streams are {store.list_streams()}"
                for stream_id, version in ends.items():
                    assert store.get_stream_version(stream_id) == version, f"{stream_id} is not at {version}"
                damage = list(verify(store))
                assert not damage, f"verify finds {damage}"
                if self.stores % 3 == 0:
                    back_up(self.path)
        except Exception as error:
            raise AssertionError(f"{self.facts()}: {error!r}") from error

    def records(self, store: FileEventStore) -> list[Record]:
        """All there are: in the store, and before its beginning in the archive. What is in both is the same."""
        found, archive = list(store.records()), self.path.with_name("archive")
        if store.first_position == 1:
            return found
        with FileEventStore(archive, create=False) as opened:
            archived = list(opened.records())
            self.archived += store.first_position - 1
        both = [record for record in archived if record.position >= store.first_position]
        assert both == found[: len(both)], "the archive has other events than the store"
        return archived[: len(archived) - len(both)] + found

    def compare(self, found: Counter[int]) -> None:
        """What the writers were told is there; of the rest at most the one batch that each was at."""
        for writer, told in self.told.items():
            assert told <= found[writer] <= told + 1, f"writer {writer}: {told} acknowledged, {found[writer]} there"
            self.whole += found[writer] > told
            self.absent += found[writer] == told
            self.batches += told
        assert found.keys() <= self.told.keys(), f"there are batches of nobody: {found.keys() - self.told.keys()}"


def dense(records: list[Record]) -> dict[str, int]:
    """The version each stream is at, where no position and no version is missing or comes twice."""
    ends: dict[str, int] = {}
    for position, record in enumerate(records, 1):
        version = ends.get(record.stream_id, -1) + 1
        place = record.position, record.stream_version
        assert place == (position, version), f"{record.stream_id} has {place} where {(position, version)} belongs"
        ends[record.stream_id] = version
    return ends


def whole_batches(seed: int, records: list[Record]) -> Counter[int]:
    """How many batches of each writer there are; each must be whole, in one piece, and follow the one before it."""
    found: Counter[int] = Counter()
    at = 0
    while at < len(records):
        writer, number, _ = map(int, records[at].event_id.split("-"))
        assert number == found[writer], f"batch {number} of writer {writer} comes after {found[writer]} of them"
        shares = batch(seed, writer, number)
        expected = [(stream_id, event.event_id, event) for stream_id, events, _ in shares for event in events]
        there = [(record.stream_id, record.event_id, record.event) for record in records[at : at + len(expected)]]
        assert there == expected, f"batch {number} of writer {writer} is not whole at position {at + 1}"
        found[writer] += 1
        at += len(expected)
    return found


def wait_until_it_grows(journal: Path) -> None:
    """Return while somebody is writing to a journal, most likely: a write of many pages is seen growing."""
    patience = time.monotonic() + 0.1
    size = now = os.stat(journal).st_size
    while now <= size and time.monotonic() < patience:
        size, now = now, os.stat(journal).st_size  # A roll makes it smaller.


def ends_torn(journal: Path) -> bool:
    """Whether a journal ends in what is no whole batch."""
    with journal.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 500_000))
        text = file.read()
    if not text.endswith(b"\n"):
        return bool(text)
    line = text[text.rfind(b"\n", 0, -1) + 1 :]
    place = re.match(rb'\{"position":(\d+),.*?(?:"batch_end":(\d+),)?"data":', line)
    return place is not None and place[2] is not None and place[1] != place[2]


def run(folder: Path, size: int, seed: int) -> Figures:
    killing = Killing(folder, size, seed)
    killing.run()
    assert size < 300 or killing.torn, f"seed {seed}: a test that never sees a torn tail is blind"
    return {
        "kills": killing.kills,
        "torn ends": killing.torn,
        "batches acknowledged": killing.batches,
        "unknown, found whole": killing.whole,
        "unknown, found absent": killing.absent,
        **{f"killed in {act}": killing.within[letter] for letter, act in ACTS.items()},
        "events archived": killing.archived,
    }


CAMPAIGN = Campaign(
    row=4,
    fault="kill -9 of writing processes",
    promise="every acknowledged batch is there once and whole, no other is there in part, the store opens and goes on",
    how="3 forked processes append batches of 100 B to 300 KB events over two streams and are killed at random "
    "moments, and with them a fourth, which compresses, archives, frees and backs up what they write",
    ci=1_000,
    release=100_000,
    unit="kills",
    run=run,
    missing=lambda: None if hasattr(os, "fork") else "this system has no fork",
)
