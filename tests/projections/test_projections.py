"""Projections whose state the store keeps."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counting import LONG, Running, Sums, add, append, sums

from hangarlog import (
    EVENT_VERSION_MAP,
    CorruptionWarning,
    EventSerializer,
    FileEventStore,
    MemoryEventStore,
    Record,
    UpcasterChain,
)
from hangarlog.eventstore.base import EventStore
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.projections import (
    Loaded,
    Projection,
    ProjectionBusyError,
    ProjectionError,
    ProjectionStateError,
    ProjectionVersionError,
)
from hangarlog.testing import registered
from hangarlog.testing.events import Counted, Noted


@pytest.fixture(autouse=True)
def counted_is_registered() -> Iterator[None]:
    with registered(Counted=Counted, Noted=Noted):
        yield


@pytest.fixture(params=["file", "memory"])
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore[Any]]:
    with FileEventStore(tmp_path / "store") if request.param == "file" else MemoryEventStore() as store:
        yield store


def state_file(store: FileEventStore, name: str = "sums") -> Path:
    return Path(store.path) / "projections" / f"{name}.json"


def test_a_projection_folds_what_is_there_and_what_comes(each: EventStore[Any]) -> None:
    """Its state and its position are read together, by any process; before the first run both are initial."""
    projection = sums()
    assert projection.load(each) == Loaded(Sums(), 0)
    append(each, 1, 2)
    projection.run(each, 0)
    assert projection.load(each) == (Sums(2, {"a:1": 3}), 2)
    append(each, 3, stream_id="b:1")
    sums().run(each, timeout=0)
    assert sums().load(each) == (Sums(3, {"a:1": 3, "b:1": 3}), 3)


def test_an_append_can_be_waited_for(each: EventStore[Any]) -> None:
    """`wait` returns when the state has it, also if the event is one that the projection does not want."""
    projection = sums(category="a")
    with Running(projection, each):
        for number in range(5):
            assert each.wait("sums", append(each, number), LONG)
            assert projection.load(each).state.events == number + 1
            unwanted = append(each, 0, stream_id="b:1")
            assert each.wait("sums", unwanted, LONG)
            assert projection.load(each).position >= unwanted
    assert [(cursor.name, cursor.lag) for cursor in each.cursors()] == [("sums", 0)]


def test_a_function_may_return_a_new_state(each: EventStore[Any]) -> None:
    """Instead of changing the one that it is given; the state may be anything that msgspec takes."""

    def total(state: int, record: Record[Counted]) -> int:
        return state + record.event.number

    projection = Projection("total", total, initial=int)
    append(each, 1, 2, 3)
    projection.run(each, 0)
    append(each, 4)
    projection.run(each, 0)
    assert projection.load(each) == (10, 4)


def test_a_poison_event_stops_with_an_error_that_says_where(each: EventStore[Any]) -> None:
    """What was saved stays; a mended function goes on from there, and nothing came twice."""

    def refuses(state: Sums, record: Record[Counted]) -> None:
        add(state, record)
        if record.event.number == 13:
            raise ValueError("no luck")

    append(each, 1)
    sums().run(each, 0)
    append(each, 2, 13, 4)
    with pytest.raises(ProjectionError, match=r"position 3 .*Counted, version 2 of stream 'a:1'.*: no luck") as caught:
        sums(apply=refuses).run(each, 0)
    error = caught.value
    assert (error.name, error.position, error.stream_id, error.stream_version) == ("sums", 3, "a:1", 2)
    assert isinstance(error.__cause__, ValueError)
    assert sums().load(each) == (Sums(1, {"a:1": 1}), 1)
    assert each.cursor("sums").position == 1
    sums().run(each, 0)
    assert sums().load(each) == (Sums(4, {"a:1": 20}), 4)


def test_a_runner_can_go_on_after_an_error(each: EventStore[Any]) -> None:
    """With the state that was saved, not with the one in which the function failed."""
    fails = [True]

    def refuses(state: Sums, record: Record[Counted]) -> None:
        add(state, record)
        if record.event.number == 2 and fails.pop():
            raise ValueError

    append(each, 1, 2)
    follower = sums(apply=refuses).follow(each)
    with pytest.raises(ProjectionError):
        follower.run(0)
    fails.append(False)
    follower.run(0)
    assert sums().load(each).state == Sums(2, {"a:1": 3})


def test_a_second_runner_is_refused(each: EventStore[Any]) -> None:
    """With `standby` it takes over when the first one has gone."""
    with Running(sums(), each) as first:
        assert each.wait("sums", append(each, 1), LONG)
        with pytest.raises(ProjectionBusyError, match="another runner is running projection 'sums'"):
            sums().run(each, 0)
        with Running(sums("other"), each), Running(sums(), each, standby=True):
            first.follower.stop()
            first.join()
            assert each.wait("sums", append(each, 2), LONG)


def test_stopping_saves_what_was_applied(each: EventStore[Any]) -> None:
    """To the end of the batch; the rest comes with the next run."""
    runner: list[Any] = []

    def stops(state: Sums, record: Record[Counted]) -> None:
        add(state, record)
        runner[0].stop()

    append(each, 1, 2, 3)
    append(each, 4)
    runner.append(sums(apply=stops).follow(each))
    runner[0].run()
    assert sums().load(each) == (Sums(3, {"a:1": 6}), 3)
    sums().run(each, 0)
    assert sums().load(each) == (Sums(4, {"a:1": 10}), 4)


def test_a_state_in_the_midst_of_many_events_has_no_half_of_a_batch(each: EventStore[Any]) -> None:
    """It is saved while it catches up, each time at the end of a batch."""
    seen: list[Loaded[Sums]] = []

    def looks(state: Sums, record: Record[Counted]) -> None:
        add(state, record)
        seen.append(sums().load(each))

    for number in range(60):
        append(each, *[number] * 7)
    sums(apply=looks, every_events=1).run(each, 0)
    assert len({loaded.position for loaded in seen}) > 1
    assert {loaded.position % 7 for loaded in seen} == {0}
    assert all(loaded.state.events == loaded.position for loaded in seen)


def test_the_parts_of_a_split_event_are_applied_together(tmp_path: Path) -> None:
    """Also if the state is saved, or the runner stopped, among them."""
    chain = UpcasterChain()

    @chain.splitter("Counted", from_version=1)
    def in_two(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        return [("Noted", {"_version": 1, "text": "x"}), ("Noted", {"_version": 1, "text": "y"})]

    with FileEventStore(tmp_path / "store") as store:
        for number in range(200):
            append(store, number)
    EVENT_VERSION_MAP["Counted"] = 2
    with FileEventStore(tmp_path / "store", serializer=EventSerializer(chain)) as store:
        runner: list[Any] = []

        def count(state: list[str], record: Record[Noted]) -> None:
            state.append(record.event.text)
            if record.event.text == "x" and runner:
                runner.pop().stop()

        projection: Projection[list[str]] = Projection("parts", count, initial=list, every_events=1)
        follower = projection.follow(store)
        runner.append(follower)
        follower.run()
        assert projection.load(store).state in ([], ["x", "y"])
        projection.run(store, 0)
        assert projection.load(store) == (["x", "y"] * 200, 200)


def test_a_state_that_would_come_back_otherwise_is_refused(each: EventStore[Any]) -> None:
    """A number as a key is text in JSON; a fold would go on otherwise after a restart."""

    def by_number(state: dict[int, int], record: Record[Counted]) -> None:
        state[record.event.number] = 1

    append(each, 1)
    with pytest.raises(ProjectionStateError, match="give state_type"):
        Projection("numbers", by_number).run(each, 0)
    typed: Projection[dict[int, int]] = Projection("numbers", by_number, state_type=dict[int, int])
    typed.run(each, 0)
    append(each, 2)
    typed.run(each, 0)
    assert typed.load(each).state == {1: 1, 2: 1}
    with pytest.raises(ProjectionStateError, match="cannot be kept as JSON"):
        Projection("objects", lambda state, record: state.update(x=object())).run(each, 0)


def test_wrong_arguments_are_named() -> None:
    for kind, options in (
        (ValueError, {"version": 0}),
        (TypeError, {"version": "2"}),
        (ValueError, {"every_events": 0}),
        (ValueError, {"every_seconds": 0}),
        (ValueError, {"name": "$x"}),
    ):
        with pytest.raises(kind):
            sums(**options)


# Rebuilding


def doubled(state: Sums, record: Record[Counted]) -> None:
    add(state, record)
    add(state, record)


def test_a_higher_version_is_built_anew(each: EventStore[Any]) -> None:
    """Each program reads states of its own version only."""
    append(each, 1, 2)
    sums().run(each, 0)
    newer = sums(version=2, apply=doubled)
    with pytest.raises(ProjectionVersionError, match="has version 2, what is stored has 1"):
        newer.load(each)
    progress: list[tuple[int, int]] = []
    newer.run(each, 0, progress=lambda *at: progress.append(at))
    assert newer.load(each) == (Sums(4, {"a:1": 6}), 2)
    assert progress[0] == (0, 2)
    assert progress[-1] == (2, 2)
    with pytest.raises(ProjectionVersionError, match="a newer program has built it"):
        sums().load(each)
    with pytest.raises(ProjectionVersionError, match="run the newer program"):
        sums().run(each, 0)


def test_a_rebuild_does_not_block_the_live_one(each: EventStore[Any]) -> None:
    """While it runs, the old state follows the store, and can be waited for; a newer version takes over at the end."""
    gate, entered = threading.Event(), threading.Event()

    def slow(state: Sums, record: Record[Counted]) -> None:
        entered.set()
        assert gate.wait(LONG)
        doubled(state, record)

    append(each, 1)
    with Running(sums(), each) as old:
        assert each.wait("sums", append(each, 2), LONG)
        with Running(sums(version=2, apply=slow), each):
            assert entered.wait(LONG)
            for number in range(3, 6):
                position = append(each, number)
                assert each.wait("sums", position, LONG)
                assert sums().load(each) == (Sums(position, {"a:1": sum(range(number + 1))}), position)
            gate.set()
            old.join()
            assert isinstance(old.error, ProjectionVersionError)
            old.error = None
            assert each.wait("sums", append(each, 6), LONG)
            assert sums(version=2).load(each) == (Sums(12, {"a:1": 42}), 6)


def test_a_rebuild_on_request_goes_on_beside_the_live_one(each: EventStore[Any]) -> None:
    """In the same runner: the live state never goes back, and the rebuilt one replaces it."""
    wrong = sums(apply=doubled)
    append(each, *range(10))
    wrong.run(each, 0)
    gate, entered = threading.Event(), threading.Event()

    def mended(state: Sums, record: Record[Counted]) -> None:
        if threading.current_thread().name == "hangarlog-rebuild" and record.position == 1:
            entered.set()
            assert gate.wait(LONG)
        add(state, record)

    with Running(sums(apply=mended), each, rebuild=True):
        assert entered.wait(LONG)
        assert each.wait("sums", append(each, 10), LONG)
        assert sums().load(each).state.events == 21  # The old state went on.
        gate.set()
        while sums().load(each).state.events != 11:
            assert sums().load(each).position == 11
        assert each.wait("sums", append(each, 11), LONG)
        assert sums().load(each) == (Sums(12, {"a:1": sum(range(12))}), 12)


def test_another_process_may_rebuild(each: EventStore[Any]) -> None:
    """The runner goes on with what was built; who has rebuilt ends, unless it stands by."""
    append(each, 1, 2)
    sums(apply=doubled).run(each, 0)
    with Running(sums(), each):
        assert each.wait("sums", append(each, 3), LONG)
        assert sums().load(each).state.events == 5
        sums().run(each, 0, rebuild=True)
        assert sums().load(each).state.events == 3
        assert each.wait("sums", append(each, 4), LONG)
        assert sums().load(each) == (Sums(4, {"a:1": 10}), 4)


def test_an_interrupted_rebuild_goes_on(each: EventStore[Any]) -> None:
    """Where it was, with the next run; with `rebuild` it begins anew."""
    for number in range(100):
        append(each, number)
    sums().run(each, 0)
    runner: list[Any] = []
    applied: list[int] = []

    def stops(state: Sums, record: Record[Counted]) -> None:
        applied.append(record.position)
        add(state, record)
        if record.position == 70 and runner:
            runner.pop().stop()

    newer = sums(version=2, apply=stops)
    follower = newer.follow(each)
    runner.append(follower)
    follower.run(0)
    assert sums().load(each).position == 100
    newer.run(each, 0)
    assert applied == list(range(1, 101))
    assert newer.load(each) == (Sums(100, {"a:1": sum(range(100))}), 100)


def test_a_second_rebuild_is_refused(each: EventStore[Any]) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow(state: Sums, record: Record[Counted]) -> None:
        entered.set()
        assert gate.wait(LONG)

    append(each, 1)
    sums().run(each, 0)
    with Running(sums(version=2, apply=slow), each):
        assert entered.wait(LONG)
        with pytest.raises(ProjectionBusyError, match="rebuilding"):
            sums(version=2).run(each, 0)
        gate.set()
        assert each.wait("sums", append(each, 2), LONG)


# The files


def test_the_state_is_a_line_of_text(store: FileEventStore) -> None:
    """With a checksum, as other small files of the store."""
    append(store, 1)
    sums("Sums of: ä").run(store, 0)
    file = state_file(store, "%53ums%20of%3A%20%C3%A4")
    assert file.read_text().startswith(
        '{"projection":"Sums of: ä","generation":0,"version":1,"position":1,"event_id":"'
    )
    assert '"state":{"events":1,"by_stream":{"a:1":1}},"crc":"' in file.read_text()
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_state_of_events_that_only_the_ring_has_is_whole(tmp_path: Path, ring_at_once: None) -> None:
    """As after a power cut: the next opening brings them back, and the state is theirs."""
    with FileEventStore(tmp_path / "store") as store:
        for number in range(5):
            append(store, number)
        sums().run(store, 0)
        copy = shutil.copytree(store.path, tmp_path / "copy")
    lines = (copy / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "journal.jsonl").write_bytes(b"".join(lines[:3]))
    assert list(verify_folder(str(copy))) == []
    (copy / "ring").unlink()
    assert ["which the store does not have" in str(damage) for damage in verify_folder(str(copy))] == [True]


def test_a_damaged_state_is_built_anew(store: FileEventStore) -> None:
    """With a warning. `verify` names it, `repair` puts it aside; reads show the initial state until it is there."""
    append(store, 1, 2)
    sums().run(store, 0)
    file = state_file(store)
    content = file.read_text()
    file.write_text(content.replace('"events":2', '"events":3'))
    (damage,) = verify(store)
    assert (damage.path, damage.mendable) == (str(file), False)
    assert sums().load(store) == (Sums(), 0)
    with pytest.warns(CorruptionWarning, match="it is built anew"):
        sums().run(store, 0)
    assert sums().load(store).state.events == 2
    assert list(verify(store)) == []
    file.write_text("")
    store.close()
    (repaired,) = repair(store.path)
    assert repaired.path == str(file)  # type: ignore[union-attr]
    assert not file.exists()


def test_a_state_of_another_history_is_built_anew(tmp_path: Path) -> None:
    """As when older events were put back, and others were appended since."""
    with FileEventStore(tmp_path / "store") as store:
        append(store, 1, 2, 3)
        sums().run(store, 0)
        content = state_file(store).read_bytes()
    for numbers in ((1, 2), (1, 2, 4)):
        with FileEventStore(tmp_path / str(len(numbers))) as other:
            append(other, *numbers)
            (tmp_path / str(len(numbers)) / "projections").mkdir()
            state_file(other).write_bytes(content)
            assert sums().load(other) == (Sums(), 0)
            with pytest.warns(CorruptionWarning, match="of other events"):
                sums().run(other, 0)
            assert sums().load(other) == (Sums(len(numbers), {"a:1": sum(numbers)}), len(numbers))
            assert other.cursor("sums").position == len(numbers)


def test_the_cursor_is_where_the_state_is(store: FileEventStore) -> None:
    """If the state is deleted, whoever waits for it waits until it is there again."""
    append(store, 1, 2)
    sums().run(store, 0)
    state_file(store).unlink()
    append(store, 3)
    sums(apply=lambda state, record: add(state, record)).run(store, 0)
    assert sums().load(store) == (Sums(3, {"a:1": 6}), 3)
    state_file(store).write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ProjectionError):
            sums(apply=lambda state, record: 1 / 0).run(store, 0)  # type: ignore[arg-type, return-value]
    assert not store.wait("sums", 1, 0)


def test_a_backup_has_the_state(store: FileEventStore, tmp_path: Path) -> None:
    """And a projection of the copy goes on from there; an older backup's state is replaced or deleted."""
    append(store, 1, 2)
    sums().run(store, 0)
    sums("other").run(store, 0)
    backup(store.path, tmp_path / "copy")
    (state_file(store, "other")).unlink()
    append(store, 3)
    sums().run(store, 0)
    backup(store.path, tmp_path / "copy")
    with FileEventStore(tmp_path / "copy") as copy:
        assert sums().load(copy) == (Sums(3, {"a:1": 6}), 3)
        assert sums("other").load(copy).position == 0
        assert list(verify(copy)) == []
        append(copy, 4)
        sums().run(copy, 0)
        assert sums().load(copy) == (Sums(4, {"a:1": 10}), 4)
