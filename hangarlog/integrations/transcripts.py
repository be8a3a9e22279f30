"""Import of transcripts that agents and programs have left: Claude Code's, Codex's, or any JSON lines, whole or not."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec

from hangarlog.errors import ConcurrencyError, EventSerializationError, HangarlogError, SourceError, StreamDeletedError
from hangarlog.events.encoded_event import EncodedEvent, encode_given
from hangarlog.events.payload import FAILURES, decode_object, encode_plain
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.expected_version import ANY
from hangarlog.eventstore.progress import Progress
from hangarlog.integrations.transcript_files import Kind, TranscriptFile, transcript_files
from hangarlog.integrations.whole_records import Found, IsRecord, Lost, whole_records
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import Encoded
from hangarlog.record.line import MAX_LINE_BYTES
from hangarlog.record.timestamp import as_recorded
from hangarlog.system.filesystem import FileSystem

_BATCH_EVENTS, _BATCH_BYTES = 1000, 4 << 20
_ENVELOPE_BYTES = 16 << 10  # The most that a line has besides its payload.
_MAX_TYPE = 200
_MAX_DECODED_BYTES = 32 << 20
"""A larger record is kept as text: its values would take twenty times its memory."""
_MAX_SHAPES = 1000
_ATTEMPTS = 10
_is_uuid = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch

Tell = Callable[[str, Lost], None]
"""Called with (path, what is lost) for each loss."""


class Transcripts(msgspec.Struct):
    """What an import of transcripts did.

    `taken` counts events imported now, `already` those that the store had, `files` the files read. `as_text` counts
    records that no payload can hold as they are: they are imported as text. `lost` counts places that hold no whole
    record, `lost_bytes` their bytes. `left_out` maps each path that was not read, or not to its end, to the reason.
    """

    taken: int = 0
    already: int = 0
    files: int = 0
    as_text: int = 0
    lost: int = 0
    lost_bytes: int = 0
    left_out: dict[str, str] = {}


class _Head(msgspec.Struct):
    """The fields of a record that its event's type, time and id come from."""

    type: Any = None
    record_type: Any = None
    event: Any = None
    timestamp: Any = None
    time: Any = None
    ts: Any = None
    uuid: Any = None


_decode_head = msgspec.json.Decoder(_Head).decode


def import_transcripts(
    store: EventStore[Any],
    paths: Sequence[str],
    kind: Kind,
    report: Transcripts,
    *,
    tell: Tell = lambda path, lost: None,
    advance: Progress = lambda count: None,
) -> None:
    """Import the transcripts at `paths`, files or folders: each whole record becomes an event, in the file's order.

    Each file is a stream. `report` says how far the import came; `tell` is called for what is lost. You can run it
    again: it imports only what is new. The files are only read, up to the end that they had when they were opened.

    Raises:
        SourceError: one of the paths is missing. Nothing is imported.
        StorageError, OutcomeUnknownError: the store could not be written. Run the import again.
    """
    importer = _Importer(store, kind, report, tell, advance)
    filesystem, own = FileSystem(), getattr(store, "path", "")  # Not the store's own file system.
    try:
        for file in transcript_files(filesystem, paths, kind, report.left_out.__setitem__, own):
            importer.take(filesystem, file)
    except BaseException:
        with contextlib.suppress(HangarlogError):  # The first error is the cause.
            store.sync()
        raise
    store.sync()


class _Importer:
    """Takes one file after the other."""

    def __init__(self, store: EventStore[Any], kind: Kind, report: Transcripts, tell: Tell, advance: Progress) -> None:
        self._store, self._kind, self._report, self._tell, self._advance = store, kind, report, tell, advance

    def take(self, filesystem: FileSystem, file: TranscriptFile) -> None:
        """Import a file. What keeps it from being read, or from being stored in its stream, is reported."""
        self._report.files += 1
        self._path, self._told, self._taken = file.path, -1, 0

        def read(size: int, offset: int) -> bytes:
            try:
                return filesystem.read(file.fd, size, offset)
            except OSError as error:
                raise SourceError(file.path, f"it cannot be read at offset {offset}: {error.strerror}") from error

        cause = f"other processes append to stream {file.stream_id!r} all the time; run the import again"
        for _ in range(_ATTEMPTS):
            try:
                records = self._take(read, file)
            except ConcurrencyError:
                continue  # Look at the stream again.
            except SourceError as error:
                cause = error.cause
            except StreamDeletedError as error:
                cause = str(error)
            else:
                self._report.already += records - self._taken
                return
            break
        self._report.left_out[file.path] = cause

    def _take(self, read: Callable[[int, int], bytes], file: TranscriptFile) -> int:
        """Import what the stream does not have, and return how many records the file has."""
        stream = _Stream(self._store, file.stream_id)
        if stream.is_deleted:
            raise SourceError(file.path, f"all events of its stream {file.stream_id!r} were deleted or compacted")
        batch, size, records, time = list[Encoded](), 0, 0, None
        for found in self._records(read, file.size):
            records += 1
            event, own_id, own_time, as_text = _event(self._kind, found)
            time = own_time or time
            event_id = stream.new_id(own_id, event[2])
            if event_id is not None:
                self._report.as_text += as_text
                batch.append((event[0], event_id, event[2], time, None))
                size += len(event[2])
                if len(batch) == _BATCH_EVENTS or size > _BATCH_BYTES or stream.hides:
                    self._append(stream, batch)
                    batch, size = [], 0
        if batch:
            self._append(stream, batch)
        return records

    def _records(self, read: Callable[[int, int], bytes], size: int) -> Iterator[Found]:
        """Yield the whole records of a file, and tell of what is lost, once."""
        is_record, see = _recognizer(self._kind)
        for found in whole_records(read, size, is_record):
            if isinstance(found, Found):
                cause = self._refusal(found)
                if cause is None:
                    see(found.text)
                    yield found
                    continue
                found = Lost(found.number, found.offset, len(found.text), cause)
            if found.offset > self._told:
                self._told = found.offset
                self._report.lost += 1
                self._report.lost_bytes += found.size
                self._tell(self._path, found)

    def _refusal(self, found: Found) -> str | None:
        """Return why a whole JSON value is no record, None if it is one."""
        if len(found.text) > MAX_LINE_BYTES - _ENVELOPE_BYTES:
            return f"with its envelope it is longer than the limit of {MAX_LINE_BYTES} bytes"
        if self._kind != "jsonl" and not found.text.startswith(b"{"):
            return "it is no JSON object"
        try:
            found.text.decode()
        except UnicodeDecodeError as error:
            return f"it is not UTF-8: {error.reason}"
        return None

    def _append(self, stream: _Stream, events: list[Encoded]) -> None:
        written = stream.append(events)
        self._taken += written
        self._report.taken += written
        self._advance(len(events))


class _Stream:
    """A stream, and which records of a file it has.

    A record is there if the stream has an event of its id and content, or one of its content from another program. The
    id is the record's own, unless that came before with another content; else it is derived from the stream, the
    content, and how often that came before.
    """

    def __init__(self, store: EventStore[Any], stream_id: str) -> None:
        self._store, self._stream_id = store, stream_id
        self._version = store.get_stream_version(stream_id)
        self._there = dict[str, bytes]()
        if self._version >= 0:
            for block in store.envelopes(stream_id, to_version=self._version, on_damage="skip"):
                self._there.update((each.event_id, _content(bytes(each.data))) for each in block)
        self.hides = len(self._there) <= self._version
        """True if it does not show all its events. Then each append looks for its ids."""
        self.is_deleted = self.hides and not self._there
        self._left = Counter(self._there.values())
        self._used = set[str]()
        self._times = Counter[bytes]()

    def new_id(self, own_id: str | None, data: bytes) -> str | None:
        """Return the id for the next record of the file, None if it is there."""
        raw = blake2b(data, digest_size=16, person=b"hangarlog").digest()
        content = _content(data) if self._there else b""
        self._times[raw] += 1
        new = ""
        for candidate in (own_id, _derived_id(self._stream_id, raw, self._times[raw])):
            if candidate is None or candidate in self._used:
                continue
            stored = self._there.get(candidate)
            if stored == content:
                self._used.add(candidate)
                self._left[content] -= 1
                return None
            if stored is None:
                new = candidate
                break
        if self._left[content] > 0:
            self._left[content] -= 1
            return None
        self._used.add(new)
        return new

    def append(self, events: list[Encoded]) -> int:
        """Append events whose ids are new, and return how many were written. Raises what `append` raises."""
        if self.hides:
            pending = Pending(self._stream_id, events, ANY, retry=False, idempotent=True)
            return len(events) if self._store.append_encoded([pending])[self._stream_id].written else 0
        pending = Pending(self._stream_id, events, self._version, retry=False)
        self._version = int(self._store.append_encoded([pending])[self._stream_id])
        return len(events)


def _derived_id(stream_id: str, content: bytes, times: int) -> str:
    """Return a UUID of version 8: "custom", as RFC 9562 calls it."""
    made = blake2b(content, digest_size=16, person=b"hangarlog")
    made.update(b"%d:%b" % (times, stream_id.encode()))
    number = int.from_bytes(made.digest(), "big")
    return str(UUID(int=number & ~(0xF000 << 64) & ~(0xC000 << 48) | 0x8000 << 64 | 0x8000 << 48))


def _content(data: bytes) -> bytes:
    """Return a digest of a payload's values: another program may have written the same ones with other escapes."""
    with contextlib.suppress(*FAILURES):
        payload = decode_object(data)
        payload.pop("_version", None)  # An append adds it.
        data = encode_plain(payload)
    return blake2b(data, digest_size=16).digest()


def _event(kind: Kind, found: Found) -> tuple[Encoded, str | None, str | None, bool]:
    """Return (a record as an append stores it; its own id, and its time, None if it has none; True if it is text)."""
    try:
        head = _decode_head(found.text)
    except FAILURES:  # No object, or with numbers that JSON does not have.
        head = _Head()
    times = [each for each in (head.timestamp, head.time, head.ts) if isinstance(each, str)]
    own_id = head.uuid if isinstance(head.uuid, str) and _is_uuid(head.uuid) else None
    time, name, whole, text = _time(times[0]) if times else None, _name(head), found.text, "text"
    if kind == "claude":  # As the store of the Claude Agent SDK keeps it, which can go on with it.
        name, whole, text = "Entry", b'{"entry":%b}' % whole, "entry_json"
    if len(whole) <= _MAX_DECODED_BYTES:
        with contextlib.suppress(EventSerializationError):  # Too deep, a key twice, no object, …
            return encode_given(EncodedEvent(name, whole)), own_id, time, False
    kept = msgspec.json.encode({text: found.text.decode()})
    return encode_given(EncodedEvent(name, kept)), own_id, time, True


def _name(head: _Head) -> str:
    names = [each for each in (head.type, head.record_type, head.event) if each and isinstance(each, str)]
    return names[0] if names and len(names[0]) <= _MAX_TYPE else "line"


def _time(text: str) -> str | None:
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.utcoffset() is None else as_recorded(moment)
    except (ValueError, OverflowError):
        return None


def _recognizer(kind: Kind) -> tuple[IsRecord, Callable[[bytes], None]]:
    """Return (what tells a record in a broken line from a value of a torn one, what is told of each record)."""
    if kind == "claude":
        return _is_of_claude, lambda text: None
    if kind == "codex":
        return _is_of_codex, lambda text: None
    shapes = set[frozenset[str]]()

    def see(text: bytes) -> None:
        if len(shapes) < _MAX_SHAPES:
            with contextlib.suppress(*FAILURES):
                shapes.add(frozenset(msgspec.json.decode(text, type=dict[str, msgspec.Raw])))

    return lambda record: frozenset(record) in shapes, see


def _is_of_claude(record: dict[str, Any]) -> bool:
    known = "sessionId" in record or "leafUuid" in record or {"messageId", "snapshot"} <= record.keys()
    return known and isinstance(record.get("type"), str)


def _is_of_codex(record: dict[str, Any]) -> bool:
    return isinstance(record.get("timestamp"), str) and isinstance(record.get("type"), str) and "payload" in record
