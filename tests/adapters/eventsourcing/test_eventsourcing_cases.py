"""eventsourcing's own cases, on hangarlog."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import ClassVar

import pytest
from eventsourcing.dcb import tests as dcb
from eventsourcing.persistence import Tracking
from eventsourcing.tests import application, persistence, projection
from eventsourcing.utils import Environment
from places import place

from hangarlog import ANY, UntypedEvent
from hangarlog.integrations import eventsourcing as adapter
from hangarlog.integrations.eventsourcing.recorder import Store, opened

MODULE = "hangarlog.integrations.eventsourcing"
folders = itertools.count()


@pytest.fixture(autouse=True)
def _in_a_folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSISTENCE_MODULE", MODULE)
    monkeypatch.setenv("HANGARLOG_PATH", place(tmp_path))
    monkeypatch.chdir(tmp_path)


def new_store() -> Store:
    return opened(place(f"store-{next(folders)}"))


class TestAggregateRecorder(persistence.AggregateRecorderTestCase):
    def create_recorder(self):
        return adapter.HangarlogAggregateRecorder(new_store())


class TestApplicationRecorder(persistence.ApplicationRecorderTestCase):
    def create_recorder(self):
        return adapter.HangarlogApplicationRecorder(new_store())

    def test_insert_subscribe(self):
        self.optional_test_insert_subscribe()


class TestTextIds(TestApplicationRecorder):
    def new_originator_id(self):
        return f"dog-{super().new_originator_id()}"

    def create_recorder(self):
        return adapter.HangarlogApplicationRecorder(new_store(), text_ids=True)


class TestTrackingRecorder(persistence.TrackingRecorderTestCase):
    def create_recorder(self):
        return adapter.HangarlogTrackingRecorder(new_store())


class TestProcessRecorder(persistence.ProcessRecorderTestCase):
    def create_recorder(self):
        return adapter.HangarlogProcessRecorder(new_store())


class TestNonInterleaving(persistence.NonInterleavingNotificationIDsBaseCase):
    insert_num = 1000

    def create_recorder(self):
        return adapter.HangarlogApplicationRecorder(new_store())


class TrackingSubclass(adapter.HangarlogTrackingRecorder):
    pass


class TestFactory(persistence.InfrastructureFactoryTestCase):
    def setUp(self):
        self.env = Environment("TestCase", {"PERSISTENCE_MODULE": MODULE, "HANGARLOG_PATH": place("factory")})
        super().setUp()

    def expected_factory_class(self):
        return adapter.HangarlogFactory

    def expected_aggregate_recorder_class(self):
        return adapter.HangarlogAggregateRecorder

    def expected_application_recorder_class(self):
        return adapter.HangarlogApplicationRecorder

    def expected_tracking_recorder_class(self):
        return adapter.HangarlogTrackingRecorder

    def tracking_recorder_subclass(self):
        return TrackingSubclass

    def expected_process_recorder_class(self):
        return adapter.HangarlogProcessRecorder


class TestExampleApplication(application.ExampleApplicationTestCase):
    expected_factory_topic = f"{MODULE}.factory:HangarlogFactory"


@pytest.mark.filterwarnings("always:'log' is deprecated:DeprecationWarning")  # It tests that.
class TestApplication(application.ApplicationTestCase):
    pass


class Counters(adapter.HangarlogTrackingRecorder, projection.EventCountersView):
    """A view that counts in streams of its own, with the tracking in the same append."""

    def _count(self, name: str) -> int:
        return self.store.get_stream_version(f"counter:{name}") + 1

    def _add(self, name: str, tracking: Tracking) -> None:
        self.record(tracking, (f"counter:{name}", [UntypedEvent("Counted", {})], ANY))

    def get_created_event_counter(self):
        return self._count("created")

    def get_subsequent_event_counter(self):
        return self._count("subsequent")

    def incr_created_event_counter(self, tracking):
        self._add("created", tracking)

    def incr_subsequent_event_counter(self, tracking):
        self._add("subsequent", tracking)


class TestView(projection.EventCountersViewTestCase):
    def construct_event_counters_view(self):
        return Counters(new_store())


class TestProjection(projection.AggregateEventCountersProjectionTestCase):
    view_class = Counters
    env: ClassVar = {"PERSISTENCE_MODULE": MODULE}


class TestDCBProjection(projection.TaggedDecisionCountersProjectionTestCase):
    view_class = Counters
    env: ClassVar = {"PERSISTENCE_MODULE": MODULE, "MAPPER_TOPIC": "eventsourcing.dcb.msgpack:MessagePackMapper"}


class TestEventSourcedProjection(projection.EventSourcedProjectionTestCase):
    env: ClassVar = {"PERSISTENCE_MODULE": MODULE}


class TestDCB(dcb.DCBRecorderTestCase):
    def test_append_read(self):
        self._test_append_read(adapter.HangarlogDCBRecorder(new_store()))

    def test_append_subscribe(self):
        self._test_append_subscribe(adapter.HangarlogDCBRecorder(new_store()))
