"""Single statements of the pages: limits, blanks by code point, escapes, kept stores."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec
import pytest
from by_the_page import is_stream_id, string
from conftest import ROOT
from store_by_the_page import Store
from test_format_pages import BINARY, FORMAT
from test_golden import GOLDEN
from verifier_by_the_page import damages
from writer_by_the_page import append

from hangarlog import ANY, CorruptionWarning, FileEventStore, RetentionPolicy, UntypedEvent
from hangarlog.eventstore.cursor import MAX_NAME_BYTES
from hangarlog.eventstore.stream_id import MAX_STREAM_ID_BYTES, why_not_an_id
from hangarlog.filestore.commit_ring import MAX_FRAME_BYTES, RING_BYTES
from hangarlog.filestore.cursor_file import MAX_CURSORS
from hangarlog.filestore.folder import MAX_SEGMENT_BYTES
from hangarlog.filestore.projection_files import MAX_STATE_BYTES
from hangarlog.filestore.snapshot_files import MAX_SNAPSHOT_BYTES
from hangarlog.log import compressed_text
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.record.batch import MAX_BATCH_BYTES
from hangarlog.record.envelope import MAX_NUMBER
from hangarlog.record.line import MAX_LINE_BYTES, MIN_LINE_BYTES
from hangarlog.record.nesting import MAX_NESTING
from hangarlog.system.filesystem import SMALL_FILE_BYTES


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("2^53 - 1 (9,007,199,254,740,991)", MAX_NUMBER == 9_007_199_254_740_991),
        ("1 to 1,024 bytes of UTF-8", MAX_STREAM_ID_BYTES == 1024),
        ("1 to 100 bytes of UTF-8", MAX_NAME_BYTES == 100),
        ("more than 64 bytes, at most 256 MiB (268,435,456)", (MIN_LINE_BYTES, MAX_LINE_BYTES) == (64, 268_435_456)),
        ("1 GiB (1,073,741,824 bytes)", MAX_BATCH_BYTES == 1_073_741_824),
        ("128 objects and arrays", MAX_NESTING == 128),
        ("4,300 digits", sys.int_info.default_max_str_digits == 4300),
        ("1 to 2^31; the text of a segment", MAX_SEGMENT_BYTES == 1 << 31),
        ("`backup.json` | 64 KiB", SMALL_FILE_BYTES == 64 << 10),
        ("a snapshot's file | 128 MiB", MAX_SNAPSHOT_BYTES == 128 << 20),
        ("16,384 cursors", MAX_CURSORS == 16_384),
        ("a projection's file | 1 GiB", MAX_STATE_BYTES == 1 << 30),
        ("320 MiB (335,544,320 bytes)", compressed_text._MAX_FRAME_BYTES == 335_544_320),
        ("1,048,576 bytes, 4,096 bytes", RING_BYTES == 1_048_576),
        ("Writers: at most 65,536", MAX_FRAME_BYTES == 65_536),
    ],
)
def test_the_limits_are_those_of_the_library(said: str, value: bool) -> None:
    assert said in FORMAT.read_text() + BINARY.read_text()
    assert value


def test_blanks_and_control_characters_are_those_of_the_page() -> None:
    """Each character alone, within an id, and at its beginning."""
    for code in (*range(0x3100), *range(0x3100, sys.maxunicode, 97)):
        character = chr(code)
        assert is_stream_id(character) is (why_not_an_id(character) is None), hex(code)
    for code in (*range(0x3100), 0xD800, 0xFEFF, 0x1F600):
        for text in (f"a{chr(code)}b", f"{chr(code)}a", f"{chr(code)}:/a", f" {chr(code)}"):
            assert is_stream_id(text) is (why_not_an_id(text) is None), text


def test_strings_have_the_escapes_of_the_page() -> None:
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000)]))
    assert string(text) == msgspec.json.encode(text)


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_kept_stores_of_every_version_are_read_checked_and_appended_to(tmp_path: Path, name: str) -> None:
    """By the library, and by what was made from the page."""
    path = shutil.copytree(GOLDEN / name, tmp_path / "s")
    (path / "locks").mkdir(exist_ok=True)
    shown, committed = Store(path).shown(), Store(path).committed
    assert damages(path) == list(verify_folder(path)) == []
    assert len(shown) > 30
    append(path, [("new:1", [("Added", b"{}"), ("Added", b"{}")])])
    with FileEventStore.untyped(path, durability="relaxed") as store:
        assert store.recovered
        assert store.recovered.damage == []
        assert store.last_position == committed + 2
        assert [record.position for record in store.records()][: len(shown)] == [
            msgspec.json.decode(line)["position"] for line in shown
        ]
        assert store.append("new:1", [UntypedEvent("Added", {})], ANY) == 2
        assert list(verify(store)) == []


def test_the_vectors_are_named_on_the_page() -> None:
    vectors = msgspec.json.decode((ROOT / "docs/format-vectors.json").read_bytes())
    page = FORMAT.read_text().partition("## Test vectors")[2]
    assert all(f"`{key}`" in page for key in vectors)


def test_what_a_drop_or_a_compaction_has_left_is_ignored(tmp_path: Path) -> None:
    """Segments before `first_position`, and before the one that begins after `compacted_through`."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path, durability="relaxed", segment_bytes=1000) as store:
        for number in range(40):
            store.append("a:1", [UntypedEvent("Added", {"number": number})], ANY)
        before = shutil.copytree(path, tmp_path / "before")
        store.truncate_stream("a:1", 10)
        assert store.retain(RetentionPolicy(max_events=30)).segments
    kept = {file.relative_to(path) for file in path.rglob("*.0*.jsonl")}
    left = {file.relative_to(before) for file in before.rglob("*.0*.jsonl")} - kept
    assert {file.parts[0][:7] for file in left} == {"journal", "streams"}
    shown = Store(path).shown()
    for file in left:
        shutil.copy(before / file, path / file)
    assert list(verify_folder(path)) == damages(path) == []
    assert Store(path).shown() == shown
    assert Store(path).begins > 1


def test_a_stream_may_end_in_zeros_and_in_records_that_the_journal_has_lost(tmp_path: Path) -> None:
    """As a power cut leaves it: no damage, and the next writer cuts both off."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path, durability="relaxed") as store:
        for number in range(5):
            store.append("b", [UntypedEvent("Added", {"number": number})], number - 1)
    lines = (path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    copy = shutil.copytree(path, tmp_path / "copy")
    (copy / "journal.jsonl").write_bytes(b"".join(lines[:2]))
    (copy / "streams/b.jsonl").write_bytes(b"".join([*lines[:2], bytes(len(lines[2]) - 1), b"\n", *lines[3:]]))
    assert list(verify_folder(copy)) == damages(copy) == []
    with pytest.warns(CorruptionWarning, match="put into"):
        store = FileEventStore.untyped(copy)
    with store:
        assert store.append("b", [UntypedEvent("Added", {})], ANY) in (2, 5)
        assert list(verify(store)) == []
