"""Whatever is done to the files of a store, a repair ends with one that works and has all that can be proved."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command
from dying import Died, DyingFileSystem

from hangarlog import (
    ANY,
    CorruptionError,
    EventSerializer,
    FileEventStore,
    LockTimeoutError,
    StoreFormatError,
    StoreOpenError,
    UntypedEvent,
)
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.maintenance.repair import Lost, PutAside, Repaired, repair
from hangarlog.maintenance.verify import verify
from hangarlog.record.line import decode_record, encode_records, is_record
from hangarlog.system.file_lock import held
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing import Unsynced

FILESYSTEM, SERIALIZER = Unsynced(), EventSerializer(unknown="untyped")
LONG = "n:" + "n" * 210  # Its file's name is cut, so that its id stands only in its lines.


def opened(path: Path, segment_bytes: int = 64 << 20) -> FileEventStore:
    return FileEventStore(path, serializer=SERIALIZER, segment_bytes=segment_bytes, filesystem=FILESYSTEM)


def event(number: int, size: int = 5) -> UntypedEvent:
    return UntypedEvent("Noted", {"number": number, "text": "x" * size})


def lines_of(path: Path) -> dict[int, bytes]:
    """The journal's whole lines by position."""
    lines = b"".join(file.read_bytes() for file in path.glob("journal*.jsonl")).split(b"\n")
    return {decode_record(line).position: line for line in lines if is_record(line)}


def works(path: Path) -> None:
    """It opens, also after a restart, verifies, and takes appends to every stream."""
    for _ in range(2):
        with opened(path) as store:
            assert list(verify(store)) == []
            for stream_id in store.list_streams():
                version = store.get_stream_version(stream_id)
                assert store.append(stream_id, [event(-1)], version) == version + 1
                assert store.read_stream(stream_id)[-1].data["number"] == -1
            assert list(verify(store)) == []
        (path / "state").unlink()


# Any damage


def fill(path: Path, older: Path, chance: random.Random) -> None:
    """A store of a few streams, some compacted; and an older copy of it."""
    number = 0
    with opened(path, chance.choice([300, 1000, 4000, 1 << 20])) as store:
        for _ in range(chance.randint(1, 40)):
            appends: dict[str, list[UntypedEvent]] = {}
            for _ in range(chance.choice([1, 1, 1, 2, 5])):
                number += 1
                some = appends.setdefault(chance.choice(["a:1", "a:2", "b:1", "c", LONG]), [])
                some.append(event(number, chance.choice([5, 50, 400])))
            durability = chance.choice(["always", "relaxed"])
            store.append_many([(stream_id, some, ANY) for stream_id, some in appends.items()], durability=durability)
            if chance.random() < 0.05:
                stream_id = chance.choice(list(appends))
                store.save_snapshot(stream_id, store.get_stream_version(stream_id), {})
                store.compact_stream(stream_id)
            if chance.random() < 0.1 and not older.exists():
                shutil.copytree(path, older)


def texts(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file() and f.suffix in (".jsonl", ".json", ".index", ""))


def flip(file: Path, text: bytes, chance: random.Random) -> None:
    at = chance.randrange(len(text))
    file.write_bytes(text[:at] + bytes([text[at] ^ 1 << chance.randrange(8)]) + text[at + 1 :])


def zero(file: Path, text: bytes, chance: random.Random) -> None:
    at = chance.randrange(len(text))
    size = min(chance.choice([100, 512, 4096]), len(text) - at)
    file.write_bytes(text[:at] + bytes(size) + text[at + size :])


def cut(file: Path, text: bytes, chance: random.Random) -> None:
    file.write_bytes(text[: chance.randrange(len(text) + 1)])


def rearrange(file: Path, text: bytes, chance: random.Random) -> None:
    """Lines doubled, taken out, or exchanged."""
    lines = text.splitlines(keepends=True)
    one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
    kind = chance.randrange(3)
    if kind == 0:
        lines.insert(two, lines[one])
    elif kind == 1:
        del lines[one]
    else:
        lines[one], lines[two] = lines[two], lines[one]
    file.write_bytes(b"".join(lines))


def exchange(file: Path, text: bytes, chance: random.Random) -> None:
    other = chance.choice(list(file.parent.glob("*.jsonl")) or [file])
    file.write_bytes(other.read_bytes())
    other.write_bytes(text)


def double(file: Path, text: bytes, chance: random.Random) -> None:
    file.with_name(f"{file.name.split('.')[0]}.{chance.randrange(60):020d}.jsonl").write_bytes(text)


def append_garbage(file: Path, text: bytes, chance: random.Random) -> None:
    file.write_bytes(text + chance.choice([b"{", b"notes\n", b'{"position":5,\n', bytes(100)]))


def delete(file: Path, _: bytes, __: random.Random) -> None:
    file.unlink()


def delete_folder(file: Path, _: bytes, __: random.Random) -> None:
    if (file.parent / "hangarlog.json").exists():
        file.unlink()
    else:
        shutil.rmtree(file.parent)


def spoil_meta(file: Path, _: bytes, chance: random.Random) -> None:
    top = next(folder for folder in file.parents if folder.name == "s")
    (top / "hangarlog.json").write_bytes(chance.choice([b"", b"{}", b"junk"]))


Damage = Callable[[Path, bytes, random.Random], None]
DAMAGES: list[Damage] = [flip, flip, zero, cut, rearrange, exchange, double, append_garbage]
DAMAGES += [delete, delete, delete_folder, spoil_meta]


def put_back(path: Path, older: Path, chance: random.Random) -> None:
    """Some, or one, of the files of an earlier time."""
    files = texts(older)
    for file in chance.sample(files, chance.choice([1, len(files) // 2])):
        there = path / file.relative_to(older)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, there)


def provable(path: Path, lines: dict[int, bytes]) -> int:
    """Up to which position everything has a whole copy in the text files."""
    found = {line for file in path.rglob("*.jsonl") for line in file.read_bytes().split(b"\n")}
    last = whole = 0
    while lines.get(last + 1) in found:
        last += 1
        whole = last if decode_record(lines[last]).ends_batch else whole
    return whole


@pytest.mark.parametrize("seed", range(150))
def test_whatever_is_damaged_a_repair_keeps_all_that_is_proved_and_ends_with_a_store_that_works(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    path, older = tmp_path / "s", tmp_path / "older"
    fill(path, older, chance)
    lines = lines_of(path)
    for _ in range(chance.choice([1, 1, 2, 3, 6])):
        if older.exists() and chance.random() < 0.2:
            put_back(path, older, chance)
            continue
        file = chance.choice(texts(path))
        text = file.read_bytes()
        if text:
            chance.choice(DAMAGES)(file, text, chance)
    least = provable(path, lines)
    if not least and not any(is_record(line) for f in texts(path) for line in f.read_bytes().split(b"\n")):
        return
    results = list(repair(path, filesystem=FILESYSTEM))
    kept = lines_of(path)
    assert all(lines[position] == line for position, line in kept.items())
    assert set(kept) >= set(range(1, least + 1))
    lost = {p for r in results if isinstance(r, Lost) and not r.stream_id for p in range(r.first, r.last + 1)}
    aside = {p for r in results if isinstance(r, PutAside) for p in range(r.first, r.last + 1)}
    assert set(lines) - set(kept) <= lost | aside | set(range(max(kept, default=0) + 1, len(lines) + 1))
    if set(kept) >= set(range(1, max(kept, default=0) + 1)):
        assert not [result for result in results if isinstance(result, CorruptionError)]
        works(path)
        assert [result for result in repair(path, filesystem=FILESYSTEM) if not isinstance(result, Lost)] == []
    else:
        with opened(path) as store:
            for stream_id in store.list_streams():
                version = store.get_stream_version(stream_id)
                assert store.append(stream_id, [event(-1)], version) == version + 1
        again = list(repair(path, filesystem=FILESYSTEM))
        assert not [result for result in again if isinstance(result, (Repaired, PutAside))]


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
        [(record.event_type, record.event_id + "x" * bool(changes.get("other")), bytes(record.data), None)],
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
    lines = encode_records(1, "a:1", 40, [("Noted", None, b"{}", None)], b"2026-01-01T00:00:00.000000Z")[0]
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
        "itself: another folder had it, too"
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
