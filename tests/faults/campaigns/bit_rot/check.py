"""One damage: what is seen of it, and whether that is right."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hangarlog import ANY, CorruptionError, FileEventStore, HangarlogError, StoreOpenError, UntypedEvent
from hangarlog.filestore.file_names import stream_path
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify
from hangarlog.record.line import decode_record, is_record

from ..proofs import text_in
from .damages import COPIED, RUNNING, Case, is_rare
from .folder import Folder
from .store import COMPACTED, FILESYSTEM, Row, Truth, open_store, rows

Question = tuple[str, str, Callable[[], Any], Any]
SERVED, RECOVERED, REFUSED = "read right from the other copy", "made whole when opened", "refused with place"
HARMLESS, LOST = "harmless", "journal ends lost that were not durable"
UNREAD, REPAIRED = "repaired, then read", "read, then repaired"


class Broken(Exception):
    """A promise is."""


def kind_of(name: str) -> str:
    """What sort of file it is."""
    if name.endswith((".index", ".times")):
        return name.rpartition(".")[2]
    if name.endswith((".jsonl", ".zst")):
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
        self.events, self.streams, self.last = truth.events, truth.of(truth.last), truth.last
        self.snapshot = truth.snapshot
        self.refused = self.mended = self.appended = self.thorough = False
        at = case.name.removeprefix("streams/").split(".")[0]
        at = at.removeprefix("snapshots/")
        self.stream_id = next((s for s in truth.streams if "/".join(filter(None, stream_path(s))) == at), "")
        self.deleted = at == "gone/1"  # Its stream is deleted, and read by nobody.
        self.rare, self.even = is_rare(self.whole, *case[2:]), True
        told.clear()
        folder.damage(case)
        text = text_in(case.name, Path(self.path).read_bytes())
        self.only_copy, self.least = False, truth.last
        self.packed = case.name.endswith(".zst")
        self.same = self.packed and text == text_in(case.name, self.whole)  # Its tables have changed, or nothing has.
        if self.kind.startswith("journal"):
            left, had = positions(text), positions(text_in(case.name, self.whole))
            self.only_copy = bool(truth.only & (had - left))
            if self.kind == "journal live" and case.mode != RUNNING:
                self.least = max([truth.durable, *(left & truth.ends)])

    def run(self, number: int) -> tuple[str, bool]:
        """(what became of it, whether it was repaired after it was read); some are verified, appended to, repaired."""
        unread, append, mend = number % 20 == 10, number % 20 == 5, number % 20 in (0, 5) or self.rare
        self.even, self.thorough = number % 2 == 0, number % 20 == 0 or self.rare
        if self.kind == "retained.json":
            return self.refused_until_repaired(), True
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

    def refused_until_repaired(self) -> str:
        """Without the file that says where the journal begins, each call is right or names it; a repair settles it."""
        try:
            with open_store(self.folder.path) as store:
                self.reads(store)
        except CorruptionError as error:
            self.excuse("opening", "", error)
        self.repair()
        if not self.mended:
            raise Broken("a repair does not settle it")
        with open_store(self.folder.path) as store:
            self.reads(store)
            self.append(store)
            self.reads(store)
            self.verify(store)
        return REFUSED if self.refused else HARMLESS

    def judge(self, store: FileEventStore) -> str:
        """Read everything."""
        self.last = store.last_position
        if not self.least <= self.last <= self.truth.last:
            raise Broken(f"events up to {self.last} instead of {self.least} to {self.truth.last}")
        self.events = [each for each in self.events if each[0] <= self.last]
        self.streams = self.streams_of(self.events)
        self.reads(store)
        self.check_warnings()
        if self.refused:
            return REFUSED
        if self.last < self.truth.last:
            return LOST
        if self.told:
            return RECOVERED if "it was mended" in self.told[0] else SERVED
        if not self.segment or self.same or self.deleted:
            return HARMLESS
        if self.content() != self.whole and not self.mended:
            for damage in verify(store):
                if not damage.path.endswith(".index"):  # Of a segment whose end a recovery has put into the live one.
                    raise Broken(f"no read noticed it: {damage}; {store.recovered}")
        return RECOVERED

    def streams_of(self, events: list[Row]) -> dict[str, list[Row]]:
        """The streams of these events."""
        streams = self.truth.of(self.last)
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
            yield "list", "the streams", lambda: self.listed(store), list(self.streams)
            yield COMPACTED, "the snapshot", partial(store.load_snapshot, COMPACTED), self.snapshot
        if self.thorough or not self.stream_id:
            yield from asks("", self.events, 0, "from_position", 1)

    def listed(self, store: FileEventStore) -> list[str]:
        """The list of streams. Without its mark a deleted one may be in it again, without events."""
        loose = self.deleted and self.mended
        return [name for name in store.list_streams() if not (loose and name == "gone:1")]

    def excuse(self, what: str, stream_id: str, error: HangarlogError) -> None:
        """Note a refusal that is right: it names the damaged file, and there is no other copy."""
        named = isinstance(error, CorruptionError) and self.names_it(error)
        copied = self.case.mode == COPIED
        # Of a deleted stream the list has to know; and in a copy whatever is asked for finds that out first.
        snapshot = self.kind == "snapshot" and (stream_id in (self.stream_id, "list") or (copied and not stream_id))
        # What was compacted away is in the journal only; and without a checkpoint recovery reads all of that.
        lists = what == "the streams" and copied
        only = self.only_copy and (lists or (not stream_id and (what != "opening" or copied)))
        meta = self.kind == "hangarlog.json" and isinstance(error, StoreOpenError) and what == "opening"
        says = self.kind in ("retained.json", "hangarlog.json")  # What store it is, and where its journal begins.
        if self.mended or not ((named and (snapshot or only or says)) or meta):
            raise Broken(f"{what}: {error!r}") from error
        self.refused = True

    def names_it(self, damage: CorruptionError) -> bool:
        """True if it names the damaged file, or says that another one contradicts it."""
        return damage.path.startswith(self.base) or (self.kind == "hangarlog.json" and self.kind in damage.cause)

    def check_warnings(self) -> None:
        for message in self.told:
            if self.base not in message or "at offset" not in message:
                raise Broken(f"a warning that does not name the place: {message}")

    def verify(self, store: FileEventStore) -> None:
        """It must find damage that is there, and nothing else."""
        found, text = list(verify(store)), self.content()
        whole = self.mended or text == self.whole or self.same or self.last < self.truth.last
        if found and whole and not self.same:
            raise Broken(f"verify finds {found[0]!r} in what is whole")
        # A recovery may bring back what was compacted; nobody sees it.
        longer = (self.stream_id == COMPACTED and self.case.mode != RUNNING) or self.deleted
        if self.segment and not (found or whole or longer or self.appended):
            raise Broken("verify finds nothing")
        for damage in found:
            # Of what was deleted there are a place in the journal, a mark, an erased line: each tells of the others.
            if not self.names_it(damage) and not ("/gone/" in damage.path and not self.mended):
                raise Broken(f"verify finds {damage!r}")

    def append(self, store: FileEventStore) -> None:
        """To the damaged stream: what comes is the version after its last, or a refusal that names the place."""
        stream_id = self.stream_id or "s:1"
        right = self.streams[stream_id][-1][2] + 1
        try:
            version = store.append(stream_id, [UntypedEvent("Added", {"n": 0}, event_id=f"new{right}")], ANY)
        except CorruptionError as error:
            if self.mended or not self.names_it(error):
                raise Broken(f"append to {stream_id}: {error!r}") from error
            return
        if version != right:
            raise Broken(f"append to {stream_id} made version {version}, not {right}")
        self.last += 1
        row = (self.last, stream_id, version, f"new{right}", b'{"_version":1,"n":0}')
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
        left = [result for result in results if isinstance(result, CorruptionError) and not self.same]
        for error in left:
            self.excuse("repair", "", error)
        lost = {p for r in results if isinstance(r, Lost) and not r.stream_id for p in range(r.first, r.last + 1)}
        if lost and not (self.only_copy or lost <= set(range(self.truth.durable + 1, self.truth.last + 1))):
            raise Broken(f"repair lost {sorted(lost)}")
        self.mended = not left
        if (
            self.case.name == "snapshots/k/1.json" and not Path(self.path).exists()
        ):  # The journal has what it stood for.
            self.snapshot = None
            self.streams = {**self.streams, COMPACTED: [event for event in self.events if event[1] == COMPACTED]}


def positions(text: bytes) -> set[int]:
    """Of the whole records among some lines."""
    return {decode_record(line).position for line in text.split(b"\n") if is_record(line)}
