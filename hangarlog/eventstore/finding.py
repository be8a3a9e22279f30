"""The part of the public interface that finds an event by its id, and makes records of envelopes."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any, Generic

from hangarlog.errors import CorruptionError
from hangarlog.events.payload import FAILURES, decode_object
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.engine import Engine
from hangarlog.eventstore.record import Event, Record
from hangarlog.record.envelope import Envelope

ENVELOPE = ("position", "stream_id", "stream_version", "event_id", "recorded_at", "metadata")
"""The fields of an envelope that a record needs besides its event."""


def _checked_id(event_id: str) -> str:
    if not isinstance(event_id, str):
        raise TypeError(f"an event id is text, not {type(event_id).__name__}")
    return event_id


class Finding(Engine, Generic[Event]):
    """Finds events by their ids."""

    serializer: EventSerializer

    def _record(self, envelope: Envelope, event: Any) -> Record[Event]:
        recorded_at, metadata = self._read(envelope)
        return Record(
            envelope.position,
            envelope.stream_id,
            envelope.stream_version,
            envelope.event_type,
            envelope.event_id,
            recorded_at,
            metadata,
            event,
        )

    def event(self, event_id: str) -> Record[Event] | None:
        """Return the event with this id, compacted or not; None if there is none, or if its type is dropped.

        If the id comes more than once, return the first event. Of an event that is split on reading, return the first
        part. The first call reads the whole journal, to index it.

        Raises:
            CorruptionError: the event is damaged in both copies.
            UnknownEventTypeError, EventSerializationError, UpcastingError: it cannot be read as its class.
        """
        envelope = self._find(_checked_id(event_id))
        pairs = self.serializer.blocks(*ENVELOPE).pairs
        return next((self._record(*pair) for pair in pairs([envelope])), None) if envelope else None

    def contains(self, event_id: str) -> bool:
        """True if the store has an event with this id, compacted or not. Raises `CorruptionError` as `event` does."""
        return self._find(_checked_id(event_id)) is not None

    def _read(self, envelope: Envelope) -> tuple[datetime, dict[str, Any] | None]:
        """Return the (time, metadata) of a record. Raises `CorruptionError` if one of them is invalid."""
        raw = bytes(envelope.metadata)
        try:
            return datetime.fromisoformat(envelope.recorded_at), decode_object(raw) if raw else None
        except FAILURES as error:
            cause = f"the checksum is right but the time or the metadata is invalid: {error}"
            place = (envelope.position, envelope.stream_id, envelope.stream_version)
            raise self._damage("journal.jsonl", cause, *place) from error

    def _damage(self, name: str, cause: str, position: int | None, stream_id: str, version: int) -> CorruptionError:
        path = os.path.join(getattr(self, "path", ""), name)
        return CorruptionError(path, name, 0, cause, position, stream_id, version)
