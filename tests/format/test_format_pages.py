"""The pages of the format are true: their examples run, and say what the library reads and writes."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from hangarlog import ANY, EncodedEvent, Envelope, FileEventStore, RetentionPolicy, UntypedEvent
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.filestore.file_names import stream_id_of, stream_path
from hangarlog.filestore.folder import Folder
from hangarlog.log.index import extend
from hangarlog.log.zstd import zstd
from hangarlog.projections import Projection
from hangarlog.record.line import decode_record, encode_envelope
from hangarlog.system.filesystem import FileSystem

FORMAT, BINARY = ROOT / "docs" / "format.md", ROOT / "docs" / "format-binary.md"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def example_lines() -> list[bytes]:
    (block,) = blocks(FORMAT, "jsonl")
    return block.encode().splitlines()


def test_the_format_pages_lines_are_what_the_library_reads_and_writes() -> None:
    """Decoded and encoded again, they are the same bytes."""
    for line in example_lines():
        assert encode_envelope(decode_record(line)) == line + b"\n"


def as_event(r: Envelope) -> EncodedEvent:
    return EncodedEvent(r.event_type, bytes(r.data), r.event_id, r.metadata_json, r.recorded_at)


def test_the_format_pages_lines_come_out_of_a_store(tmp_path: Path) -> None:
    """Appended again in the same commits, they are the same journal and the same streams."""
    records = [decode_record(line) for line in example_lines()]
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        for commit in (records[:1], records[1:3], records[3:]):
            store.append_many([(r.stream_id, [as_event(r)], ANY) for r in commit])
    lines = [line + b"\n" for line in example_lines()]
    assert (tmp_path / "s/journal.jsonl").read_bytes() == b"".join(lines)
    assert (tmp_path / "s/streams/provider/math.jsonl").read_bytes() == lines[0] + lines[1] + lines[3]
    assert (tmp_path / "s/streams/%41udit%20%4Cog.jsonl").read_bytes() == lines[2]


@pytest.mark.usefixtures("ring_at_once")
def test_the_format_pages_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the page's own lines, on an index of them, and on a ring, a state, a catalog, cursors and so on."""
    lines = example_lines()
    index = tmp_path / "journal.index"
    extend(FileSystem(), str(index), 1, b"\n".join(lines) + b"\n", [len(line) + 1 for line in lines], (0, 0))
    names = {"example_lines": lines, "index_path": index, "segment": b"\n".join(lines) + b"\n"}
    with FileEventStore(tmp_path / "ringed") as store:
        for number in range(3):
            store.append("a:1", [UntypedEvent("Added", {"number": number})], number - 1)
        store.cursor("mailer").advance(3)
    names |= {f"{name}_path": tmp_path / "ringed" / name for name in ("ring", "state", "catalog")}
    names |= {"cursors_path": tmp_path / "ringed/cursors.jsonl", "committed": 3}
    with FileEventStore(tmp_path / "projected", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("Added", {"number": number}) for number in range(3)], ANY)
        Projection("balances", lambda state, record: {"events": state.get("events", 0) + 1}).run(store, 0)
    names["projection_path"] = tmp_path / "projected/projections/balances.json"
    monkeypatch.setattr("hangarlog.log.sealed_times._RACY_NS", 0)  # The file is listed as soon as it is there.
    with FileEventStore(tmp_path / "rolled", durability="relaxed", segment_bytes=100_000) as store:
        for _ in range(2):
            store.append("a:1", [UntypedEvent("Added", {"number": number}) for number in range(1000)], ANY)
        assert not any(store.envelopes(until="2026-01-01T00:00:00Z"))
    sealed = tmp_path / "rolled/journal.00000000000000000001.jsonl"
    names |= {"sealed_path": sealed, "times_path": sealed.with_suffix(".times"), "os": os}
    names["sealed_times_path"] = tmp_path / "rolled/journal.sealed.times"
    shutil.copytree(tmp_path / "rolled", tmp_path / "packed")
    with FileEventStore(tmp_path / "packed", durability="relaxed") as store:
        store.compress()
    names |= {"compressed_path": tmp_path / f"packed/{sealed.name}.zst", "zstd": zstd("")}
    names["compressed_text"] = sealed.read_bytes()
    with FileEventStore(tmp_path / "dropped", durability="relaxed", segment_bytes=1000) as store:
        for number in range(50):
            store.append("a:1", [UntypedEvent("Added", {"number": number})], ANY)
        assert store.retain(RetentionPolicy(max_events=20)).segments
    names["retained_path"] = str(tmp_path / "dropped/retained.json")
    with FileEventStore(tmp_path / "known", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("Added", {"number": number}) for number in range(5000)], ANY)
        (record,) = store.records(from_position=122, limit=1)
        assert store.contains(record.event_id)
        names |= {"some_event_id": record.event_id, "its_position": 123, "store_id": store.meta.store_id}
    names["ids_path"] = tmp_path / "known/event-ids"
    programs = blocks(FORMAT, "python") + blocks(BINARY, "python")
    assert len(programs) == 13
    for program in programs:
        exec(program, names)  # noqa: S102 - that is the test


def test_the_format_pages_paths_are_where_streams_go() -> None:
    """The table of stream ids, both ways."""
    rows = re.findall(r"^\| `(.+?)` \| `(\S+)\.jsonl` \|$", FORMAT.read_text(), re.MULTILINE)
    assert len(rows) == 7
    for stream_id, path in rows:
        folder, name = stream_path(check_stream_id(stream_id))
        assert (f"{folder}/{name}" if folder else name) == path
        assert stream_id_of(folder, name) == stream_id


def test_the_format_pages_files_are_those_of_a_store(tmp_path: Path) -> None:
    """Each name in the listing is one that the library uses."""
    folder = Folder(FileSystem(), "mystore")
    listing = FORMAT.read_text()
    caches = (folder.state_path, folder.catalog_path, folder.ids_path, folder.checkpoint_path)
    for path in (
        folder.meta_path,
        folder.journal.retained_path,
        folder.ring_path,
        folder.cursors_path,
        *caches,
        folder.locks_path,
        folder.snapshots_path,
        folder.deleted_path,
        folder.projections_path,
    ):
        assert Path(path).name in listing
    assert Path(folder.journal.sealed_base(1)).name in listing
    assert Path(folder.stream("provider:math").sealed_base(0)).name in listing
