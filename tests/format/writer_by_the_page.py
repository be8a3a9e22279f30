"""A writer to closed stores, written from docs/format.md alone."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from uuid import uuid4

from by_the_page import Segment, erased, is_torn, path_of, record, string, written
from store_by_the_page import Store, is_gone

Share = tuple[str, list[tuple[str, bytes]]]
"""A stream's id, and its events: (type, payload)."""

TIME = b'"2026-11-23T03:01:02.123456Z"'


class CannotAppendError(Exception):
    """The writer must stop."""


def new_store(path: Path) -> None:
    """Make a store in a new folder."""
    (path / "locks").mkdir(parents=True)
    (path / "streams").mkdir()
    (path / "journal.jsonl").touch()
    meta = b'{"format":1,"store_id":"%b","created_at":%b,"segment_bytes":1000}\n' % (str(uuid4()).encode(), TIME)
    (path / "hangarlog.json.new").write_bytes(meta)
    (path / "hangarlog.json.new").rename(path / "hangarlog.json")


def append(path: Path, shares: list[Share]) -> None:
    """Append one batch to a store that nobody has open."""
    store = Store(path)
    if store.cause or store.ring_lines or store.meta.get("archive") or more_was_committed(store):
        raise CannotAppendError(store.cause)
    position, last = store.committed, store.committed + sum(len(events) for _, events in shares)
    first, batches = position + 1, []
    for stream_id, events in shares:
        version = last_version(store, stream_id)
        refuse_damage(store.stream(path_of(stream_id)))
        lines = []
        for event_type, data in events:
            position, version = position + 1, version + 1
            rest = b'"event_type":%b,"event_id":"%b","recorded_at":%b' % (
                string(event_type),
                str(uuid4()).encode(),
                TIME,
            )
            rest += b',"batch_end":%d' % last if last > first else b""
            lines.append(written(position, stream_id, version, rest + b',"data":' + data))
        batches.append((stream_id, lines))
    cut(path / "journal.jsonl", store.journal[-1], "position", store.committed, store)
    write(path / "journal.jsonl", [line for _, lines in batches for line in lines], "position", store)
    for stream_id, lines in batches:
        where = path_of(stream_id)
        file = path / "streams" / f"{where}.jsonl"
        file.parent.mkdir(exist_ok=True)
        segments = store.stream(where)
        if segments and segments[-1].number is None:
            cut(file, segments[-1], "stream_version", store.committed, store)
        write(file, [*lacking(store, where, segments), *lines], "stream_version", store)


def more_was_committed(store: Store) -> bool:
    """True if `state`, or a stream, has a higher position than the journal."""
    file = store.path / "state"
    words = struct.unpack("=13Q", file.read_bytes()[:104].ljust(104, b"\0")) if file.is_file() else (0,) * 13
    if words[0] == 0x3545544154534C48 and max(words[3], words[12]) > store.committed:
        return True
    ends = (store.stream(where)[-1:] for where in store.stream_paths())
    lines = (line for segment, *_ in filter(None, ends) for line, ended in segment.parts() if ended)
    return any(found["position"] > store.committed for found in map(record, lines) if found)


def last_version(store: Store, stream_id: str) -> int:
    where = path_of(stream_id)
    mark = store.snapshots.get(where, {})
    if mark.get("tombstone"):
        raise CannotAppendError("deleted for good")
    versions = [r["stream_version"] for r in store.of_journal.get(where, []) if r["stream_id"] == stream_id]
    return max([*versions, store.hidden(where), store.last_in_file(where)])


def lacking(store: Store, where: str, segments: list[Segment]) -> list[bytes]:
    """The journal's lines that a stream's file does not have at its end."""
    lines = [line for segment in segments for line, ended in segment.parts() if ended]
    found = [
        r["stream_version"]
        for line in lines
        if (r := record(line) or erased(line, journal=False)) and r["position"] <= store.committed
    ]
    last = max(found, default=store.hidden(where))
    return [
        line
        for (_, line, _), r in store.lines()
        if r and path_of(r["stream_id"]) == where and r["stream_version"] > last and not is_gone(r)
    ]


def refuse_damage(segments: list[Segment]) -> None:
    """Stop at a stream that ends in damage."""
    tail: list[bool] = []
    for line, ended in segments[-1].parts() if segments else ():
        found = (record(line) or erased(line, journal=False)) if ended else None
        tail = [] if found else [*tail, is_torn(line, ended=ended)]
    if not all(tail):
        raise CannotAppendError("a stream ends in damage")


def cut(file: Path, active: Segment, key: str, committed: int, store: Store) -> None:
    """Cut a torn tail off an active segment."""
    offset = end = 0
    for line, ended in active.parts():
        offset += len(line) + ended
        found = (record(line) or erased(line, journal=key == "position")) if ended else None
        end = offset if found and found["position"] <= committed else end
    os.truncate(file, end)


def write(file: Path, lines: list[bytes], key: str, store: Store) -> None:
    """Append to a file, which is rolled first if it is full. The page says when to sync."""
    if file.exists() and file.stat().st_size >= store.meta["segment_bytes"]:
        line = file.read_bytes().split(b"\n", 1)[0]
        found = record(line) or erased(line, journal=key == "position") or {}
        name = file.name.removesuffix(".jsonl")
        sealed = file.with_name(f"{name}.{found[key]:020d}.jsonl")
        file.with_name(f"{name}.index").unlink(missing_ok=True)
        file.with_name(f"{file.name}.new").touch()
        os.link(file, sealed)
        file.with_name(f"{file.name}.new").rename(file)
    with file.open("ab") as opened:
        opened.write(b"".join(line + b"\n" for line in lines))
        os.fsync(opened.fileno())
