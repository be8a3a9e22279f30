"""Snapshots: the saved state of a stream's aggregate, and how far the stream is compacted."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from hangarlog.events.payload import decode_object
from hangarlog.record.envelope import MAX_NUMBER

_Version = Annotated[int, msgspec.Meta(ge=-1, le=MAX_NUMBER)]


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of a snapshot file. Versions are stream versions, -1: none.

    `event_id` is the id of the event at `version` when the snapshot was saved.
    """

    stream_id: str
    version: _Version = -1
    state: msgspec.Raw = msgspec.Raw(b"null")
    saved_at: str = ""
    schema_version: int = 1
    event_id: str | None = None
    compacted_through: _Version = -1


def decode_state(raw: msgspec.Raw) -> Any:
    """Return a snapshot's state. Raises one of `FAILURES` if it is not a JSON object."""
    return decode_object(bytes(raw))
