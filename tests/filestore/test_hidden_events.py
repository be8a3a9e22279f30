"""Deleted and truncated streams in their files: what is left, and that nothing brings the events back."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hangarlog import (
    ANY,
    NO_STREAM,
    CorruptionError,
    CorruptionWarning,
    EventSerializer,
    FileEventStore,
    StreamDeletedError,
    UntypedEvent,
)
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.testing import Recording, crash_states

SECRET = "Ada Lovelace"
LONG = "person:" + "long name " * 40
GONE, TOMBSTONE, CUT, KEPT = "person:1", "person:2", "person:3", "person:4"
STREAMS = (GONE, TOMBSTONE, CUT, KEPT, LONG)


def event(stream_id: str, number: int) -> UntypedEvent:
    return UntypedEvent("T", {"n": number, "name": SECRET, "of": stream_id[:8]})


def opened(path: Path, **options: Any) -> FileEventStore:
    serializer = EventSerializer(unknown="untyped")
    return FileEventStore(path, **{"durability": "relaxed", "serializer": serializer, **options})


def filled(path: Path, count: int = 6, segment_bytes: int = 700, **options: Any) -> FileEventStore:
    """Five streams; with small segments they are rolled."""
    store = opened(path, segment_bytes=segment_bytes, **options)
    for n in range(count):
        for stream_id in STREAMS:
            store.append(stream_id, [event(stream_id, n)], n - 1)
    return store


def hide(store: FileEventStore) -> None:
    for stream_id in (GONE, LONG):
        store.delete_stream(stream_id)
    store.delete_stream(TOMBSTONE, permanent=True)
    store.truncate_stream(CUT, 4)


def numbers(store: FileEventStore, stream_id: str) -> list[int]:
    return [each.data["n"] for each in store.read_stream(stream_id)]


def check(store: FileEventStore, count: int = 6) -> None:
    """What `hide` has hidden stays hidden, and everything else is there."""
    assert store.list_streams() == [CUT, KEPT]
    assert store.get_stream_count() == 2
    for stream_id, shown in ((GONE, []), (TOMBSTONE, []), (LONG, []), (CUT, [4, 5]), (KEPT, [0, 1, 2, 3, 4, 5])):
        assert numbers(store, stream_id) == shown, stream_id
        assert [r.event.data["n"] for r in store.records(stream_id, reverse=True)] == shown[::-1]
        assert store.get_stream_version(stream_id) == count - 1
    assert store.get_event_count() == count * 5 == len(list(store.read_all()))
    assert list(verify(store)) == []
    with pytest.raises(StreamDeletedError):
        store.append(TOMBSTONE, [event(TOMBSTONE, 9)], ANY)


def files_of(path: Path, *names: str) -> dict[str, bytes]:
    found = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return {name: text for name, text in found.items() if name.startswith(names)}


def assert_erased(path: Path) -> None:
    """Nothing but the journal, the ring and the streams that are shown have the content."""
    shown = {"streams/person/3.jsonl", "streams/person/4"}
    files = files_of(path, "streams", "snapshots", "deleted", "catalog", "state")
    shown = ("streams/person/3", "streams/person/4")
    with_content = {name for name, text in files.items() if SECRET.encode() in text}
    assert {name for name in with_content if not name.startswith(shown)} == set()
    truncated = b"".join(text for name, text in files.items() if name.startswith("streams/person/3"))
    assert b'"n":3' not in truncated
    assert b'"n":4' in truncated


def test_a_streams_files_give_the_events_back(tmp_path: Path) -> None:
    """One line is left, with the version and the id of the last event, and without its content, type and metadata."""
    path = tmp_path / "s"
    with filled(path) as store:
        store.append(GONE, [event(GONE, 6)], 5, metadata={"who": SECRET})
        last = next(store.records(GONE, reverse=True))
        store.delete_stream(GONE)
    assert [*files_of(path, "streams/person/1")] == ["streams/person/1.jsonl"]
    (line,) = (path / "streams/person/1.jsonl").read_text().splitlines()
    assert f'"stream_version":6,"event_type":"","event_id":"{last.event_id}"' in line
    assert '"metadata":null,"data":{},"crc"' in line
    with opened(path) as store:
        hide(store)
    assert_erased(path)


def _repaired(path: Path) -> None:
    list(repair(path))


def _without_caches(path: Path) -> None:
    for name in ("state", "catalog", "checkpoint.json"):
        (path / name).unlink(missing_ok=True)


def _without_streams(path: Path) -> None:
    shutil.rmtree(path / "streams")


def _without_hidden_streams(path: Path) -> None:
    for file in path.glob("streams/person/[12]*"):
        file.unlink()


def _without_the_list(path: Path) -> None:
    shutil.rmtree(path / "deleted")
    _repaired(path)


def _without_streams_and_repaired(path: Path) -> None:
    _without_streams(path)
    _repaired(path)


def _without_streams_and_caches(path: Path) -> None:
    _without_streams(path)
    _without_caches(path)


LATER: dict[str, Callable[[Path], None]] = {
    "nothing": lambda path: None,
    "its caches are deleted": _without_caches,
    "its streams and caches are deleted": _without_streams_and_caches,
    "its hidden streams are deleted": _without_hidden_streams,
    "it is repaired": _repaired,
    "its streams are deleted, and it is repaired": _without_streams_and_repaired,
    "its list of the deleted is lost, and it is repaired": _without_the_list,
}


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("segment_bytes", [700, 1 << 20])
def test_nothing_brings_hidden_events_back(tmp_path: Path, later: str, segment_bytes: int) -> None:
    """Into reads, or into the files of their streams."""
    path = tmp_path / "s"
    with filled(path, segment_bytes=segment_bytes) as store:
        hide(store)
    LATER[later](path)
    with opened(path) as store:
        for stream_id in (GONE, TOMBSTONE, LONG):
            store.delete_stream(stream_id)  # It takes up the stream's file, as a writer does.
        check(store)
    assert_erased(path)
    assert list(verify_folder(path)) == []


def test_the_list_of_deleted_streams_is_checked(tmp_path: Path) -> None:
    """Without it, deleted streams are listed, and `verify` says so."""
    path = tmp_path / "s"
    with filled(path) as store:
        hide(store)
        (path / "deleted/person/1").unlink()
        assert GONE in store.list_streams()
        (damage,) = verify(store)
        assert damage.path == str(path / "snapshots/person/1.json")
    assert [done.path for done in repair(path)] == [str(path / "deleted/person/1")]
    with opened(path) as store:
        check(store)


def test_a_backup_of_hidden_events_hides_them(tmp_path: Path) -> None:
    """Restored, too. A backup from before has them until it is run again."""
    path, target, restored = tmp_path / "s", tmp_path / "backup", tmp_path / "restored"
    with filled(path) as store:
        backup(path, target)
        with opened(target) as copy:
            assert numbers(copy, GONE) == [0, 1, 2, 3, 4, 5]
        hide(store)
        backup(path, target)
    assert_erased(target)
    shutil.copytree(target, restored)
    for folder in (target, restored):
        with opened(folder) as copy:
            check(copy)
    assert_erased(restored)


def test_another_store_that_has_the_stream_open_sees_the_deletion(tmp_path: Path) -> None:
    """At once, in reads and in appends."""
    with filled(tmp_path / "s") as store, opened(tmp_path / "s") as other:
        for stream_id in STREAMS:
            other.append(stream_id, [event(stream_id, 6)], 5)
            assert len(other.read_stream(stream_id)) == 7
        hide(store)
        assert other.list_streams() == [CUT, KEPT]
        assert other.read_stream(GONE) == []
        assert numbers(other, CUT) == [4, 5, 6]
        with pytest.raises(StreamDeletedError):
            other.append(TOMBSTONE, [event(TOMBSTONE, 7)], 6)
        assert other.append(GONE, [event(GONE, 7)], NO_STREAM) == 7
        assert numbers(store, GONE) == [7]
        assert store.append(GONE, [event(GONE, 8)], 7) == 8
        store.delete_stream(GONE, permanent=True)
        with pytest.raises(StreamDeletedError):
            other.append(GONE, [event(GONE, 9)], 8)
        assert list(verify(other)) == []


def test_reads_of_an_open_iterator_end_where_the_stream_was_deleted(tmp_path: Path) -> None:
    """They give events that were there when they began, or none."""
    with filled(tmp_path / "s", count=40) as store:
        for reverse in (False, True):
            reading = store.records(KEPT, reverse=reverse)
            first = next(reading).stream_version
            store.truncate_stream(KEPT, 20 if reverse else 10)
            rest = [record.stream_version for record in reading]
            whole = list(range(39, 9, -1)) if reverse else list(range(40))
            assert [version for version in whole if version in {first, *rest}] == [first, *rest]


def test_a_lost_mark_is_damage_and_the_journal_serves_the_stream(tmp_path: Path) -> None:
    """An erased line is never taken for an event; `repair` brings the events back."""
    path = tmp_path / "s"
    with filled(path) as store:
        store.append("person:5", [event("person:5", 0)], NO_STREAM)
        for stream_id in (GONE, "person:5"):
            store.delete_stream(stream_id)
        for number in (1, 5):
            (path / f"snapshots/person/{number}.json").unlink()
        with pytest.warns(CorruptionWarning):
            assert numbers(store, GONE) == [0, 1, 2, 3, 4, 5]
        with pytest.warns(CorruptionWarning):
            assert numbers(store, "person:5") == [0]
        assert list(verify(store))
    list(repair(path))
    with opened(path) as store:
        assert numbers(store, GONE) == [0, 1, 2, 3, 4, 5]
        assert list(verify(store)) == []


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
def test_an_erased_line_does_not_take_the_place_of_a_damaged_event_of_the_journal(tmp_path: Path) -> None:
    """That event is lost, with its place: in reads, and after a repair."""
    path = tmp_path / "s"
    with filled(path, segment_bytes=1 << 20) as store:
        position = next(store.records(GONE, reverse=True)).position
        hide(store)
    journal = path / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[position - 1] = lines[position - 1].replace(b"Ada", b"Bob")
    journal.write_bytes(b"\n".join(lines))
    for mend in (False, True):
        if mend:
            list(repair(path))
        with opened(path) as store:
            with pytest.raises(CorruptionError) as caught:
                list(store.read_all())
            assert caught.value.position == position
            assert len(list(store.read_all(on_damage="skip"))) == 29
            assert numbers(store, GONE) == []
            assert GONE not in store.list_streams()


@pytest.mark.parametrize("call", ["delete", "tombstone", "truncate", "truncate all"])
@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_a_power_cut_leaves_all_of_the_stream_or_nothing(tmp_path: Path, call: str) -> None:
    """At every step; what was acknowledged stays hidden, and the call can be made again."""
    path = tmp_path / "s"
    calls: dict[str, Callable[[FileEventStore], object]] = {
        "delete": lambda store: store.delete_stream(GONE, expected_version=5),
        "tombstone": lambda store: store.delete_stream(GONE, permanent=True),
        "truncate": lambda store: store.truncate_stream(GONE, 4),
        "truncate all": lambda store: store.truncate_stream(GONE, 6),
    }
    shown = [4, 5] if call == "truncate" else []
    filled(path, durability="always").close()
    recording = Recording(path)
    with opened(path, filesystem=recording) as store:
        store.append(KEPT, [event(KEPT, 6)], 5)
        calls[call](store)
        recording.note("hidden")
        store.append(KEPT, [event(KEPT, 7)], 6)
    seen = set()
    for number, state in enumerate(crash_states(recording.operations, random.Random(3), 6)):
        where = tmp_path / f"crashed-{number}"
        where.mkdir()
        state.write_to(where)
        with opened(where) as store:
            found = numbers(store, GONE)
            seen.add(tuple(found))
            assert found == shown or (found == [0, 1, 2, 3, 4, 5] and not state.notes), (state.at, state.lost)
            assert store.get_stream_version(GONE) == 5
            if call in ("delete", "tombstone"):
                assert (GONE in store.list_streams()) is bool(found)
                assert store.get_stream_count() == len(store.list_streams())
            assert list(verify(store)) == [], (state.at, state.lost)
            calls[call](store)
            assert numbers(store, GONE) == shown
            assert list(verify(store)) == []
        if number % 10 == 0:
            assert [done for done in repair(where) if "hangarlog.json" not in done.path] == []
        text = b"".join(files_of(where, "streams/person/1").values())
        assert (b'"n":3' in text, SECRET.encode() in text) == (False, bool(shown))
        shutil.rmtree(where)
    assert seen == {tuple(shown), (0, 1, 2, 3, 4, 5)}


def test_a_power_cut_leaves_no_index_of_text_that_was_truncated(tmp_path: Path) -> None:
    """The index is gone before the shorter text comes, whatever of both reaches the device."""
    with opened(tmp_path / "s", segment_bytes=140_000) as store:
        for n in range(4):  # The index has three of them.
            store.append(CUT, [UntypedEvent("T", {"n": n, "text": "x" * 30_000})], n - 1)
        store.append(KEPT, [UntypedEvent("T", {"text": "x" * 30_000})], ANY)
        store.append(KEPT, [event(KEPT, 1)], ANY)  # Rolls the journal, which makes a checkpoint.
    assert files_of(tmp_path / "s", "streams/person/3.index")
    recording = Recording(tmp_path / "s")
    with opened(tmp_path / "s", filesystem=recording) as store:
        begun = len(recording.operations)
        store.truncate_stream(CUT, 1)
        points = range(begun, len(recording.operations))
        assert any(recording.operations[at].kind == "rename" for at in points)
    for number, state in enumerate(crash_states(recording.operations, random.Random(3), 40, points)):
        path = tmp_path / f"crashed-{number}"
        path.mkdir()
        state.write_to(path)
        with opened(path) as store:
            assert numbers(store, CUT) in ([0, 1, 2, 3], [1, 2, 3])
            assert list(verify(store)) == [], (state.at, state.lost)
        shutil.rmtree(path)


def test_a_killed_process_leaves_all_of_the_stream_or_nothing(tmp_path: Path) -> None:
    """Killed before every call of the file system that changes a file."""
    calls = 0
    while True:
        path = tmp_path / f"s{calls}"
        filled(path, durability="relaxed").close()
        child = os.fork()
        if child == 0:
            _die_in_deletion(path, calls)
        _, status = os.waitpid(child, 0)
        with opened(path) as store:
            found = numbers(store, GONE)
            assert found in ([], [0, 1, 2, 3, 4, 5])
            assert (GONE in store.list_streams()) is bool(found)
            assert list(verify(store)) == []
            assert store.delete_stream(GONE) == len(found)
            assert store.append(GONE, [event(GONE, 6)], NO_STREAM) == 6
            assert numbers(store, GONE) == [6]
            assert list(verify(store)) == []
        assert SECRET.encode() not in (path / "streams/person/1.jsonl").read_bytes().split(b"\n")[0]
        shutil.rmtree(path)
        if status == 0:
            break
        calls += 1
    assert calls > 8


def _die_in_deletion(path: Path, calls: int) -> None:
    """In a child: delete a stream, and die before the call `calls`; exit with 0 if there are fewer."""
    try:
        recording = Recording(path)
        store = opened(path, filesystem=recording)
        add, count = recording._add, len(recording.operations) + calls

        def dying(kind: str, *args: Any, **rest: Any) -> None:
            add(kind, *args, **rest)
            if len(recording.operations) > count:
                os._exit(1)

        recording._add = dying  # type: ignore[method-assign]
        store.delete_stream(GONE)
        os._exit(0)
    finally:
        os._exit(2)


def test_a_damaged_stream_can_be_deleted(tmp_path: Path) -> None:
    """Its sealed segments are not read for it."""
    path = tmp_path / "s"
    with filled(path) as store:
        sealed = min((path / "streams/person").glob("1.0*.jsonl"))
        sealed.write_bytes(sealed.read_bytes().replace(b"Ada", b"Bob"))
        assert list(verify(store))
        hide(store)
        check(store)


def test_a_deletion_of_many_streams_costs_no_other_store_a_look_at_their_snapshots(tmp_path: Path) -> None:
    """A store without deleted streams has no folder for them."""
    with filled(tmp_path / "s") as store:
        store.save_snapshot(KEPT, 5, {})
        store.truncate_stream(CUT, 3)
        assert not (tmp_path / "s/deleted").exists()
        store.delete_stream(GONE)
        assert [*files_of(tmp_path / "s", "deleted")] == ["deleted/person/1"]
