"""The envelope of a record: what is known of an event without reading its payload."""

from __future__ import annotations

from typing import Annotated

import msgspec

MAX_NUMBER = (1 << 53) - 1
"""The highest position and version: programs that read numbers as floats, as jq does, are exact up to here."""

_Position = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
_Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]


class Envelope(msgspec.Struct, gc=False, frozen=True):
    """A committed event with its payload and its metadata still as JSON."""

    position: _Position
    stream_id: str
    stream_version: _Version
    event_type: str
    event_id: str
    recorded_at: str
    data: msgspec.Raw
    metadata: msgspec.Raw = msgspec.Raw()
    batch_end: _Version = 0

    @property
    def metadata_json(self) -> bytes | None:
        """The metadata's bytes, None where the line has none."""
        return bytes(self.metadata) or None

    @property
    def ends_batch(self) -> bool:
        """Whether the commit this record belongs to is complete with it."""
        return self.batch_end in (0, self.position)


class Place(msgspec.Struct, gc=False, frozen=True):
    """What a line says first: where it belongs."""

    position: _Position
    stream_id: str
    stream_version: _Version


class LineError(ValueError):
    """A line is not a whole record; the message says why."""


EncodedEvent = tuple[str, str | None, bytes, str | None]
"""An event ready for the log: type, its own id or None, payload as compact JSON, when it was recorded (None: now)."""
