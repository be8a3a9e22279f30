"""A journal that begins later: readers, verify, repair, recovery, backups and copies know it."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
from conftest import Added
from retained_stores import drop, dropped, hide_before, segment_firsts, written

from hangarlog import ANY, CorruptionError, CorruptionWarning, EventsDroppedError, FileEventStore, UntypedEvent
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.record.checked_json import with_crc


def whole(path: Path) -> list[int]:
    """Open a store, check that nothing is damaged, that it takes appends, and return its positions before that."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with FileEventStore.untyped(path, create=False) as store:
            positions = [position for position, _, _ in store.read_all()]
            assert list(verify(store)) == []
            assert [position for position, _, _ in store.read_all()] == positions
            assert [r.position for r in store.records(reverse=True)] == positions[::-1]
            for stream in store.list_streams():
                before = store.get_stream_version(stream)
                assert store.append(stream, [UntypedEvent("Added", {"number": 1})], before) == before + 1
            store.append("a:new", [UntypedEvent("Added", {"number": 1})], ANY)
            assert list(verify(store)) == []
    assert list(verify_folder(path)) == []
    return positions


def test_positions_and_versions_go_on(tmp_path: Path) -> None:
    """The first event left is known to reads in both directions, to streams, counts and appends."""
    with dropped(tmp_path / "s") as store:
        first = store.first_position
        assert first > 10
        assert [position for position, _, _ in store.read_all()] == [*range(first, 61)]
        assert [record.position for record in store.records(reverse=True)] == [*range(60, first - 1, -1)]
        assert (store.get_event_count(), store.last_position, store.get_stream_count()) == (61 - first, 60, 3)
        assert store.get_stream_version("a:0") == 19
        assert store.append("a:0", [Added(60)], 19) == 20
        assert [record.position for record in store.records(from_position=first - 1, limit=2)] == [first, first + 1]
        assert store.stats().events == 62 - first
    assert whole(tmp_path / "s") == [*range(first, 62)]


def test_reading_what_is_gone_is_an_error_with_the_first_that_is_left(tmp_path: Path) -> None:
    with dropped(tmp_path / "s") as store:
        first = store.first_position
        for read in (
            lambda: list(store.read_all(from_position=3)),
            lambda: list(store.records(from_position=first - 2)),
            lambda: list(store.records(from_position=first - 1, reverse=True)),
            lambda: next(store.subscribe(3)),
            lambda: next(store.subscribe(first - 2)),
        ):
            with pytest.raises(EventsDroppedError) as caught:
                read()
            assert caught.value.first == first
        assert list(store.records(from_position=first, reverse=True)) == []
        with store.subscribe(0) as subscription:
            assert next(subscription).position == first
        with store.subscribe(first - 1) as subscription:
            assert next(subscription).position == first


def test_a_named_subscriber_that_is_behind_is_told(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        store.cursor("late").advance(3)
        store.cursor("begins").advance(0)
        drop(store, segment_firsts(store)[2])
        with pytest.raises(EventsDroppedError), store.subscribe(0, name="late") as subscription:
            next(subscription)
        with store.subscribe(0, name="new") as subscription:
            assert next(subscription).position == store.first_position
    whole(tmp_path / "s")


def test_event_ids_of_dropped_events_are_forgotten_and_others_found(tmp_path: Path) -> None:
    with written(tmp_path / "s", 200) as store:
        ids = [record.event_id for record in store.records()]
        assert store.event(ids[0])
        drop(store, segment_firsts(store)[4])
        first = store.first_position
        assert not store.contains(ids[0])
        assert store.contains(ids[-1])
    with FileEventStore(tmp_path / "s") as store:
        assert [store.contains(event_id) for event_id in ids] == [n >= first for n in range(1, 201)]


def test_a_reader_in_the_middle_of_it(tmp_path: Path) -> None:
    """A read that has begun gets what it still has open, then an error. Others see the new beginning."""
    with written(tmp_path / "s") as store, FileEventStore(tmp_path / "s") as other:
        reading = other.records()
        assert next(reading).position == 1
        tail = other.subscribe(5)
        drop(store, segment_firsts(store)[3])
        with pytest.raises(EventsDroppedError):
            list(reading)
        with pytest.raises(EventsDroppedError):
            list(tail)
        assert next(other.records()).position == store.first_position
        assert next(other.records(reverse=True)).position == 60
        assert other.append("a:0", [Added(1)], 19) == 20


@pytest.mark.parametrize("lost", [["checkpoint.json"], ["catalog", "state"], ["checkpoint.json", "state", "ring"]])
def test_a_recovery_begins_there(tmp_path: Path, lost: list[str]) -> None:
    """Whatever else is gone, a recovery finds all streams, also those whose events were all dropped."""
    with written(tmp_path / "s") as store:
        store.append("gone:1", [Added(1)], ANY)
        for number in range(60):
            store.append(f"a:{number % 3}", [Added(number, "x" * 40)], ANY)
        drop(store, next(first for first in segment_firsts(store) if first > 61))
        first = store.first_position
        assert store.get_stream_version("gone:1") == 0
    for name in lost:
        (tmp_path / "s" / name).unlink(missing_ok=True)
    with FileEventStore(tmp_path / "s") as store:
        assert store.get_stream_count() == 4
        assert store.get_stream_version("gone:1") == 0
    assert whole(tmp_path / "s") == [*range(first, 122)]


def test_a_stream_of_which_only_the_mark_is_left_keeps_its_version(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with written(path) as store:
        store.append("gone:1", [Added(1), Added(2)], ANY)
        for number in range(60):
            store.append(f"a:{number % 3}", [Added(number, "x" * 40)], ANY)
        drop(store, next(first for first in segment_firsts(store) if first > 62))
    for kept in (True, False):
        (path / "streams/gone/1.jsonl").write_bytes(b"x\n") if kept else (path / "streams/gone/1.jsonl").unlink()
        (path / "checkpoint.json").unlink(missing_ok=True)
        with FileEventStore(path) as store, pytest.raises(CorruptionError):
            store.append("gone:1", [Added(1)], -1)
        list(repair(path))
        with FileEventStore(path) as store:
            assert store.get_stream_version("gone:1") == 1
        assert list(repair(path)) == []
    whole(path)


def test_repair_changes_nothing_of_a_whole_store(tmp_path: Path) -> None:
    dropped(tmp_path / "s").close()
    assert list(repair(tmp_path / "s")) == []
    whole(tmp_path / "s")


def test_a_backup_and_one_after_more_was_dropped(tmp_path: Path) -> None:
    path, target = tmp_path / "s", tmp_path / "b"
    with written(path) as store:
        backup(path, target)
        drop(store, segment_firsts(store)[2])
        backup(path, target)
        first = store.first_position
        assert (target / "retained.json").read_bytes() == (path / "retained.json").read_bytes()
        assert sorted(p.name for p in target.glob("journal.0*")) == sorted(p.name for p in path.glob("journal.0*"))
        drop(store, segment_firsts(store)[1])
        assert backup(path, target).position == 60
        assert first < store.first_position
        first = store.first_position
    assert whole(target) == [*range(first, 61)]


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 100, with_crc({"retained": 1, "store_id": "x"}), None])
def test_a_damaged_file_is_named_and_repaired(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "s"
    with dropped(path) as store:
        first = store.first_position
    retained = path / "retained.json"
    good = retained.read_bytes()
    if content is None:
        retained.unlink()
        retained.mkdir()
    else:
        retained.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"retained\.json.*hangarlog repair"):
        FileEventStore(path)
    with pytest.raises(CorruptionError, match=r"retained\.json.*hangarlog repair"):
        list(verify_folder(path))
    assert any("retained.json" in str(done) for done in repair(path))
    assert retained.read_bytes() == good
    assert whole(path) == [*range(first, 61)]


def test_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with dropped(path) as store:
        later = with_crc({"retained": 2, "store_id": store.meta.store_id, "first_position": 9})
    (path / "retained.json").write_bytes(later)
    for use in (FileEventStore, lambda path: list(repair(path))):
        with pytest.raises(Exception, match="upgrade hangarlog"):
            use(path)
    assert (path / "retained.json").read_bytes() == later


@pytest.mark.parametrize("copy", [False, True])
def test_without_the_file_only_a_repair_settles_where_the_journal_begins(tmp_path: Path, copy: bool) -> None:
    path = tmp_path / "s"
    with dropped(path) as store:
        first = store.first_position
    if copy:
        path = shutil.copytree(path, tmp_path / "copy")
    (path / "retained.json").unlink()
    if copy:
        with pytest.raises(CorruptionError, match="hangarlog repair"):
            FileEventStore(path)
    assert not (path / "put-aside.jsonl").exists()
    assert any("retained.json" in str(done) for done in repair(path))
    assert whole(path) == [*range(first, 61)]


@pytest.mark.parametrize("copy", [False, True])
def test_older_files_and_a_newer_beginning_lose_nothing(tmp_path: Path, copy: bool) -> None:
    """A backup is put back, and `retained.json` stays: the store refuses to open, and a repair keeps all events."""
    path, old = tmp_path / "s", tmp_path / "old"
    with written(path) as store:
        backup(path, old)
        drop(store, segment_firsts(store)[3])
    retained = (path / "retained.json").read_bytes()
    if copy:
        path = tmp_path / "other"
    else:
        shutil.rmtree(path)
    shutil.copytree(old, path)
    (path / "retained.json").write_bytes(retained)
    with pytest.raises(CorruptionError, match=r"retained\.json.*hangarlog repair"):
        FileEventStore(path)
    list(repair(path))
    assert whole(path) == [*range(1, 61)]


def test_an_older_retained_file_is_settled_by_a_repair(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with dropped(path, 2) as store:
        older = (path / "retained.json").read_bytes()
        drop(store, segment_firsts(store)[2])
        first = store.first_position
    (path / "retained.json").write_bytes(older)
    list(repair(path))
    assert whole(path) == [*range(first, 61)]


def test_a_lost_segment_is_still_damage(tmp_path: Path) -> None:
    """The first segment left is served from the streams, and a repair makes it anew."""
    path = tmp_path / "s"
    with dropped(path) as store:
        first = store.first_position
        lost = store.folder.journal.sealed_path(first)
    Path(lost).unlink()
    with FileEventStore(path) as store:
        with pytest.warns(CorruptionWarning, match="served from the streams"):
            found = [position for position, _, _ in store.read_all()]
        assert found == [*range(first, 61)]
        assert list(verify(store))
    list(repair(path))
    assert whole(path) == [*range(first, 61)]


def test_a_beginning_that_no_mark_hides_is_lost_and_named(tmp_path: Path) -> None:
    """The sealed segments and the files of all streams are gone, and one mark hides some of it: nothing was dropped."""
    path = tmp_path / "s"
    with written(path) as store:
        store.truncate_stream("a:0", 20)
        store._writer.seal(None)
        store.append("b:1", [Added(60)], ANY)
    for file in [*path.glob("journal.0*"), *path.glob("streams/a/*")]:
        file.unlink()
    assert (1, 60) in [(done.first, done.last) for done in repair(path) if isinstance(done, Lost)]
    whole(path)


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
@pytest.mark.parametrize("begins_later", [False, True])
def test_events_of_which_only_a_lost_segment_had_a_copy_take_no_others_along(
    tmp_path: Path, begins_later: bool
) -> None:
    path = tmp_path / "s"
    with written(path, 1) as store:
        store.append("gone:1", [Added(1)], ANY)
        for number in range(60):
            store.append(f"a:{number % 3}", [Added(number, "x" * 40)], ANY)
        if begins_later:
            drop(store, segment_firsts(store)[2])
        first, following = segment_firsts(store)[:2]
        store.delete_stream("gone:1")
        store.truncate_stream("a:0", store.get_stream_version("a:0") - 3)
        shown = {each.position for name in store.list_streams() for each in store.records(name)}
        hidden = [each for each in range(first, following) if each not in shown]
        lost = store.folder.journal.sealed_path(first)
    Path(lost).unlink()
    found = [done for done in repair(path) if isinstance(done, Lost)]
    assert sorted(position for each in found for position in range(each.first, each.last + 1)) == hidden
    with FileEventStore.untyped(path) as store:
        there = [each.position for each in store.records(on_damage="skip")]
        assert there == [each for each in range(first, 63) if each not in hidden]
        assert store.append("a:1", [UntypedEvent("Added", {"number": 1})], 19) == 20


def test_what_was_hidden_only_in_part_stays(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        hide_before(store, 20)
    assert whole(tmp_path / "s") == [*range(1, 61)]
