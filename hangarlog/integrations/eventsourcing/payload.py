"""A stored event as the payload of a record, and back; hangarlog's errors as eventsourcing's."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

import msgspec
from eventsourcing.persistence import DataError, IntegrityError, InterfaceError, OperationalError, PersistenceError

from hangarlog import (
    ConcurrencyError,
    Envelope,
    EventSerializationError,
    HangarlogError,
    NumberError,
    StoreOpenError,
    StreamDeletedError,
    StreamIdError,
    TooLargeError,
)

_KINDS: list[tuple[type[Exception] | tuple[type[Exception], ...], type[PersistenceError]]] = [
    ((ConcurrencyError, StreamDeletedError), IntegrityError),
    ((StreamIdError, EventSerializationError, TooLargeError, NumberError), DataError),
    (StoreOpenError, InterfaceError),
    (HangarlogError, OperationalError),
]


class _Errors:
    """A context in which hangarlog's errors become eventsourcing's kinds of errors."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, HangarlogError):
            raise next(kind for ours, kind in _KINDS if isinstance(error, ours))(error) from error


errors = _Errors()


class Payload(msgspec.Struct, gc=False):
    """What a record holds of a stored event. `version` is the originator's. `state` is JSON, or stands in base64."""

    version: int = 0
    state: msgspec.Raw = msgspec.Raw()
    state_base64: bytes | None = None
    tags: list[str] = []


_payloads = msgspec.json.Decoder(list[Payload]).decode
_raw = msgspec.json.Decoder(msgspec.Raw)
_check, _values = _raw.decode, _raw.decode_lines


def state_members(states: Sequence[bytes], *, as_base64: bool = False) -> list[bytes]:
    """Return members that hold the states. JSON stays JSON, where it is read back to the same bytes."""
    if as_base64:
        return list(map(_in_base64, states))
    text = b"\n".join(states)
    if len(states) > 1 and not (b" " in text or b"\t" in text or b"\r" in text):
        try:
            values = _values(text)
        except (msgspec.MsgspecError, RecursionError):
            values = []
        if len(values) == len(states) and list(map(bytes, values)) == states:
            return [b'"state":%b' % state for state in states]
    return list(map(_state_member, states))


def _state_member(state: bytes) -> bytes:
    try:
        _check(state)
        blank = b" " in state or b"\n" in state or b"\t" in state or b"\r" in state
        if not blank or msgspec.json.format(state, indent=-1) == state:
            return b'"state":%b' % state
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    return _in_base64(state)


def _in_base64(state: bytes) -> bytes:
    return b'"state_base64":"%b"' % b64encode(state)


def payloads(block: Sequence[Envelope]) -> list[Payload]:
    """Return the payloads of the records of a block. Raises `DataError` if one is no stored event."""
    try:
        return _payloads(b"[%b]" % b",".join([bytes(envelope.data) for envelope in block]))
    except msgspec.MsgspecError as error:
        at = [envelope.position for envelope in block]
        raise DataError(f"a record at positions {at[0]} to {at[-1]} is no stored event: {error}") from error


def state_of(payload: Payload) -> bytes:
    """Return the state of a payload."""
    return bytes(payload.state) if payload.state_base64 is None else payload.state_base64
