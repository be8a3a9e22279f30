"""What comes in from outside: states of any bytes, hostile ids, other processes, stores that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from eventsourcing.application import Application
from eventsourcing.dcb.api import DCBAppendCondition, DCBEvent, DCBQuery, DCBQueryItem
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    StoredEvent,
    Tracking,
)

from hangarlog import FileEventStore
from hangarlog.integrations import eventsourcing as adapter

STATES = [
    b"",
    b"{}",
    b'{"name":"tea"}',
    b'{"name": "tea"}',
    b'{"name":"a cup of tea"}',
    b'{"n":1.0e5}',
    b'{"n":123456789012345678901234567890}',
    b'{"a":1,"a":2}',
    b'1,"version":7',
    b'1},"x":{',
    b'1,"extra":2',
    b"[1\n,2]",
    b'"\\u00e9"',
    '"é\u2028"'.encode(),
    b'"\xff"',
    b"NaN",
    b"null",
    b"[" * 2000 + b"]" * 2000,
    b"\x00\x01\xfe",
    b' {"a":1}',
    b'{"a":1}\n',
]


@pytest.fixture
def recorder(tmp_path: Path) -> adapter.HangarlogApplicationRecorder:
    return adapter.HangarlogApplicationRecorder(FileEventStore.untyped(tmp_path / "store"))


@pytest.mark.parametrize("together", [False, True])
def test_a_state_is_read_back_byte_for_byte(recorder: adapter.HangarlogApplicationRecorder, together: bool) -> None:
    one = uuid4()
    events = [StoredEvent(one, version, "topic", state) for version, state in enumerate(STATES)]
    for batch in [events] if together else [[each] for each in events]:
        recorder.insert_events(batch)
    assert [each.state for each in recorder.select_events(one)] == STATES
    assert [each.state for each in recorder.select_notifications(None, 100)] == STATES


def test_json_can_be_read_as_json(recorder: adapter.HangarlogApplicationRecorder) -> None:
    one = uuid4()
    recorder.insert_events([StoredEvent(one, 1, "topic", b'{"name":"a cup of tea"}')])
    lines = Path(recorder.store.path, f"streams/aggregate/{one}.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["data"] == {"version": 1, "state": {"name": "a cup of tea"}}


@pytest.mark.parametrize("originator_id", ["", "../../etc/passwd", "a\nb", "x" * 2000, "\ud800", "a/../b"])
def test_an_id_that_cannot_be_stored_is_a_data_error(tmp_path: Path, originator_id: str) -> None:
    recorder = adapter.HangarlogApplicationRecorder(FileEventStore.untyped(tmp_path / "store"), text_ids=True)
    with pytest.raises(DataError):
        recorder.insert_events([StoredEvent(originator_id, 1, "topic", b"{}")])
    with pytest.raises(DataError):
        recorder.select_events(originator_id)
    assert recorder.max_notification_id() is None


@pytest.mark.parametrize("originator_id", ["CON", "a:b", "Ünï", "a b", "%2e", "a/b", ".hidden", "A", "a"])
def test_an_id_that_is_odd_as_a_file_name_is_one_all_the_same(tmp_path: Path, originator_id: str) -> None:
    recorder = adapter.HangarlogApplicationRecorder(FileEventStore.untyped(tmp_path / "store"), text_ids=True)
    recorder.insert_events([StoredEvent(each, 1, "topic", b"{}") for each in ("other", originator_id)])
    assert [each.originator_id for each in recorder.select_events(originator_id)] == [originator_id]
    assert [each.originator_id for each in recorder.select_notifications(2, 9)] == [originator_id]


def test_versions_may_begin_anywhere_and_have_gaps_but_must_grow(
    recorder: adapter.HangarlogApplicationRecorder,
) -> None:
    one = uuid4()
    for version in (3, 4, 9):
        recorder.insert_events([StoredEvent(one, version, "topic", b"%d" % version)])
    another = adapter.HangarlogApplicationRecorder(recorder.store)
    for refused in (0, 1, 2, 3, 5, 8, 9):
        for each in (recorder, another):
            with pytest.raises(IntegrityError):
                each.insert_events([StoredEvent(one, refused, "topic", b"{}")])
    with pytest.raises(DataError):
        recorder.insert_events([StoredEvent(one, -1, "topic", b"{}")])

    def versions(**bounds: object) -> list[int]:
        found = another.select_events(one, **bounds)  # type: ignore[arg-type]
        return [each.originator_version for each in found]

    assert versions() == [3, 4, 9]
    recorder.select_events(one)  # It knows the end now.
    another.insert_events([StoredEvent(one, 100, "topic", b"{}")])
    assert [each.originator_version for each in recorder.select_events(one, gt=50)] == [100]
    assert [each.originator_version for each in recorder.select_events(one, gt=50, desc=True)] == [100]
    recorder.store.delete_stream(f"aggregate:{one}")
    for version in (1, 2, 50):
        another.insert_events([StoredEvent(one, version, "topic", b"{}")])
    assert versions() == [1, 2, 50]
    assert (versions(lte=1), versions(gt=1), versions(gt=1, lte=2)) == ([1], [2, 50], [2])
    assert (versions(lte=2, desc=True), versions(gt=2, desc=True)) == ([2, 1], [50])
    one = uuid4()
    for version in (3, 4, 9):
        recorder.insert_events([StoredEvent(one, version, "topic", b"%d" % version)])
    assert versions(gt=3) == [4, 9]
    assert versions(gt=4, lte=8) == []
    assert versions(lte=4) == [3, 4]
    assert versions(desc=True) == [9, 4, 3]
    assert versions(desc=True, lte=8, limit=1) == [4]
    assert versions(desc=True, gt=3, limit=5) == [9, 4]
    assert versions(gt=100) == versions(lte=0) == versions(limit=0) == []


def test_a_batch_over_several_aggregates_keeps_its_order(recorder: adapter.HangarlogApplicationRecorder) -> None:
    one, two = uuid4(), uuid4()
    batch = [StoredEvent(each, version, "topic", b"{}") for version in (1, 2) for each in (one, two)]
    assert recorder.insert_events(batch) == [1, 2, 3, 4]
    assert [(each.originator_id, each.originator_version) for each in recorder.select_notifications(None, 9)] == [
        (one, 1),
        (two, 1),
        (one, 2),
        (two, 2),
    ]


def test_another_recorder_has_appended_since(recorder: adapter.HangarlogApplicationRecorder) -> None:
    one, another = uuid4(), adapter.HangarlogApplicationRecorder(recorder.store)
    recorder.insert_events([StoredEvent(one, 1, "topic", b"{}")])
    another.insert_events([StoredEvent(one, 2, "topic", b"{}")])
    with pytest.raises(IntegrityError):
        recorder.insert_events([StoredEvent(one, 2, "topic", b"{}")])
    recorder.insert_events([StoredEvent(one, 3, "topic", b"{}")])
    assert [each.originator_version for each in another.select_events(one)] == [1, 2, 3]


def test_tracking_and_events_are_recorded_both_or_neither(tmp_path: Path) -> None:
    recorder = adapter.HangarlogProcessRecorder(FileEventStore.untyped(tmp_path / "store"))
    one = uuid4()
    assert recorder.insert_events([StoredEvent(one, 1, "topic", b"{}")], tracking=Tracking("up", 5)) == [1]
    with pytest.raises(IntegrityError):
        recorder.insert_events([StoredEvent(one, 2, "topic", b"{}")], tracking=Tracking("up", 5))
    with pytest.raises(IntegrityError):
        recorder.insert_events([StoredEvent(one, 1, "topic", b"{}")], tracking=Tracking("up", 6))
    assert len(recorder.select_events(one)) == 1
    assert recorder.max_tracking_id("up") == 5
    recorder.insert_events([], tracking=Tracking("up", 6))
    assert recorder.max_tracking_id("up") == 6


def test_a_subscription_beyond_the_end_waits_for_what_is_after_it(
    recorder: adapter.HangarlogApplicationRecorder,
) -> None:
    one = uuid4()
    with recorder.subscribe(gt=2) as subscription:
        recorder.insert_events([StoredEvent(one, version, "topic", b"{}") for version in (1, 2, 3)])
        assert next(subscription).id == 3


def test_a_subscription_is_stopped_from_another_thread(recorder: adapter.HangarlogApplicationRecorder) -> None:
    with recorder.subscribe(topics=["none"]) as subscription:
        thread = threading.Thread(target=lambda: recorder.insert_events([]) or subscription.stop())
        thread.start()
        assert list(subscription) == []
        thread.join()


def test_errors_are_of_the_frameworks_kinds(tmp_path: Path) -> None:
    store = FileEventStore.untyped(tmp_path / "store")
    recorder, one = adapter.HangarlogApplicationRecorder(store), uuid4()
    recorder.insert_events([StoredEvent(one, 1, "topic", b"{}")])
    with pytest.raises(DataError):
        recorder.insert_events([StoredEvent(one, 2, "", b"{}")])
    store.delete_stream(f"aggregate:{one}", permanent=True)
    with pytest.raises(IntegrityError):
        recorder.insert_events([StoredEvent(one, 2, "topic", b"{}")])
    store.close()
    for call in (lambda: recorder.select_events(one), lambda: recorder.max_notification_id(), recorder.subscribe):
        with pytest.raises(InterfaceError):
            call()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises((InterfaceError, OperationalError)):
        adapter.HangarlogFactory({"HANGARLOG_PATH": str(tmp_path / "file")}).application_recorder()


@pytest.mark.parametrize(
    "environment",
    [{}, {"HANGARLOG_PATH": "x", "HANGARLOG_DURABILITY": "soon"}, {"HANGARLOG_PATH": "x", "ORIGINATOR_ID_TYPE": "int"}],
)
def test_a_wrong_environment_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(OSError, match=r"HANGARLOG_|ORIGINATOR_ID_TYPE"):
        adapter.HangarlogFactory(environment)


def test_applications_have_folders_of_their_own(tmp_path: Path) -> None:
    class Shop(Application[UUID]):
        name = "../Shop"

    class Bank(Application[UUID]):
        env = {"IS_SNAPSHOTTING_ENABLED": "y"}  # noqa: RUF012

    here = {"PERSISTENCE_MODULE": "hangarlog.integrations.eventsourcing", "HANGARLOG_PATH": str(tmp_path)}
    for made in (Shop(here), Bank(here)):
        made.close()
    assert sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("hangarlog.json")) == [
        "%2E%2E%2Fshop/events",
        "bank/events",
        "bank/snapshots",
    ]


def test_a_dcb_condition_holds_between_recorders(tmp_path: Path) -> None:
    store = FileEventStore.untyped(tmp_path / "store")
    recorder = adapter.HangarlogDCBRecorder(store)
    taken = DCBQuery([DCBQueryItem(types=["Taken"], tags=["seat:1"])])
    done: list[object] = []

    def take() -> None:
        try:
            mine = adapter.HangarlogDCBRecorder(store)
            done.append(mine.append([DCBEvent("Taken", b"\xff", ["seat:1"])], DCBAppendCondition(taken)))
        except IntegrityError as error:
            done.append(error)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(each, int) for each in done) == 1
    assert [each.event.data for each in recorder.read(taken)] == [b"\xff"]
    assert list(recorder.read(DCBQuery([DCBQueryItem(tags=["seat:2"])]))) == []


class Counter(Aggregate):
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    @event("Counted")
    def add(self) -> None:
        self.count += 1


WRITER = """
import sys
from uuid import UUID
from eventsourcing.application import Application, AggregateNotFoundError
from eventsourcing.persistence import IntegrityError
from test_eventsourcing_input import Counter

app, wanted = Application(), UUID(sys.argv[1])
for number in range(int(sys.argv[2])):
    while True:
        counter = app.repository.get(wanted)
        counter.add()
        try:
            app.save(counter)
            break
        except IntegrityError:
            pass
    print(number, flush=True)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERSISTENCE_MODULE", "hangarlog.integrations.eventsourcing")
    monkeypatch.setenv("HANGARLOG_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def started(one: UUID, times: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(one), str(times)], stdout=subprocess.PIPE)


def test_two_processes_on_one_aggregate_lose_nothing(here: Path) -> None:
    with Application[UUID]() as app:
        counter = Counter()
        app.save(counter)
        processes = [started(counter.id, 50) for _ in range(2)]
        with app.recorder.subscribe() as subscription:
            seen = [next(subscription).originator_version for _ in range(101)]
        assert [len(process.communicate()[0].split()) for process in processes] == [50, 50]
        assert app.repository.get(counter.id).count == 100
        assert seen == list(range(1, 102))
        app.close()


def test_what_was_saved_before_a_kill_is_there(here: Path) -> None:
    with Application[UUID]() as app:
        counter = Counter()
        app.save(counter)
        for round_ in range(3):
            before = app.repository.get(counter.id).count
            with started(counter.id, 1_000_000) as process:
                assert process.stdout
                saved = [process.stdout.readline() for _ in range(20 + round_)]
                process.send_signal(signal.SIGKILL)
                saved += process.stdout.readlines()
            said = sum(line.endswith(b"\n") for line in saved)
            counted = app.repository.get(counter.id).count - before
            assert counted in (said, said + 1)
        counter = app.repository.get(counter.id)
        counter.add()
        app.save(counter)
        app.close()
