"""A copy has every event of its source, in the same order, versions, batches and positions; and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from copied_stores import (
    FIELDS,
    HOSTILE,
    OtherEngine,
    check_equal,
    contents,
    copied,
    cursors,
    event,
    fill,
    opened,
    versions,
)

import hangarlog
from hangarlog import ANY, ConcurrencyError, FileEventStore, MemoryEventStore
from hangarlog.copying import Copied, Copy, CopyError, copy

ENGINES: list[Any] = [MemoryEventStore.untyped, OtherEngine]


def caught_up(work: Copy) -> Copied:
    work.catch_up()
    return work.finish()


@pytest.fixture
def source(tmp_path: Path) -> Any:
    with opened(tmp_path / "source", segment_bytes=3000) as store:
        fill(store)
        yield store


def test_a_copy_of_a_file_store_has_the_same_bytes(source: FileEventStore[Any], tmp_path: Path) -> None:
    with opened(tmp_path / "target", segment_bytes=3000) as target:
        done = copy(source, target)
        check_equal(source, target)
        assert (done.events, done.already, done.compared) == (source.last_position, 0, source.last_position)
        assert (done.position, done.positions_kept, done.cursors) == (source.last_position, True, 4)
        for path in (tmp_path / "source").glob("journal*.jsonl"):
            assert (tmp_path / "target" / path.name).read_bytes() == path.read_bytes()
        for path in (tmp_path / "source/streams").rglob("*.jsonl"):
            assert (tmp_path / "target/streams" / path.relative_to(tmp_path / "source/streams")).exists()


@pytest.mark.parametrize("make", ENGINES)
def test_a_store_goes_to_another_engine_and_back(source: FileEventStore[Any], tmp_path: Path, make: Any) -> None:
    with make() as between, opened(tmp_path / "back") as back:
        copy(source, between)
        check_equal(source, between)
        assert copy(between, back).cursors == 4
        check_equal(source, back)


def test_a_second_run_copies_only_what_is_new(source: FileEventStore[Any], tmp_path: Path) -> None:
    copied(tmp_path / "source", tmp_path / "target")
    before = source.last_position
    again = copied(tmp_path / "source", tmp_path / "target")
    assert (again.events, again.already, again.compared) == (0, before, before)
    fill(source, 2)
    more = copied(tmp_path / "source", tmp_path / "target")
    assert (more.events, more.already) == (source.last_position - before, before)
    assert more.compared == source.last_position
    with opened(tmp_path / "target") as target:
        check_equal(source, target)


def test_writers_and_subscribers_go_on_in_the_target(source: FileEventStore[Any], tmp_path: Path) -> None:
    with opened(tmp_path / "target") as target:
        copy(source, target)
        version = source.get_stream_version("b:1")
        with pytest.raises(ConcurrencyError):
            target.append("b:1", [event(0)], version - 1)
        assert target.append("b:1", [event(0)], version) == version + 1
        at = source.cursor("reader 1").position
        with target.subscribe(name="reader 1", timeout=0) as subscription:
            assert [record.position for record in subscription] == [*range(at + 1, target.last_position + 1)]


def test_an_empty_store_makes_an_empty_copy(tmp_path: Path) -> None:
    opened(tmp_path / "source").close()
    assert copied(tmp_path / "source", tmp_path / "target").compared == 0
    assert copied(tmp_path / "source", tmp_path / "target").events == 0


def test_a_target_that_has_other_events_is_refused_and_stays_as_it_is(
    source: FileEventStore[Any], tmp_path: Path
) -> None:
    def other(target: FileEventStore[Any]) -> None:
        target.append("z:1", [event(1)], ANY)

    def longer(target: FileEventStore[Any]) -> None:
        copy(source, target)
        target.append(HOSTILE[0], [event(1)], ANY)

    def same_ids(target: FileEventStore[Any]) -> None:
        first = next(source.envelopes(limit=1))[0]
        given = hangarlog.EncodedEvent("T", b'{"n":1}', first.event_id, recorded_at=first.recorded_at)
        target.append(first.stream_id, [given], ANY)

    def half_a_batch(target: FileEventStore[Any]) -> None:
        rows = source.envelopes(to_position=len(HOSTILE) + 2)
        copy_of = [
            hangarlog.EncodedEvent(e.event_type, e.data, e.event_id, e.metadata, e.recorded_at) for b in rows for e in b
        ]
        for number, stream_id in enumerate(HOSTILE):
            target.append(stream_id, [copy_of[number]], ANY)
        target.append("b:1", copy_of[-2:], ANY)

    told = {
        half_a_batch: "has only a part of the batch that ends at position 14 of the source",
        other: "the target has an event that the source lacks|which has stream 'z:1', version 0",
        longer: "the target has an event that the source lacks, at its position",
        same_ids: "has another data and metadata in the target, at its position 1",
    }
    for number, (make, cause) in enumerate(told.items()):
        with opened(tmp_path / f"t{number}") as target:
            make(target)
            before = contents(target)
            with pytest.raises(CopyError, match=cause):
                copy(source, target)
            assert contents(target) == before
            assert number > 1 or cursors(target) == {}


def test_the_same_store_is_refused_as_target(source: FileEventStore[Any], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "source")
    with opened(tmp_path / "link") as again, MemoryEventStore() as memory:
        for here, there in ((source, again), (source, source), (memory, memory)):
            with pytest.raises(CopyError, match="both are the same store"):
                copy(here, there)


@pytest.mark.parametrize("stream_id", ["z:new", HOSTILE[0], "b:1"])
@pytest.mark.parametrize("when", ["copying", "comparing"])
def test_somebody_else_who_writes_to_the_target_is_noticed(
    source: FileEventStore[Any], tmp_path: Path, stream_id: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the copy, or at its end; in a stream of its own, too."""
    monkeypatch.setattr("hangarlog.copying.copying._CHUNK_BYTES", 1)
    with opened(tmp_path / "target") as target:
        left = [event(0)]

        def write(what: str, done: int, total: int) -> None:
            if what == "copying" and left and (done < total or when == "comparing"):
                target.append(stream_id, [left.pop()], ANY)

        work = Copy(source, target, progress=write)
        with pytest.raises(CopyError, match="somebody else writes to the target"):
            caught_up(work)
        with pytest.raises(CopyError, match="other events"):
            copy(source, target)


def test_a_target_that_was_changed_afterwards_differs(source: FileEventStore[Any]) -> None:
    """The comparison reads both stores anew."""
    with MemoryEventStore.untyped() as target:
        work = Copy(source, target)
        caught_up(work)
        target._journal[20] = hangarlog.Envelope(*map(target._journal[21].__getattribute__, FIELDS))
        with pytest.raises(CopyError, match="the copy differs: position 21 of the source"):
            work.compare()


def test_snapshots_deletions_and_truncations_go_along(source: FileEventStore[Any], tmp_path: Path) -> None:
    """And what is changed later reaches the copy by the next run, also a snapshot that was deleted."""
    _keep_some(source)
    with opened(tmp_path / "target") as target:
        assert copy(source, target).snapshots == 2
        check_equal(source, target)
        _check_kept(source, target)
        source.delete_snapshot("Audit Log")
        source.append(HOSTILE[0], [event(9)], ANY)
        source.delete_stream("b:2", permanent=True)
        source.save_snapshot("b:1", source.get_stream_version("b:1"), {"sum": 2})
        assert copy(source, target).snapshots == 1
        check_equal(source, target)
        _check_kept(source, target)
        with pytest.raises(hangarlog.StreamDeletedError):
            target.append("b:2", [event(1)], ANY)


def _keep_some(source: FileEventStore[Any]) -> None:
    source.save_snapshot("b:1", 10, {"sum": 1}, schema_version=3, saved_at="2026-01-01T00:00:00Z")
    source.save_snapshot("Audit Log", 1, {"x": [1, 2]})
    source.compact_stream("b:1")
    source.truncate_stream("b:2", 2)
    source.delete_stream(HOSTILE[0])
    source.delete_stream("x:con")
    source.append("x:con", [event(5)], 2)


def _check_kept(source: FileEventStore[Any], target: FileEventStore[Any]) -> None:
    for stream_id in source.list_streams():
        assert target.load_snapshot(stream_id) == source.load_snapshot(stream_id)
        assert target.snapshot_time(stream_id) == source.snapshot_time(stream_id)
    assert target.get_stream_version(HOSTILE[0]) == source.get_stream_version(HOSTILE[0]) == versions_of(source)


def versions_of(source: FileEventStore[Any]) -> int:
    return source.get_stream_version(HOSTILE[0])


def test_a_cursor_that_is_further_on_in_the_target_stays(source: FileEventStore[Any], tmp_path: Path) -> None:
    with opened(tmp_path / "target") as target:
        copy(source, target)
        target.cursor("reader 2").advance(source.last_position)
        assert copy(source, target).cursors_ahead == {"reader 2": source.last_position}
        assert cursors(target) == {**cursors(source), "reader 2": source.last_position}


def test_a_cursor_that_is_set_back_while_it_is_followed_goes_back(source: FileEventStore[Any]) -> None:
    with MemoryEventStore.untyped() as target:
        work = Copy(source, target)
        caught_up(work)
        source.cursor("reader 0").reset(3)
        assert caught_up(work).cursors_ahead == {}
        assert cursors(target) == cursors(source)


def test_versions_are_those_of_the_source(source: FileEventStore[Any], tmp_path: Path) -> None:
    copied(tmp_path / "source", tmp_path / "target")
    with opened(tmp_path / "target") as target:
        assert versions(target) == versions(source)


def test_an_address_is_opened(tmp_path: Path) -> None:
    with hangarlog.open(tmp_path / "s", durability="relaxed") as store:
        assert isinstance(store, FileEventStore)
    with pytest.raises(hangarlog.StoreOpenError) as refused:
        hangarlog.open("nots://user:secret@host/name")
    assert "secret" not in str(refused.value)
