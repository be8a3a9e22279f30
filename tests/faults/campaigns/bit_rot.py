"""Row 5: any byte of any file may rot. What is read is right, from the other copy, or refused with its place."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hangarlog.filestore.commit_ring
import hangarlog.filestore.shared_state
import hangarlog.filestore.writer
import hangarlog.log.active_segment
import hangarlog.log.index
import hangarlog.log.log
import hangarlog.log.segment
from hangarlog import (
    ANY,
    CorruptionError,
    CorruptionWarning,
    EventSerializer,
    FileEventStore,
    HangarlogError,
    StoreOpenError,
    UntypedEvent,
)
from hangarlog.filestore.checkpoint import load_checkpoint
from hangarlog.filestore.commit_ring import read_ring
from hangarlog.filestore.file_names import stream_path
from hangarlog.filestore.shared_state import SharedState
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify
from hangarlog.record.line import decode_record, is_record
from hangarlog.testing import Unsynced

from .harness import Campaign, Figures

WORKERS = 2
SEGMENT_BYTES, STRIDE = 1100, 500
COMPACTED = "k:1"
LONG = "n:" + "n" * 210  # Its file's name is cut, so that its id stands only in its lines.
SMALL = {"state", "checkpoint.json", "catalog"}

MODES = RUNNING, CLOSED, RESTARTED, COPIED = "running", "closed", "restarted", "without caches"
"""Somebody has the store open; nobody has; nor had since a restart; state, checkpoint and catalog are not there."""

FILESYSTEM, SERIALIZER = Unsynced(), EventSerializer(unknown="untyped")
Row = tuple[int, str, int, str, bytes]
Place = tuple[str, int, int]
Question = tuple[str, str, Callable[[], Any], Any]
SERVED, RECOVERED, REFUSED = "read right from the other copy", "made whole when opened", "refused with place"
HARMLESS, LOST = "harmless", "journal ends lost that were not durable"
UNREAD, REPAIRED = "repaired, then read", "read, then repaired"
COUNTED = (SERVED, RECOVERED, REFUSED, HARMLESS, LOST, UNREAD, REPAIRED)


@contextlib.contextmanager
def small_limits() -> Iterator[None]:
    """A ring of four frames, and sidecars for segments of a few hundred bytes."""
    places = [(hangarlog.filestore.commit_ring, "RING_BYTES", 4 * hangarlog.filestore.commit_ring.BLOCK_BYTES)]
    modules = (hangarlog.log.index, hangarlog.log.active_segment, hangarlog.log.log, hangarlog.log.segment)
    places += [(module, "STRIDE_BYTES", STRIDE) for module in modules]
    before = [getattr(module, name) for module, name, _ in places]
    for module, name, value in places:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(places, before, strict=True):
            setattr(module, name, value)


def open_store(path: str) -> FileEventStore:
    return FileEventStore(path, serializer=SERIALIZER, create=False, filesystem=FILESYSTEM)


def fill(path: str) -> None:
    """Streams that a checkpoint has settled and others, one compacted, one of a long name; sealed and live segments."""
    number = 0

    def append(store: FileEventStore, *streams: str, size: int = 5, durability: Any = "always") -> None:
        nonlocal number
        appends = []
        for stream_id in dict.fromkeys(streams):
            events = []
            for _ in range(streams.count(stream_id)):
                number += 1
                events.append(UntypedEvent("Added", {"n": number, "text": "x" * size}, event_id=f"e{number}"))
            appends.append((stream_id, events, ANY))
        store.append_many(appends, durability=durability)

    with FileEventStore(path, serializer=SERIALIZER, segment_bytes=SEGMENT_BYTES, filesystem=FILESYSTEM) as store:
        for streams in ("k:1", "s:1"), ("k:1", "k:1", "l"), ("l",), ("s:1",), ("l", "k:1"), ("l", "k:1"), ("l",):
            append(store, *streams)
        append(store, LONG)
        store.save_snapshot(COMPACTED, 2, {"n": 3})
        store.compact_stream(COMPACTED)
        hour = 3600 * 10**9
        for file in Path(path, "streams").rglob("*.jsonl"):
            os.utime(file, ns=(0, file.stat().st_mtime_ns - hour))
        append(store, "l", size=200)
        append(store, "b:1", "l", size=4300)
        append(store, "b:1", LONG)  # It rolls the journal, and the checkpoint is made.
        append(store, "l", durability="relaxed")
        append(store, "b:1", "m:1", "m:1", "l")
        append(store, "l")
        append(store, "m:1", "b:1", "m:1")
        append(store, "m:1", durability="relaxed")
        append(store, "b:1", "m:1", durability="relaxed")


def rows(blocks: Iterator[list[Any]]) -> list[Row]:
    return [(e.position, e.stream_id, e.stream_version, e.event_id, bytes(e.data)) for block in blocks for e in block]


class Truth:
    """What is to be read: `events` in order, `ends` the positions that end batches, `only` those of no second copy."""

    def __init__(self, path: str) -> None:
        with open_store(path) as store:
            self.events = rows(store.envelopes())
            self.ends = {e.position for block in store.envelopes() for e in block if e.ends_batch}
            self.streams = store.list_streams()
            self.kept = {stream_id: rows(store.envelopes(stream_id))[0][2] for stream_id in self.streams}
            self.snapshot = store.load_snapshot(COMPACTED)
            self.only = {e[0] for e in self.events if e[2] < self.kept[e[1]]}
            self.checkpoint = load_checkpoint(store.folder).position
            frames = read_ring(FILESYSTEM, store.folder.ring_path, store.meta.store_id).frames
            self.durable = max(frame.last for frame in frames)
            assert list(verify(store)) == []
        assert 0 < max(self.only) < self.checkpoint < self.durable < len(self.events)
        self._of: dict[int, dict[str, list[Row]]] = {}

    def of(self, count: int) -> dict[str, list[Row]]:
        """The events of each stream where the first `count` of all are there."""
        if count not in self._of:
            self._of[count] = {
                s: [e for e in self.events[:count] if e[1] == s and e[2] >= self.kept[s]] for s in self.streams
            }
        return self._of[count]


# The damages


class Case(NamedTuple):
    """A damage: `kind` at `at` of the file `name`, with the `more` that the kind needs."""

    mode: str
    name: str
    kind: str
    at: int
    more: int = 0

    def __str__(self) -> str:
        return f"{self.mode}: {self.name}: {self.kind} {self.at} {self.more}"


def damages(text: bytes) -> Iterator[Place]:
    """Everything that may happen to a file with this text; of long runs of zeros, which nobody reads, to the start."""
    zeros = 0
    for at, byte in enumerate(text):
        zeros = 0 if byte else zeros + 1
        if zeros > 64:
            continue
        for bit in range(8):
            yield "flip bit", at, bit
        for value in (0, 10, 255):
            if byte != value:
                yield "set byte", at, value
        yield "cut to", at, 0
        for size in (512, 4096):
            if (size == 512 or at + 512 < len(text)) and text[at : at + size].strip(b"\0"):
                yield "zeros from", at, size
    lines = text.split(b"\n")[:-1]
    for one, line in enumerate(lines):
        yield "line twice", one, 0
        yield "line gone", one, 0
        for two in range(one + 1, len(lines)):
            if lines[two] != line:
                yield "lines swapped", one, two


def is_rare(text: bytes, kind: str, at: int, _: int) -> bool:
    """Whether it is one of the few damages to whole lines, which are tried whatever the size."""
    return kind.startswith("line") or (kind == "cut to" and text[:at][-1:] in (b"", b"\n"))


def damaged(text: bytes, case: Case) -> bytes:
    """What the file holds then."""
    _, _, kind, at, more = case
    if kind == "flip bit":
        return text[:at] + bytes([text[at] ^ 1 << more]) + text[at + 1 :]
    if kind == "set byte":
        return text[:at] + bytes([more]) + text[at + 1 :]
    if kind == "cut to":
        return text[:at]
    if kind == "zeros from":
        return text[:at] + bytes(min(more, len(text) - at)) + text[at + more :]
    *lines, rest = text.split(b"\n")
    if kind == "line twice":
        lines.insert(at, lines[at])
    elif kind == "line gone":
        del lines[at]
    else:
        lines[at], lines[more] = lines[more], lines[at]
    return b"".join(line + b"\n" for line in lines) + rest


def choose(files: dict[str, bytes], size: int, seed: int) -> tuple[list[Case], int]:
    """About `size` cases, evenly over files and modes, and how many there could be."""
    left = [(mode, name) for mode in MODES for name in files if mode != COPIED or name not in SMALL]
    rare: dict[str, list[Place]] = {}
    other: dict[str, list[Place]] = {}
    for name, text in files.items():
        rare[name], other[name] = [], []
        for place in damages(text):
            if not (place[0].startswith("line") and name in ("state", "catalog")):  # They have no lines.
                (rare if is_rare(text, *place) else other)[name].append(place)
    chosen: list[Case] = []
    for number, (mode, name) in enumerate(sorted(left, key=lambda each: len(other[each[1]]))):
        quota = max(0, size - len(chosen)) // (len(left) - number)  # What small files leave goes to the large ones.
        some = min(max(0, quota - len(rare[name])), len(other[name]))
        places = rare[name] + random.Random(f"{seed} {mode} {name}").sample(other[name], some)
        chosen += [Case(mode, name, *place) for place in places]
    return chosen, sum(len(rare[name]) + len(other[name]) for _, name in left)


# The folder that is damaged


class Folder:
    """A store whose files are damaged and put back, in place: the state knows the file that it is in.

    With `kept` somebody has it open all the while.
    """

    def __init__(self, path: str, *, kept: bool = False) -> None:
        self.path = path
        self._keeper = open_store(path) if kept else None
        self._files: dict[str, tuple[bytes, int]] = {}
        self._damaged = ""
        self._folders = {folder for folder, _, _ in os.walk(path)}
        for folder in self._folders:
            for entry in os.scandir(folder):
                if entry.is_file():
                    self._files[entry.path] = Path(entry.path).read_bytes(), entry.stat().st_mtime_ns
        self.texts = {os.path.relpath(path, self.path): text for path, (text, _) in sorted(self._files.items()) if text}

    def damage(self, case: Case) -> None:
        """Put everything back, and do what `case` says; times are as before, as rot leaves them."""
        self._restore()
        self._set_mode(case.mode)
        path = os.path.join(self.path, case.name)
        self._put(path, damaged(Path(path).read_bytes(), case), self._files[path][1])
        if case.name == "hangarlog.json":
            self._set_mode(case.mode)  # Rot does not make a store of it that has moved.
        self._damaged = path

    def _restore(self) -> None:
        for folder in self._folders:
            for entry in list(os.scandir(folder)):
                if entry.path not in self._files and entry.path not in self._folders:
                    shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
        for path, (text, stamp) in self._files.items():
            # Writing changes the time of a file, and only `damage` puts it back; of the state `_set_mode` takes care.
            try:
                found = os.stat(path)
                same = found.st_mtime_ns == stamp and found.st_size == len(text) and path != self._damaged
            except FileNotFoundError:
                same = False
            if not same:
                self._put(path, text, stamp)

    def _set_mode(self, mode: str) -> None:
        state = os.path.join(self.path, "state")
        if mode == COPIED:
            for name in SMALL:
                Path(self.path, name).unlink(missing_ok=True)
            return
        words = memoryview(bytearray(self._files[state][0])).cast("Q")
        home = FILESYSTEM.made_at(os.path.join(self.path, "hangarlog.json"))
        with contextlib.closing(SharedState(FILESYSTEM, state, home, writable=False)) as file:
            words[hangarlog.filestore.shared_state._FILE] = file._file
        words[hangarlog.filestore.shared_state.RING_FILE] = os.stat(os.path.join(self.path, "ring")).st_ino
        words[hangarlog.filestore.shared_state._BOOT] ^= mode == RESTARTED
        self._put(state, bytes(words), 0)

    def _put(self, path: str, text: bytes, stamp: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))
            os.utime(fd, ns=(0, stamp))
        finally:
            os.close(fd)


# The check


class Broken(Exception):
    """A promise is."""


def kind_of(name: str) -> str:
    """What sort of file it is."""
    if name.endswith(".index"):
        return "index"
    if name.endswith(".jsonl"):
        live = os.path.basename(name).count(".") == 1
        return f"{'stream' if name.startswith('streams') else 'journal'} {'live' if live else 'sealed'}"
    return "snapshot" if name.startswith("snapshots") else name


class Check:
    """One damage: what is seen of it, and whether that is right."""

    def __init__(self, folder: Folder, truth: Truth, case: Case, told: list[str]) -> None:
        self.folder, self.truth, self.case, self.told = folder, truth, case, told
        self.path = os.path.join(folder.path, case.name)
        self.base = os.path.join(os.path.dirname(self.path), os.path.basename(self.path).partition(".")[0])
        self.kind, self.whole = kind_of(case.name), folder.texts[case.name]
        self.segment = self.kind.startswith(("stream", "journal"))
        self.events, self.streams = truth.events, truth.of(len(truth.events))
        self.snapshot = truth.snapshot
        self.refused = self.mended = self.appended = self.thorough = False
        at = case.name.removeprefix("streams/").split(".")[0]
        self.stream_id = next((s for s in truth.streams if "/".join(filter(None, stream_path(s))) == at), "")
        self.rare, self.even = is_rare(self.whole, *case[2:]), True
        told.clear()
        folder.damage(case)
        text = Path(self.path).read_bytes()
        self.only_copy, self.least = False, len(self.events)
        if self.kind.startswith("journal"):
            left, had = positions(text), positions(self.whole)
            self.only_copy = bool(truth.only & (had - left))
            if self.kind == "journal live" and case.mode != RUNNING:
                self.least = max([truth.durable, *(left & truth.ends)])

    def run(self, number: int) -> tuple[str, bool]:
        """(what became of it, whether it was repaired after it was read); some are verified, appended to, repaired."""
        unread, append, mend = number % 20 == 10, number % 20 == 5, number % 20 in (0, 5) or self.rare
        self.even, self.thorough = number % 2 == 0, number % 20 == 0 or self.rare
        if unread:
            self.repair()
        try:
            store = open_store(self.folder.path)
        except HangarlogError as error:
            self.excuse("opening", "", error)
            return REFUSED, False
        with store:
            result = self.judge(store)
            if unread and result not in (REFUSED, LOST):
                result = UNREAD
            if number % 10 == 0 or self.rare:
                self.verify(store)
            if append:
                self.append(store)
                self.reads(store)
        if mend and not unread:
            self.repair()
            with open_store(self.folder.path) as store:
                self.append(store)
                self.reads(store)
                self.verify(store)
            return result, self.mended
        return result, False

    def judge(self, store: FileEventStore) -> str:
        """Read everything."""
        count, events = store.get_event_count(), len(self.events)
        if not self.least <= count <= events:
            raise Broken(f"{count} events instead of {self.least} to {events}")
        self.events = self.events[:count]
        self.streams = self.streams_of(self.events)
        self.reads(store)
        self.check_warnings()
        if self.refused:
            return REFUSED
        if count < events:
            return LOST
        if self.told:
            return RECOVERED if "it was mended" in self.told[0] else SERVED
        if not self.segment:
            return HARMLESS
        if self.content() != self.whole and not self.mended:
            for damage in verify(store):
                if not damage.path.endswith(".index"):  # Of a segment whose end a recovery has put into the live one.
                    raise Broken(f"no read noticed it: {damage}; {store.recovered}")
        return RECOVERED

    def streams_of(self, events: list[Row]) -> dict[str, list[Row]]:
        """The streams of the first events, of which there are so many."""
        streams = self.truth.of(len(events))
        whole = [event for event in events if event[1] == COMPACTED]
        return streams if self.snapshot else {**streams, COMPACTED: whole}

    def content(self) -> bytes | None:
        try:
            return Path(self.path).read_bytes()
        except FileNotFoundError:
            return None

    def reads(self, store: FileEventStore) -> None:
        """Every read gives all there is; `Broken` where one does not."""
        if self.mended:
            self.told.clear()
        for stream_id, what, ask, right in self.questions(store):
            try:
                found = ask()
            except HangarlogError as error:
                self.excuse(what, stream_id, error)
                continue
            if found != right:
                raise Broken(f"{what}: it gave {found}, not {right}")
        if self.mended and self.told:
            raise Broken(f"it was repaired, and still: {self.told[0]}")

    def questions(self, store: FileEventStore) -> Iterator[Question]:
        """(stream id, what is asked, the call, the right answer) of everything, or of what the damage may touch."""

        def read(stream_id: str = "", **options: Any) -> Callable[[], list[Row]]:
            return lambda: rows(store.envelopes(stream_id or None, **options))

        def asks(stream_id: str, events: list[Row], number: int, options: str, step: int) -> Iterator[Question]:
            at = len(events) // 2
            name, way = stream_id or "all", {"reverse": True}
            down, up = {**way, options: events[at][number] + step}, {options: events[at][number] - step}
            if self.thorough or self.even:
                yield stream_id, f"{name} forward", read(stream_id), events
                yield stream_id, f"{name} down from {down}", read(stream_id, **down), events[at::-1]
            if self.thorough or not self.even:
                yield stream_id, f"{name} backward", read(stream_id, **way), events[::-1]
                yield stream_id, f"{name} from {up}", read(stream_id, **up), events[at:]

        for stream_id in self.streams if self.thorough else [self.stream_id or COMPACTED]:
            events = self.streams[stream_id]
            yield from asks(stream_id, events, 2, "from_version", 0)
            yield stream_id, f"the version of {stream_id}", partial(store.get_stream_version, stream_id), events[-1][2]
        if self.thorough or self.kind in ("stream live", "snapshot"):
            yield "list", "the streams", store.list_streams, list(self.streams)
            yield COMPACTED, "the snapshot", partial(store.load_snapshot, COMPACTED), self.snapshot
        if self.thorough or not self.stream_id:
            yield from asks("", self.events, 0, "from_position", 1)

    def excuse(self, what: str, stream_id: str, error: HangarlogError) -> None:
        """Note a refusal that is right: it names the damaged file, and there is no other copy."""
        named = isinstance(error, CorruptionError) and error.path.startswith(self.base)
        snapshot = self.kind == "snapshot" and stream_id == COMPACTED
        # What was compacted away is in the journal only; and without a checkpoint recovery reads all of that.
        only = self.only_copy and not stream_id and (what != "opening" or self.case.mode == COPIED)
        meta = self.kind == "hangarlog.json" and isinstance(error, StoreOpenError) and what == "opening"
        if self.mended or not ((named and (snapshot or only)) or meta):
            raise Broken(f"{what}: {error!r}") from error
        self.refused = True

    def check_warnings(self) -> None:
        for message in self.told:
            if self.base not in message or "at offset" not in message:
                raise Broken(f"a warning that does not name the place: {message}")

    def verify(self, store: FileEventStore) -> None:
        """It must find damage that is there, and nothing else."""
        found, text = list(verify(store)), self.content()
        whole = self.mended or text == self.whole or len(self.events) < len(self.truth.events)
        if found and whole:
            raise Broken(f"verify finds {found[0]!r} in what is whole")
        # A recovery may bring back what was compacted; nobody sees it.
        longer = self.stream_id == COMPACTED and self.case.mode != RUNNING
        if self.segment and not (found or whole or longer or self.appended):
            raise Broken("verify finds nothing")
        for damage in found:
            if not damage.path.startswith(self.base):
                raise Broken(f"verify finds {damage!r}")

    def append(self, store: FileEventStore) -> None:
        """To the damaged stream: what comes is the version after its last, or a refusal that names the place."""
        stream_id = self.stream_id or "s:1"
        right = self.streams[stream_id][-1][2] + 1
        try:
            version = store.append(stream_id, [UntypedEvent("Added", {"n": 0}, event_id=f"new{right}")], ANY)
        except CorruptionError as error:
            if self.mended or not error.path.startswith(self.base):
                raise Broken(f"append to {stream_id}: {error!r}") from error
            return
        if version != right:
            raise Broken(f"append to {stream_id} made version {version}, not {right}")
        row = (len(self.events) + 1, stream_id, version, f"new{right}", b'{"_version":1,"n":0}')
        self.events = [*self.events, row]
        self.streams = {**self.streams, stream_id: [*self.streams[stream_id], row]}
        self.appended = True

    def repair(self) -> None:
        """All that has a whole copy is whole again."""
        try:
            results = list(repair(self.folder.path, filesystem=FILESYSTEM))
        except HangarlogError as error:
            self.excuse("opening" if isinstance(error, StoreOpenError) else "repair", "", error)
            return
        left = [result for result in results if isinstance(result, CorruptionError)]
        for error in left:
            self.excuse("repair", "", error)
        lost = {p for r in results if isinstance(r, Lost) and not r.stream_id for p in range(r.first, r.last + 1)}
        if lost and not (self.only_copy or lost <= set(range(self.truth.durable + 1, len(self.truth.events) + 1))):
            raise Broken(f"repair lost {sorted(lost)}")
        self.mended = not left
        if self.kind == "snapshot" and not Path(self.path).exists():  # The journal has what it stood for.
            self.snapshot = None
            self.streams = {**self.streams, COMPACTED: [event for event in self.events if event[1] == COMPACTED]}


def positions(text: bytes) -> set[int]:
    """Of the whole records among some lines."""
    return {decode_record(line).position for line in text.split(b"\n") if is_record(line)}


# The run


class Hang(Exception):
    """A case takes a minute."""


def hangs(*_: object) -> None:
    raise Hang("it hangs")


def work(path: str, truth: Truth, cases: list[Case], counted: dict[str, int]) -> str:
    """Check cases, and say what the first failure was."""
    told: list[str] = []
    warnings.simplefilter("always", CorruptionWarning)
    warnings.showwarning = lambda message, *_: told.append(str(message))
    signal.signal(signal.SIGALRM, hangs)
    folders = Folder(path), Folder(f"{path}-kept", kept=True)
    for number, case in enumerate(cases):
        folder = folders[case.mode == RUNNING]
        signal.alarm(60)
        try:
            result, repaired = Check(folder, truth, case, told).run(number)
        except Exception as error:
            why = str(error) if isinstance(error, Broken) else "".join(traceback.format_exception(error))
            return f"{case}: {why}"
        counted[result] += 1
        counted[REPAIRED] += repaired
    signal.alarm(0)
    return ""


def run(folder: Path, size: int, seed: int) -> Figures:
    """`size` damages in two processes."""
    scratch = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else folder, prefix="hangarlog-"))
    try:
        with small_limits():
            fill(str(scratch / "0"))
            truth = Truth(str(scratch / "0"))
            for worker in range(1, WORKERS):
                shutil.copytree(scratch / "0", scratch / str(worker))
            for worker in range(WORKERS):
                shutil.copytree(scratch / "0", scratch / f"{worker}-kept")
            cases, possible = choose(Folder(str(scratch / "0")).texts, size, seed)
            counted = share_out(scratch, truth, cases, seed)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {"cases": len(cases), "of possible": possible, **counted}


def share_out(scratch: Path, truth: Truth, cases: list[Case], seed: int) -> dict[str, int]:
    """What the workers counted, together; the first failure ends them all."""
    workers: dict[int, int] = {}
    total = dict.fromkeys(COUNTED, 0)
    try:
        for worker in range(WORKERS):
            reading, writing = os.pipe()
            pid = os.fork()
            if not pid:
                counted = dict.fromkeys(COUNTED, 0)
                try:
                    failure = work(str(scratch / str(worker)), truth, cases[worker::WORKERS], counted)
                    os.write(writing, json.dumps([failure[:4_000], counted]).encode())
                finally:
                    os._exit(0)
            os.close(writing)
            workers[reading] = pid
        waiting = set(workers)
        while waiting:
            for reading in select.select(list(waiting), [], [])[0]:
                waiting.remove(reading)
                answer = os.read(reading, 1 << 20)
                assert answer, (
                    f"a worker ended with {os.waitstatus_to_exitcode(os.waitpid(workers.pop(reading), 0)[1])}"
                )
                failure, counted = json.loads(answer)
                assert not failure, f"HANGARLOG_SEED={seed}: {failure}"
                for what, count in counted.items():
                    total[what] += count
    finally:
        for reading, pid in workers.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reading)
    return total


CAMPAIGN = Campaign(
    row=5,
    fault="bit rot, in any file",
    promise="what is read is right, from the other copy and with a warning, or refused with its place; repair mends it",
    how="bits flipped, bytes set, files cut and zeroed, lines swapped, doubled and removed, in every file of a store, "
    "running and restarted; then all is read in both directions, verified, appended to and repaired",
    ci=20_000,
    release=100_000,
    unit="damages",
    run=run,
)
