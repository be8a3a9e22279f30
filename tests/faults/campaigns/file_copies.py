"""Row 15: copies made file by file from a store that is written to. Between any two files it appends, rolls, compacts,
drops the beginning of its journal, and erases.

Such a copy holds every file as it was at another moment. What was committed before the copy began, and is still in the
copied files, has to be there when it is opened; what came later and does not connect is put aside, and said. A copy
made while events were dropped may have to be repaired first.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hangarlog import (
    ANY,
    CorruptionError,
    CorruptionWarning,
    EventSerializer,
    FileEventStore,
    RetentionPolicy,
    UntypedEvent,
)
from hangarlog.filestore.erasing import Erasing
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing import Unsynced

from .cells import in_two_processes
from .harness import Campaign, Figures
from .jobs import die_with_parent
from .proofs import (
    Row,
    all_stored,
    check_commits,
    check_streams,
    evidence,
    kept_aside,
    segments_in,
    text_in,
    whole_lines,
)

STREAMS = ["a:1", "a:2", "b:1", "b:2", "plain"]
COPIES_OF_A_STORE = 5  # Then another one is made.
ROUNDS_A_TOOL = 100  # One round of each tool for so many orders.


def open_store(path: Path, **options: Any) -> FileEventStore:
    options.setdefault("filesystem", Unsynced())
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), **options)


class Source:
    """The store that is copied: what it was told to do, commit by commit."""

    def __init__(self, path: Path, rng: random.Random, filesystem: FileSystem | None = None) -> None:
        self.path, self._rng = path, rng
        self.commits: dict[int, list[tuple[str, str]]] = {}
        self.dropped: dict[str, set[int]] = {}  # The versions that streams may begin with since they were compacted.
        self.begins = [1]  # The positions that the journal has begun with.
        self._options = {"segment_bytes": rng.choice([600, 1500, 4000]), "filesystem": filesystem or Unsynced()}
        self._store = open_store(path, **self._options)

    def step(self) -> None:
        """Something that a user may do."""
        choice = self._rng.random()
        if choice < 0.04:
            self.close()
            self._store = open_store(self.path, **self._options)
        elif choice < 0.1:
            self._compact()
        elif choice < 0.14:
            self._store.sync()
        elif choice < 0.17:
            self._retain()
        elif choice < 0.2:
            Erasing(self._store._write_session).run(seconds=60.0, least=0.0)
        else:
            self._append()

    def _append(self) -> None:
        rng, number = self._rng, len(self.commits)
        streams = rng.sample(STREAMS, rng.choice([1, 1, 1, 2, 3]))
        if rng.random() < 0.05:
            streams[0] = f"new:{number}"
        shares = [(stream_id, rng.choice([1, 1, 2, 4])) for stream_id in streams]
        commit = [stream_id for stream_id, share in shares for _ in range(share)]
        if rng.random() < 0.2:
            rng.shuffle(commit)  # Streams named more than once, with others between.
        self.commits[number] = [(stream_id, f"{number}-{n}") for n, stream_id in enumerate(commit)]
        appends: list[tuple[str, list[UntypedEvent], int]] = []
        for stream_id, event_id in self.commits[number]:
            event = UntypedEvent("Copied", {"text": "x" * rng.choice([5, 80, 80, 700])}, event_id=event_id)
            if appends and appends[-1][0] == stream_id:
                appends[-1][1].append(event)
            else:
                appends.append((stream_id, [event], ANY))
        self._store.append_many(appends, durability=rng.choice(["always", "relaxed"]))

    def _compact(self) -> None:
        stream_id = self._rng.choice(STREAMS)
        version = self._store.get_stream_version(stream_id)
        covered = version - self._rng.randint(0, 3)
        if covered >= max(self.dropped.get(stream_id, {3})):
            self._store.save_snapshot(stream_id, covered, {})
            self.dropped.setdefault(stream_id, set()).add(covered + 1)
            self._store.compact_stream(stream_id)

    def _retain(self) -> None:
        report = self._store.retain(RetentionPolicy(max_events=self._rng.choice([5, 20, 60])))
        self.begins.append(report.first_position)
        for stream_id in self._store.list_streams():
            shown = next(self._store.records(stream_id), None)
            first = shown.stream_version if shown else self._store.get_stream_version(stream_id) + 1
            self.dropped.setdefault(stream_id, set()).add(first)

    def committed(self) -> int:
        return self._store.last_position

    def close(self) -> None:
        self._store.close()


# The orders: what is copied when. Each takes (source folder, rng) and gives paths inside it, to be copied one by one.


def as_cp(folder: Path, rng: random.Random) -> Iterator[str]:
    """A folder is listed when it is reached, and its files are copied in the order of the listing."""

    def inside(path: Path) -> Iterator[str]:
        entries = list(os.scandir(path))
        rng.shuffle(entries)  # As it comes from the folder's hash tree.
        for entry in entries:
            if entry.is_dir():
                yield from inside(Path(entry.path))
            else:
                yield os.path.relpath(entry.path, folder)

    with contextlib.suppress(FileNotFoundError):
        yield from inside(folder)


def as_tar(folder: Path, rng: random.Random) -> Iterator[str]:
    """The same, by name, files before folders or after them."""

    def inside(path: Path, first: bool) -> Iterator[str]:
        entries = sorted(os.scandir(path), key=lambda entry: (entry.is_dir() is first, entry.name))
        for entry in entries:
            if entry.is_dir():
                yield from inside(Path(entry.path), first)
            else:
                yield os.path.relpath(entry.path, folder)

    return inside(folder, rng.random() < 0.5)


def as_rsync(folder: Path, rng: random.Random) -> Iterator[str]:
    """All is listed first, then copied by name."""
    yield from sorted(os.path.relpath(os.path.join(path, name), folder) for path, _, n in os.walk(folder) for name in n)


def in_any_order(folder: Path, rng: random.Random) -> Iterator[str]:
    files = list(as_rsync(folder, rng))
    rng.shuffle(files)
    yield from files


ORDERS: list[Callable[[Path, random.Random], Iterator[str]]] = [as_cp, as_tar, as_rsync, in_any_order]


def copy(source: Source, target: Path, rng: random.Random) -> str:
    """Copy it by one of the orders, with steps of the source between any two files and within some; says which."""
    order = rng.choice(ORDERS)
    busy, steps = rng.choice([0.1, 0.5, 1.0]), 60
    for path in order(source.path, rng):
        if rng.random() < busy and steps:
            source.step()
            steps -= 1
        with contextlib.suppress(FileNotFoundError):  # It has vanished since it was listed.
            _copy_file(source, source.path / path, target / path, rng, order is as_rsync)
    keeps = rng.random() < 0.5
    for file in target.rglob("*") if keeps else ():
        os.utime(file, (1e9, 1e9))  # As `cp -a` and `rsync -a` keep times: here, of before any checkpoint.
    return f"{order.__name__}, a step before {busy:.0%} of the files{', with old times' * keeps}"


def _copy_file(source: Source, old: Path, new: Path, rng: random.Random, to_its_size: bool) -> None:
    with old.open("rb", buffering=0) as file:
        new.parent.mkdir(parents=True, exist_ok=True)
        size = os.fstat(file.fileno()).st_size
        at = rng.randint(0, size) if rng.random() < 0.2 else size
        content = file.read(at)
        if at < size:
            source.step()
        content += file.read(size - at if to_its_size else -1)
    new.write_bytes(content)


# What is promised of a copy


class Checked:
    """Copies that were opened, and what was counted."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self.failures: list[str] = []

    def check(self, copied: Path, source: Source, before: int, what: str) -> None:
        """`before`: how many events were committed when the copy began."""
        try:
            self._check(copied, source, before)
        except Exception as error:
            text = str(error) if isinstance(error, AssertionError) else ""
            text = text or "".join(traceback.format_exception(error, chain=False)[-4:])
            self.failures.append(f"{what}, {before} events before it: {text[:1500]}")
        self.counted["copies"] += 1

    def _check(self, copied: Path, source: Source, before: int) -> None:
        proofs = evidence(copied)
        proofs.committed = max(proofs.lines, default=0)  # What was committed before is in a stream because it counts.
        found = list(_lines_of(copied))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", CorruptionWarning)
            with self._opened(copied, source) as store:
                first, held = store.first_position, self._look(store, source)
        least = min(before, proofs.through(first))
        self.counted["of them without all that was there before"] += least < before
        later = [line.line for line in found if line.position > least]
        last = first + len(held) - 1
        assert last >= least, f"it holds events up to {last}, not up to the {least} that its files have"
        aside = kept_aside(copied)
        apart = [line for line in later if json.loads(line)["position"] > last]
        missing = [line for line in apart if line not in aside]
        assert not missing, f"{len(missing)} of {len(apart)} later lines are gone: {missing[0]!r}"
        assert warned or not apart, f"{len(apart)} lines were put aside without a word"
        self.counted["of them with lines put aside"] += bool(apart)
        self._repaired(copied, source, held)

    def _opened(self, copied: Path, source: Source) -> FileEventStore:
        """Open a copy. Only one made while the store dropped its beginning may have to be repaired first."""
        try:
            return open_store(copied)
        except CorruptionError as error:
            if source.begins == [1] or "retained.json" not in str(error):
                raise
            self.counted["of them refused until a repair"] += 1
            for done in repair(copied, filesystem=Unsynced()):
                warnings.warn(CorruptionWarning(str(done)), stacklevel=2)
            return open_store(copied)

    def _look(self, store: FileEventStore, source: Source) -> list[Row]:
        held, first = all_stored(store, source.dropped), store.first_position
        assert first in source.begins or first < max(source.begins), f"it begins at {first}, not one of {source.begins}"
        self.counted["of them with a later beginning"] += first > 1
        check_commits(held, source.commits, first)
        events = [each for commit in source.commits.values() for each in commit]
        check_streams(store, held, source.dropped, Counter(stream_id for stream_id, _ in events[: first - 1]))
        return held

    def _repaired(self, copied: Path, source: Source, held: list[Row]) -> None:
        """A repair ends with a store that works, whether it was needed or not."""
        with open_store(copied) as store:
            self.counted["of them sound before a repair"] += not list(verify(store))
        list(repair(copied, filesystem=Unsynced()))
        with open_store(copied) as store:
            assert self._look(store, source) == held, "the repair has changed what it holds"
            last = store.last_position
            for stream_id in [*store.list_streams(), "next:1"]:
                count = store.get_stream_version(stream_id) + 1
                event_id = f"{len(source.commits) + len(held)}-0"
                event = UntypedEvent("Copied", {"text": ""}, event_id=event_id)
                assert store.append(stream_id, [event], count - 1) == count, f"the version of {stream_id} is another"
                held.append((last := last + 1, stream_id, count, event_id))
            assert all_stored(store, source.dropped) == held, "what was appended is not behind what was there"
            damages = list(verify(store))
            assert not damages, f"after the repair verify finds {damages[0]}"


def _lines_of(folder: Path) -> Iterator[Any]:
    for file in segments_in([*folder.glob("journal*"), *(folder / "streams").rglob("*")]):
        for line in whole_lines(text_in(file.name, file.read_bytes())):
            if not line.is_erased:  # What it had was hidden before.
                yield line


def orders(scratch: Path, size: int, seed: str) -> Checked:
    """`size` copies, five of each store."""
    checked = Checked()
    for number in range(0, size, COPIES_OF_A_STORE):
        rng = random.Random(f"{seed} {number}")
        source = Source(scratch / "source", rng)
        for _ in range(min(COPIES_OF_A_STORE, size - number)):
            for _ in range(rng.randint(0, 12)):
                source.step()
            before = source.committed()
            how = copy(source, scratch / "copied", rng)
            checked.check(scratch / "copied", source, before, f"store {number} of seed {seed}: {how}")
            shutil.rmtree(scratch / "copied")
        source.close()
        shutil.rmtree(scratch / "source")
    return checked


# The real tools, beside a process that writes


TOOLS = {
    "cp": "cp -r source copied",
    "tar": "mkdir copied && tar cf - -C source . | tar xf - -C copied",
    "rsync": "rsync -a source/ copied/",
}
CHANGED = {"cp": (0, 1), "tar": (0, 1), "rsync": (0, 24)}  # With the second they say that a file changed or vanished.
LINKS = {"cp -al": "cp -al source linked", "rsync": "rsync -a --link-dest=$PWD/full source/ linked/"}


def write_until_told(path: Path, seed: str, commits: Path) -> None:
    """The other process: steps until SIGTERM, then the commits it made into a file."""
    die_with_parent()
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    source = Source(path, random.Random(seed), FileSystem())
    print("ready", flush=True)
    while not told and len(source.commits) < 20_000:
        source.step()
        time.sleep(0.0005)  # So that a copy of it comes to an end.
    source.close()
    dropped = {stream_id: sorted(firsts) for stream_id, firsts in source.dropped.items()}
    done = {"commits": list(source.commits.values()), "dropped": dropped, "begins": source.begins}
    commits.write_text(json.dumps(done))


class Written:
    """What another process did to a store: as a `Source`."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.commits = {n: [tuple(each) for each in commit] for n, commit in enumerate(found["commits"])}
        self.dropped = {stream_id: set(firsts) for stream_id, firsts in found["dropped"].items()}
        self.begins: list[int] = found["begins"]


def copied_by(tool: str, scratch: Path, seed: str, checked: Checked) -> None:
    """One copy by a tool, while another process writes."""
    arguments = [sys.executable, "-m", __name__, str(scratch / "source"), seed, str(scratch / "commits")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        try:
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
            deadline = time.monotonic() + random.Random(seed).uniform(0.05, 0.5)
            with open_store(scratch / "source", filesystem=FileSystem()) as store:
                while time.monotonic() < deadline:
                    before = store.last_position
            done = run_tool(TOOLS[tool], scratch)
            assert done.returncode in CHANGED[tool], f"{tool} ended with {done.returncode}: {done.stderr}"
        finally:
            writer.terminate()
            code = writer.wait()
    assert code == 0, f"the writing process ended with {code}"
    written: Any = Written(json.loads((scratch / "commits").read_text()))
    checked.check(scratch / "copied", written, before, f"{tool}, seed {seed}")
    checked.counted[f"copies by {tool}"] += 1
    shutil.rmtree(scratch / "source")
    shutil.rmtree(scratch / "copied")


def run_tool(command: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=scratch, capture_output=True, text=True, check=False
    )


def linked_by(tool: str, scratch: Path, seed: str, checked: Checked) -> None:
    """A copy whose files are the original's own, by hard links: it can be used, and nothing of the original changes."""
    rng = random.Random(seed)
    source = Source(scratch / "source", rng)
    for _ in range(60):
        source.step()
    source.close()
    if tool == "rsync":
        done = run_tool("rsync -a source/ full/", scratch)
        assert done.returncode == 0, done.stderr
    done = run_tool(LINKS[tool], scratch)
    assert done.returncode == 0, done.stderr
    other = scratch / ("full" if tool == "rsync" else "source")
    before = {file: file.read_bytes() for file in other.rglob("*") if file.is_file() and file.name != "state"}
    try:
        with open_store(scratch / "linked") as store:
            held = all_stored(store, source.dropped)
            assert held[-1][0] == len([e for commit in source.commits.values() for e in commit]), "it cannot be read"
            assert not list(verify(store)), "it cannot be verified"
        checked._repaired(scratch / "linked", source, held)
        after = {file: file.read_bytes() for file in other.rglob("*") if file.is_file() and file.name != "state"}
        changed = [str(file) for file, content in before.items() if after.get(file) != content]
        assert not changed, f"what was done to the copy has changed {changed}"
    except Exception as error:
        checked.failures.append(f"linked by {tool}, seed {seed}: {error!r}")
    checked.counted[f"linked by {tool}"] += 1
    for folder in scratch.iterdir():
        shutil.rmtree(folder, ignore_errors=True)


# The run


def share_of(scratch: Path, size: int, seed: str) -> dict[str, Any]:
    scratch.mkdir(parents=True)
    try:
        checked = orders(scratch, size, seed)
        for number in range(max(1, size // ROUNDS_A_TOOL)):
            for tool in LINKS:
                linked_by(tool, scratch, f"{seed} {number}", checked)
            for tool in TOOLS:
                copied_by(tool, scratch, f"{seed} {number}", checked)
        return {"counted": checked.counted, "failures": checked.failures}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run(folder: Path, size: int, seed: int) -> Figures:
    """In two processes, each with stores of its own."""
    results = in_two_processes(lambda scratch, share: share_of(scratch, size // 2, f"{seed} {share}"), folder, seed)
    counted: Counter[str] = sum((Counter(result["counted"]) for result in results), Counter())
    failures = [failure for result in results for failure in result["failures"]]
    some = "\n".join(random.Random(seed).sample(failures, min(3, len(failures))))
    assert not failures, f"seed {seed}: {len(failures)} of {dict(counted)}: {some}"
    assert counted["of them with lines put aside"] or size < 100, f"blind: all copies connect: {dict(counted)}"
    return dict(counted)


def missing() -> str | None:
    absent = [program for program in ("bash", "tar", "rsync") if shutil.which(program) is None]
    return f"{' and '.join(absent)} not installed" if absent else None


CAMPAIGN = Campaign(
    row=15,
    fault="a copy made file by file while the store is written to",
    promise="it opens with every commit that its files prove from the first on, which is what was there before it "
    "began unless a journal and a stream were rolled after they were listed; what does not connect is put aside, and "
    "said; a repair ends with a store that works",
    how="files copied in the orders of cp, tar and rsync and in any, with appends, rolls and compactions between any "
    "two; the tools themselves beside a writing process; copies by hard links",
    ci=500,
    release=50_000,
    unit="orders",
    run=run,
    missing=missing,
)

if __name__ == "__main__":
    write_until_told(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
