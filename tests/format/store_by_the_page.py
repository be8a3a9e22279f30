"""What a reader and a verifier see of a whole store that nobody has open, by docs/format.md alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from by_the_page import (
    Json,
    Segment,
    counts,
    erased,
    frames,
    id_at,
    is_int,
    is_torn,
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
        found = strict_json(text or b"", LEVELS, twice=True)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


LEVELS = 501  # Of other files than lines, with the object itself.
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


def is_gone(found: Json) -> bool:
    """True for what an erased line says."""
    return found.get("metadata", {}) is None


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
        self.committed = self.stored = reached = latest = start
        self.cause, highest, room, damaged, crc = None, 0, 0, "", ""
        batch: dict[int, Json] = {}
        behind: dict[int, Json] = {}
        for (segment, line, ended), whole in self.lines():
            found = whole or (counts(line) if ended else None)
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
            follows = reached < position <= reached + 1 + (room if damaged else 0)
            (batch if follows else behind)[position] = found
            reached = position if follows else reached
            if follows and found.get("batch_end", 0) in (0, position):
                self.committed = self.stored = position
                crc, room, damaged, batch = found["crc"], 0, "", {}
            elif position < latest:
                damaged = damaged or "records out of order"
            latest = max(latest, position)
        self.cause = damaged or None
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
        skipped: set[str] = set()
        for _, _, header, text in sorted(self.frames, key=lambda each: int(each[2]["first"])):
            first = header["first"]
            before = json.loads(joined[first - 1])["crc"] if first - 1 in joined else ""
            before = before or (crc if first == self.stored + 1 else "")
            after = header.get("after", "")
            if after in skipped or (after and before and before != after):
                skipped |= {line[-10:-2].decode("latin-1") for line in text.split(b"\n")}
                continue
            for position, line in enumerate(text.split(b"\n")[:-1], first):
                found = record(line)
                if found and found["position"] == position > self.stored:
                    joined[position] = line
        known = batch | {position: json.loads(line) for position, line in joined.items()}
        known |= behind
        position = self.committed
        while (position := position + 1) in known:
            if known[position].get("batch_end", 0) in (0, position):
                self.committed = position
        if known and max(known) > position - 1:
            self.cause = self.cause or "records that do not connect"
        self.joined = joined
        self.ring_lines = {p: line for p, line in joined.items() if p <= self.committed}

    # Reading

    def shown(self) -> list[bytes]:
        """The lines of all events, from whichever copy is whole."""
        found = {r["position"]: line for (_, line, _), r in self.lines() if r and not is_gone(r)}
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
        for _, r in self.lines():
            if r and r["position"] <= self.stored:
                found.setdefault(path_of(r["stream_id"]), []).append(r)
        return found

    def stream(self, path: str) -> list[Segment]:
        folder, name = os.path.split(path)
        found = segments(self.path / "streams" / folder, name, "stream_version")[0]
        through = self.hidden(path) + 1
        numbers = [each.number for each in found]
        return [each for each in found if each.number is None or through not in numbers or each.number >= through]

    def beyond(self, path: str) -> list[Segment]:
        """The sealed segments of a stream that do not belong before its active one."""
        folder, name = os.path.split(path)
        active = self.path / "streams" / folder / f"{name}.jsonl"
        found, others = segments(active.parent, name, "stream_version")
        if not active.is_file():
            return [] if path in self.of_journal or active.with_name(f"{active.name}.new").exists() else found
        return [each for each in others if each.path.read_bytes() != active.read_bytes()]

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

    def last_in_file(self, path: str) -> int:
        lines = [line for segment in self.stream(path) for line, ended in segment.parts() if ended]
        found = [r["stream_version"] for line in lines if (r := record(line) or erased(line, journal=False))]
        return max(found, default=-1)
