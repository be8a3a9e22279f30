"""Checks the arguments of an append and encodes its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hangarlog.events.payload import decode_object, encode_object
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.arguments import is_whole
from hangarlog.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import Encoded

Metadata = dict[str, Any] | Sequence[dict[str, Any] | None]
"""The metadata of an append: one dictionary for all its events, or one (or None) for each of them."""


def pending(
    serializer: EventSerializer,
    stream_id: str,
    events: Sequence[Any],
    expected: int,
    metadata: Metadata | None,
    retry: bool = True,
    idempotent: bool = False,
) -> Pending:
    """Return the encoded events of an append. Raises what `EventStore.append` raises for invalid arguments."""
    stream_id = check_stream_id(stream_id)
    if type(expected) is not int:
        if not is_whole(expected):
            raise _no_version(expected)
        expected = int(expected)
    if expected < NO_STREAM and expected not in (ANY, STREAM_EXISTS):
        raise _no_version(expected)
    if type(events) is not list:
        if isinstance(events, (str, bytes, dict, msgspec.Struct)):
            raise TypeError(f"events must be a list of events, not one {type(events).__name__}")
        events = list(events)
    encoded = serializer.encode_all(events)
    common = None
    if metadata is not None:
        if isinstance(metadata, dict):
            common = encode_object(metadata, "metadata")
            encoded = [event if event[4] is None else _with(event, metadata) for event in encoded]
        else:
            encoded = _with_each(encoded, metadata)
    if idempotent and not retry:
        raise ValueError("idempotent=True and retry=False contradict each other; leave one of them out")
    return Pending(stream_id, encoded, expected, common, retry=retry and not idempotent, idempotent=idempotent)


def _no_version(expected: object) -> ValueError:
    return ValueError(f"expected_version must be a version, NO_STREAM, ANY or STREAM_EXISTS, not {expected!r}")


def _with(event: Encoded, metadata: dict[str, Any] | None) -> Encoded:
    """Add metadata to an event. The event's own entries win."""
    if metadata is None:
        return event
    event_type, event_id, data, time, own = event
    if isinstance(metadata, dict) and own is not None:
        metadata = {**metadata, **decode_object(own)}
    return event_type, event_id, data, time, encode_object(metadata, "metadata")


def _with_each(encoded: list[Encoded], metadata: Sequence[dict[str, Any] | None]) -> list[Encoded]:
    if not isinstance(metadata, (list, tuple)):
        raise TypeError(
            f"metadata must be a dictionary, or a list of one for each event, not {type(metadata).__name__}"
        )
    if len(metadata) != len(encoded):
        raise ValueError(f"{len(metadata)} metadata for {len(encoded)} events; give one or None for each event")
    return [_with(event, own) for event, own in zip(encoded, metadata, strict=True)]
