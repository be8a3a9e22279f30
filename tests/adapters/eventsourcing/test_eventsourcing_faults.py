"""What befalls the store of an aggregate."""

from __future__ import annotations

import itertools
from pathlib import Path

import faults
from eventsourcing.persistence import PersistenceError, StoredEvent

from hangarlog import FileEventStore
from hangarlog.integrations.eventsourcing import HangarlogApplicationRecorder


class TestFaults(faults.Faults):
    stream, errors, versions = "aggregate:s", (PersistenceError,), itertools.count()
    test_an_event_of_a_newer_release_is_an_error_that_names_it = None  # The application's mapper knows types.

    def open(self, path: Path) -> HangarlogApplicationRecorder:
        return HangarlogApplicationRecorder(FileEventStore.untyped(path), text_ids=True)

    def close(self, session: HangarlogApplicationRecorder) -> None:
        session.store.close()

    def add(self, session: HangarlogApplicationRecorder, turn: int) -> None:
        session.insert_events([StoredEvent("s", next(self.versions), "Said", b"%d" % turn)])

    def turns(self, session: HangarlogApplicationRecorder) -> list[int]:
        return [int(each.state) for each in session.select_events("s")]
