"""The whole records in a text of JSON lines that was torn, spliced or padded, and what is lost around them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from hangarlog.record.line import MAX_LINE_BYTES

_READ_BYTES = 1 << 20
_MAX_SEARCH_BYTES = 32 << 20
"""A broken line of more bytes is not searched for records: its values would take twenty times the memory."""
_FIRST_LOOK, _MAX_TOKEN = 4096, 16
_SEARCHED_TIMES = 32
"""How often each byte of a broken line may be read. A hostile line could ask for its whole length at each byte."""

_TORN = "it is torn, or another record was written into it"
_TOO_DEEP = "it is nested too deep to be checked"
_UNFINISHED = "the file ends within it; import it again when it is complete"
_NULS = "bytes of zero, as a crash of the machine leaves them"

_BLANKS = b" \t\r"

_skip = msgspec.json.Decoder(msgspec.Raw).decode
_may_begin = re.compile(r'\{[ \t\r]*"').finditer
_is_odd = re.compile(rb"NaN|Infinity|\\u[dD][89a-fA-F]").search
_blanks = re.compile(r"[ \t\r]+").match
_pieces = re.compile(rb"\0+|[^\0]+").finditer
# Numbers stay text: a number of a million digits takes minutes to convert.
_read_json = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode

IsRecord = Callable[[dict[str, Any]], bool]
"""True if an object in the middle of a broken line is a record of its own, not a value of a torn one."""


class Found(NamedTuple):
    """A whole JSON value, at `offset` in its file, in the line `number`."""

    number: int
    offset: int
    text: bytes


class Lost(NamedTuple):
    """Bytes of a file that are no whole record. `number` is that of the first line."""

    number: int
    offset: int
    size: int
    cause: str


class _Line(NamedTuple):
    """A line without its newline. `text` is None if it is too long. `is_ended` says that it had the newline."""

    number: int
    offset: int
    size: int
    text: bytes | None
    is_ended: bool


def whole_records(read: Callable[[int, int], bytes], size: int, is_record: IsRecord) -> Iterator[Found | Lost]:
    """Yield what is in a file as it was when it had `size` bytes, in its order. Losses side by side are one.

    `read(size, offset)` returns bytes of the file, fewer only at its end.
    """
    lost: Lost | None = None
    for line in _lines(read, size):
        for found in _in_line(line, is_record):
            if isinstance(found, Lost) and lost and _is_beside(lost, found):
                lost = lost._replace(size=found.offset + found.size - lost.offset)
                continue
            if lost:
                yield lost
            lost = found if isinstance(found, Lost) else None
            if lost is None:
                yield found
    if lost:
        yield lost


def _is_beside(lost: Lost, found: Lost) -> bool:
    return lost.cause == found.cause and found.offset - (lost.offset + lost.size) <= len("\r\n")


def _lines(read: Callable[[int, int], bytes], size: int) -> Iterator[_Line]:
    held, held_bytes, start, offset, number = list[bytes](), 0, 0, 0, 1
    while offset < size and (data := read(min(_READ_BYTES, size - offset), offset)):
        offset += len(data)
        *ended, rest = data.split(b"\n")
        for piece in ended:
            length = held_bytes + len(piece)
            text = b"".join([*held, piece]) if length <= MAX_LINE_BYTES else None
            yield _Line(number, start, length, text, True)
            held, held_bytes, start, number = [], 0, start + length + 1, number + 1
        held_bytes += len(rest)
        held = [*held, rest] if held_bytes <= MAX_LINE_BYTES else []
    if held_bytes:
        text = b"".join(held) if held_bytes <= MAX_LINE_BYTES else None
        yield _Line(number, start, held_bytes, text, False)


def _in_line(line: _Line, is_record: IsRecord) -> Iterator[Found | Lost]:
    number, offset, size, text, is_ended = line
    if text is None:
        yield Lost(number, offset, size, f"the line is longer than the limit of {MAX_LINE_BYTES} bytes")
        return
    if is_whole(text):
        yield _found(number, offset, text)
        return
    for piece in _pieces(text):
        start, part = offset + piece.start(), piece[0]
        if part[0] == 0:
            yield Lost(number, start, len(part), _NULS)
        elif start == 0 and part.startswith(b"\xef\xbb\xbf"):  # A byte order mark.
            yield from _in_line(_Line(number, 3, len(part) - 3, part[3:], is_ended), is_record)
        elif is_whole(part):
            yield _found(number, start, part)
        elif part.strip(_BLANKS):
            cause = _TORN if is_ended or piece.end() < size else _UNFINISHED
            yield from _search(number, start, part, cause, is_record)


def _found(number: int, offset: int, text: bytes) -> Found:
    record = text.lstrip(_BLANKS)
    return Found(number, offset + len(text) - len(record), record.rstrip(_BLANKS))


def is_whole(text: bytes) -> bool:
    """True if a text is one JSON value, also one with what some programs write: NaN, or one half of a character."""
    try:
        _skip(text)
    except msgspec.DecodeError:
        return _is_odd(text) is not None and _is_whole_for_python(text.strip(_BLANKS))
    except RecursionError:
        return False
    return True


def _is_whole_for_python(text: bytes) -> bool:
    try:
        _, end = _read_json(text.decode("latin-1"))
    except (ValueError, RecursionError):
        return False
    return end == len(text)


def _search(number: int, offset: int, text: bytes, cause: str, is_record: IsRecord) -> Iterator[Found | Lost]:
    """Yield the records within a broken line, and what is lost between them."""
    if len(text) > _MAX_SEARCH_BYTES:
        yield Lost(number, offset, len(text), f"{cause}; it is too long to be searched for whole records")
        return
    try:
        _skip(text)
    except RecursionError:
        cause = _TOO_DEEP
    except msgspec.DecodeError:
        pass
    done = 0
    for start, end in _records_within(text.decode("latin-1"), is_record):  # One character for each byte.
        yield from _lost(number, offset, text, done, start, _TORN)
        yield Found(number, offset + start, text[start:end])
        done = end
    yield from _lost(number, offset, text, done, len(text), cause)


def _lost(number: int, offset: int, text: bytes, start: int, stop: int, cause: str) -> Iterator[Lost]:
    if text[start:stop].strip(_BLANKS):
        yield Lost(number, offset + start, stop - start, cause)


def _records_within(text: str, is_record: IsRecord) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each record within a broken line.

    An object may be a value of a record that is torn, so `is_record` says. It need not be asked about an object that
    begins the line or follows a record, and ends where the line does or another object begins.
    """
    done, left = 0, max(_SEARCHED_TIMES * len(text), _READ_BYTES)
    for start in (match.start() for match in _may_begin(text)):
        if start < done:
            continue
        value, size, read = _object_at(text, start)
        left -= read
        if left < 0:
            return
        if value is None:
            continue
        begins_here = start == _after_blanks(text, done)
        end = _after_blanks(text, start + size)
        if (begins_here and text[end : end + 1] in ("", "{")) or is_record(value):
            done = start + size
            yield start, done


def _after_blanks(text: str, start: int) -> int:
    found = _blanks(text, start)
    return found.end() if found else start


def _object_at(text: str, start: int) -> tuple[dict[str, Any] | None, int, int]:
    """Return (the object that begins at `start` or None, its size, how much was read to find out).

    It looks at more and more of the text: what fails costs as much as what is looked at.
    """
    size, read = _FIRST_LOOK, 0
    while True:
        part = text[start : start + size]
        read += len(part)
        try:
            value, end = _read_json(part)
        except json.JSONDecodeError as error:
            cut_off = error.msg.startswith("Unterminated") or error.pos + _MAX_TOKEN > len(part)
            if len(part) < size or not cut_off:
                return None, 0, read
        except RecursionError:  # It takes a millisecond to get there.
            return None, 0, read + _READ_BYTES
        else:
            return value, end, read
        size *= 8
