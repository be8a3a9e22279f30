"""The conformance suite that every event store must pass. It uses only the interface of `hangarlog.EventStore`."""

from hangarlog.testing.conformance.appending import AppendConformance
from hangarlog.testing.conformance.cursors import CursorConformance
from hangarlog.testing.conformance.deletion import DeletionConformance
from hangarlog.testing.conformance.executing import ExecuteConformance
from hangarlog.testing.conformance.ids import IdConformance
from hangarlog.testing.conformance.named import NamedConformance
from hangarlog.testing.conformance.proving import ProofConformance
from hangarlog.testing.conformance.reading import ReadConformance
from hangarlog.testing.conformance.selecting import SelectConformance
from hangarlog.testing.conformance.snapshots import SnapshotConformance
from hangarlog.testing.conformance.subscribing import SubscribeConformance
from hangarlog.testing.conformance.types import TypeConformance
from hangarlog.testing.conformance.unreadable import UnreadableConformance
from hangarlog.testing.conformance.waiting import WaitConformance


class EventStoreConformance(
    AppendConformance,
    CursorConformance,
    DeletionConformance,
    ExecuteConformance,
    IdConformance,
    NamedConformance,
    ProofConformance,
    ReadConformance,
    SelectConformance,
    SnapshotConformance,
    SubscribeConformance,
    TypeConformance,
    UnreadableConformance,
    WaitConformance,
):
    """The tests that every event store must pass. Subclass it and define `open_store`. Each test opens a new store."""
