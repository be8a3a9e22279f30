"""A verifier of closed stores, by the list in docs/format.md alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from by_the_page import (
    MAX,
    Json,
    Segment,
    check,
    erased,
    is_int,
    is_stream_id,
    is_torn,
    part,
    path_of,
    record,
    signed,
    strict_json,
)
from store_by_the_page import Store, is_gone, loaded, small_file, snapshot


def damages(path: Path) -> list[str]:
    """What a verifier reports of a store, in any order. Raises `RefusedError`."""
    return _Verifier(Store(path)).damages()


class _Verifier:
    def __init__(self, store: Store) -> None:
        self._store = store

    def damages(self) -> list[str]:
        """What a verifier reports, in any order."""
        found = [
            *self._of_snapshots(),
            *self._of_journal(),
            *self._caches(),
            *self._ring(),
            *self._cursors(),
            *self._projections(),
        ]
        for path in self._store.stream_paths():
            found += [f"streams/{path}: {cause}" for cause in self._of_stream(path)]
        return found

    def _of_snapshots(self) -> Iterator[str]:
        top = self._store.path / "snapshots"
        for path in sorted([*top.glob("*.json"), *top.glob("*/*.json")]):
            where = str(path.relative_to(top)).removesuffix(".json")
            each = snapshot(small_file(path, 128 << 20) or b"")
            if each is None:
                yield f"{where}: no snapshot"
                continue
            said, text = each
            try:
                check(strict_json(text, 1 << 30), 1 << 30)
            except ValueError as error:
                yield f"{where}: {error}"
            if said["version"] >= 0 and not isinstance(said["state"], dict):
                yield f"{where}: its state"
            if path_of(said["stream_id"]) != where:
                yield f"{where}: of another stream"
                continue
            if said["deleted_through"] >= 0 and not (self._store.path / "deleted" / where).exists():
                yield f"{where}: not in deleted"
            last = max((r["stream_version"] for r in self._store.of_journal.get(where, ())), default=-1)
            in_file = self._store.last_in_file(where)
            begun = in_file >= 0 or said["version"] >= 0 or said["saved_at"]
            if said["compacted_through"] > max(last, in_file) and begun and not self._store.meta.get("archive"):
                yield f"{where}: hides more than there is"

    def _of_journal(self) -> Iterator[str]:
        store = self._store
        if not (store.path / "journal.jsonl").is_file():
            yield "journal.jsonl is missing"
        if store.cause:
            yield f"journal: {store.cause}"
        if any(record(each.first) and not self._is_copy(each) for each in store.foreign):
            yield "a sealed segment goes beyond the active one"
        yield from ("a compressed segment" for each in store.journal if each.is_damaged)
        yield from (f"{each.path.name}: its name" for each in store.journal if each.is_misnamed("position"))
        last, damaged, lost = store.begins - 1, 0, False
        records = _Records(store)
        for _, found in store.lines():
            if last >= store.stored:
                break
            if found is None or (
                is_gone(found) and store.hidden(path_of(found["stream_id"])) < found["stream_version"]
            ):
                damaged += 1
                yield f"journal: a damaged line after position {last}"
                continue
            position = found["position"]
            if not last < position <= store.stored:
                damaged += 1
                yield f"journal: position {position} after {last}"
                continue
            if position > last + 1:
                if position - 1 - last > damaged:
                    yield f"journal: positions after {last} are missing"
                lost, records.batch = True, 0
            last, damaged = position, 0
            yield from records.add(found, lost=lost)
        if last < store.stored and store.stored - last > damaged:
            yield "journal: it ends too early"
        if records.batch > store.stored:
            yield "journal: its last batch"

    def _is_copy(self, each: Segment) -> bool:
        active = self._store.path / "journal.jsonl"
        return each.path.samefile(active) or each.path.read_bytes() == active.read_bytes()

    def _of_stream(self, path: str) -> Iterator[str]:
        store = self._store
        through, ours = store.hidden(path), store.of_journal.get(path, [])
        settled = [r["stream_version"] for r in ours if r["position"] <= store.checkpoint["position"]]
        needed, records = max(settled, default=-1), _Versions(path, through, ours)
        tail: list[bool] = []  # Of what is no record since the last one: whether it is torn.
        for segment in store.stream(path):
            if segment.is_damaged:
                yield "a compressed segment"
            if segment.is_misnamed("stream_version"):
                yield f"{segment.path.name}: its name"
            for line, ended in segment.parts():
                found = record(line) if ended else None
                gone = erased(line, journal=False) if ended and not found else None
                found = found or (gone if gone and gone["stream_version"] <= through else None)
                if found is None:
                    records.damaged += 1
                    tail.append(segment.number is None and is_torn(line, ended=ended))
                elif found["position"] <= store.stored:
                    if tail:
                        yield "a damaged line"
                    tail = []
                    yield from records.add(found)
        ends_early = records.highest < needed
        if tail and (ends_early or not all(tail)):
            yield "a damaged line at its end"
        if needed >= 0 and not (store.path / "streams" / f"{path}.jsonl").is_file():
            yield "it is missing"
        if any(record(each.first) for each in store.beyond(path)):
            yield "a sealed segment without an active one, or beyond it"
        if needed - records.highest > records.damaged:
            yield f"it ends at version {records.highest}, before {needed}"

    def _caches(self) -> Iterator[str]:
        content = small_file(self._store.path / "checkpoint.json")
        if content is not None:
            found = loaded(signed(content))
            numbers = [found.get(key, 0) for key in ("position", "first", "end", "mark")] if found else [-1]
            numbers.append(found.get("format", 1) if found else -1)
            if not all(is_int(each, 0, 2**63 - 1) for each in numbers):
                yield "checkpoint.json"
            elif self._store.checkpoint["position"] > self._store.stored:
                yield "checkpoint.json is ahead"
        for log, segment in [
            *((None, each) for each in self._store.journal),
            *((p, e) for p in self._store.stream_paths() for e in self._store.stream(p)),
        ]:
            base = segment.path.name.removesuffix(".zst").removesuffix(".jsonl")
            index = segment.path.parent / f"{base}.index"
            if index.is_file() and not self._index_agrees(
                index.read_bytes(), segment, "position" if log is None else "stream_version"
            ):
                yield f"{index.name} of {log or 'the journal'}"

    @staticmethod
    def _index_agrees(index: bytes, segment: Segment, key: str) -> bool:
        number = segment.number
        if number is None:
            first = record(segment.first) or erased(segment.first, journal=key == "position")
            if first is None:
                return True
            number = first[key]
        if len(index) < 16 or not index[:16].strip(b"\0"):
            return True
        if index[:8] != b"HLINDEX2" or struct.unpack_from("<Q", index, 8)[0] != number:
            return index.startswith(b"HLINDEX") and index[:8] != b"HLINDEX2"
        entries = [*struct.iter_unpack("<II", index[16 : len(index) - len(index) % 8])]
        if len(entries) > len(segment.text) // 64 + 1:
            return False
        entries = entries[: len(segment.text) // 64]
        while entries and not entries[-1][1]:
            entries.pop()
        start = at = 0
        for end, crc in entries:
            newline = segment.text.find(b"\n", at) + 1
            if end != newline or not newline or (crc and crc != crc32(segment.text[start:end])):
                return False
            at, start = end, end if crc else start
        return True

    def _ring(self) -> Iterator[str]:
        ring = small_file(self._store.path / "ring", 1 << 40)
        if ring is None:
            return
        if len(ring) != 1 << 20:
            yield "ring: its size"
            return
        following = min((block for block, *_ in self._store.frames), default=0)
        lines = {r["position"]: line for (_, line, _), r in self._store.lines() if r and not is_gone(r)}
        for block, after, _header, text in self._store.frames:
            if block != following:
                yield "ring: a frame is missing"
            following = after
            for line in text.split(b"\n")[:-1]:
                r = record(line)
                if r and r["position"] <= self._store.stored and lines.get(r["position"], line) != line:
                    yield f"ring: position {r['position']} differs"

    def _cursors(self) -> Iterator[str]:
        content, names = small_file(self._store.path / "cursors.jsonl", 1 << 40), set[str]()
        for at in range(0, min(len(content or b""), 16 << 20), 1024):
            texts = [content[at + n : at + n + 512].rstrip(b" \n\0") for n in (0, 512)]  # type: ignore[index]
            places = [cursor_line(text) for text in texts]
            bad = [bool(text) and place is None for text, place in zip(texts, places, strict=True)]
            whole = [place for place in places if place]
            if len({place["cursor"] for place in whole}) == 2:
                whole, bad = [], [True, True]
            if all(bad) or (any(bad) and whole):
                yield f"cursors.jsonl: a line at {at}"
            if not whole:
                continue
            if whole[0]["cursor"] in names:
                yield "cursors.jsonl: a name comes twice"
            names.add(whole[0]["cursor"])
            counting = [place for place in whole if place["appended"] <= self._store.stored]
            place = max(counting, key=lambda place: int(place["move"]), default=None)
            if place and place["tip"] <= self._store.stored:
                there = {r["position"]: r["crc"] for _, r in self._store.lines() if r and not is_gone(r)}
                crc = there.get(place["tip"])
                if place["tip_crc"] == "unknown" or crc not in (None, place["tip_crc"]):
                    yield "cursors.jsonl: of another history"

    def _projections(self) -> Iterator[str]:
        for path in (self._store.path / "projections").glob("*.json"):
            if path.name.endswith((".latest.json", ".latest-2.json", ".rebuilding.json")):
                continue
            found = loaded(signed(small_file(path, 1 << 30) or b"")) or {}
            texts = all(isinstance(found.get(key), str) for key in ("projection", "event_id", "saved_at"))
            numbers = is_int(found.get("position")) and is_int(found.get("generation"))
            whole = texts and numbers and type(found.get("version")) is int and "state" in found
            if not whole or path.name != f"{part(found['projection'])}.json":
                yield f"projections/{path.name} is not whole"
            elif found["position"] > self._store.committed:
                yield f"projections/{path.name}"


class _Records:
    """What the journal's records say one after the other of batches and streams."""

    def __init__(self, store: Store) -> None:
        self._store, self.batch = store, 0
        self._versions: dict[str, int] = {}

    def add(self, found: Json, *, lost: bool) -> Iterator[str]:
        position, version, stream_id = found["position"], found["stream_version"], found["stream_id"]
        end, last = found.get("batch_end", 0), self._versions.get(stream_id, -1)
        if (self.batch and end != self.batch) or 0 < end < position:
            yield f"journal: the batch at position {position}"
        self.batch = end if end > position else 0
        if stream_id not in self._versions and not is_stream_id(stream_id.removeprefix("$")):
            yield f"journal: the id at position {position}"
        before = last if stream_id in self._versions else self._store.hidden(path_of(stream_id))
        if version <= last or (version > before + 1 and not lost):
            yield f"journal: version {version} of {stream_id!r} after {before}"
        self._versions[stream_id] = max(version, last)


class _Versions:
    """What the records of one stream say one after the other."""

    def __init__(self, path: str, through: int, ours: list[Json]) -> None:
        self._path, self._through, self._last = path, through, through
        self._known = {r["stream_version"]: r["crc"] for r in ours if not is_gone(r)}
        self.highest, self.damaged = -1, 0

    def add(self, found: Json) -> Iterator[str]:
        version = found["stream_version"]
        if path_of(found["stream_id"]) != self._path:
            self.damaged += 1
            yield "another stream's record"
            return
        self.highest = max(self.highest, version)
        if version <= self._through:
            return
        if version <= self._last:
            yield f"version {version} after {self._last}"
            return
        if version - self._last - 1 > self.damaged:
            yield f"versions after {self._last} are missing"
        self._last, self.damaged = version, 0
        if self._known.get(version) != found["crc"]:
            yield f"version {version} differs from the journal's"


def cursor_line(text: bytes) -> Json | None:
    found = loaded(signed(text))
    if found is None:
        return None
    found = {"tip": 0, "tip_crc": "", "created": 0, "appended": 0, "fallback": None} | found
    numbers = [found.get("position"), found.get("move"), found["tip"], found["created"], found["appended"]]
    numbers += found["fallback"] if isinstance(found["fallback"], list) else []
    texts = [found.get("cursor"), found.get("moved_at"), found["tip_crc"]]
    good = all(is_int(each, 0, MAX) for each in numbers) and all(isinstance(each, str) for each in texts)
    return found if good and (found["fallback"] is None or len(found["fallback"]) == 3) else None
