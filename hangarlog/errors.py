"""Every error hangarlog raises, under one base, each with its facts as fields."""

from __future__ import annotations

from typing import Any


class HangarlogError(Exception):
    """Base of all errors of hangarlog. Its fields are its arguments, so every error pickles."""


class StreamIdError(HangarlogError, ValueError):
    """A stream id cannot be used. Fields: `stream_id`, `cause`."""

    def __init__(self, stream_id: object, cause: str) -> None:
        super().__init__(stream_id, cause)
        self.stream_id, self.cause = stream_id, cause

    def __str__(self) -> str:
        shown = repr(self.stream_id)
        return f"bad stream id {shown if len(shown) < 80 else shown[:77] + '...'}: {self.cause}"


class ConcurrencyError(HangarlogError):
    """A stream is not at the expected version. Fields: `stream_id`, `expected`, `actual` (-1: no such stream)."""

    def __init__(self, stream_id: str, expected: int, actual: int) -> None:
        super().__init__(stream_id, expected, actual)
        self.stream_id, self.expected, self.actual = stream_id, expected, actual

    def __str__(self) -> str:
        # Of the numbers that are no version, only STREAM_EXISTS can conflict.
        expected = f"version {self.expected}" if self.expected >= -1 else "an existing stream"
        return (
            f"conflict on stream {self.stream_id!r}: expected {expected}, it is at {self.actual}; "
            "read what was added, decide again, and append with the new version"
        )


class RetryUnknownError(ConcurrencyError):
    """A stream is not at the expected version, and what stands after that is compacted away: this may be a retry of it.

    Fields as those of `ConcurrencyError`.
    """

    def __str__(self) -> str:
        return (
            f"stream {self.stream_id!r} is at version {self.actual}, not {self.expected}, and what was appended after "
            "that is compacted away: nobody can tell here whether it is these events; nothing was written. Look for "
            "their ids in the journal (`hangarlog read STORE`), which keeps all events"
        )


class StreamNotFoundError(HangarlogError, LookupError):
    """There is no such stream. Field: `stream_id`."""

    def __init__(self, stream_id: str) -> None:
        super().__init__(stream_id)
        self.stream_id = stream_id

    def __str__(self) -> str:
        return f"stream not found: {self.stream_id!r}; list what there is with `hangarlog streams`"


class CompactionError(HangarlogError):
    """A stream cannot be compacted. Fields: `stream_id`, `cause`."""

    def __init__(self, stream_id: str, cause: str) -> None:
        super().__init__(stream_id, cause)
        self.stream_id, self.cause = stream_id, cause

    def __str__(self) -> str:
        return f"cannot compact stream {self.stream_id!r}: {self.cause}"


class EventSerializationError(HangarlogError):
    """An event cannot be written as, or read back from, JSON. Fields: `event_type`, `message`."""

    def __init__(self, event_type: str, message: str) -> None:
        super().__init__(event_type, message)
        self.event_type, self.message = event_type, message

    def __str__(self) -> str:
        return f"event type {self.event_type!r}: {self.message}"


class TooLargeError(HangarlogError, ValueError):
    """An event, or a batch of them, is larger than a line or a segment can hold; nothing was written.

    Fields: `what` ("event" or "batch"), `size` and `limit`, in bytes of text as they would be stored.
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(what, size, limit)
        self.what, self.size, self.limit = what, size, limit

    def __str__(self) -> str:
        advice = "keep large content elsewhere, and its address in the event"
        if self.what == "batch":
            advice = "append it in several batches"
        return f"the {self.what} takes {self.size} bytes, the limit is {self.limit}; nothing was written: {advice}"


class NumberError(HangarlogError, ValueError):
    """An event would have a position or version beyond the highest that a store can have; nothing was written.

    Fields: `field` ("position" or "stream_version"), `number`, `limit`, and `stream_id`, None for a position.
    """

    def __init__(self, field: str, number: int, limit: int, stream_id: str | None = None) -> None:
        super().__init__(field, number, limit, stream_id)
        self.field, self.number, self.limit, self.stream_id = field, number, limit, stream_id

    def __str__(self) -> str:
        what, advice = "the journal", "append to a new store"
        if self.stream_id is not None:
            what, advice = f"stream {self.stream_id!r}", "go on in a new stream"
        return (
            f"{what} is at its end: an event would have {self.field} {self.number}, the highest is {self.limit}; "
            f"nothing was written: {advice}"
        )


class UnknownEventTypeError(EventSerializationError):
    """No class is registered for a stored event type."""


class UpcastingError(HangarlogError, RuntimeError):
    """A payload cannot be brought to its current schema version. Fields: `event_type`, `from_version`, `message`."""

    def __init__(self, *, event_type: str, from_version: int, message: str) -> None:
        super().__init__(event_type, from_version, message)
        self.event_type, self.from_version, self.message = event_type, from_version, message

    def __reduce__(self) -> Any:
        return _upcasting_error, (type(self), *self.args)

    def __str__(self) -> str:
        return self.message


class UpcasterError(UpcastingError, ValueError):
    """An upcaster cannot be registered: it skips a version, or its step is taken."""


def _upcasting_error(kind: type[UpcastingError], event_type: str, from_version: int, message: str) -> UpcastingError:
    return kind(event_type=event_type, from_version=from_version, message=message)


class CorruptionError(HangarlogError):
    """Stored bytes are not what was written.

    Fields: `path` (of the file), `segment` (its name inside the store), `offset` (bytes into it), `cause`; of the event
    that is damaged, as far as they are known and else None, `position`, `stream_id` and `stream_version`; and
    `mendable`, whether `hangarlog repair` may mend it.
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
        advice = "; every event is stored twice: `hangarlog repair` mends it where the other copy is whole"
        return (
            f"damaged record in {self.path} (segment {self.segment}) at offset {self.offset}{of}: {self.cause}"
            f"{advice if self.mendable else ''}"
        )


class LinkedFileError(CorruptionError):
    """A file that is to be written has another name, too, as in a copy by `cp -al`: its lines would show there."""

    def __str__(self) -> str:
        return (
            f"cannot write to {self.path}: {self.cause}; run `hangarlog repair`, which gives this store a file of its "
            "own; until then it can only be read"
        )


class CorruptionWarning(UserWarning):
    """A damaged record was read from its other copy, or passed over because that is damaged too (`on_damage="skip"`).

    The message has its place.
    """


class StoreOpenError(HangarlogError):
    """A folder cannot be opened as a store. Fields: `path`, `cause`."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"cannot open the store {self.path}: {self.cause}"


class StoreFormatError(StoreOpenError):
    """The folder holds a store of a format this version does not know, or a damaged `hangarlog.json`."""


class UnsafeFileSystemError(StoreOpenError):
    """A file system where locks or shared memory may not hold. Fields: `path` of the folder on it, `kind`: its type."""

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(path, kind)
        self.kind = kind

    def __str__(self) -> str:
        return (
            f"cannot open the store: {self.path} is on a file system of type {self.kind}, where other machines, "
            "containers or paths may reach the same files and not see the locks and the memory shared here: events "
            "could be lost, or written twice. Put the store on a local disk (for a container: a volume, not a folder "
            "of its host). If it is only ever used through this one mount, open it with "
            f"unsafe_file_system={self.kind!r}, or set HANGARLOG_UNSAFE_FILE_SYSTEM={self.kind}"
        )


class StoreBusyError(HangarlogError):
    """Another process holds the store exclusively. Fields: `path`, `pid`."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(path, pid)
        self.path, self.pid = path, pid

    def __str__(self) -> str:
        return f"the store {self.path} is held exclusively by process {self.pid}; close it there, then try again"


class LockTimeoutError(StoreBusyError):
    """The write lock was not to be had in time. Fields: `path`, `pid` (of who is writing; 0 if unknown), `seconds`."""

    def __init__(self, path: str, pid: int, seconds: float) -> None:
        HangarlogError.__init__(self, path, pid, seconds)
        self.path, self.pid, self.seconds = path, pid, seconds

    def __str__(self) -> str:
        holder = f"process {self.pid} is writing" if self.pid else "others hold it"
        return (
            f"the store {self.path} was locked for {self.seconds:g} s: {holder}; nothing was written. "
            "See whether that process hangs, or open the store with a longer lock_timeout"
        )


class StorageError(HangarlogError):
    """The operating system refused a call; nothing was written. Fields: `path`, `errno`, `cause`, `reading`.

    `reading` says whether it was a read that was refused.
    """

    def __init__(self, path: str, errno: int | None, cause: str, reading: bool = False) -> None:
        super().__init__(path, errno, cause, reading)
        self.path, self.errno, self.cause, self.reading = path, errno, cause, reading

    def __str__(self) -> str:
        what = "it was being read" if self.reading else "nothing was written"
        return f"the system refused the store {self.path}: {self.cause}; {what}. Try again without the cause"


class OutcomeUnknownError(HangarlogError):
    """An append was cut short where nobody can say yet whether it counts. Fields: `path`, `cause`.

    The next writer settles it. Append again with the same event ids: what was written is not written twice.
    """

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"append to {self.path} was cut short: {self.cause}; append again with the same event ids to settle it"


class SyncError(OutcomeUnknownError):
    """A sync to the device failed: whether the append survives a power cut is unknown.

    After a failed sync the operating system may report the next one as fine although data is lost, so before the next
    append the journal is written anew, into another file; until the device takes that, appends fail.
    """

    def __str__(self) -> str:
        return (
            f"sync of {self.path} failed: {self.cause}; the outcome is unknown: check the device, and append again "
            "with the same event ids"
        )


class SourceError(HangarlogError):
    """A source to import cannot be read, or contradicts what the store holds. Fields: `path`, `cause`."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"cannot import {self.path}: {self.cause}"


class BackupError(HangarlogError):
    """A backup cannot be made. Fields: `path` (of the target), `cause`."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"cannot back up to {self.path}: {self.cause}"


class SchemaLockError(HangarlogError):
    """A schema lock cannot be read. Fields: `path`, `cause`."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"schema lock {self.path}: {self.cause}"


class EventsNotFoundError(HangarlogError):
    """What should name an application's events does not. Fields: `target`, `cause`."""

    def __init__(self, target: str, cause: str) -> None:
        super().__init__(target, cause)
        self.target, self.cause = target, cause

    def __str__(self) -> str:
        return f"no events at {self.target!r}: {self.cause}"
