"""For tests, yours too: a conformance suite for event stores, and every state a power cut can leave of written files.

    class TestMyStore(EventStoreConformance):
        def open_store(self, serializer):
            return MyStore(serializer=serializer)

Any runner that calls methods named `test_…` on a fresh instance will do. For `Recording` and `crash_states` see
`hangarlog.testing.crashes`.
"""

from hangarlog.testing.conformance import EventStoreConformance
from hangarlog.testing.crashes import CrashState, Recording, Unsynced, crash_states
from hangarlog.testing.events import Counted, Noted, raises, registered

__all__ = [
    "Counted",
    "CrashState",
    "EventStoreConformance",
    "Noted",
    "Recording",
    "Unsynced",
    "crash_states",
    "raises",
    "registered",
]
