"""The parameters of reads, defined once for all calls that take them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal, TypedDict

import msgspec

from hangarlog.eventstore.stream_id import category_of, check_stream_id
from hangarlog.record.envelope import Envelope

OnDamage = Literal["raise", "skip"]


class ReadOptions(TypedDict, total=False):
    """The keyword arguments of `records` and `envelopes`.

    `from_version` (only with a stream id) is inclusive, `from_position` is exclusive, both in the direction of reading.
    `limit` is the maximum number of events. `reverse` returns the latest event first. `event_types` are the stored
    names of types, or one such name. `category` is the part of a stream id before its first `:`. `on_damage="skip"`
    skips events that are damaged in both copies, with a `CorruptionWarning`. `durable` returns only events that are
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
    """The records that an engine must read.

    `stream_id` None means the whole store. `start` is a version of the stream (inclusive) or a position in the store
    (exclusive); None means from the first record, with `reverse` from the last. `limit` is the number of records that
    the caller will use at most. `skip` skips lost events. `durable` stops at the durable position.
    """

    stream_id: str | None
    start: int | None = None
    reverse: bool = False
    limit: int | None = None
    skip: bool = False
    durable: bool = False


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one read, with their defaults: see `ReadOptions`."""

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
        """Return the records that the engine must read. Raises `ValueError` or `StreamIdError` for invalid options."""
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
        """True if the span may hold records that are not wanted."""
        of_stream = self.stream_id is not None and self.from_position is not None
        return of_stream or self.event_types is not None or self.category is not None

    def wanted(self, blocks: Iterator[Sequence[Envelope]]) -> Iterator[Sequence[Envelope]]:
        """Return the wanted records among a span's records. A block may be empty."""
        if self._filters:
            keep = self._filter()
            blocks = (list(filter(keep, block)) for block in blocks)
        return limited(blocks, self.limit)

    def _filter(self) -> Callable[[Envelope], bool]:
        names = self.event_types
        types = None if names is None else frozenset([names] if isinstance(names, str) else names)
        category, reverse = self.category, self.reverse
        position = None  # For the whole store, the span begins there already.
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
    """True if damaged events are skipped. Raises `ValueError` if `on_damage` is neither "raise" nor "skip"."""
    if on_damage not in ("raise", "skip"):
        raise ValueError(f"on_damage is 'raise' or 'skip', not {on_damage!r}")
    return on_damage == "skip"


def limited(blocks: Iterator[Sequence[Envelope]], limit: int | None) -> Iterator[Sequence[Envelope]]:
    """Yield the first `limit` records of some blocks, all of them with None."""
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
