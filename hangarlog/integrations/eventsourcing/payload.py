"""A stored event as the payload of a record, and back; hangarlog's errors as eventsourcing's."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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


@contextmanager
def errors() -> Iterator[None]:
    """Raise eventsourcing's kind of error for hangarlog's."""
    try:
        yield
    except HangarlogError as error:
        raise next(kind for ours, kind in _KINDS if isinstance(error, ours))(error) from error


class Payload(msgspec.Struct, gc=False):
    """What a record holds of a stored event. `version` is the originator's. `state` is JSON, or stands in base64."""

    version: int = 0
    state: msgspec.Raw = msgspec.Raw()
    state_base64: bytes | None = None
    tags: list[str] = []


_payloads = msgspec.json.Decoder(list[Payload]).decode
_check = msgspec.json.Decoder(msgspec.Raw).decode


def state_member(state: bytes, *, as_base64: bool = False) -> bytes:
    """Return a member that holds a state. JSON stays JSON, where it is read back to the same bytes."""
    if not as_base64:
        try:
            _check(state)
            blank = b" " in state or b"\n" in state or b"\t" in state or b"\r" in state
            if not blank or msgspec.json.format(state, indent=-1) == state:
                return b'"state":%b' % state
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass
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
