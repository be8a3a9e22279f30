"""hangarlog: the event store that is a folder of plain text."""

from hangarlog.commit import ANY, NO_STREAM, STREAM_EXISTS
from hangarlog.errors import (
    CompactionError,
    ConcurrencyError,
    CorruptionError,
    CorruptionWarning,
    EventSerializationError,
    HangarlogError,
    LockTimeoutError,
    OutcomeUnknownError,
    SourceError,
    StorageError,
    StoreBusyError,
    StoreFormatError,
    StoreOpenError,
    StreamIdError,
    StreamNotFoundError,
    SyncError,
    UnknownEventTypeError,
    UpcasterError,
    UpcastingError,
)
from hangarlog.event import (
    EVENT_TYPE_MAP,
    EVENT_VERSION_MAP,
    UntypedEvent,
    get_current_version,
    register_event_type,
)
from hangarlog.eventstore import EventStore, Record
from hangarlog.memory import MemoryEventStore
from hangarlog.serializer import EventSerializer
from hangarlog.store import FileEventStore
from hangarlog.upcaster import IEventUpcaster, UpcasterChain

__version__ = "0.1.0"

__all__ = [
    "ANY",
    "EVENT_TYPE_MAP",
    "EVENT_VERSION_MAP",
    "NO_STREAM",
    "STREAM_EXISTS",
    "CompactionError",
    "ConcurrencyError",
    "CorruptionError",
    "CorruptionWarning",
    "EventSerializationError",
    "EventSerializer",
    "EventStore",
    "FileEventStore",
    "HangarlogError",
    "IEventUpcaster",
    "LockTimeoutError",
    "MemoryEventStore",
    "OutcomeUnknownError",
    "Record",
    "SourceError",
    "StorageError",
    "StoreBusyError",
    "StoreFormatError",
    "StoreOpenError",
    "StreamIdError",
    "StreamNotFoundError",
    "SyncError",
    "UnknownEventTypeError",
    "UntypedEvent",
    "UpcasterChain",
    "UpcasterError",
    "UpcastingError",
    "get_current_version",
    "register_event_type",
]
