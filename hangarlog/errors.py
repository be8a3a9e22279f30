"""Every error that hangarlog raises, under one base class. Each carries its details as fields."""

from __future__ import annotations

from typing import Any

# The expected versions that are not a stream's version. They stand here because this module imports nothing.
NO_STREAM = -1
"""The expected version of a stream that must not exist yet."""
ANY = -2
"""The expected version that matches any stream, existing or not."""
STREAM_EXISTS = -4
"""The expected version that matches any stream with at least one event."""
_EXPECTED = {NO_STREAM: "a new stream", ANY: "any version", STREAM_EXISTS: "an existing stream"}


class HangarlogError(Exception):
    """The base class of all hangarlog errors. An error's fields are its arguments, so every error can be pickled."""


class _CauseError(HangarlogError):
    """Something failed. Fields: `path`, `cause`."""

    _failed = ""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"{self._failed} {self.path}: {self.cause}"


class StreamIdError(HangarlogError, ValueError):
    """The stream id is invalid. Fields: `stream_id`, `cause`."""

    def __init__(self, stream_id: object, cause: str) -> None:
        super().__init__(stream_id, cause)
        self.stream_id, self.cause = stream_id, cause

    def __str__(self) -> str:
        shown = repr(self.stream_id)
        return f"bad stream id {shown if len(shown) < 80 else shown[:77] + '...'}: {self.cause}"


class ConcurrencyError(HangarlogError):
    """The stream is not at the expected version. Fields: `stream_id`, `expected`, `actual` (-1: no such stream)."""

    def __init__(self, stream_id: str, expected: int, actual: int) -> None:
        super().__init__(stream_id, expected, actual)
        self.stream_id, self.expected, self.actual = stream_id, expected, actual

    def __str__(self) -> str:
        expected = _EXPECTED.get(self.expected, f"version {self.expected}")
        actual = f"it is at version {self.actual}" if self.actual >= 0 else "it does not exist"
        return (
            f"conflict on stream {self.stream_id!r}: expected {expected}, but {actual}; "
            "read the stream, decide again, and append with its version"
        )


class RetryUnknownError(ConcurrencyError):
    """The stream is not at the expected version, but the append may be a retry of events that are compacted away.

    The fields are those of `ConcurrencyError`.
    """

    def __str__(self) -> str:
        return (
            f"stream {self.stream_id!r} is at version {self.actual}, not {self.expected}, and the events after that "
            "version are compacted away, so this append may be a retry of them; nothing was written. Look for its "
            "event ids in the journal (`hangarlog read STORE`), which keeps all events until a retention"
        )


class PartialRetryError(ConcurrencyError):
    """Only some events of an idempotent append are stored already, so it is no retry; nothing was written.

    Fields: those of `ConcurrencyError`, and `missing`: (the id that is not in the stream, the id that is stored, its
    stream, its version there).
    """

    def __init__(self, stream_id: str, expected: int, actual: int, missing: tuple[str, str, str, int]) -> None:
        HangarlogError.__init__(self, stream_id, expected, actual, missing)
        self.stream_id, self.expected, self.actual, self.missing = stream_id, expected, actual, missing

    def __str__(self) -> str:
        absent, stored, stream_id, version = self.missing
        return (
            f"only some events of this append are stored: id {stored!r} is version {version} of stream {stream_id!r}, "
            f"id {absent!r} is not in stream {self.stream_id!r}; nothing was written. Append the events that are "
            "missing by themselves, or give new events ids of their own"
        )


class StreamNotFoundError(HangarlogError, LookupError):
    """The stream does not exist. Field: `stream_id`."""

    def __init__(self, stream_id: str) -> None:
        super().__init__(stream_id)
        self.stream_id = stream_id

    def __str__(self) -> str:
        return f"stream not found: {self.stream_id!r}; list the streams with `hangarlog streams`"


class CursorNameError(HangarlogError, ValueError):
    """The name of a cursor is invalid. Fields: `name`, `cause`."""

    def __init__(self, name: object, cause: str) -> None:
        super().__init__(name, cause)
        self.name, self.cause = name, cause

    def __str__(self) -> str:
        shown = repr(self.name)
        return f"bad cursor name {shown if len(shown) < 80 else shown[:77] + '...'}: {self.cause}"


class CursorConflictError(HangarlogError):
    """The cursor is not where the move expects it; nothing was changed.

    Fields: `name`; `to`, where it should have moved; `expected`, the position it should have been at (None: any up to
    `to`); `actual`, the position it is at.
    """

    def __init__(self, name: str, to: int, expected: int | None, actual: int) -> None:
        super().__init__(name, to, expected, actual)
        self.name, self.to, self.expected, self.actual = name, to, expected, actual

    def __str__(self) -> str:
        where = f"cursor {self.name!r} is at position {self.actual}"
        if self.expected is not None and self.expected != self.actual:
            return f"{where}, not {self.expected}: another worker moved it; continue from its position"
        return f"{where} and does not go back to {self.to}; to set it back on purpose, call reset({self.to})"


class StreamDeletedError(HangarlogError):
    """The stream was deleted for good, so it takes no more events. Fields: `stream_id`, `version` of its last event."""

    def __init__(self, stream_id: str, version: int) -> None:
        super().__init__(stream_id, version)
        self.stream_id, self.version = stream_id, version

    def __str__(self) -> str:
        return (
            f"stream {self.stream_id!r} was deleted for good, at version {self.version}; nothing was written: append "
            "to a stream with another id"
        )


class _StreamCauseError(HangarlogError):
    """Something failed with a stream. Fields: `stream_id`, `cause`."""

    _failed = ""

    def __init__(self, stream_id: str, cause: str) -> None:
        super().__init__(stream_id, cause)
        self.stream_id, self.cause = stream_id, cause

    def __str__(self) -> str:
        return f"{self._failed} stream {self.stream_id!r}: {self.cause}"


class SnapshotError(_StreamCauseError, ValueError):
    """The snapshot cannot be saved. Fields: `stream_id`, `cause`."""

    _failed = "cannot save this snapshot of"


class CompactionError(_StreamCauseError):
    """The stream cannot be compacted. Fields: `stream_id`, `cause`."""

    _failed = "cannot compact"


class _ReadError(HangarlogError):
    """An error that may be about a stored event. Fields: `stream_id`, `stream_version`, `position`: None if unknown."""

    stream_id: str | None = None
    stream_version: int | None = None
    position: int | None = None

    def locate(self, stream_id: str, stream_version: int, position: int) -> None:
        """Set the place of the stored event that cannot be read."""
        self.stream_id, self.stream_version, self.position = stream_id, stream_version, position

    def _with_place(self, text: str) -> str:
        if self.stream_id is None or self.stream_version is None:
            return text
        return (
            f"{text} (stream {self.stream_id!r}, version {self.stream_version}, position {self.position}). "
            f"To pass over it, read on with from_version={self.stream_version + 1} (all streams: "
            f"from_position={self.position}), or use EventSerializer(unreadable='untyped') or unreadable='skip'"
        )


class EventSerializationError(_ReadError):
    """An event cannot be written as JSON or read back from it.

    Fields: `event_type`, `message`; `stream_id`, `stream_version` and `position` of an event that a store cannot read,
    else None.
    """

    def __init__(self, event_type: str, message: str) -> None:
        super().__init__(event_type, message)
        self.event_type, self.message = event_type, message

    def __str__(self) -> str:
        return self._with_place(f"event type {self.event_type!r}: {self.message}")


class TooLargeError(HangarlogError, ValueError):
    """An event is too large for a line, or a batch for a segment; nothing was written.

    Fields: `what` ("event" or "batch"), `size` and `limit`, both in bytes of stored text.
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(what, size, limit)
        self.what, self.size, self.limit = what, size, limit

    def __str__(self) -> str:
        advice = "keep large content elsewhere, and put its address in the event"
        if self.what == "batch":
            advice = "append it in several batches"
        return f"the {self.what} takes {self.size} bytes, the limit is {self.limit}; nothing was written: {advice}"


class NumberError(HangarlogError, ValueError):
    """An event would exceed the highest possible position or version; nothing was written.

    Fields: `field` ("position" or "stream_version"), `number`, `limit`, and `stream_id` (None for a position).
    """

    def __init__(self, field: str, number: int, limit: int, stream_id: str | None = None) -> None:
        super().__init__(field, number, limit, stream_id)
        self.field, self.number, self.limit, self.stream_id = field, number, limit, stream_id

    def __str__(self) -> str:
        what, advice = "the journal", "append to a new store"
        if self.stream_id is not None:
            what, advice = f"stream {self.stream_id!r}", "go on in a new stream"
        return (
            f"{what} is at its end: the event would have {self.field} {self.number}, the highest is {self.limit}; "
            f"nothing was written: {advice}"
        )


class UnknownEventTypeError(EventSerializationError):
    """No class is registered for a stored event type."""


class UpcastingError(_ReadError, RuntimeError):
    """A payload cannot be upcast to its current schema version.

    Fields: `event_type`, `from_version`, `message`; `stream_id`, `stream_version` and `position` of an event that a
    store cannot read, else None.
    """

    def __init__(self, *, event_type: str, from_version: int, message: str) -> None:
        super().__init__(event_type, from_version, message)
        self.event_type, self.from_version, self.message = event_type, from_version, message

    def __reduce__(self) -> Any:
        return _upcasting_error, (type(self), *self.args), vars(self)

    def __str__(self) -> str:
        return self._with_place(self.message)


class UpcasterError(UpcastingError, ValueError):
    """An upcaster cannot be registered: it skips a version, or its step already has one."""


def _upcasting_error(kind: type[UpcastingError], event_type: str, from_version: int, message: str) -> UpcastingError:
    return kind(event_type=event_type, from_version=from_version, message=message)


class CorruptionError(HangarlogError):
    """Stored bytes are damaged: they are not the bytes that were written.

    Fields: `path` of the file, `segment` (its name inside the store), `offset` (in bytes), `cause`; `position`,
    `stream_id` and `stream_version` of the damaged event, each None if unknown; `mendable`: True if `hangarlog repair`
    may be able to mend it.
    """

    def __init__(
        self,
        path: str,
        segment: str,
        offset: int,
        cause: str,
        position: int | None = None,
        stream_id: str | None = None,
        stream_version: int | None = None,
        mendable: bool = True,
    ) -> None:
        super().__init__(path, segment, offset, cause, position, stream_id, stream_version, mendable)
        self.path, self.segment, self.offset, self.cause = path, segment, offset, cause
        self.position, self.stream_id, self.stream_version = position, stream_id, stream_version
        self.mendable = mendable

    def __str__(self) -> str:
        event = [] if self.position is None else [f"position {self.position}"]
        if self.stream_id is not None:
            event.append(f"stream {self.stream_id!r}")
        if self.stream_version is not None:
            event.append(f"version {self.stream_version}")
        of = f" ({', '.join(event)})" if event else ""
        advice = "; every event is stored twice: `hangarlog repair` mends it if the other copy is whole"
        return (
            f"damaged record in {self.path} (segment {self.segment}) at offset {self.offset}{of}: {self.cause}"
            f"{advice if self.mendable else ''}"
        )


class LinkedFileError(CorruptionError):
    """The file to write to has another name, as after `cp -al`, so its new lines would show there too."""

    def __str__(self) -> str:
        return (
            f"cannot write to {self.path}: {self.cause}; run `hangarlog repair`, which gives this store a file of its "
            "own; until then the store can only be read"
        )


class CorruptionWarning(UserWarning):
    """A damaged record was read from its other copy or skipped, or whole ones were put aside. See the message."""


class UnreadableWarning(UserWarning):
    """A read passed over an event that its class cannot read (`unreadable="skip"`). The message names the place."""


class StoreOpenError(_CauseError):
    """The folder cannot be opened as a store. Fields: `path`, `cause`."""

    _failed = "cannot open the store"


class StoreFormatError(StoreOpenError):
    """The store has a format that this version does not know, or its `hangarlog.json` is damaged."""


class UnsafeFileSystemError(StoreOpenError):
    """The file system may not support shared locks or memory. Fields: `path` of a folder on it, `kind` (its type)."""

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(path, kind)
        self.kind = kind

    def __str__(self) -> str:
        return (
            f"cannot open the store: {self.path} is on a file system of type {self.kind}. Another machine, container "
            "or path may reach the same files there without seeing the locks and the shared memory, so events could be "
            "lost, or written twice. Put the store on a local disk (for a container: a volume, not a folder of its "
            "host). If the store is only ever used through this one mount, open it with "
            f"unsafe_file_system={self.kind!r}, or set HANGARLOG_UNSAFE_FILE_SYSTEM={self.kind}"
        )


class MissingExtraError(_CauseError):
    """A file cannot be read without an optional package. Fields: `path`, `cause` (it says what to install)."""

    _failed = "cannot read"


class StoreBusyError(HangarlogError):
    """Another process holds the store exclusively. Fields: `path`, `pid` (of that process)."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(path, pid)
        self.path, self.pid = path, pid

    def __str__(self) -> str:
        return f"the store {self.path} is held exclusively by process {self.pid}; close it there, then try again"


class LockTimeoutError(StoreBusyError):
    """The lock did not become free in time. Fields: `path`, `pid` of the holder (0 if unknown), `seconds` waited."""

    def __init__(self, path: str, pid: int, seconds: float) -> None:
        HangarlogError.__init__(self, path, pid, seconds)
        self.path, self.pid, self.seconds = path, pid, seconds

    def __str__(self) -> str:
        holder = f"process {self.pid} is writing" if self.pid else "others hold it"
        advice = "Check whether that process hangs, or open the store with a longer lock_timeout"
        return f"the store {self.path} was locked for {self.seconds:g} s: {holder}; nothing was written. {advice}"


class StorageError(HangarlogError):
    """The operating system refused a call on the store. Fields: `path`, `errno`, `cause`, `reading`.

    `reading` is True if the store was being read. If it is False, nothing was written.
    """

    def __init__(self, path: str, errno: int | None, cause: str, reading: bool = False) -> None:
        super().__init__(path, errno, cause, reading)
        self.path, self.errno, self.cause, self.reading = path, errno, cause, reading

    def __str__(self) -> str:
        what, outcome = ("reading", "") if self.reading else ("writing to", "; nothing was written")
        refused = f"the operating system refused a call while {what} the store {self.path}: {self.cause}{outcome}"
        return f"{refused}. Remove the cause, then try again"


class OutcomeUnknownError(_CauseError):
    """An append was cut short, and whether it counts is not known yet. Fields: `path`, `cause`.

    The next writer settles it. Append again with the same event ids: events that were written are not written twice.
    """

    def __str__(self) -> str:
        return f"append to {self.path} was cut short: {self.cause}; append again with the same event ids to settle it"


class SyncError(OutcomeUnknownError):
    """A sync to the device failed, so the append may not survive a power cut.

    After a failed sync, the operating system may report success for the next one although data is lost. So the next
    append first rewrites the journal into a new file. Appends fail until the device accepts that file.
    """

    def __str__(self) -> str:
        return (
            f"sync of {self.path} failed: {self.cause}; the outcome is unknown: check the device, and append again "
            "with the same event ids"
        )


class SourceError(_CauseError):
    """An import source cannot be read, or contradicts the store. Fields: `path`, `cause`."""

    _failed = "cannot import"


class BackupError(_CauseError):
    """A backup failed. Fields: `path` (of the target), `cause`."""

    _failed = "cannot back up to"


class ArchiveError(_CauseError):
    """A folder cannot be the archive of a store, or an archive was used as a store. Fields: `path`, `cause`."""

    _failed = "the archive"


class SchemaLockError(_CauseError):
    """The schema lock cannot be read. Fields: `path`, `cause`."""

    _failed = "schema lock"


class EventsNotFoundError(HangarlogError):
    """The given target does not lead to an application's events. Fields: `target`, `cause`."""

    def __init__(self, target: str, cause: str) -> None:
        super().__init__(target, cause)
        self.target, self.cause = target, cause

    def __str__(self) -> str:
        return f"no events at {self.target!r}: {self.cause}"


class PositionError(HangarlogError):
    """A subscription is beyond the store's last event. Fields: `path`, `position`, `last`."""

    def __init__(self, path: str, position: int, last: int) -> None:
        super().__init__(path, position, last)
        self.path, self.position, self.last = path, position, last

    def __str__(self) -> str:
        return f"position {self.position} is beyond the last event of {self.path}; begin at {self.last} or before"


class EventsGoneError(HangarlogError):
    """Events after a subscription's position are gone. Fields: `source`, `position`, `first_position` (left)."""

    def __init__(self, source: str, position: int, first_position: int | None) -> None:
        super().__init__(source, position, first_position)
        self.source, self.position, self.first_position = source, position, first_position

    def __str__(self) -> str:
        left = f"begin at {self.first_position - 1}" if self.first_position else "begin at 'end'"
        return f"events of {self.source!r} after position {self.position} are compacted or deleted; to go on, {left}"


class EventsDroppedError(HangarlogError):
    """Events that a read wants were dropped by a retention. Fields: `path`, `first` (position left), `wanted`."""

    def __init__(self, path: str, first: int, wanted: int) -> None:
        super().__init__(path, first, wanted)
        self.path, self.first, self.wanted = path, first, wanted

    def __str__(self) -> str:
        begin = f"begin after position {self.first - 1}, or at 0 for the first one left"
        return f"position {self.wanted} of {self.path} was dropped: the first event left is {self.first}; {begin}"
