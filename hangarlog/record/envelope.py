"""The envelope of a record: an event's position, stream, version, type, id, time and metadata."""

from __future__ import annotations

from typing import Annotated

import msgspec

MAX_NUMBER = (1 << 53) - 1
"""The highest position and version. Programs that read numbers as floats, such as jq, are exact up to here."""

_Position = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
_Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]


class Envelope(msgspec.Struct, gc=False, frozen=True):
    """A committed event whose payload and metadata are still JSON."""

    position: _Position
    stream_id: str
    stream_version: _Version
    event_type: str
    event_id: str
    recorded_at: str
    data: msgspec.Raw
    metadata: msgspec.Raw = msgspec.Raw()
    batch_end: _Version = 0
    cursor: msgspec.Raw = msgspec.Raw()

    @property
    def metadata_json(self) -> bytes | None:
        """The metadata as JSON, None if the record has none."""
        return bytes(self.metadata) or None

    @property
    def ends_batch(self) -> bool:
        """True if this record is the last of its batch."""
        return self.batch_end in (0, self.position)

    @property
    def open_batch(self) -> int:
        """The end of the batch that continues after this record, 0 if none does."""
        return self.batch_end if self.batch_end > self.position else 0

    def may_follow(self, open_batch: int) -> bool:
        """True if this record continues the batch that ends at `open_batch`; if that is 0, if it begins a batch."""
        return self.batch_end == open_batch if open_batch else self.batch_end in (0, self.open_batch)


class Place(msgspec.Struct, gc=False, frozen=True):
    """The first fields of a line: the record's place in the journal and in its stream."""

    position: _Position
    stream_id: str
    stream_version: _Version


class LineError(ValueError):
    """A line is not a valid record. The message says why."""


Encoded = tuple[str, str | None, bytes, str | None, bytes | None]
"""An event ready to append: (type, its own id or None, payload, time of recording or None for now, own metadata).

Payload and metadata are compact JSON."""
