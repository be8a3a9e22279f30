"""hangarlog: an event store in a folder of plain text."""

from hangarlog.system import import_path as _start  # noqa: F401, I001 - must be the first import, even before __future__: see there.
from typing import TYPE_CHECKING

from hangarlog.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS
from hangarlog.errors import (
    ArchiveError,
    BackupError,
    CompactionError,
    ConcurrencyError,
    CorruptionError,
    CorruptionWarning,
    CursorConflictError,
    CursorNameError,
    EventsDroppedError,
    EventsGoneError,
    EventSerializationError,
    EventsNotFoundError,
    HangarlogError,
    LockTimeoutError,
    MissingExtraError,
    NumberError,
    OutcomeUnknownError,
    PartialRetryError,
    PositionError,
    RetryUnknownError,
    SchemaLockError,
    SnapshotError,
    SourceError,
    StorageError,
    StoreBusyError,
    StoreFormatError,
    StoreOpenError,
    StreamDeletedError,
    StreamIdError,
    StreamNotFoundError,
    SyncError,
    TooLargeError,
    UnknownEventTypeError,
    UnreadableWarning,
    UnsafeFileSystemError,
    UpcasterError,
    UpcastingError,
)
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.stats import StoreStats
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.cursor import Cursor
from hangarlog.eventstore.record import Record
from hangarlog.eventstore.retention_policy import RetentionPolicy
from hangarlog.eventstore.named import NamedSubscription
from hangarlog.eventstore.server_errors import AppendUnknownError, BatchLimitError, UnavailableError
from hangarlog.eventstore.subscription import Subscription
from hangarlog.eventstore.subscriber_errors import (
    HandlerError,
    ReplayBusyError,
    SkippedWarning,
    SubscriptionLostError,
    WorkersError,
)
from hangarlog.record.envelope import Envelope
from hangarlog.events.encoded_event import EncodedEvent
from hangarlog.events.registry import (
    EVENT_TYPE_MAP,
    EVENT_VERSION_MAP,
    EventRegistry,
    UntypedEvent,
    event,
    get_current_version,
    register_event_type,
)
from hangarlog.events.serializer import EventSerializer
from hangarlog.filestore.store import FileEventStore
from hangarlog.eventstore.snapshot import SnapshotInfo
from hangarlog.opening import open as open  # noqa: A004 - not in `__all__`: `import *` must not take Python's own
from hangarlog.events.upcaster import IEventUpcaster, UpcasterChain

if TYPE_CHECKING:
    from hangarlog.memory import MemoryEventStore

__version__ = "0.1.0"

__all__ = [
    "ANY",
    "EVENT_TYPE_MAP",
    "EVENT_VERSION_MAP",
    "NO_STREAM",
    "STREAM_EXISTS",
    "AppendResult",
    "AppendUnknownError",
    "ArchiveError",
    "BackupError",
    "BatchLimitError",
    "CompactionError",
    "ConcurrencyError",
    "CorruptionError",
    "CorruptionWarning",
    "Cursor",
    "CursorConflictError",
    "CursorNameError",
    "EncodedEvent",
    "Envelope",
    "EventRegistry",
    "EventSerializationError",
    "EventSerializer",
    "EventStore",
    "EventsDroppedError",
    "EventsGoneError",
    "EventsNotFoundError",
    "FileEventStore",
    "HandlerError",
    "HangarlogError",
    "IEventUpcaster",
    "LockTimeoutError",
    "MemoryEventStore",
    "MissingExtraError",
    "NamedSubscription",
    "NumberError",
    "OutcomeUnknownError",
    "PartialRetryError",
    "PositionError",
    "Record",
    "ReplayBusyError",
    "RetentionPolicy",
    "RetryUnknownError",
    "SchemaLockError",
    "SkippedWarning",
    "SnapshotError",
    "SnapshotInfo",
    "SourceError",
    "StorageError",
    "StoreBusyError",
    "StoreFormatError",
    "StoreOpenError",
    "StoreStats",
    "StreamDeletedError",
    "StreamIdError",
    "StreamNotFoundError",
    "Subscription",
    "SubscriptionLostError",
    "SyncError",
    "TooLargeError",
    "UnavailableError",
    "UnknownEventTypeError",
    "UnreadableWarning",
    "UnsafeFileSystemError",
    "UntypedEvent",
    "UpcasterChain",
    "UpcasterError",
    "UpcastingError",
    "WorkersError",
    "event",
    "get_current_version",
    "register_event_type",
]


def __getattr__(name: str) -> "type[MemoryEventStore]":
    """Import `MemoryEventStore` on first use: only tests need it."""
    if name != "MemoryEventStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hangarlog.memory import MemoryEventStore

    return MemoryEventStore


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
