"""Tools for tests, also for yours: a conformance suite for event stores, and the states a power cut can leave on disk.

    class TestMyStore(EventStoreConformance):
        def open_store(self, serializer):
            return MyStore(serializer=serializer)

Any test runner works that calls the methods named `test_…`, each on a fresh instance. For `Recording` and
`crash_states`, see `hangarlog.testing.crashes`; for given, when, then, `hangarlog.testing.scenario`.
"""

from hangarlog.testing.conformance import EventStoreConformance
from hangarlog.testing.crashes import CrashState, Recording, Unsynced, crash_states
from hangarlog.testing.events import Counted, Noted, raises, registered
from hangarlog.testing.scenario import Scenario

__all__ = [
    "Counted",
    "CrashState",
    "EventStoreConformance",
    "Noted",
    "Recording",
    "Scenario",
    "Unsynced",
    "crash_states",
    "raises",
    "registered",
]
