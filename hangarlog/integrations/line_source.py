"""The lines of an export, to import from: each is checked as `verify` checks it. Anybody may have written them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import BinaryIO

import msgspec

from hangarlog.copying.sound import why_refused
from hangarlog.errors import SourceError
from hangarlog.events.payload import decode_object
from hangarlog.eventstore.progress import Progress
from hangarlog.record.envelope import Envelope, LineError, Place
from hangarlog.record.line import HEAD, MAX_LINE_BYTES, StoredEnvelope, may_be_torn
from hangarlog.record.strict import refuse_repeated_keys, strict_record, strict_records
from hangarlog.record.timestamp import as_recorded

_READ_BYTES = 256 << 10
_OTHER_FORMATS = {
    b"\x1f\x8b": "it is compressed by gzip; pipe it: `gunzip -c FILE | hangarlog import STORE -`",
    b"\x28\xb5\x2f\xfd": "it is compressed by zstd; pipe it: `zstd -dc FILE | hangarlog import STORE -`",
    b"SQLite format 3\0": "it is a SQLite database; use --format db",
    b"\xef\xbb\xbf": "it begins with a byte order mark; save it without one",
    b"\xff\xfe": "it is UTF-16; convert it to UTF-8",
    b"\xfe\xff": "it is UTF-16; convert it to UTF-8",
}


_START_BYTES = 16
_ADVICE = "each line must be as `hangarlog export` writes it"


def is_text(file: BinaryIO) -> bool:
    """True if a file begins as lines do, or as what becomes lines when it is converted."""
    start = file.read(_START_BYTES)
    return not start.startswith(b"SQLite") and start.startswith((b"{", *_OTHER_FORMATS))


class LineSource:
    """A text file of events. `path` is its name in messages. `count_bytes` is told how many bytes were read.

    Iterating yields (number of the line, its event), without waiting for more text than that.

    Raises:
        SourceError: a line is damaged, torn, or something else.
    """

    def __init__(self, file: BinaryIO, path: str, count_bytes: Progress = lambda count: None) -> None:
        self._file, self.path, self._count_bytes = file, path, count_bytes
        self._decode: Callable[[bytes], Envelope] | None = None
        self._left = self._all()

    def refuse(self, number: int, cause: str) -> SourceError:
        """Return the error for a line."""
        return SourceError(self.path, f"line {number}: {cause}")

    def check_start(self) -> None:
        """Read the first event, if there is one, before a store is made for it. Raises `SourceError`."""
        self._left = chain([*islice(self._left, 1)], self._left)

    def __iter__(self) -> Iterator[tuple[int, Envelope]]:
        return self._left

    def _all(self) -> Iterator[tuple[int, Envelope]]:
        number = 1
        for lines, is_whole in self._texts():
            if self._decode is None and lines:
                self._decode = self._decoder_of(lines[0])
            yield from self._events(number, lines, is_whole)
            number += len(lines)

    def _texts(self) -> Iterator[tuple[list[bytes], bool]]:
        """Yield (lines without their newlines, True if each had one)."""
        parts, size = list[bytes](), 0
        while data := self._file.read1(_READ_BYTES):  # type: ignore[attr-defined]
            self._count_bytes(len(data))
            whole, newline, rest = data.rpartition(b"\n")
            if newline:
                yield b"".join([*parts, whole]).split(b"\n"), True
                parts, size = [], 0
            parts.append(rest)
            size += len(rest)
            if size > MAX_LINE_BYTES:
                yield [b"".join(parts)], False
                return
        if size:
            yield [b"".join(parts)], False

    def _decoder_of(self, first: bytes) -> Callable[[bytes], Envelope]:
        for magic, cause in _OTHER_FORMATS.items():
            if first.startswith(magic):
                raise SourceError(self.path, cause)
        return _cloud_event if b'"specversion"' in first and not first.startswith(HEAD) else strict_record

    def _events(self, number: int, lines: list[bytes], is_whole: bool) -> Iterator[tuple[int, Envelope]]:
        records: list[StoredEnvelope] = []
        if self._decode is strict_record and b"" not in lines:
            with contextlib.suppress(LineError):  # One by one, to find the line.
                records = strict_records(lines)
        for offset, line in enumerate(lines):
            if line:  # Empty lines mean nothing.
                record = records[offset] if records else self._event(number + offset, line, is_whole)
                self._check(number + offset, record, line)
                yield number + offset, record

    def _event(self, number: int, line: bytes, is_whole: bool) -> Envelope:
        assert self._decode
        try:
            return self._decode(line)
        except LineError as error:
            if len(line) > MAX_LINE_BYTES:
                cause = f"it is longer than the limit of {MAX_LINE_BYTES} bytes"
            elif not is_whole and may_be_torn(line):
                cause = "it is torn: the file ends within it; export it again"
            elif line.endswith(b"\r"):
                cause = "it ends in CR LF; convert the line ends first: `tr -d '\\r'`"
            else:
                cause = f"{error}; {_ADVICE}"
            raise self.refuse(number, cause) from error

    def _check(self, number: int, record: Envelope, line: bytes) -> None:
        """Raise `SourceError` unless a store may hold the event as it is."""
        cause = why_refused(record, line, is_record=self._decode is strict_record)
        if cause:
            raise self.refuse(number, cause)


class _CloudEvent(msgspec.Struct):
    id: str
    type: str
    subject: str
    time: str
    sequence: str
    streamversion: int
    data: msgspec.Raw
    correlationid: msgspec.Raw = msgspec.Raw()
    causationid: msgspec.Raw = msgspec.Raw()


_decode_cloud_event = msgspec.json.Decoder(_CloudEvent).decode


def _cloud_event(line: bytes) -> Envelope:
    """Return the event of a CloudEvent that an export wrote. Raises `LineError`."""
    try:
        found = _decode_cloud_event(line)
        refuse_repeated_keys(line)
        decode_object(bytes(found.data))
        time = datetime.fromisoformat(found.time)
        if time.utcoffset() is None:
            raise ValueError(f"the time {found.time!r} has no offset from UTC")
        names = {"correlation_id": found.correlationid, "causation_id": found.causationid}
        metadata = {name: value for name, value in names.items() if bytes(value)}
        place = msgspec.convert(
            {"position": int(found.sequence), "stream_id": found.subject, "stream_version": found.streamversion}, Place
        )
        return Envelope(
            place.position,
            place.stream_id,
            place.stream_version,
            found.type,
            found.id,
            as_recorded(time),
            found.data,
            msgspec.Raw(msgspec.json.encode(metadata) if metadata else b""),
        )
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise LineError(f"it is not a CloudEvent that `hangarlog export` wrote: {error}") from error
