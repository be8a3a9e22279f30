"""A damaged copy is read from the other one, with a warning that names the place, until `repair` has mended it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Added, Command
from dying import Died, DyingFileSystem

from hangarlog import ANY, CorruptionError, CorruptionWarning, FileEventStore, StorageError
from hangarlog.maintenance.repair import Lost, Repaired, repair
from hangarlog.maintenance.verify import verify

EVENTS = 60


def fill(path: Path) -> None:
    """Three streams over sealed and live segments, one of them compacted."""
    with FileEventStore(path, durability="relaxed", segment_bytes=4_000) as store:
        for number in range(EVENTS):
            store.append_many([(f"s:{number % 2}", [Added(number, "x" * 60)], ANY), ("t:1", [Added(number)], ANY)])
        store.save_snapshot("t:1", 9, {})
        store.compact_stream("t:1")


def reads(store: FileEventStore) -> None:
    """Everything in every direction, from several places."""
    for stream, expected in (("s:0", range(0, EVENTS, 2)), ("s:1", range(1, EVENTS, 2)), ("t:1", range(10, EVENTS))):
        first = 10 if stream == "t:1" else 0
        assert [event.number for event in store.read_stream(stream)] == list(expected)
        assert [event.number for event in store.read_stream(stream, 25)] == list(expected)[25 - first :]
        assert [record.event.number for record in store.records(stream, reverse=True)] == list(expected)[::-1]
        assert [r.stream_version for r in store.records(stream, reverse=True, from_version=20)] == list(
            range(20, first - 1, -1)
        )
        assert store.get_stream_version(stream) == len(expected) + first - 1
    assert [position for position, _, _ in store.read_all(limit=1000)] == list(range(1, 2 * EVENTS + 1))
    assert [position for position, _, _ in store.read_all(from_position=70, limit=20)] == list(range(71, 91))
    assert [record.position for record in store.records(reverse=True)] == list(range(2 * EVENTS, 0, -1))


def flipped(text: bytes) -> bytes:
    return text[: len(text) // 2] + b"#" + text[len(text) // 2 + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a byte": flipped,
    "the first byte": lambda text: b"#" + text[1:],
    "a sector of zeros": lambda text: text[:600] + bytes(512) + text[1112:],
    "a line twice": lambda text: text[: text.index(b"\n") + 1] + text,
    "a line gone": lambda text: text[text.index(b"\n") + 1 :],
    "its end": lambda text: text[:-20],
    "nothing left": lambda text: b"",
}
FILES = ["journal.00000000000000000033.jsonl", "journal.jsonl", "streams/s/0.jsonl", "streams/t/1.jsonl"]
FILES += ["streams/s/1.00000000000000000000.jsonl"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_served_from_the_other_and_mended(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / "s"
    fill(path)
    file = path / name
    whole = file.read_bytes()
    with FileEventStore(path, durability="relaxed") as store:
        file.write_bytes(DAMAGES[damage](whole))
        with pytest.warns(CorruptionWarning, match="served from the"):
            reads(store)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CorruptionWarning)
            assert list(verify(store))
    results = list(repair(path))
    assert file.read_bytes() == whole
    if name != "journal.jsonl" or len(DAMAGES[damage](whole)) == len(whole):  # Else the next writer mends it: verify.
        assert [type(result) for result in results] == [Repaired]
        assert results[0].path == str(file)
        assert file.with_name(file.name + ".damaged").read_bytes() == DAMAGES[damage](whole)
    with FileEventStore(path, durability="relaxed") as store:
        reads(store)
        assert list(verify(store)) == []
        assert store.append("s:0", [Added(EVENTS)], EVENTS // 2 - 1) == EVENTS // 2
    assert list(repair(path)) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_comes_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s"
    fill(path)
    whole = (path / name).read_bytes()
    (path / name).unlink()
    assert [type(result) for result in repair(path)] == [Repaired]
    assert (path / name).read_bytes() == whole
    with FileEventStore(path, durability="relaxed") as store:
        reads(store)
        assert list(verify(store)) == []


def test_both_copies_of_a_store_at_work_are_mended_at_different_places(tmp_path: Path) -> None:
    """Other processes append before and after, and see what was mended."""
    path = tmp_path / "s"
    fill(path)
    with FileEventStore(path, durability="relaxed") as store:
        store.append("s:0", [Added(EVENTS)], EVENTS // 2 - 1)
        journal, stream = path / "journal.00000000000000000001.jsonl", path / "streams/s/1.jsonl"
        journal.write_bytes(flipped(journal.read_bytes()))
        stream.write_bytes(flipped(stream.read_bytes()))
        assert {Path(result.path) for result in repair(path)} == {journal, stream}
        assert store.append("s:0", [Added(EVENTS + 1)], EVENTS // 2) == EVENTS // 2 + 1
        assert store.append("s:1", [Added(EVENTS)], EVENTS // 2 - 1) == EVENTS // 2
        assert list(verify(store)) == []


def test_what_is_damaged_in_both_copies_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s"
    fill(path)
    journal, stream = path / "journal.00000000000000000001.jsonl", path / "streams/s/0.00000000000000000000.jsonl"
    for file in (journal, stream):
        file.write_bytes(file.read_bytes().replace(b'"number":2,', b'"number":3,'))
    before = journal.read_bytes()
    with FileEventStore(path, durability="relaxed") as store:
        for read in (lambda: store.read_stream("s:0"), lambda: list(store.read_all(limit=1000))):
            with pytest.raises(CorruptionError, match="checksum"):
                read()
    left = list(repair(path))
    # What was compacted is in the journal only.
    assert {result for result in left if isinstance(result, Lost)} == {
        Lost(5, 6),
        Lost(1, 1, "s:0"),
        Lost(2, 2, "t:1"),
    }
    assert {Path(result.path) for result in left if isinstance(result, CorruptionError)} == {journal, stream}
    assert not [result for result in left if isinstance(result, Repaired)]
    assert journal.read_bytes() == before


def test_a_repair_may_be_cut_short_and_run_again(tmp_path: Path) -> None:
    """At any of its calls that change something."""
    fill(tmp_path / "s")
    for name in ("journal.00000000000000000001.jsonl", "streams/s/0.jsonl"):
        file = tmp_path / "s" / name
        file.write_bytes(flipped(file.read_bytes()))
    for at in range(1000):
        path = shutil.copytree(tmp_path / "s", tmp_path / "again")
        try:
            assert list(repair(path, filesystem=DyingFileSystem(at, 0.5)))
        except Died:
            results = list(repair(path))
            assert all(isinstance(result, Repaired) for result in results)
            with FileEventStore(path, durability="relaxed") as store:
                reads(store)
                assert list(verify(store)) == []
            shutil.rmtree(path)
        else:
            assert at > 10
            return


def test_the_command_mends_and_says_what_it_could_not(tmp_path: Path, hangarlog: Command) -> None:
    """Exit code 0 when all is whole afterwards, 1 when something is left."""
    path = tmp_path / "s"
    fill(path)
    assert hangarlog("repair", path).stdout == b'{"mended":0,"put_aside":0,"lost":0}\n'
    stream = path / "streams/s/0.jsonl"
    with FileEventStore(path):  # Nobody else's opening mends it.
        stream.write_bytes(flipped(stream.read_bytes()))
        done = hangarlog("read", path, "s:0")
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == EVENTS // 2
    assert b"hangarlog: warning: served from the journal: damaged record in" in done.stderr
    done = hangarlog("repair", path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, b'{"mended":1,"put_aside":0,"lost":0}')
    assert b'"source":"the journal"' in done.stdout
    assert hangarlog("verify", path).returncode == 0
    for file in (path / "journal.00000000000000000001.jsonl", path / "streams/s/0.00000000000000000000.jsonl"):
        file.write_bytes(file.read_bytes().replace(b'"number":2,', b'"number":3,'))
    done = hangarlog("repair", path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, b'{"mended":0,"put_aside":0,"lost":2}')
    assert hangarlog("repair", tmp_path / "none").returncode == 1


def test_a_repair_after_a_roll_whose_append_was_refused_doubles_no_segment(tmp_path: Path) -> None:
    """The journal's live end is empty then, and what the last commit published is of the segment before."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed", segment_bytes=400) as store:
        store.append("s:1", [Added(0, "x" * 500)], ANY)
        (path / "streams/t").mkdir()
        (path / "streams/t/1.jsonl").symlink_to("elsewhere")
        with pytest.raises((CorruptionError, StorageError)):
            store.append("t:1", [Added(1)], -1)
        (path / "streams/t/1.jsonl").unlink()
    change = path / "streams/s/1.jsonl"
    change.write_bytes(flipped(change.read_bytes()))
    assert [type(result) for result in repair(path)] == [Repaired]
    assert len(list(path.glob("journal*.jsonl"))) == len({file.read_bytes() for file in path.glob("journal*.jsonl")})
    with FileEventStore(path) as store:
        assert list(verify(store)) == []


@pytest.mark.parametrize("name", ["snapshots/s/" + "n" * 250 + ".json", "streams/s/" + "n" * 249 + ".index"])
def test_what_has_too_long_a_name_to_be_kept_under_it_is_kept_under_a_shorter_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s"
    fill(path)
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".index"):
        (path / name).mkdir()
    else:
        (path / name).write_text("no snapshot")
    list(repair(path))
    assert not (path / name).exists()
    assert [len(kept.name) for kept in path.rglob("n*.damaged")] == [251]
    with FileEventStore(path) as store:
        assert list(verify(store)) == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            "state",
            "catalog",
            "put-aside.jsonl",
            "journal.index",
            "journal.jsonl.new",
            "journal.jsonl.rebuilt",
            "state.new",
        ),
        *("checkpoint.json", "ring.new", "hangarlog.json.new", "streams/s/0.index", "streams/s/1.jsonl.new"),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_put_away(tmp_path: Path, name: str) -> None:
    """Nothing that opens a store could delete or replace it; what is in it is kept."""
    path = tmp_path / "s"
    fill(path)
    (path / name).unlink(missing_ok=True)
    (path / name).mkdir()
    (path / name / "mine").touch()
    (path / "streams/s/1.jsonl").write_bytes(b"")
    list(repair(path))
    assert [kept.parent.name for kept in path.rglob("mine")] == [Path(name).name + ".damaged"]
    with FileEventStore(path) as store:
        assert list(verify(store)) == []
        store.append("s:0", [Added(1, "x" * 5000)], ANY)
        store.append("s:0", [Added(1)], ANY)
