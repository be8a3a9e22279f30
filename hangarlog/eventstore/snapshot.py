"""Snapshots: the saved state of a stream's aggregate, and how far the stream is compacted."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from hangarlog.events.payload import decode_object
from hangarlog.record.envelope import MAX_NUMBER
from hangarlog.record.timestamp import now

_Version = Annotated[int, msgspec.Meta(ge=-1, le=MAX_NUMBER)]


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of a snapshot file. Versions are stream versions, -1: none.

    `event_id` is the id of the event at `version` when the snapshot was saved. Reads of the stream begin after
    `compacted_through`; a file without a state may say only that, and `saved_at` is then when the events were hidden
    ("": the stream was imported without them). A stream whose last version is `deleted_through` or lower is deleted, by
    a `tombstone` for ever. `number` counts the saves.
    """

    stream_id: str
    version: _Version = -1
    state: msgspec.Raw = msgspec.Raw(b"null")
    saved_at: str = ""
    schema_version: int = 1
    event_id: str | None = None
    compacted_through: _Version = -1
    deleted_through: _Version = -1
    tombstone: bool = False
    number: Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)] = 0

    @property
    def says_nothing(self) -> bool:
        """True if there is neither a state nor an event that it hides."""
        return self.version < 0 and self.compacted_through < 0

    @property
    def is_beginning(self) -> bool:
        """True if it only says where an imported stream begins."""
        return self.version < 0 and not self.saved_at

    def hides_as(self, other: Snapshot) -> bool:
        """True if another snapshot hides the same events."""
        mine = (self.compacted_through, self.deleted_through, self.tombstone)
        return mine == (other.compacted_through, other.deleted_through, other.tombstone)

    def without_state(self) -> Snapshot:
        """Return what is left of it when its state is deleted: the events that it hides."""
        return Snapshot(
            self.stream_id,
            saved_at=now().decode(),
            compacted_through=self.compacted_through,
            deleted_through=self.deleted_through,
            tombstone=self.tombstone,
        )

    def still_hides(self, last: int) -> Snapshot:
        """Return what stays hidden of a stream that ends at version `last`, if this snapshot does not match it.

        What was compacted is shown again, as its state is gone; what was deleted or truncated is not.
        """
        through = self.deleted_through if self.version >= 0 else self.compacted_through
        return msgspec.structs.replace(
            self.without_state(),
            compacted_through=min(through, last),
            deleted_through=min(self.deleted_through, last),
        )


class SnapshotInfo(msgspec.Struct, frozen=True):
    """What is known of a stream's snapshot besides its state.

    It holds the state as of `version` of the stream, in the form `schema_version`, and was saved at `saved_at`.
    """

    stream_id: str
    version: int
    saved_at: str
    schema_version: int


def decode_state(raw: msgspec.Raw) -> Any:
    """Return a snapshot's state. Raises one of `FAILURES` if it is not a JSON object."""
    return decode_object(bytes(raw))
