"""Decodes whole blocks of lines as typed events, envelopes and payloads in one call of msgspec per block.

Payloads become instances of their class if all payloads of their type in the block have the current version,
dictionaries for the upcasters if all are older, else they are read one after the other. How types are decoded is a
plan. There are at most two, one for blocks of current versions and one for other blocks. A plan grows as types are met,
up to a limit. A block that no plan covers is read without one, at about twice the cost.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Protocol, Union

import msgspec

from hangarlog.errors import EventSerializationError, UnreadableWarning, UpcastingError
from hangarlog.events.payload import FAILURES
from hangarlog.record.envelope import Envelope
from hangarlog.record.line import LONG_LINE_BYTES, payload_at
from hangarlog.record.verified_block import VerifiedBlock

_MAX_TYPES = 4096  # The most event types of a plan, which takes 3 KiB for each.
_MAX_REMEMBERED = 10_000  # The most readers, and the most versions of types, that are remembered.
_EVENTS_PER_TYPE = 40  # Adding a type to a plan costs as much as reading this many events without one.
_BYTES_PER_EVENT = 4 << 10  # And reading one event without a plan costs as much more as reading these bytes does.
_ENVELOPE = {field.name: field for field in msgspec.structs.fields(Envelope)}
_VERSION = re.compile(rb'\{"_version":([1-9][0-9]{0,8})[,}]')
_data, _event_type = attrgetter("data"), attrgetter("event_type")
_position, _stream_id = attrgetter("position"), attrgetter("stream_id")
_second = itemgetter(1)

_CURRENT, _OLD, _OTHER = 1, 2, 4
"""The kinds of payloads: of the current version, which only need decoding; of older versions; all others."""

Rows = Sequence[Any]
"""Decoded lines: envelopes with the fields asked for, `event_type` and `data`, an event or what it is made from."""


class Parts(tuple[Any, ...]):
    """The events that a stored event of a split or dropped type has become: any number, also none."""

    __slots__ = ()


class Reader(Protocol):
    """Reads the payloads of one event type."""

    event_class: type | None
    version: int
    plain: bool
    """True if a payload of the current version only needs decoding into the class."""
    parts: bool
    """True if the reader returns `Parts`."""

    def __call__(self, data: Any) -> Any: ...  # noqa: D102
    def from_object(self, payload: dict[str, Any]) -> Any: ...  # noqa: D102
    def read_all(self, payloads: list[Any]) -> list[Any]: ...  # noqa: D102
    def upcast_all(self, payloads: list[dict[str, Any]]) -> list[Any]: ...  # noqa: D102
    def current(self) -> bool: ...  # noqa: D102


class Definitions(Protocol):
    """A serializer, as far as blocks need it."""

    @property
    def unreadable(self) -> str: ...  # noqa: D102
    @property
    def definitions(self) -> tuple[Mapping[str, Any], ...]:
        """All that readers depend on. It equals a copy of it until something changes."""

    def reader(self, event_type: str) -> Reader: ...  # noqa: D102
    def untyped(self, event_type: str, data: Any) -> Any: ...  # noqa: D102


class _Versioned(msgspec.Struct, gc=False):
    _version: Any = 1


class _TypeAndVersion(msgspec.Struct, gc=False):
    """The part of a line that is decoded first if its text does not show the version."""

    event_type: str
    data: _Versioned


_decode_types = msgspec.json.Decoder(_TypeAndVersion).decode_lines
_decode_version = msgspec.json.Decoder(_Versioned).decode


def kinds_of(block: Sequence[Envelope]) -> list[tuple[str, int]]:
    """Return the (event type, schema version) of every record, 0 for an invalid version. Raises one of `FAILURES`."""
    if type(block) is VerifiedBlock:
        found = ((line.event_type, line.data._version) for line in _decode_types(block.text))
    else:
        found = ((envelope.event_type, _decode_version(envelope.data)._version) for envelope in block)
    return [(name, version if type(version) is int and version > 0 else 0) for name, version in found]


class TypedBlocks:
    """Reads blocks of records as events, with envelopes that have at least `fields`. Threads may share it."""

    def __init__(
        self, serializer: Definitions, dec_hook: Callable[[type, Any], Any] | None, fields: tuple[str, ...]
    ) -> None:
        self._serializer, self._dec_hook, self._fields = serializer, dec_hook, fields
        self._plans = _Plans(serializer, dec_hook, fields)

    def events(self, block: Sequence[Envelope]) -> Iterable[Any]:
        """Return the event of every record.

        An event that cannot be read raises its error when its turn comes, or is passed over: see `EventSerializer`.
        """
        decoded = self._decoded(block)
        return decoded[1] if decoded else map(_second, self._one_by_one(block))

    def pairs(self, block: Sequence[Envelope]) -> Iterable[tuple[Any, Any]]:
        """Return the (envelope, event) of every record. Raises as `events` does."""
        decoded = self._decoded(block)
        return zip(*decoded, strict=True) if decoded else self._one_by_one(block)

    def placed(self, block: Sequence[Envelope]) -> Iterable[tuple[int, str, Any]]:
        """Return the (position, stream id, event) of every record; `fields` must have both. Raises as `events` does."""
        decoded = self._decoded(block)
        if decoded is None:
            return ((envelope.position, envelope.stream_id, event) for envelope, event in self._one_by_one(block))
        rows, events = decoded
        return zip(map(_position, rows), map(_stream_id, rows), events)  # noqa: B905 - their lengths are equal

    def _decoded(self, block: Sequence[Envelope]) -> tuple[Rows, Iterable[Any]] | None:
        """Return the envelopes and events of a block, None if it must be read one by one."""
        if type(block) is not VerifiedBlock:
            return None
        plans = self._plans
        if plans.definitions != self._serializer.definitions:
            plans = self._plans = _Plans(self._serializer, self._dec_hook, self._fields)
        try:
            return plans.read(block)
        except MemoryError:
            raise
        except Exception:  # An upcaster or a hook may raise anything. Reading one by one tells which event it is.
            return None

    def _one_by_one(self, block: Sequence[Envelope]) -> Iterator[tuple[Any, Any]]:
        readers: dict[str, Reader] = {}
        for envelope in block:
            try:
                reader = readers.get(envelope.event_type)
                if reader is None:
                    reader = readers[envelope.event_type] = self._serializer.reader(envelope.event_type)
                event = reader(envelope.data)
            except (EventSerializationError, UpcastingError) as error:
                error.locate(envelope.stream_id, envelope.stream_version, envelope.position)
                event = self._passed_over(envelope, error)
            if type(event) is Parts:
                for part in event:
                    yield envelope, part
            else:
                yield envelope, event

    def _passed_over(self, envelope: Envelope, error: EventSerializationError | UpcastingError) -> Any:
        """Return what stands for an event that cannot be read, or raise its error."""
        if self._serializer.unreadable == "untyped":
            with contextlib.suppress(*FAILURES):
                return self._serializer.untyped(envelope.event_type, envelope.data)
        elif self._serializer.unreadable == "skip":
            warnings.warn(UnreadableWarning(f"passed over: {error}"), stacklevel=4)
            return Parts()
        raise error


class _Plans:
    """How blocks are decoded while the definitions of all types stay as they are."""

    def __init__(
        self, serializer: Definitions, dec_hook: Callable[[type, Any], Any] | None, fields: tuple[str, ...]
    ) -> None:
        self.definitions = tuple(map(dict, serializer.definitions))
        self._serializer, self._dec_hook = serializer, dec_hook
        fields_of_rows = [(name, _ENVELOPE[name].type, _ENVELOPE[name].default) for name in fields]
        self._fields = [field[:2] if field[2] is msgspec.NODEFAULT else field for field in fields_of_rows]
        raw = [("event_type", str), ("data", msgspec.Raw)]
        row: Any = msgspec.defstruct("Row", [*self._fields, *raw], kw_only=True, gc=False)
        self._decode_raw = msgspec.json.Decoder(row).decode_lines
        self._readers: dict[str, Reader] = {}
        self._kinds: dict[tuple[str, Any, type], int] = {}
        self._plans: dict[bool, _Plan] = {}  # By whether a block has other than current versions.
        self._wanted: dict[bool, _Wanted] = defaultdict(_Wanted)
        self._last: _Plan | None = None

    def read(self, block: VerifiedBlock) -> tuple[Rows, Iterable[Any]]:
        """Return the envelopes and events of a block. Raises anything if it must be read one by one."""
        version, plan = _only_version(block), self._last
        if version is not None and plan is not None:
            try:
                rows = _all_rows(plan.decode, block)
                if plan.is_for(rows, version):
                    return plan.events(rows)
            except FAILURES:
                pass  # Usually because of a type that was not met before.
        types = self._types(block)
        odd = any(kind != _CURRENT for kind in types.values())
        plan = self._plans.get(odd)
        if plan is None or not plan.covers(types):
            plan = self._grown(odd, types, block)
        if plan is not None:
            self._last = plan
            return plan.events(_all_rows(plan.decode, block))
        readers = [self._reader(name) for name in types]
        read = {name: reader.read_all for name, reader in zip(types, readers, strict=True)}
        rows = _all_rows(self._decode_raw, block)
        return _in_turn(rows, read, parts=any(reader.parts for reader in readers))

    def _types(self, block: VerifiedBlock) -> dict[str, int]:
        """Return the kinds of payloads that each event type of a block has."""
        types: dict[str, int] = {}
        lines = _decode_types(block.text)
        for key in {(line.event_type, (version := line.data._version), type(version)) for line in lines}:
            kind = self._kinds.get(key)
            if kind is None:
                if len(self._kinds) >= _MAX_REMEMBERED:
                    self._kinds.clear()
                kind = self._kinds[key] = _kind(self._reader(key[0]), key[1])
            types[key[0]] = types.get(key[0], 0) | kind
        return types

    def _reader(self, event_type: str) -> Reader:
        reader = self._readers.get(event_type)
        if reader is None:
            if len(self._readers) >= _MAX_REMEMBERED:
                self._readers.clear()
            reader = self._readers[event_type] = self._serializer.reader(event_type)
        return reader

    def _grown(self, odd: bool, types: dict[str, int], block: VerifiedBlock) -> _Plan | None:
        """Return a plan that covers these types too; None if it does not pay yet, or would be too large."""
        wanted = self._wanted[odd]
        wanted.add(types, block.size + len(block.text) // _BYTES_PER_EVENT)
        if not wanted.pays:
            return None
        types_of_plan = wanted.taken()
        readers = {name: self._reader(name) for name in types_of_plan}
        plan = self._plans[odd] = _Plan(types_of_plan, readers, self._fields, self._dec_hook)
        return plan if plan.covers(types) else None


class _Wanted:
    """The types that a plan should have, and what has been read without it."""

    def __init__(self) -> None:
        self._types: dict[str, int] = {}
        self._changed, self._events = False, 0

    def add(self, types: dict[str, int], events: int) -> None:
        """Add the types of a block that no plan covers. Reading it without a plan costs as much as `events` events."""
        for name, kind in types.items():
            before = self._types.get(name, 0)
            if before | kind != before and (before or len(self._types) < _MAX_TYPES):
                self._types[name], self._changed = before | kind, True
        self._events += events

    @property
    def pays(self) -> bool:
        """True if a plan for these types has not been made yet, and costs no more than has been spent without it."""
        return self._changed and self._events >= _EVENTS_PER_TYPE * len(self._types)

    def taken(self) -> dict[str, int]:
        """Return the types, for a plan."""
        self._changed, self._events = False, 0
        return dict(self._types)


class _Plan:
    """A decoder for blocks whose event types, and the kinds of their payloads, are known."""

    def __init__(
        self,
        types: dict[str, int],
        readers: dict[str, Reader],
        fields: list[Any],
        dec_hook: Callable[[type, Any], Any] | None,
    ) -> None:
        self._types = types
        self._rows: dict[type, tuple[int, int]] = {}
        self._read: dict[str, Callable[[list[Any]], list[Any]]] = {}
        for name, kind in types.items():
            reader = readers[name]
            payload: Any = msgspec.Raw
            if kind == _CURRENT:
                payload = reader.event_class
            elif kind == _OLD:
                payload, self._read[name] = dict[str, Any], reader.upcast_all
            else:
                self._read[name] = reader.read_all
            row = msgspec.defstruct(
                "Row",
                [*fields, ("data", payload)],
                tag_field="event_type",
                tag=name,
                namespace={"event_type": name},
                kw_only=True,
                gc=False,
            )
            self._rows[row] = kind, reader.version
        versions = {reader.version for reader in readers.values()}
        self._only = versions.pop() if not self._read and len(versions) == 1 else None
        self._parts = any(reader.parts for reader in readers.values())
        self.decode = msgspec.json.Decoder[Any](Union[tuple(self._rows)], dec_hook=dec_hook).decode_lines  # noqa: UP007

    def covers(self, types: dict[str, int]) -> bool:
        """True if the plan decodes payloads of these kinds."""
        return all(self._types.get(name, 0) | kind == self._types.get(name) for name, kind in types.items())

    def is_for(self, rows: Rows, version: int) -> bool:
        """True if this is the right plan for decoded lines whose payloads all have one schema version."""
        if self._only == version:
            return True
        found = [self._rows[row] for row in set(map(type, rows))]
        if not self._read:
            return all(current == version for _, current in found)
        for kind, current in found:
            if (kind == _CURRENT and version != current) or (kind == _OLD and version >= current):
                return False
        return any(kind & _OTHER or version != current for kind, current in found)

    def events(self, rows: Rows) -> tuple[Rows, Iterable[Any]]:
        """Return the envelope and the event of each row. Raises anything if the block must be read one by one."""
        return _in_turn(rows, self._read, parts=self._parts)


def _kind(reader: Reader, version: Any) -> int:
    """Return the kind of payloads that have a version."""
    if reader.event_class is None or type(version) is not int or not 0 < version <= reader.version:
        return _OTHER
    if version < reader.version:
        return _OLD
    return _CURRENT if reader.plain else _OTHER


def _all_rows(decode: Callable[[bytes], list[Any]], block: VerifiedBlock) -> Rows:
    """Decode the lines of a block. Raises one of `FAILURES`."""
    rows = decode(block.text)
    if len(rows) != block.size:
        raise ValueError(f"there are {len(rows)} lines, the index has {block.size}")
    return rows


def _in_turn(
    rows: Rows, read: Mapping[str, Callable[[list[Any]], list[Any]]], *, parts: bool
) -> tuple[Rows, Iterable[Any]]:
    """Return the envelope and the event of each row; `read` has functions from the payloads of a type to its events."""
    if not read:
        return rows, map(_data, rows)
    events: list[Any]
    names = set(map(_event_type, rows))
    if len(names) == 1 and names <= read.keys():
        events = read[names.pop()](list(map(_data, rows)))
    else:
        payloads: dict[str, list[Any]] = {name: [] for name in names if name in read}
        for row in rows:
            if row.event_type in payloads:
                payloads[row.event_type].append(row.data)
        found = {name: iter(read[name](of_type)) for name, of_type in payloads.items()}
        events = [next(found[row.event_type]) if row.event_type in found else row.data for row in rows]
    return _flattened(rows, events) if parts else (rows, events)


def _flattened(rows: Rows, events: list[Any]) -> tuple[Rows, list[Any]]:
    """Replace each `Parts` by its events, and repeat its row for each of them."""
    all_rows: list[Any] = []
    all_events: list[Any] = []
    for row, event in zip(rows, events, strict=True):
        of_row = event if type(event) is Parts else (event,)
        all_rows += [row] * len(of_row)
        all_events += of_row
    return all_rows, all_events


def _only_version(block: VerifiedBlock) -> int | None:
    """Return the schema version of all payloads of a block, None if its text does not prove that they share one.

    Each line has a `{`, and each payload has one. If there are no others, payloads hold no nested objects. If then as
    many payloads as lines begin with this version, all of them do. Long lines are looked at one by one.
    """
    begins = _VERSION.match(block.first.data)
    if begins is None:
        return None
    if block.size == 1:
        return int(begins[1])
    text, head = block.text, b',"data":%b' % begins[0][:-1]
    if len(text) > block.size * LONG_LINE_BYTES:
        return int(begins[1]) if _all_begin_with(begins[0][:-1], text) else None
    found = text.count(head + b",")
    if found != block.size:
        found += text.count(head + b"}")
    if found != block.size:
        return None
    braces = len(text) - len(text.replace(b"{", b""))  # Takes a quarter of the time of `count`.
    return int(begins[1]) if braces == 2 * block.size else None


def _all_begin_with(head: bytes, text: bytes) -> bool:
    """True if the text shows that the payload of every line begins with `head`, and goes on after it."""
    find, count, key, start, size = text.find, text.count, b',"data":' + head, 0, len(text)
    while start < size:
        at = find(key, start, start + LONG_LINE_BYTES)
        if at < 0 or count(b"{", start, at) != 1:  # Metadata has braces too.
            at = payload_at(text, start) - (len(key) - len(head))
            if not text.startswith(key, at):
                return False
        at += len(key)
        if text[at] not in b",}":
            return False
        start = find(b"\n", at) + 1 or size
    return True
