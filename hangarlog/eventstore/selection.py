"""What a read asks for. The parameters that reads share stand here, and only here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal, TypedDict

import msgspec

from hangarlog.eventstore.stream_id import category_of, check_stream_id
from hangarlog.record.envelope import Envelope

OnDamage = Literal["raise", "skip"]


class ReadOptions(TypedDict, total=False):
    """The keywords of `records` and `envelopes`.

    `from_version` (of one stream) is inclusive, `from_position` exclusive, both in the direction of reading; with
    `reverse` the latest event comes first. `limit` is the number of events at most. `event_types` are the stored names,
    or one of them; `category` is the part of stream ids before the first `:`. With `on_damage="skip"` an event that is
    damaged in both copies is passed over, with a `CorruptionWarning`. With `durable` only events are seen that are
    known to be on the device.
    """

    from_version: int | None
    from_position: int | None
    limit: int | None
    reverse: bool
    event_types: Collection[str] | None
    category: str | None
    on_damage: OnDamage
    durable: bool


class Span(msgspec.Struct, frozen=True):
    """Which records an engine is to read, in blocks.

    `stream_id` None is the whole store. `start` is the first version of a stream (inclusive), or the position after
    which the store is read (exclusive); None is the end that reading begins at. Not more than `limit` records will be
    looked at. With `skip` what is lost is passed over. With `durable` nothing beyond the durable position is read.
    """

    stream_id: str | None
    start: int | None = None
    reverse: bool = False
    limit: int | None = None
    skip: bool = False
    durable: bool = False


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one read, with their defaults."""

    stream_id: str | None
    from_version: int | None = None
    from_position: int | None = None
    limit: int | None = None
    reverse: bool = False
    event_types: Collection[str] | None = None
    category: str | None = None
    on_damage: OnDamage = "raise"
    durable: bool = False

    def span(self) -> Span:
        """The records to look at. Raises `ValueError` and `StreamIdError` where the options contradict each other."""
        position = None if self.from_position is None else max(0, self.from_position)
        limit = None if self._filters else self.limit
        if self.stream_id is not None:
            start = self.from_version
        elif self.from_version is not None:
            raise ValueError("from_version needs a stream_id; use from_position for all streams")
        else:
            start = position
        stream_id = None if self.stream_id is None else check_stream_id(self.stream_id)
        return Span(stream_id, start, self.reverse, limit, skips(self.on_damage), self.durable)

    @property
    def _filters(self) -> bool:
        """Whether not every record of the span is wanted."""
        of_stream = self.stream_id is not None and self.from_position is not None
        return of_stream or self.event_types is not None or self.category is not None

    def wanted(self, blocks: Iterator[Sequence[Envelope]]) -> Iterator[Sequence[Envelope]]:
        """The wanted ones of a span's records; their blocks may be empty."""
        if self._filters:
            keep = self._filter()
            blocks = (list(filter(keep, block)) for block in blocks)
        return limited(blocks, self.limit)

    def _filter(self) -> Callable[[Envelope], bool]:
        names = self.event_types
        types = None if names is None else frozenset([names] if isinstance(names, str) else names)
        category, reverse = self.category, self.reverse
        position = None  # Of the whole store the span begins there.
        if self.stream_id is not None and self.from_position is not None:
            position = max(0, self.from_position)

        def keep(envelope: Envelope) -> bool:
            return (
                (types is None or envelope.event_type in types)
                and (category is None or category_of(envelope.stream_id) == category)
                and (position is None or (envelope.position > position) is not reverse)
                and (not reverse or envelope.position != position)
            )

        return keep


def skips(on_damage: OnDamage) -> bool:
    """Whether damaged events are passed over. Raises `ValueError`."""
    if on_damage not in ("raise", "skip"):
        raise ValueError(f"on_damage is 'raise' or 'skip', not {on_damage!r}")
    return on_damage == "skip"


def limited(blocks: Iterator[Sequence[Envelope]], limit: int | None) -> Iterator[Sequence[Envelope]]:
    """The first `limit` records of some blocks; all of them with None."""
    if limit is None:
        yield from blocks
        return
    if limit <= 0:
        return
    for block in blocks:
        yield block[:limit]
        limit -= len(block)
        if limit <= 0:
            return
