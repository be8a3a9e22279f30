"""Records that were read at once, for one subscription or for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hangarlog.eventstore.subscription import Reading
from hangarlog.record.envelope import Envelope


class Unreadable:
    """Stands in place of the record of an event that cannot be read."""

    __slots__ = ("_error",)

    def __init__(self, error: Exception) -> None:
        self._error = error

    def refuse(self, reading: Reading, envelope: Envelope) -> None:
        """Raise the error; if others may raise it too, raise one of this subscription's own."""
        for _ in reading.pairs((envelope,)):
            pass
        raise self._error


class Chunk:
    """The records after the position `before` up to `last`.

    Attributes:
        envelopes: the envelope of each record.
        records: the records; of an event that cannot be read, an `Unreadable`.
        following: the next chunk, if it is there and shared.
        readable: True if there is no `Unreadable`.
        size: the bytes of the payloads.
    """

    __slots__ = ("before", "envelopes", "following", "last", "readable", "records", "size")

    def __init__(self, before: int, last: int, envelopes: list[Envelope], records: list[Any]) -> None:
        self.before, self.last, self.envelopes, self.records = before, last, envelopes, records
        self.following: Chunk | None = None
        self.readable = not any(type(record) is Unreadable for record in records)
        self.size = sum(len(envelope.data) for envelope in envelopes)

    def wanted(self, reading: Reading) -> tuple[list[Envelope], list[Any]]:
        """Return the (envelopes, records) that a subscription wants of a chunk that has all."""
        keeps, types = reading.selected.test(), reading.selected.event_types
        if keeps is None:
            return self.envelopes, self.records
        kept = [pair for pair in zip(self.envelopes, self.records, strict=True) if keeps(pair[0])]
        if types is not None and types.split:
            kept = [
                (envelope, record)
                for envelope, record in kept
                if type(record) is Unreadable or types.keeps_part((envelope, record.event))
            ]
        return [envelope for envelope, _ in kept], [record for _, record in kept]


def decoded(block: Sequence[Envelope], reading: Reading) -> tuple[list[Envelope], list[Any]]:
    """Return the (envelopes, records) of a block. One for each event: none if it is dropped, several if it is split."""
    try:
        pairs = list(reading.pairs(block))
        records = [reading.record(envelope, event) for envelope, event in pairs]
    except Exception:
        return _one_by_one(block, reading)
    if len(records) == len(block) and not reading.splits:
        return list(block), records
    by_position = {envelope.position: envelope for envelope in block}
    return [by_position[record.position] for record in records], records


def _one_by_one(block: Sequence[Envelope], reading: Reading) -> tuple[list[Envelope], list[Any]]:
    envelopes: list[Envelope] = []
    records: list[Any] = []
    for envelope in block:
        try:
            read: list[Any] = [reading.record(row, event) for row, event in reading.pairs((envelope,))]
        except Exception as error:
            read = [Unreadable(error)]
        records += read
        envelopes += [envelope] * len(read)
    return envelopes, records
