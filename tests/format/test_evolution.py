"""What older and newer programs do with each other's stores, and what every copy keeps of a line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from by_the_page import path_of, record
from conftest import ROOT, Command
from made_lines import line
from store_by_the_page import Store
from test_vectors import made
from verifier_by_the_page import damages

from hangarlog import ANY, FileEventStore, StoreFormatError, UntypedEvent
from hangarlog.filestore.commit_ring import encode_frame
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.record.checked_json import with_crc

STRANGE = [
    line(1, stream_version="0", x__='{"a":[1]}'),
    line(2, stream_version="1").replace(b'"stream_id"', b' "stream_id"'),
    line(3, event_type='"a\\/b"', data='{ "b" :\t1.50 }'),
    line(4, y='"z"', metadata='{"later":null}'),
]


def signed(text: bytes) -> bytes:
    from zlib import crc32

    body = text.removesuffix(b"\n")[: -len(b',"crc":"00000000"}')]
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


LINES = [signed(each) for each in STRANGE] + [line(number) for number in range(5, 21)]
"""Lines as a later version of the same format may write them, and lines of this one."""


def store_of(path: Path, segment_bytes: int = 64 << 20) -> Path:
    text = b"".join(LINES)
    meta = b'{"format":1,"store_id":"s-1","created_at":"","segment_bytes":%d}' % segment_bytes
    made(path, text, **{"hangarlog.json": meta})
    (path / "streams/a").mkdir()
    (path / "streams/a/1.jsonl").write_bytes(text)
    assert all(record(each[:-1]) for each in LINES)
    assert list(verify_folder(path)) == []
    return path


def lines_of(path: Path, log: str = "journal") -> list[bytes]:
    return [each + b"\n" for segment in Store(path).journal for each in segment.text.split(b"\n")[:-1]]


def test_the_command_line_shows_lines_as_they_are(tmp_path: Path, hangarlog: Command) -> None:
    """Unknown keys, blanks and another spelling stay, in all that prints stored lines."""
    path = store_of(tmp_path / "s")
    for arguments in (("read", path, "--raw"), ("read", path, "a:1", "--raw"), ("tail", path, "-n", "100")):
        done = hangarlog(*map(str, arguments))
        assert (done.returncode, done.stdout) == (0, b"".join(LINES))
    assert hangarlog("export", str(path), str(tmp_path / "all.jsonl")).returncode == 0
    assert (tmp_path / "all.jsonl").read_bytes() == b"".join(LINES)


def test_every_copy_keeps_the_bytes_of_lines(tmp_path: Path) -> None:
    """A backup, a repair, rolls, a compaction, a compression, an archive and its way back."""
    path = store_of(tmp_path / "s", 1000)
    backup(path, tmp_path / "backup")
    assert lines_of(tmp_path / "backup") == LINES
    damaged = shutil.copytree(path, tmp_path / "damaged")
    (damaged / "streams/a/1.jsonl").write_bytes(b"".join(LINES[::2]))
    (damaged / "journal.jsonl").write_bytes(b"".join([*LINES[:2], b"hello\n", *LINES[3:]]))
    assert list(repair(damaged))
    assert lines_of(damaged) == LINES
    with FileEventStore.untyped(path, durability="relaxed") as store:
        for number in range(20):
            store.append("a:1", [UntypedEvent("Added", {"number": number})], ANY)
        store.truncate_stream("a:1", 3)
        store.compress(seal=True)
        assert [*(path / "streams/a").glob("1.*.zst")]
        store.append("b", [UntypedEvent("Added", {})], -1)
    assert lines_of(path)[: len(LINES)] == LINES
    kept = b"".join(segment.text for segment in Store(path).stream("a/1"))
    assert kept.startswith(b"".join(LINES[3:]))
    with FileEventStore.untyped(path, durability="relaxed") as store:
        assert store.archive(tmp_path / "archive", before=30).segments
        assert lines_of(tmp_path / "archive")[: len(LINES)] == LINES
        store.restore_archive(tmp_path / "archive")
        assert lines_of(path)[: len(LINES)] == LINES
        assert list(verify(store)) == []


def test_a_store_of_a_later_format_is_refused(tmp_path: Path) -> None:
    meta = b'{"format":2,"store_id":"s-1","created_at":"","segment_bytes":1000}'
    path = made(tmp_path / "s", b"".join(LINES), **{"hangarlog.json": meta})
    for opened in (lambda: FileEventStore(path), lambda: [*verify_folder(path)]):
        with pytest.raises(StoreFormatError, match="upgrade hangarlog"):
            opened()
    assert {file.name for file in path.iterdir()} == {"hangarlog.json", "journal.jsonl", "locks", "streams"}


def test_a_later_beginning_and_a_later_ring_are_refused(tmp_path: Path) -> None:
    later = with_crc({"retained": 2, "store_id": "s-1", "first_position": 1})
    with pytest.raises(StoreFormatError, match="upgrade hangarlog"):
        FileEventStore(made(tmp_path / "s", **{"retained.json": later}))
    frame = encode_frame(b"s-1", 0, 1, 1, line(1)).replace(b'"ring":1', b'"ring":2')
    head, _, rest = frame.partition(b',"crc":"')
    from zlib import crc32

    frame = b'%b,"crc":"%08x%b' % (head, crc32(line(1), crc32(head)), rest[8:])
    with pytest.raises(StoreFormatError, match="newer version"):
        FileEventStore(made(tmp_path / "t", ring=frame.ljust(1 << 20, b"\0")))


@pytest.mark.parametrize("name", ["checkpoint.json", "journal.index", "journal.times", "journal.sealed.times"])
def test_caches_of_a_later_format_are_passed_over(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s"
    with FileEventStore.untyped(path, durability="relaxed", segment_bytes=200_000) as store:
        for _ in range(3):
            store.append("a:1", [UntypedEvent("Added", {"text": "x" * 50, "number": n}) for n in range(500)], ANY)
        store._write_session.checkpointing.make()
        assert not any(store.envelopes(until="2020-01-01T00:00:00Z"))
    later: Any = {"format": 2, "position": 1 << 40, "first": 1, "end": 5, "tail": "", "earliest": "", "latest": ""}
    later |= {
        "store": json.loads((path / "hangarlog.json").read_bytes())["store_id"],
        "mark": 1,
        "blocks": [],
        "sealed": [],
    }
    text = b"HLINDEX3" + bytes(80) if name.endswith(".index") else with_crc(later)
    (path / name).write_bytes(text)
    for base in ("journal.00000000000000000001", "journal"):
        if name == "journal.index" and (path / f"{base}.index").exists():
            (path / f"{base}.index").write_bytes(text)
    assert list(verify_folder(path)) == []
    assert damages(path) == []
    with FileEventStore.untyped(path, durability="relaxed") as store:
        assert store.get_event_count() == len(list(store.records())) == 1500
        assert not any(store.envelopes(until="2020-01-01T00:00:00Z"))
        assert store.append("a:1", [UntypedEvent("Added", {"number": n}) for n in range(900)], ANY)
        assert list(verify(store)) == []


OTHER = """
import sys
import hangarlog.filestore.shared_state as state
state._MAGIC = 0x36_45_54_41_54_53_4C_48  # "HLSTATE6"
from hangarlog import *
with FileEventStore.untyped(sys.argv[1], durability="relaxed") as store:
    for line in sys.stdin:
        print(int(store.append("b", [UntypedEvent("Added", {})], ANY)), flush=True)
"""


def test_two_versions_with_another_state_lose_nothing_side_by_side(tmp_path: Path) -> None:
    """Each takes the other's words for none, and begins a session, which the other one follows."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path, durability="relaxed") as store:
        store.append("b", [UntypedEvent("Added", {})], -1)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [sys.executable, "-c", OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        ) as other:
            assert other.stdin
            assert other.stdout
            for number in range(1, 9, 2):
                other.stdin.write(b"\n")
                other.stdin.flush()
                assert int(other.stdout.readline()) == number
                assert int(store.append("b", [UntypedEvent("Added", {})], ANY)) == number + 1
            other.stdin.close()
    assert list(verify_folder(path)) == []
    assert Store(path).committed == 9


@pytest.mark.parametrize("log", ["journal", "streams/b"])
def test_a_copy_of_a_store_within_a_roll_is_as_whole_as_the_store(tmp_path: Path, log: str) -> None:
    """In the store the two names are one file, in a copy they are two with the same text."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path, durability="relaxed") as store:
        store.append("b", [UntypedEvent("Added", {"number": number}) for number in range(3)], -1)
    first = 1 if log == "journal" else 0
    os.link(path / f"{log}.jsonl", path / f"{log}.{first:020d}.jsonl")
    (path / f"{log}.jsonl.new").touch()
    copy = shutil.copytree(path, tmp_path / "copy")
    for each in (path, copy):
        assert list(verify_folder(each)) == damages(each) == []
        with FileEventStore.untyped(each) as store:
            assert store.append("b", [UntypedEvent("Added", {})], 2) == 3
            assert list(verify(store)) == []


def test_a_sealed_segment_has_no_torn_tail(tmp_path: Path) -> None:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed", segment_bytes=500) as store:
        for number in range(9):
            store.append("b", [UntypedEvent("Added", {"number": number})], ANY)
    sealed = max((tmp_path / "s/streams").glob("b.0*.jsonl"))
    sealed.write_bytes(sealed.read_bytes() + b"\n")
    assert [damage.segment for damage in verify_folder(tmp_path / "s")] == [sealed.name]
    assert damages(tmp_path / "s")


def test_names_that_the_page_reserves_are_ignored(tmp_path: Path) -> None:
    path = store_of(tmp_path / "s")
    for name in (
        "journal.jsonl.damaged",
        "journal.jsonl.erased",
        "later.json",
        "journal.lock",
        "streams/a/1.jsonl.rebuilt",
    ):
        (path / name).write_bytes(b"hello\n")
    for name in ("streams/A b.jsonl", "streams/a/1.5.jsonl", "streams/a/deep/x.jsonl", "snapshots/a/deep/x.json"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"hello\n")
    assert list(verify_folder(path)) == damages(path) == []
    with FileEventStore.untyped(path) as store:
        assert store.list_streams() == ["a:1"]
        assert store.get_event_count() == len(LINES)
    assert path_of("a:1") == "a/1"
