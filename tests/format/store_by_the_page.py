"""What a reader and a verifier see of a whole store that nobody has open, by docs/format.md alone."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

from by_the_page import (
    MAX,
    Json,
    Segment,
    check,
    erased,
    frames,
    id_at,
    is_int,
    is_nothing,
    is_stream_id,
    is_torn,
    part,
    path_of,
    record,
    segments,
    signed,
    strict_json,
)

Where = tuple[Segment, bytes, bool]


class RefusedError(Exception):
    """The store cannot be read at all."""


def small_file(path: Path, most: int = 64 << 10) -> bytes | None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return b""
    if not path.exists():
        return None
    return path.read_bytes() if path.stat().st_size <= most else b""


def meta(content: bytes) -> Json:
    """What `hangarlog.json` says. Raises `RefusedError`."""
    try:
        found = strict_json(content)
    except ValueError as error:
        raise RefusedError(str(error)) from error
    good = (
        isinstance(found, dict)
        and found.get("format") == 1
        and is_int(found["format"])
        and isinstance(found.get("store_id"), str)
        and re.fullmatch("[A-Za-z0-9-]{1,64}", found["store_id"])
        and isinstance(found.get("created_at"), str)
        and is_int(found.get("segment_bytes"), 1, 2**31)
        and re.fullmatch("06[046][04]", found.get("mode") or "0600")
        and type(found.get("archive", False)) is bool
    )
    if not good:
        raise RefusedError("hangarlog.json")
    return dict(found)


def retained(content: bytes, store_id: str) -> int:
    """The first position, by `retained.json`. Raises `RefusedError`."""
    text = signed(content)
    try:
        found = strict_json(text or b"")
    except ValueError as error:
        raise RefusedError("retained.json") from error
    good = found.get("retained") == 1 and found.get("store_id") == store_id and is_int(found.get("first_position"), 1)
    if not good:
        raise RefusedError("retained.json")
    return int(found["first_position"])


def loaded(text: bytes | None) -> Json | None:
    try:
        found = json.loads(text or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


SNAPSHOT: Json = {
    "version": -1,
    "state": None,
    "saved_at": "",
    "schema_version": 1,
    "event_id": None,
    "compacted_through": -1,
    "deleted_through": -1,
    "tombstone": False,
    "number": 0,
}


def snapshot(content: bytes) -> tuple[Json, bytes] | None:
    """What a snapshot's file says, and the text of the object that counts; None if it is damaged."""
    half = len(content) // 2 if content and len(content) % 8192 == 0 else 0
    whole = [each for each in map(_snapshot, (content[:half], content[half:]) if half else ()) if each]
    return max(whole, key=lambda each: int(each[0]["number"])) if whole else _snapshot(content)


def _snapshot(content: bytes) -> tuple[Json, bytes] | None:
    text = signed(content.rstrip(b" \n"))
    found = loaded(text)
    if text is None or found is None or not isinstance(found.get("stream_id"), str):
        return None
    found = SNAPSHOT | found
    versions = all(is_int(found[key], -1) for key in ("version", "compacted_through", "deleted_through"))
    good = versions and is_int(found["number"]) and type(found["tombstone"]) is bool
    return (found, text) if good else None


class Store:
    """A closed store."""

    def __init__(self, path: Path) -> None:
        """Raises `RefusedError`."""
        self.path = path
        content = small_file(path / "hangarlog.json")
        if content is None:
            raise RefusedError("no store")
        self.meta = meta(content)
        content = small_file(path / "retained.json")
        self.begins = 1 if content is None else retained(content, self.meta["store_id"])
        self.journal, self.foreign = segments(path, "journal", "position", self.begins)
        self.cause: str | None = None  # What is wrong with the journal's end.
        self._find_end()

    # What is committed

    @cached_property
    def checkpoint(self) -> Json:
        found = loaded(signed(small_file(self.path / "checkpoint.json") or b"")) or {}
        ours = found.get("store") == self.meta["store_id"] and found.get("format", 1) == 1
        return found if ours and is_int(found.get("position"), 0, 2**63 - 1) else {"position": 0}

    def lines(self) -> Iterator[tuple[Where, Json | None]]:
        """Each line of the journal, and its record, also of an erased line."""
        for segment in self.journal:
            for line, ended in segment.parts():
                found = record(line) if ended else None
                yield (segment, line, ended), found or (erased(line, journal=True) if ended else None)

    def _find_end(self) -> None:
        start = max(self.checkpoint["position"], self.begins - 1)
        if self._walk(start) < start and start >= self.begins:
            self._walk(self.begins - 1)
            self.cause = "it ends before the checkpoint"

    def _walk(self, start: int) -> int:
        """Go through the journal behind position `start`. Return its highest position."""
        self.committed = self.stored = reached = start
        self.cause, highest, room, damaged = None, 0, 0, ""
        crc = order = ""
        batch: dict[int, Json] = {}
        behind: dict[int, Json] = {}
        for (segment, line, ended), found in self.lines():
            if found is None:
                room += 1 + (len(line) // 64 if ended else 0)
                if not is_torn(line, ended=ended or segment.number is not None):
                    damaged = damaged or "damage at its end"
                continue
            position = found["position"]
            highest = max(highest, position)
            if position <= self.stored:
                damaged, room, crc = "", 0, found["crc"] if position == self.stored else crc
                continue
            if behind and position < max(behind):
                order = "records out of order"
            if 0 <= position - reached - 1 <= room:
                reached, batch[position] = position, found
                if found.get("batch_end", 0) in (0, position):
                    self.committed = self.stored = position
                    crc, room, damaged, batch = found["crc"], 0, "", {}
            else:
                behind[position] = found
        self.cause = damaged or order or None
        self.ring_lines: dict[int, bytes] = {}
        self._join(batch, behind, crc)
        return highest

    def _join(self, batch: dict[int, Json], behind: dict[int, Json], crc: str) -> None:
        ring = small_file(self.path / "ring", 1 << 40)
        ours = [each for each in frames((ring or b"")[: 1 << 20]) if each[2].get("store") == self.meta["store_id"]]
        if any(header["ring"] > 1 for _, _, header, _ in ours):
            raise RefusedError("the ring is of a later format")
        newest = max((header["generation"] for _, _, header, _ in ours), default=0)
        self.frames = [each for each in ours if each[2]["generation"] == newest]
        joined: dict[int, bytes] = {}
        for _, _, header, text in sorted(self.frames, key=lambda each: int(each[2]["first"])):
            first = header["first"]
            before = json.loads(joined[first - 1])["crc"] if first - 1 in joined else ""
            before = before or (crc if first == self.stored + 1 else "")
            if header["after"] and before and before != header["after"]:
                continue
            for position, line in enumerate(text.split(b"\n")[:-1], first):
                found = record(line)
                if found and found["position"] == position > self.stored:
                    joined[position] = line
        known = batch | {position: json.loads(line) for position, line in joined.items()}
        if behind and {*range(self.stored + 1, min(behind))} - {*joined}:
            self.cause = self.cause or "records that do not follow"
        known |= behind
        position = self.committed
        while (position := position + 1) in known:
            if known[position].get("batch_end", 0) in (0, position):
                self.committed = position
        if known and max(known) > position - 1:
            self.cause = self.cause or "records that do not connect"
        self.ring_lines = {p: line for p, line in joined.items() if p <= self.committed}

    # Reading

    def shown(self) -> list[bytes]:
        """The lines of all events, from whichever copy is whole."""
        found = {r["position"]: line for (_, line, _), r in self.lines() if r and "\t" not in line.decode("latin-1")}
        for path in self.stream_paths():
            for segment in self.stream(path):
                for line, ended in segment.parts():
                    if ended and (r := record(line)) and path_of(r["stream_id"]) == path:
                        found.setdefault(r["position"], line)
        found |= {p: line for p, line in self.ring_lines.items() if p not in found}
        return [found[position] for position in sorted(found) if self.begins <= position <= self.committed]

    def stream_paths(self) -> list[str]:
        """The paths of the streams that have an active segment, or are in the journal."""
        found = {path_of(r["stream_id"]) for _, r in self.lines() if r and r["position"] <= self.committed}
        top = self.path / "streams"
        for path in [*top.glob("*.jsonl"), *top.glob("*/*.jsonl")]:
            name = path.name.removesuffix(".jsonl")
            if "." not in name and path.is_file():
                found.add(str((path.parent / name).relative_to(top)))
        return sorted(path for path in found if "~" in path or id_at(path) is not None or path in self.of_journal)

    @cached_property
    def of_journal(self) -> dict[str, list[Json]]:
        """The records of the journal up to the stored position, by the paths of their streams."""
        found: dict[str, list[Json]] = {}
        for (_, line, _), r in self.lines():
            if r and r["position"] <= self.stored:
                found.setdefault(path_of(r["stream_id"]), []).append(r | {"erased": b"\t" in line})
        return found

    def stream(self, path: str) -> list[Segment]:
        folder, name = os.path.split(path)
        found = segments(self.path / "streams" / folder, name, "stream_version")[0]
        through = self.hidden(path) + 1
        numbers = [each.number for each in found]
        return [each for each in found if each.number is None or through not in numbers or each.number >= through]

    def hidden(self, path: str) -> int:
        return int(self.snapshots.get(path, SNAPSHOT)["compacted_through"])

    @cached_property
    def snapshots(self) -> dict[str, Json]:
        top, found = self.path / "snapshots", {}
        for path in [*top.glob("*.json"), *top.glob("*/*.json")]:
            each = snapshot(small_file(path, 128 << 20) or b"")
            where = str(path.relative_to(top)).removesuffix(".json")
            if each and path_of(each[0]["stream_id"]) == where:
                found[where] = each[0]
        return found

    # Verifying

    def damages(self) -> list[str]:
        """What a verifier reports, in any order."""
        found = [
            *self._snapshots(),
            *self._journal(),
            *self._caches(),
            *self._ring(),
            *self._cursors(),
            *self._projections(),
        ]
        for path in self.stream_paths():
            found += [f"streams/{path}: {cause}" for cause in self._stream(path)]
        return found

    def _snapshots(self) -> Iterator[str]:
        top = self.path / "snapshots"
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
            if said["deleted_through"] >= 0 and not (self.path / "deleted" / where).exists():
                yield f"{where}: not in deleted"
            last = max((r["stream_version"] for r in self.of_journal.get(where, ())), default=-1)
            in_file = self._last_in_file(where)
            begun = in_file >= 0 or said["version"] >= 0 or said["saved_at"]
            if said["compacted_through"] > max(last, in_file) and begun and not self.meta.get("archive"):
                yield f"{where}: hides more than there is"

    def _last_in_file(self, path: str) -> int:
        lines = [line for segment in self.stream(path) for line, ended in segment.parts() if ended]
        found = [r["stream_version"] for line in lines if (r := record(line) or erased(line, journal=False))]
        return max(found, default=-1)

    def _journal(self) -> Iterator[str]:
        if not (self.path / "journal.jsonl").is_file():
            yield "journal.jsonl is missing"
        if self.cause:
            yield f"journal: {self.cause}"
        if any(record(each.first) and not self._is_copy(each) for each in self.foreign):
            yield "a sealed segment goes beyond the active one"
        yield from ("a compressed segment" for each in self.journal if each.is_damaged)
        last, damaged, batch, lost = self.begins - 1, 0, 0, False
        versions: dict[str, int] = {}
        for _, found in self.lines():
            if last >= self.stored:
                break
            path = path_of(found["stream_id"]) if found else ""
            if found is None or (
                not found["event_type"]
                and found.get("metadata", {}) is None
                and self.hidden(path) < found["stream_version"]
            ):
                damaged += 1
                yield f"journal: a damaged line after position {last}"
                continue
            position, version, stream_id = found["position"], found["stream_version"], found["stream_id"]
            if not last < position <= self.stored:
                damaged += 1
                yield f"journal: position {position} after {last}"
                continue
            if position > last + 1:
                if position - 1 - last > damaged:
                    yield f"journal: positions after {last} are missing"
                lost, batch = True, 0
            last, damaged, end = position, 0, found.get("batch_end", 0)
            if (batch and end != batch) or 0 < end < position:
                yield f"journal: the batch at position {position}"
            batch = end if end > position else 0
            if stream_id not in versions and not is_stream_id(stream_id.removeprefix("$")):
                yield f"journal: the id at position {position}"
            before = versions.get(stream_id, max(-1, self.hidden(path)))
            if version <= versions.get(stream_id, -1) or (version > before + 1 and not lost):
                yield f"journal: version {version} of {stream_id!r} after {before}"
            versions[stream_id] = max(version, versions.get(stream_id, -1))
        if last < self.stored and self.stored - last > damaged:
            yield "journal: it ends too early"
        if batch > self.stored:
            yield "journal: its last batch"

    def _is_copy(self, each: Segment) -> bool:
        active = self.path / "journal.jsonl"
        return each.path.samefile(active) or each.path.read_bytes() == active.read_bytes()

    def _stream(self, path: str) -> Iterator[str]:
        through, ours = self.hidden(path), self.of_journal.get(path, [])
        known = {r["stream_version"]: r["crc"] for r in ours if not r["erased"]}
        settled = [r["stream_version"] for r in ours if r["position"] <= self.checkpoint["position"]]
        needed, last, highest, damaged = max(settled, default=-1), through, -1, 0
        tail: list[tuple[bytes, bool]] = []  # What is no record since the last one.
        for segment in self.stream(path):
            if segment.is_damaged:
                yield "a compressed segment"
            for line, ended in segment.parts():
                r = record(line) if ended else None
                gone = erased(line, journal=False) if ended and not r else None
                if r is None and not (gone and gone["stream_version"] <= through):
                    damaged += 1
                    tail.append((line, ended or segment.number is not None))
                    continue
                found = r or gone or {}
                version = found["stream_version"]
                if found["position"] > self.stored:
                    continue
                if tail:
                    yield "a damaged line"
                tail = []
                if path_of(found["stream_id"]) != path:
                    yield "another stream's record"
                    damaged += 1
                    continue
                highest = max(highest, version)
                if version <= through:
                    continue
                if version <= last:
                    yield f"version {version} after {last}"
                    continue
                if version - last - 1 > damaged:
                    yield f"versions after {last} are missing"
                last, damaged = version, 0
                if known.get(version) != found["crc"]:
                    yield f"version {version} differs from the journal's"
        if tail and (highest < needed or not all(is_torn(line, ended=ended) for line, ended in tail)):
            yield "a damaged line at its end"
        if needed - highest > damaged:
            yield f"it ends at version {highest}, before {needed}"

    def _caches(self) -> Iterator[str]:
        content = small_file(self.path / "checkpoint.json")
        if content is not None:
            found = loaded(signed(content))
            numbers = [found.get(key, 0) for key in ("position", "first", "end", "mark")] if found else [-1]
            if not all(is_int(each, 0, 2**63 - 1) for each in numbers):
                yield "checkpoint.json"
            elif self.checkpoint["position"] > self.stored:
                yield "checkpoint.json is ahead"
        for log, segment in [
            *((None, each) for each in self.journal),
            *((p, e) for p in self.stream_paths() for e in self.stream(p)),
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
        ring = small_file(self.path / "ring", 1 << 40)
        if ring is None:
            return
        if len(ring) != 1 << 20:
            yield "ring: its size"
            return
        following = min((block for block, *_ in self.frames), default=0)
        lines = {r["position"]: line for (_, line, _), r in self.lines() if r and b"\t" not in line}
        for block, after, header, text in self.frames:
            if block != following:
                yield "ring: a frame is missing"
            following = after
            for line in text.split(b"\n")[:-1]:
                r = record(line)
                if r and r["position"] <= self.stored and lines.get(r["position"], line) != line:
                    yield f"ring: position {r['position']} differs"

    def _cursors(self) -> Iterator[str]:
        content, names = small_file(self.path / "cursors.jsonl", 1 << 40), set[str]()
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
            counting = [place for place in whole if place["appended"] <= self.stored]
            place = max(counting, key=lambda place: int(place["move"]), default=None)
            if place and place["tip"] <= self.stored:
                there = {r["position"]: r["crc"] for _, r in self.lines() if r and r.get("metadata", {}) is not None}
                crc = there.get(place["tip"])
                if place["tip_crc"] == "unknown" or crc not in (None, place["tip_crc"]):
                    yield "cursors.jsonl: of another history"

    def _projections(self) -> Iterator[str]:
        for path in (self.path / "projections").glob("*.json"):
            if path.name.endswith((".latest.json", ".latest-2.json", ".rebuilding.json")):
                continue
            found = loaded(signed(small_file(path, 1 << 30) or b"")) or {}
            whole = isinstance(found.get("projection"), str) and is_int(found.get("position")) and "state" in found
            if not whole or path.name != f"{part(found['projection'])}.json" or found["position"] > self.stored:
                yield f"projections/{path.name}"


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


def key_of(stream_id: str) -> bytes:
    """The key of a stream in the catalog."""
    return blake2b(stream_id.encode(), digest_size=8).digest()


__all__ = ["Any", "RefusedError", "Store", "cursor_line", "is_nothing", "key_of", "meta", "retained", "snapshot"]
