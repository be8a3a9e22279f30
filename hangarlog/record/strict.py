"""Lines whose checksum is right but that are not records. Checks, repairs, copies and exports refuse them.

A decoder accepts more than the format allows: repeated keys (it keeps the last, jq and SQLite may keep another),
invalid times, invalid UTF-8. Reading events into their classes skips this check, which costs as much as all the rest.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from hangarlog.record.envelope import LineError
from hangarlog.record.line import HEAD, StoredEnvelope, decode_record, decode_records, encode_envelope, why_bad
from hangarlog.system.import_lock import importing

_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder()
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines
_decode, _decode_lines = _decoder.decode, _decoder.decode_lines
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_may_be_no_number = re.compile(rb"[0-9.][eE]|[0-9]{300}").search  # Beyond all floats: only a decoder tells.
_LARGE_BYTES = 1 << 20
"""Bytes of a text that is decoded in parts."""

_MAX_LEVELS = 4  # Of objects that are taken apart: each is read once more.
_NONE: dict[str, Any] = {}
_DICT = frozenset([dict])
_UNFIT = (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError)


class _WithState(msgspec.Struct):
    state: Any = None


def repeated_key(text: bytes) -> str | None:
    """A key that one object of a JSON text has twice, None if there is none.

    Raises what `msgspec.json.decode` raises for invalid JSON.
    """
    return _repeated_in_parts(text, _MAX_LEVELS) if len(text) > _LARGE_BYTES else _repeated(text)


def _repeated_in_parts(text: bytes, levels: int) -> str | None:
    """The same, value by value: what has no keys is not decoded, as lists of lists take twenty times their text."""
    members: dict[str, msgspec.Raw] = {}
    with contextlib.suppress(msgspec.ValidationError):  # It is no object.
        members = _decode_members(text)
    if not (levels and members and _encode(members) == text):
        return _repeated(text)
    keys = []
    for value in map(bytes, members.values()):
        if len(value) <= _LARGE_BYTES:
            keys.append(_repeated(value))
        elif b'"' in value or _may_be_no_number(value):
            keys.append(_repeated_in_parts(value, levels - 1))
    return next((key for key in keys if key is not None), None)


def _repeated(text: bytes) -> str | None:
    value = _decode(text)
    with contextlib.suppress(OverflowError):  # An integer of more than 64 bits is read, and not written.
        written = _encode(value)
        if written == text or written == msgspec.json.format(text, indent=-1):
            return None  # A decoder drops the key that came first, so the text would be longer.
    with importing:
        import json
    try:
        json.loads(text.decode(), object_pairs_hook=_single)
    except _RepeatedError as found:
        return found.key
    return None


class _RepeatedError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _single(pairs: list[tuple[str, Any]]) -> None:
    keys = set()
    for key, _ in pairs:
        if key in keys:
            raise _RepeatedError(key)
        keys.add(key)


def refuse_repeated_keys(text: bytes) -> None:
    """Raise `ValueError` if a key comes twice in one object of a JSON text."""
    key = repeated_key(text)
    if key is not None:
        raise ValueError(f"the key {shown_key(key)} comes twice in one object; programs differ in which they take")


def shown_key(key: str) -> str:
    """A key as a message shows it: a long one is cut."""
    return repr(key if len(key) <= 60 else f"{key[:57]}...")


def is_time(text: str) -> bool:
    """Whether a text is a time in a record's form: `2026-11-23T03:01:02.123456Z`."""
    if len(text) != 27 or text[4:20:3] != "--T::." or text[-1] != "Z":
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def strict_records(lines: Sequence[bytes]) -> list[StoredEnvelope]:
    """Check and decode many lines, as `strict_record` does each, in less time. Raises `LineError` about the first."""
    records = decode_records([*lines])
    return records if are_strict(records, lines) else [strict_record(line) for line in lines]


def are_strict(records: Sequence[StoredEnvelope], lines: Sequence[bytes]) -> bool:
    """Whether lines with right checksums are exactly as a store writes them. It is the usual case, and quick to tell.

    If False, look at each line.
    """
    if any(len(line) > _LARGE_BYTES for line in lines):
        return all(isinstance(record_or_cause(line), StoredEnvelope) for line in lines)
    text = b"\n".join([*lines, b""])
    try:
        values = _decode_lines(text)
        if _encode_lines(values) != text:
            return False
    except _UNFIT:
        return False
    objects = {type(value["data"]) for value in values} | {type(value.get("metadata", _NONE)) for value in values}
    return objects <= _DICT and all(map(is_time, {record.recorded_at for record in records}))


def strict_record(line: bytes) -> StoredEnvelope:
    """Check and decode one line, given without its newline, and hold it to the whole format.

    Raises:
        LineError: the checksum does not match, or the line is no record.
    """
    record, key = _record_and_key(line)
    if key is not None:
        raise _no_record(f"the key {shown_key(key)} comes twice in one object")
    return record


def kept_record(line: bytes) -> StoredEnvelope | None:
    """The record that a repair keeps of a line, given without its newline; None if it is damage for a repair, too.

    A key may come twice in the payload or metadata: older versions took such events, and this one still reads them.
    """
    if not line.startswith(HEAD):
        return None  # Not raised and caught: somebody may have put millions of other lines.
    try:
        record, key = _record_and_key(line)
    except LineError:
        return None
    return record if key is None or encode_envelope(record) == line + b"\n" else None


def _record_and_key(line: bytes) -> tuple[StoredEnvelope, str | None]:
    """(the record, a key that comes twice in one of the line's objects). Raises `LineError` about any other flaw."""
    record = decode_record(line)
    if not is_time(record.recorded_at):
        raise _no_record(f"recorded_at is {shown_key(record.recorded_at)}, not as '2026-11-23T03:01:02.123456Z'")
    if not _has_objects(record):
        raise _no_record("its data or metadata is no object")
    try:
        return record, repeated_key(line)
    except _UNFIT as error:
        raise _no_record(str(error)) from error


def snapshot_flaw(content: bytes, version: int) -> str | None:
    """Why the whole file of a snapshot at a version is not one that a store writes; None if it is.

    A snapshot before version 0 has no state.
    """
    try:
        state = msgspec.json.decode(content, type=_WithState).state
        key = repeated_key(content.removesuffix(b"\n"))
    except _UNFIT as error:
        return str(error)
    if not isinstance(state, dict) and version >= 0:
        return "its state is no object"
    return None if key is None else f"the key {shown_key(key)} comes twice in one object"


def _has_objects(record: StoredEnvelope) -> bool:
    return bytes(record.data)[:1] == b"{" and bytes(record.metadata)[:1] in (b"", b"{")


def _no_record(cause: str) -> LineError:
    return LineError(f"the checksum is right but the line is not a record: {cause}")


def record_or_cause(line: bytes) -> StoredEnvelope | str:
    """The record of a line, given without its newline, held to the whole format; or why it is not a record."""
    if not line.startswith(HEAD):
        return why_bad(line, b"")  # Not raised and caught: somebody may have put millions of other lines.
    try:
        return strict_record(line)
    except LineError as error:
        return str(error)
