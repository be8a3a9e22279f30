"""The events of a store as another one may hold them: each is checked against the whole format first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, cast

import msgspec

from hangarlog.errors import CursorNameError, EventSerializationError, StreamIdError
from hangarlog.events.encoded_event import checked_type, own_id
from hangarlog.eventstore.cursor import check_cursor_name
from hangarlog.eventstore.stream_id import check_stream_id, why_not_an_id
from hangarlog.filestore.store import FileEventStore
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.record.envelope import Envelope
from hangarlog.record.line import StoredEnvelope, encode_envelope
from hangarlog.record.nesting import MAX_NESTING, nesting
from hangarlog.record.strict import are_strict, record_or_cause, shown_key

_raw = msgspec.Raw()


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """The keys that a line may have."""

    position: msgspec.Raw = _raw
    stream_id: msgspec.Raw = _raw
    stream_version: msgspec.Raw = _raw
    event_type: msgspec.Raw = _raw
    event_id: msgspec.Raw = _raw
    recorded_at: msgspec.Raw = _raw
    metadata: msgspec.Raw = _raw
    batch_end: msgspec.Raw = _raw
    cursor: msgspec.Raw = _raw
    data: msgspec.Raw = _raw
    crc: msgspec.Raw = _raw


class _Move(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    position: int


class _Payload(msgspec.Struct):
    version: Annotated[int, msgspec.Meta(ge=1)] = msgspec.field(default=1, name="_version")


_KEYS = frozenset(_Line.__struct_fields__)
_keys_of_all = msgspec.json.Decoder(_Line).decode_lines
_decode_move, _decode_version = msgspec.json.Decoder(_Move).decode, msgspec.json.Decoder(_Payload).decode


class UnsoundError(ValueError):
    """An event of the source is damaged, or says what no append could write. The message names it."""


def sound(store: Any, blocks: Iterator[Sequence[Envelope]]) -> Iterator[Sequence[Envelope]]:
    """Yield the events of `blocks`, which `store` has read. Those of a file come from the other copy if one is damaged.

    Raises:
        UnsoundError: an event is not what the format allows.
        CorruptionError: an event is damaged in both copies.
    """
    if isinstance(store, FileEventStore):
        for records, lines in as_stored(store, cast("Iterator[Sequence[StoredEnvelope]]", blocks)):
            _refuse_unknown(records, lines)
            yield records
        return
    for block in blocks:
        lines = [encode_envelope(event)[:-1] for event in block]
        if not are_strict(block, lines):
            _refuse_damaged(block, lines)
        _refuse_unknown(block, lines)
        yield block


def _refuse_damaged(events: Sequence[Envelope], lines: Sequence[bytes]) -> None:
    for event, line in zip(events, lines, strict=True):
        found = record_or_cause(line)
        if not isinstance(found, StoredEnvelope):
            raise UnsoundError(f"{_place(event)}: {found}")


def _refuse_unknown(events: Sequence[Envelope], lines: Sequence[bytes]) -> None:
    """Raise `UnsoundError` unless an append can write what the lines say, the usual case at little cost."""
    text = b"\n".join(lines)
    usual = _are_usual(events, lines, text)
    if usual and b',"cursor":' not in text:
        return
    for event, line in zip(events, lines, strict=True):
        cause = None if usual else why_refused(event, line)
        if cause := cause or _why_move_refused(event):
            raise UnsoundError(f"{_place(event)}: {cause}")


def _are_usual(events: Sequence[Envelope], lines: Sequence[bytes], text: bytes) -> bool:
    """True if `why_refused` has nothing against any of them; False if each needs a closer look."""
    try:
        _keys_of_all(text)
        if b'"_version"' in text:
            for event in events:
                _decode_version(event.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return all(event.event_type and event.event_id for event in events) and not any(
        map(why_not_an_id, {event.stream_id for event in events})
    )


def why_refused(event: Envelope, line: bytes, *, is_record: bool = True) -> str | None:
    """Return why no append could write what a strict line says, None if one could. It may be of another format."""
    try:
        check_stream_id(event.stream_id)
        own_id(checked_type(event.event_type), event.event_id)
        _decode_version(event.data)
    except (StreamIdError, EventSerializationError, msgspec.ValidationError) as error:
        return str(error)
    if nesting(line) > MAX_NESTING + 1:
        return f"it is nested deeper than {MAX_NESTING} levels"
    if is_record and encode_envelope(event)[:-1] != line:
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):
            unknown = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).keys() - _KEYS
            if unknown:  # Otherwise it has blanks, or escapes that are not needed.
                return f"it has the key {shown_key(min(unknown))}, which this version does not know; upgrade hangarlog"
    return None


def _why_move_refused(event: Envelope) -> str | None:
    try:
        if bytes(event.cursor):
            check_cursor_name(_decode_move(event.cursor).name)
    except (CursorNameError, msgspec.ValidationError) as error:
        return f"its move of a cursor is none: {error}"
    return None


def _place(event: Envelope) -> str:
    return f"position {event.position} (stream {event.stream_id!r}, version {event.stream_version})"
