"""The strict check of a line against the whole format. Checks, repairs, copies and exports use it.

The decoder accepts more than the format allows: repeated keys (it keeps the last, jq and SQLite may keep another),
invalid times, invalid UTF-8. Ordinary reads skip this check, because it would double their cost.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from hangarlog.record.cursor_move import is_move
from hangarlog.record.envelope import Envelope, LineError
from hangarlog.record.line import HEAD, StoredEnvelope, decode_record, decode_records, encode_envelope, why_bad
from hangarlog.record.nesting import MAX_NESTING, nesting
from hangarlog.system.import_lock import importing

_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder()
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines
_decode, _decode_lines = _decoder.decode, _decoder.decode_lines
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_may_overflow = re.compile(rb"[0-9.][eE]|[0-9]{300}").search  # A number that may be too large for a float.
_LARGE_BYTES = 1 << 20
"""A text of more bytes is decoded in parts."""

_MAX_LEVELS = 4  # Nested objects are decoded in parts down to this level, because each level reads the text again.
_EMPTY: dict[str, Any] = {}
_DICT = frozenset([dict])
_INVALID = (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError)


class _WithState(msgspec.Struct):
    state: Any = None


def repeated_key(text: bytes) -> str | None:
    """Return a key that occurs twice in one object of a JSON text, None if there is none.

    Raises what `msgspec.json.decode` raises for invalid JSON.
    """
    return _repeated_in_parts(text, _MAX_LEVELS) if len(text) > _LARGE_BYTES else _repeated(text)


def _repeated_in_parts(text: bytes, levels: int) -> str | None:
    """Return what `repeated_key` returns, but decode value by value, and skip values without keys to save memory.

    A decoded list can take twenty times the memory of its text.
    """
    members: dict[str, msgspec.Raw] = {}
    with contextlib.suppress(msgspec.ValidationError):  # It is not an object.
        members = _decode_members(text)
    if not (levels and members and _encode(members) == text):
        return _repeated(text)
    keys = []
    for value in map(bytes, members.values()):
        if len(value) <= _LARGE_BYTES:
            keys.append(_repeated(value))
        elif b'"' in value or _may_overflow(value):
            keys.append(_repeated_in_parts(value, levels - 1))
    return next((key for key in keys if key is not None), None)


def _repeated(text: bytes) -> str | None:
    value = _decode(text)
    with contextlib.suppress(OverflowError):  # The encoder refuses integers of more than 64 bits.
        written = _encode(value)
        if written == text or written == msgspec.json.format(text, indent=-1):
            return None  # With a repeated key, the text would be longer: the decoder drops the first one.
    with importing:
        import json
    try:
        json.loads(text.decode(), object_pairs_hook=_check_keys)
    except _RepeatedError as found:
        return found.key
    return None


class _RepeatedError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    keys = set()
    for key, _ in pairs:
        if key in keys:
            raise _RepeatedError(key)
        keys.add(key)


def refuse_repeated_keys(text: bytes) -> None:
    """Raise `ValueError` if a key occurs twice in one object of a JSON text."""
    key = repeated_key(text)
    if key is not None:
        raise ValueError(f"the key {shown_key(key)} comes twice in one object; programs differ in which one they use")


def shown_key(key: str) -> str:
    """Return a key for a message, shortened if it is long."""
    return repr(key if len(key) <= 60 else f"{key[:57]}...")


def is_time(text: str) -> bool:
    """True if a text is a time in the form of records: `2026-11-23T03:01:02.123456Z`."""
    if len(text) != 27 or text[4:20:3] != "--T::." or text[-1] != "Z":
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def strict_records(lines: Sequence[bytes]) -> list[StoredEnvelope]:
    """Check and decode many lines: `strict_record` of each, but faster. Raises `LineError` about the first bad line."""
    records = decode_records([*lines])
    return records if are_strict(records, lines) else [strict_record(line) for line in lines]


def are_strict(records: Sequence[Envelope], lines: Sequence[bytes]) -> bool:
    """True if lines with right checksums are exactly as a store writes them, the usual case. This check is fast.

    If False, check each line by itself.
    """
    if any(len(line) > _LARGE_BYTES for line in lines):
        return all(isinstance(record_or_cause(line), StoredEnvelope) for line in lines)
    text = b"\n".join([*lines, b""])
    try:
        values = _decode_lines(text)
        if _encode_lines(values) != text:
            return False
    except _INVALID:
        return False
    objects = {type(value["data"]) for value in values} | {type(value.get("metadata", _EMPTY)) for value in values}
    sound = objects <= _DICT and all(map(is_time, {record.recorded_at for record in records}))
    return sound and all(is_move(record.cursor) for record in records) and not any(map(_is_too_deep, lines))


def strict_record(line: bytes) -> StoredEnvelope:
    """Decode one line, given without its newline, and check it against the whole format.

    Raises:
        LineError: the checksum does not match, or the line is not a record.
    """
    record, key = _record_and_key(line)
    if key is not None:
        raise _not_a_record(f"the key {shown_key(key)} comes twice in one object")
    if not is_move(record.cursor):
        raise _not_a_record("its cursor is not an object with a name and a position")
    if _is_too_deep(line):
        raise _not_a_record(f"it is nested deeper than {MAX_NESTING} levels")
    return record


def _is_too_deep(line: bytes) -> bool:
    """True if the payload, or another value, is nested deeper than an append allows."""
    return line.count(b"{") + line.count(b"[") > MAX_NESTING and nesting(line) > MAX_NESTING + 1


def kept_record(line: bytes) -> StoredEnvelope | None:
    """Return the record of a line, given without its newline, if a repair keeps it; None if it is damage.

    A repair keeps what reads still accept: a key that occurs twice in the payload or metadata, as older versions wrote
    it, and values that are nested too deep.
    """
    if not line.startswith(HEAD):
        return None  # Faster than an exception: hostile files may hold millions of such lines.
    try:
        record, key = _record_and_key(line)
    except LineError:
        return None
    return record if key is None or encode_envelope(record) == line + b"\n" else None


def _record_and_key(line: bytes) -> tuple[StoredEnvelope, str | None]:
    """Return (the record, a key that occurs twice in one object or None). Raises `LineError` about any other flaw."""
    record = decode_record(line)
    if not is_time(record.recorded_at):
        raise _not_a_record(f"recorded_at is {shown_key(record.recorded_at)}, not like '2026-11-23T03:01:02.123456Z'")
    if not _has_objects(record):
        raise _not_a_record("its data or metadata is not an object")
    try:
        return record, repeated_key(line)
    except _INVALID as error:
        raise _not_a_record(str(error)) from error


def snapshot_flaw(content: bytes, version: int) -> str | None:
    """Return why the content of a snapshot file is not as a store writes it, None if it is.

    A snapshot at version -1 has no state.
    """
    try:
        state = msgspec.json.decode(content, type=_WithState).state
        key = repeated_key(content.removesuffix(b"\n"))
    except _INVALID as error:
        return str(error)
    if not isinstance(state, dict) and version >= 0:
        return "its state is not an object"
    return None if key is None else f"the key {shown_key(key)} comes twice in one object"


def _has_objects(record: StoredEnvelope) -> bool:
    return bytes(record.data)[:1] == b"{" and bytes(record.metadata)[:1] in (b"", b"{")


def _not_a_record(cause: str) -> LineError:
    return LineError(f"the checksum is right but the line is not a record: {cause}")


def record_or_cause(line: bytes) -> StoredEnvelope | str:
    """Return the record of a line, given without its newline, or why the strict check refuses it."""
    if not line.startswith(HEAD):
        return why_bad(line, b"")  # Faster than an exception: hostile files may hold millions of such lines.
    try:
        return strict_record(line)
    except LineError as error:
        return str(error)
