"""The parameters of reads, defined once for all calls that take them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

import msgspec

from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.arguments import flag, moment_or_none, number_or_none, texts_or_none
from hangarlog.eventstore.limits import ended
from hangarlog.eventstore.stream_id import category_of, check_stream_id
from hangarlog.eventstore.wanted_types import WantedTypes
from hangarlog.record.envelope import Envelope
from hangarlog.record.timestamp import as_recorded, in_form

OnDamage = Literal["raise", "skip"]
_Pairs = Callable[[Sequence[Envelope]], Iterable[tuple[Any, Any]]]


class ReadOptions(TypedDict, total=False):
    """The keyword arguments of `records` and `envelopes`. All are optional, and an event must meet all that are given.

    Attributes:
        from_version: begin at this version (inclusive). Only with a stream id.
        to_version: end at this version (inclusive). Only with a stream id.
        from_position: begin after this position (exclusive).
        to_position: end at this position (inclusive). All four go in the direction of reading: with `reverse`,
            `from_…` is above `to_…`.
        since: the earliest recorded time (inclusive): an aware datetime, or RFC 3339 text with an offset.
        until: the end of the recorded times (exclusive), in the same form.
        limit: the most events. `records` counts what it yields, and keeps the parts of a split event together;
            `envelopes` counts stored events.
        reverse: the latest event first.
        event_types: stored names, exactly as stored, or registered classes, or one of them. A class stands for every
            stored type that is read back as it: its name, its former names, and the split types, of which `records`
            yields only the parts of this class. Subclasses count for themselves.
        category: the part of a stream id before its first `:`, or several of them.
        not_category: the categories to leave out.
        on_damage: "skip" skips events that are damaged in both copies, with a `CorruptionWarning`.
        durable: only events that are known to be on the device.
    """

    from_version: int | None
    to_version: int | None
    from_position: int | None
    to_position: int | None
    since: datetime | str | None
    until: datetime | str | None
    limit: int | None
    reverse: bool
    event_types: str | type | Collection[str | type] | None
    category: str | Collection[str] | None
    not_category: str | Collection[str] | None
    on_damage: OnDamage
    durable: bool


class Span(msgspec.Struct, frozen=True):
    """The records that an engine must read.

    `stream_id` None means the whole store. `start` is a version of the stream (inclusive) or a position in the store
    (exclusive); None means from the first record, with `reverse` from the last. `limit` is the number of records that
    the caller will use at most. `skip` skips lost events. `durable` stops at the durable position. `stop` is the last
    version or position (inclusive) in the direction of reading. The caller leaves out what is recorded before `since`,
    or at `until` or later, in the form of records: an engine may skip it.
    """

    stream_id: str | None
    start: int | None = None
    reverse: bool = False
    limit: int | None = None
    skip: bool = False
    durable: bool = False
    stop: int | None = None
    since: str | None = None
    until: str | None = None


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The checked options of one read, with their defaults: see `ReadOptions`."""

    stream_id: str | None
    from_version: int | None = None
    to_version: int | None = None
    from_position: int | None = None
    to_position: int | None = None
    since: str | None = None
    until: str | None = None
    limit: int | None = None
    reverse: bool = False
    event_types: WantedTypes | None = None
    category: frozenset[str] | None = None
    not_category: frozenset[str] | None = None
    on_damage: OnDamage = "raise"
    durable: bool = False
    of_stream: str | None = None  # As `stream_id`, for records of the whole store.

    def span(self) -> Span:
        """Return the records that the engine must read."""
        start, stop = (
            (None if self.from_position is None else max(0, self.from_position), self.to_position)
            if self.stream_id is None
            else (self.from_version, self.to_version)
        )
        return Span(
            self.stream_id,
            start,
            self.reverse,
            None if self._filters else self.limit,
            skips(self.on_damage),
            self.durable,
            stop,
            self.since,
            self.until,
        )

    @property
    def _filters(self) -> bool:
        """True if the span may hold records that are not wanted."""
        if self.since is not None or self.until is not None:
            return True
        return self._tests_each or (self.to_position is not None and self.stream_id is not None)

    @property
    def _tests_each(self) -> bool:
        """True if each record must be looked at. For the whole store, the span begins at the position already."""
        if self.event_types is not None or self.category is not None or self.not_category is not None:
            return True
        if self.of_stream is not None:
            return True
        return self.from_position is not None and self.stream_id is not None

    def wanted(self, blocks: Iterator[Sequence[Envelope]]) -> Iterator[Sequence[Envelope]]:
        """Return the wanted records among a span's records. A block may be empty."""
        if self.stream_id is not None and self.to_position is not None:
            blocks = ended(blocks, "position", self.to_position, self.reverse)
        if self.since is not None or self.until is not None:
            blocks = in_time(blocks, self.since or "", self.until or "~")
        if self._tests_each:
            keep = self._test()
            return (_kept(block, map(keep, block)) for block in blocks)
        return blocks

    def test(self) -> Callable[[Envelope], bool] | None:
        """Return the test that tells whether a record is wanted; None if all are. For a span of the whole store."""
        return self._test() if self._tests_each else None

    def parts_of(self, pairs: _Pairs) -> _Pairs:
        """Return what reads the (envelope, event) of a block, without parts of split events that are not wanted."""
        types = self.event_types
        return (lambda block: filter(types.keeps_part, pairs(block))) if types and types.split else pairs

    def _test(self) -> Callable[[Envelope], bool]:
        types, category, other, reverse = self.event_types, self.category, self.not_category, self.reverse
        stream = self.of_stream
        position = None
        if self.stream_id is not None and self.from_position is not None:
            position = max(0, self.from_position)

        def keep(envelope: Envelope) -> bool:
            return (
                (stream is None or envelope.stream_id == stream)
                and (category is None or category_of(envelope.stream_id) in category)
                and (other is None or category_of(envelope.stream_id) not in other)
                and (position is None or (envelope.position > position) is not reverse)
                and (not reverse or envelope.position != position)
                and (types is None or types.keeps(envelope))
            )

        return keep


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("from_version", "to_version", "from_position", "to_position", "limit"), number_or_none),
    **dict.fromkeys(("since", "until"), moment_or_none),
    **dict.fromkeys(("category", "not_category"), texts_or_none),
    **dict.fromkeys(("reverse", "durable"), flag),
    "event_types": lambda _, value: value,
    "on_damage": lambda _, value: value if skips(value) else "raise",
}


def selection(stream_id: object, options: Mapping[str, Any], serializer: EventSerializer) -> Selection:
    """Return the checked options of a read.

    Raises:
        TypeError: an option is unknown, or its value is of a wrong kind, or a class is not registered.
        ValueError: a value is wrong, or versions are given without a stream id.
        StreamIdError: the stream id is invalid.
    """
    checked = {}
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            raise TypeError(f"there is no option {name!r}; the options of a read are {', '.join(_CHECKS)}")
        checked[name] = check(name, value)
    if checked.get("event_types") is not None:
        checked["event_types"] = WantedTypes(checked["event_types"], serializer)
    if stream_id is not None:
        return Selection(stream_id=check_stream_id(stream_id), **checked)
    for name in ("from_version", "to_version"):
        if checked.get(name) is not None:
            raise ValueError(f"{name} needs a stream_id; use {name.replace('version', 'position')} for all streams")
    return Selection(stream_id=None, **checked)


def skips(on_damage: OnDamage) -> bool:
    """True if damaged events are skipped. Raises `ValueError` if `on_damage` is neither "raise" nor "skip"."""
    if on_damage not in ("raise", "skip"):
        raise ValueError(f"on_damage is 'raise' or 'skip', not {on_damage!r}")
    return on_damage == "skip"


def in_time(blocks: Iterable[Sequence[Envelope]], since: str, until: str) -> Iterator[Sequence[Envelope]]:
    """Yield the records of some blocks that were recorded from `since` to before `until`, in the form of records.

    A record whose time cannot be read is kept, so that the caller learns of it.
    """
    for block in blocks:
        times = [envelope.recorded_at for envelope in block]
        if not in_form(times):  # Another program has written them.
            times = [_in_form(text) or since for text in times]
        yield _kept(block, [since <= at < until for at in times])


def _in_form(text: str) -> str | None:
    """Return a time in the form of records, None if it is none."""
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.tzinfo is None else as_recorded(moment)
    except (ValueError, OverflowError):
        return None


def _kept(block: Sequence[Envelope], wanted: Iterable[bool]) -> Sequence[Envelope]:
    """Return the wanted records of a block; the block itself if all are, because it may be quicker to decode."""
    kept = [envelope for envelope, one in zip(block, wanted, strict=True) if one]
    return block if len(kept) == len(block) else kept
