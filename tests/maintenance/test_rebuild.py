"""Whatever is done to the files of a store, a repair ends with one that works and has all that can be proved."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command
from dying import Died, DyingFileSystem
from rebuilding import FILESYSTEM, SERIALIZER, event, lines_of, opened, works

from hangarlog import ANY, CorruptionError, FileEventStore, LockTimeoutError, StoreFormatError, StoreOpenError
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.recovery.rebuild import rebuild
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.maintenance.repair import Lost, PutAside, Repaired, repair
from hangarlog.record.line import decode_record, encode_records
from hangarlog.system.file_lock import held
from hangarlog.system.filesystem import FileSystem

pytestmark = pytest.mark.usefixtures("ring_at_once")

# Copies made file by file


@pytest.mark.parametrize("streams_first", [True, False])
@pytest.mark.parametrize("between", [0, 1, 5, 30, 200])
def test_a_copy_that_spans_rolls_has_what_was_committed_before_it_began(
    tmp_path: Path, hangarlog: Command, streams_first: bool, between: int
) -> None:
    """`cp` lists a folder, and comes to its files later, when the journal was rolled meanwhile."""
    path, copy = tmp_path / "s", tmp_path / "copy"
    with opened(path, 4096) as store:
        for number in range(30):
            store.append(f"s:{number}", [event(number, 100)], ANY)
        listing = [file for file in path.rglob("*") if file.is_file()]
        listing.sort(key=lambda file: file.is_relative_to(path / "streams"), reverse=streams_first)
        for number, file in enumerate(listing):
            if number == len(listing) // 2:
                for more in range(between):
                    store.append(f"s:{more % 40}", [event(more, 100)], ANY)
            there = copy / file.relative_to(path)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, there)
        lines = lines_of(path)
    done = hangarlog("repair", copy)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == (1 if any(result.get("result") in ("lost", "put aside") for result in results) else 0)
    kept = lines_of(copy)
    assert kept.keys() == set(range(1, len(kept) + 1))
    assert len(kept) >= 30
    assert all(lines[position] == line for position, line in kept.items())
    if (copy / "put-aside.jsonl").exists():
        aside = (copy / "put-aside.jsonl").read_bytes().splitlines()
        assert all(lines[decode_record(line).position] == line for line in aside)
    works(copy)


# What is given twice


def rewritten(line: bytes, **changes: int) -> bytes:
    record = decode_record(line)
    (line,), _ = encode_records(
        changes.get("position", record.position),
        record.stream_id,
        changes.get("stream_version", record.stream_version),
        [(record.event_type, record.event_id + "x" * bool(changes.get("other")), bytes(record.data), None, None)],
        record.recorded_at.encode(),
    )
    return line[:-1]


def test_a_version_that_was_given_twice_is_settled_and_nothing_is_lost(tmp_path: Path) -> None:
    """A stream's file was emptied, and appended to: the later records get the versions that come next."""
    path = tmp_path / "s"
    with opened(path) as store:
        for number in range(6):
            store.append("a:1", [event(number)], ANY)
    lines = (path / "journal.jsonl").read_bytes().splitlines()
    lines += [
        rewritten(lines[0], position=7, stream_version=0, other=1),
        rewritten(lines[1], position=8, stream_version=1, other=1),
    ]
    (path / "journal.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    (path / "streams/a/1.jsonl").write_bytes(b"".join(line + b"\n" for line in lines[6:]))
    results = list(repair(path))
    assert [(r.first, r.last, r.committed) for r in results if isinstance(r, PutAside)] == [(7, 8, False)]
    assert not [result for result in results if isinstance(result, (Lost, CorruptionError))]
    with opened(path) as store:
        assert [r.event_id for r in store.records("a:1")] == [decode_record(line).event_id for line in lines]
        assert store.get_stream_version("a:1") == 7
    works(path)
    assert list(repair(path)) == []


def test_of_two_histories_the_one_that_the_streams_confirm_is_kept(tmp_path: Path) -> None:
    """An older store was put back and gone on with; a sealed segment of the other history came between."""
    path, other = tmp_path / "s", tmp_path / "other"
    with opened(path, 2000) as store:
        for number in range(5):
            store.append("a:1", [event(number)], ANY)
    shutil.copytree(path, other)
    for folder, count in ((path, 12), (other, 20)):
        with opened(folder) as store:
            for number in range(count):
                store.append("a:1", [event(number)], ANY)
    lines = lines_of(path)
    for file in other.glob("journal.0*.jsonl"):
        if not (path / file.name).exists():
            shutil.copy(file, path)
    results = list(repair(path))
    kept = lines_of(path)
    assert {position: kept[position] for position in lines} == lines
    assert not [result for result in results if isinstance(result, CorruptionError)]
    works(path)


def test_an_old_live_segment_beside_newer_sealed_ones_costs_what_it_replaced_only(tmp_path: Path) -> None:
    """The streams have what was in the newer one; compacted or not, nothing is lost."""
    path = tmp_path / "s"
    with opened(path, 1500) as store:
        store.append("a:1", [event(0)], ANY)
        old = (path / "journal.jsonl").read_bytes()
        for number in range(1, 40):
            store.append(f"a:{number % 3}", [event(number)], ANY)
    lines = lines_of(path)
    (path / "journal.jsonl").write_bytes(old)
    (path / "state").unlink()
    results = list(repair(path))
    assert [Path(result.path).name for result in results if isinstance(result, Repaired)] == ["journal.jsonl"]
    assert lines_of(path) == lines
    assert (path / "journal.00000000000000000001.jsonl").read_bytes().startswith(old)
    works(path)


# What is not damaged in the journal


def test_a_store_whose_hangarlog_json_is_gone_gets_another_with_the_rings_store_id(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FileEventStore(path, serializer=SERIALIZER) as store:
        for number in range(3):
            store.append("a:1", [event(number)], ANY)
        store_id = store.meta.store_id
    for content in (None, b"", b"{}", b'{"format":true}'):
        (path / "hangarlog.json").unlink()
        if content is not None:
            (path / "hangarlog.json").write_bytes(content)
        with pytest.raises(StoreOpenError):
            opened(path)
        (result,) = repair(path)
        assert isinstance(result, Repaired)
        assert result.path == str(path / "hangarlog.json")
        with opened(path) as store:
            assert store.meta.store_id == store_id
            assert store.get_event_count() == 3
    (path / "hangarlog.json").write_bytes(b'{"format":2}')
    with pytest.raises(StoreFormatError, match="upgrade"):
        list(repair(path))


def test_what_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/journal.jsonl").write_text("my journal\n")
    for path in (tmp_path / "none", tmp_path / "notes"):
        with pytest.raises(StoreOpenError):
            list(repair(path))
    assert [file.name for file in tmp_path.rglob("*")] == ["notes", "journal.jsonl"]


def test_a_wrong_ring_and_a_checkpoint_of_another_time_are_put_away(tmp_path: Path) -> None:
    """What the ring has of another history is not joined to this one."""
    path, older = tmp_path / "s", tmp_path / "older"
    with FileEventStore(path, serializer=SERIALIZER, segment_bytes=1000) as store:
        store.append("a:1", [event(0)], ANY)
    shutil.copytree(path, older)
    with opened(older) as store:
        store.append("b:1", [event(0)], ANY, durability="relaxed")
    with FileEventStore(path, serializer=SERIALIZER) as store:
        for number in range(1, 20):
            store.append("a:1", [event(number)], ANY)
    for name in ("ring", "checkpoint.json"):
        shutil.copy(path / name, older)
    (older / "state").unlink()
    results = list(repair(older))
    assert {Path(r.path).name for r in results if isinstance(r, Repaired)} == {"ring", "checkpoint.json"}
    assert len(lines_of(older)) == 2
    works(older)
    (older / "ring").unlink(missing_ok=True)
    (older / "ring").mkdir()
    assert [Path(r.path).name for r in repair(older) if isinstance(r, Repaired)] == ["ring"]
    works(older)


def test_snapshots_that_are_damaged_or_of_another_time_are_put_away_and_the_stream_is_whole(tmp_path: Path) -> None:
    """The journal has what was compacted."""
    path = tmp_path / "s"
    with opened(path) as store:
        for stream_id in ("a:1", "a:2", "a:3"):
            for number in range(6):
                store.append(stream_id, [event(number)], ANY)
            store.save_snapshot(stream_id, 3, {})
            store.compact_stream(stream_id)
    snapshots = SnapshotFiles(FileSystem(), str(path / "snapshots"))
    (path / "snapshots/a/1.json").write_bytes(b"{")
    snapshots.save(Snapshot("a:2", version=9, event_id="e", compacted_through=9))
    results = list(repair(path))
    assert {Path(result.path).name for result in results if isinstance(result, Repaired)} == {
        "1.json", "2.json", "1.jsonl", "2.jsonl",
    }  # fmt: skip
    with opened(path) as store:
        assert [len(store.read_stream(f"a:{n}")) for n in (1, 2, 3)] == [6, 6, 2]
        assert store.load_snapshot("a:2") is None
        assert store.load_snapshot("a:3")
    works(path)
    assert list(repair(path)) == []


def test_an_imported_stream_whose_snapshot_is_gone_keeps_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with opened(path) as store:
        store.begin_stream("a:1", 40)
        (path / "streams").mkdir(exist_ok=True)
    lines = encode_records(1, "a:1", 40, [("Noted", None, b"{}", None, None)], b"2026-01-01T00:00:00.000000Z")[0]
    (path / "streams/a").mkdir()
    for name in ("journal.jsonl", "streams/a/1.jsonl"):
        (path / name).write_bytes(lines[0])
    (path / "state").unlink()
    works(path)
    shutil.rmtree(path / "snapshots")
    assert [Path(result.path).name for result in repair(path) if isinstance(result, Repaired)] == ["1.json"]
    with opened(path) as store:
        assert next(store.records("a:1")).stream_version == 40
    works(path)


def test_hard_linked_copies_are_repaired_and_their_originals_left_alone(tmp_path: Path) -> None:
    """As `cp -al` and `rsync --link-dest` make them."""
    path, copy = tmp_path / "s", tmp_path / "copy"
    with opened(path, 1500) as store:
        for number in range(40):
            store.append(f"a:{number % 3}", [event(number)], ANY)
    shutil.copytree(path, copy, copy_function=os.link)
    before = {file: file.read_bytes() for file in path.rglob("*.jsonl")}
    results = list(repair(copy))
    assert {result.source for result in results if isinstance(result, Repaired)} == {
        "itself: another folder has it too"
    }
    works(copy)
    assert {file: file.read_bytes() for file in path.rglob("*.jsonl")} == before
    assert list(repair(copy)) == []
    list(repair(path))
    works(path)


def test_a_repair_waits_for_the_lock_no_longer_than_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s"
    opened(path).close()
    with held(Folder(FileSystem(), str(path)).write_lock()), pytest.raises(LockTimeoutError):
        list(repair(path, lock_timeout=0.01))
    assert list(repair(path, lock_timeout=0.01)) == []


def test_earlier_damaged_files_are_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with opened(path) as store:
        for number in range(6):
            store.append("a:1", [event(number)], ANY)
    whole = (path / "journal.jsonl").read_bytes()
    for number in range(3):
        damaged = whole[: 50 + number] + b"#" + whole[51 + number :]
        (path / "journal.jsonl").write_bytes(damaged)
        (result,) = repair(path)
        assert isinstance(result, Repaired)
        assert Path(result.kept).name == "journal.jsonl.damaged" + ("" if not number else f".{number + 1}")
        assert Path(result.kept).read_bytes() == damaged
        assert (path / "journal.jsonl").read_bytes() == whole


def test_one_event_that_is_lost_in_both_copies_costs_nothing_else(tmp_path: Path) -> None:
    """Its place stays damaged; what comes after it stays, and can be appended to; it is said once more each time."""
    path = tmp_path / "s"
    with opened(path) as store:
        for number in range(20):
            store.append("a:1", [event(number)], ANY, durability="relaxed")
    for name in ("journal.jsonl", "streams/a/1.jsonl"):
        file = path / name
        file.write_bytes(file.read_bytes().replace(b'"number":7,', b'"number":8,'))
    for _ in range(2):
        results = list(repair(path))
        assert [result for result in results if isinstance(result, Lost)] == [Lost(8, 8), Lost(7, 7, "a:1")]
        with opened(path) as store:
            version = store.get_stream_version("a:1")
            assert store.append("a:1", [event(0)], version) == version + 1
            assert len(store.read_stream("a:1", 8)) == version + 1 - 7
            with pytest.raises(CorruptionError):
                store.read_stream("a:1")
        (path / "state").unlink()


def test_a_segment_and_a_stream_that_are_gone_cost_what_only_they_had(tmp_path: Path) -> None:
    """All other streams go on over the gap; nothing is put aside."""
    path = tmp_path / "s"
    with opened(path, 2000) as store:
        for number in range(60):
            store.append(f"a:{number % 5}", [event(number)], ANY, durability="relaxed")
    lines = lines_of(path)
    sealed = sorted(path.glob("journal.0*.jsonl"))[2]
    positions = [decode_record(line).position for line in sealed.read_bytes().splitlines()]
    only = {position for position in positions if position % 5 == 3}
    for file in (sealed, *path.glob("streams/a/2.*jsonl")):
        file.unlink()
    results = list(repair(path))
    lost = {p for r in results if isinstance(r, Lost) and not r.stream_id for p in range(r.first, r.last + 1)}
    assert lost == only
    assert set(lines_of(path)) == set(lines) - only
    assert not [result for result in results if isinstance(result, PutAside)]
    with opened(path) as store:
        assert [len(store.read_stream(f"a:{n}")) for n in (0, 1, 3, 4)] == [12] * 4
        assert store.append("a:2", [event(0)], 11) == 12


def test_a_repair_may_die_anywhere_and_nothing_is_lost(tmp_path: Path) -> None:
    """Also where lines have to go from one file into another."""
    path = tmp_path / "s"
    with opened(path, 1500) as store:
        for number in range(30):
            store.append("a:1", [event(number)], ANY)
        store.save_snapshot("a:1", 28, {})
        store.compact_stream("a:1")  # The journal is the only copy.
    lines = lines_of(path)
    sealed = sorted(path.glob("journal.0*.jsonl"))
    parts = [file.read_bytes() for file in sealed]
    for file, text in zip(sealed, parts[1:] + parts[:1], strict=True):
        file.write_bytes(text)
    for at in range(1000):
        again = shutil.copytree(path, tmp_path / "again")
        try:
            list(repair(again, filesystem=DyingFileSystem(at, 0.5)))
        except Died:
            list(repair(again))
        else:
            assert at > 20
            return
        assert lines_of(again) == lines
        shutil.rmtree(again)


def link_away(path: Path) -> None:
    """Move what is at `path` elsewhere, and leave a symbolic link."""
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


IN_PLACE: dict[str, Callable[[Path], None]] = {
    "a link to a category": lambda path: link_away(path / "streams/a"),
    "a link to a stream": lambda path: link_away(path / "streams/a/1.jsonl"),
    "a link to the journal": lambda path: link_away(path / "journal.jsonl"),
    "a file for a category": lambda path: (shutil.rmtree(path / "streams/a"), (path / "streams/a").write_text("x"))[0],
    "a folder for the journal": lambda path: ((path / "journal.jsonl").unlink(), (path / "journal.jsonl").mkdir())[0],
    "no streams": lambda path: shutil.rmtree(path / "streams"),
    "no live stream": lambda path: (path / "streams/b/1.jsonl").unlink(),
    "a torn stream": lambda path: (path / "streams/a/1.jsonl").write_bytes((path / "journal.jsonl").read_bytes()[:50]),
    "another name": lambda path: os.link(path / "journal.jsonl", path.parent / "another"),
}


@pytest.mark.parametrize("kind", IN_PLACE)
def test_an_error_that_names_repair_is_mended_by_it(tmp_path: Path, kind: str) -> None:
    """Whatever refuses to read or to append says so; after a repair nothing does."""
    path = tmp_path / "s"
    with opened(path, 1500) as store:
        for number in range(20):
            store.append_many([("b:1", [event(number)], ANY), *[("a:1", [event(number)], ANY)] * (number < 2)])
    lines = lines_of(path)
    IN_PLACE[kind](path)
    results = list(repair(path))
    assert results
    assert all(isinstance(result, Repaired) for result in results)
    assert lines_of(path) == lines
    works(path)
    assert list(repair(path)) == []


# What a power cut tore


def torn(path: Path, size: int, *, after: bool = False) -> dict[int, bytes]:
    """Make a store of five records, then a batch of two that a power cut tore, as only the journal has it."""
    with opened(path) as store:
        for number in range(5):
            store.append("s:1", [event(number, 100)], ANY)
    ends = {file: file.stat().st_size for file in path.rglob("*.jsonl")}
    with opened(path) as store:
        store.append_many([("s:1", [event(5, 2_000)], ANY), ("s:2", [event(6)] * size, ANY)])
        if after:
            store.append("s:2", [event(7)], ANY)
    (path / "streams/s/2.jsonl").unlink()
    os.truncate(path / "streams/s/1.jsonl", ends[path / "streams/s/1.jsonl"])
    with (path / "journal.jsonl").open("r+b") as file:
        file.seek(ends[path / "journal.jsonl"] + 600)
        file.write(bytes(1_024))
    return lines_of(path)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("bridge", [True, False])
def test_a_torn_batch_at_the_end_is_taken_back_as_a_whole(tmp_path: Path, size: int, *, bridge: bool) -> None:
    """A rebuild kept the whole lines of a batch whose first line a power cut had torn, and called that line damaged."""
    path = tmp_path / "s"
    whole = torn(path, size)
    assert whole.keys() == {1, 2, 3, 4, 5, *range(7, 7 + size)}, "blind: more is torn"
    rebuilt = rebuild(Folder(FILESYSTEM, path), [], bridge=bridge)
    assert (rebuilt.last, rebuilt.put_aside, lines_of(path).keys()) == (5, size, {1, 2, 3, 4, 5})
    works(path)


def test_a_torn_batch_counts_if_a_later_one_follows_it(tmp_path: Path) -> None:
    """A lost sector looks the same. A repair keeps what was committed after it."""
    path = tmp_path / "s"
    torn(path, 1, after=True)
    rebuilt = rebuild(Folder(FILESYSTEM, path), [])
    assert (rebuilt.last, [(lost.first, lost.last) for lost in rebuilt.lost]) == (8, [(6, 6)])
    assert lines_of(path).keys() == {1, 2, 3, 4, 5, 7, 8}


def test_a_crash_does_not_prove_what_follows_a_torn_batch(tmp_path: Path) -> None:
    """Neither was synced, so neither was acknowledged as durable."""
    path = tmp_path / "s"
    torn(path, 1, after=True)
    rebuilt = rebuild(Folder(FILESYSTEM, path), [], bridge=False)
    assert (rebuilt.last, rebuilt.put_aside) == (5, 2)
    works(path)
