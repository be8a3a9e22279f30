"""Decodes whole blocks of lines as typed events, envelopes and payloads in one call of msgspec per block.

A block may have many event types and schema versions. The payloads of a type are decoded as instances of its class if
all of them have the current version, as dictionaries for the upcasters if all have one older version, else one by one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Protocol, Union

import msgspec

from hangarlog.errors import HangarlogError
from hangarlog.events.payload import FAILURES
from hangarlog.record.envelope import Envelope
from hangarlog.record.verified_block import VerifiedBlock

_MAX_TYPES = 200  # The most event types that one plan decodes. Beyond it, the known types are forgotten.
_ENVELOPE = {field.name: field for field in msgspec.structs.fields(Envelope)}
_VERSION = re.compile(rb'\{"_version":([1-9][0-9]{0,8})[,}]')
_data, _position, _stream_id = map(attrgetter, ("data", "position", "stream_id"))
_second = itemgetter(1)

Versions = frozenset[int | None]


class Parts(tuple[Any, ...]):
    """The events that a stored event of a split or dropped type has become: any number, also none."""

    __slots__ = ()


class Reader(Protocol):
    """Reads the payloads of one event type: one by one from bytes, or many decoded ones of one older version."""

    event_class: type | None
    version: int
    plain: bool
    """True if a payload of the current version only needs decoding into the class."""
    parts: bool
    """True if the reader returns `Parts`."""

    def __call__(self, data: Any) -> Any: ...  # noqa: D102
    def from_object(self, payload: dict[str, Any]) -> Any: ...  # noqa: D102
    def upcast_all(self, payloads: list[dict[str, Any]], version: int) -> list[Any]: ...  # noqa: D102
    def current(self) -> bool: ...  # noqa: D102


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
        self, reader: Callable[[str], Reader], dec_hook: Callable[[type, Any], Any] | None, fields: tuple[str, ...]
    ) -> None:
        self._reader, self._dec_hook, self._fields = reader, dec_hook, fields
        self._versions: dict[str, Versions] = {}  # The versions of each known type in the last block that was examined.
        self._plans: dict[Any, _Plan] = {}

    def events(self, block: Sequence[Envelope]) -> Iterable[Any]:
        """Return the event of every record. Errors of a type's reader are raised when its event's turn comes."""
        rows, events = self._decoded(block)
        return events if rows is not None else map(_second, self._one_by_one(block))

    def pairs(self, block: Sequence[Envelope]) -> Iterable[tuple[Any, Any]]:
        """Return the (envelope, event) of every record. Raises as `events` does."""
        rows, events = self._decoded(block)
        return zip(rows, events, strict=True) if rows is not None else self._one_by_one(block)

    def placed(self, block: Sequence[Envelope]) -> Iterable[tuple[int, str, Any]]:
        """Return the (position, stream id, event) of every record; `fields` must have both. Raises as `events` does."""
        rows, events = self._decoded(block)
        if rows is None:
            return ((envelope.position, envelope.stream_id, event) for envelope, event in self._one_by_one(block))
        return zip(map(_position, rows), map(_stream_id, rows), events)  # noqa: B905 - their lengths are equal

    def _decoded(self, block: Sequence[Envelope]) -> tuple[list[Any] | None, Iterable[Any]]:
        """Return the envelopes and events of a block, or (None, ()) if they must be read one by one."""
        if type(block) is VerifiedBlock:
            for examine in (False, True):  # The first try usually fails because of a type that was not met before.
                with contextlib.suppress(*FAILURES):
                    plan = self._plan(block, examine)
                    rows = plan.decode(block.text)
                    if len(rows) == len(block):
                        events = plan.events(rows)
                        return _flattened(rows, events) if plan.parts else (rows, events)
        return None, ()

    def _one_by_one(self, block: Sequence[Envelope]) -> Iterator[tuple[Any, Any]]:
        readers: dict[str, Reader] = {}
        for envelope in block:
            reader = readers.get(envelope.event_type)
            if reader is None:
                reader = readers[envelope.event_type] = self._reader(envelope.event_type)
            event = reader(envelope.data)
            if reader.parts:
                for part in event:
                    yield envelope, part
            else:
                yield envelope, event

    def _plan(self, block: VerifiedBlock, examine: bool) -> _Plan:
        version = None if examine else _only_version(block)
        if version is None:
            versions = self._versions_in(block)
            key: Any = frozenset(versions.items())
        else:
            self._versions.setdefault(block.first.event_type, frozenset([version]))
            key = version, frozenset(self._versions)
            versions = dict.fromkeys(key[1], frozenset([version]))
        plan = self._plans.get(key)
        if plan is None or not plan.current():
            if len(self._plans) > _MAX_TYPES:
                self._plans.clear()
            plan = self._plans[key] = _Plan(self._reader, self._dec_hook, self._fields, versions)
        return plan

    def _versions_in(self, block: VerifiedBlock) -> dict[str, Versions]:
        """Return the versions of each event type in a block, and of the types met before."""
        found: dict[str, set[Any]] = {}
        for line in _decode_types(block.text):
            version = line.data._version
            found.setdefault(line.event_type, set()).add(version if type(version) is int else None)
        known = self._versions if len(self._versions) <= _MAX_TYPES else {}
        # Another thread may set `self._versions` too, so return this block's own versions.
        versions = {**known, **{name: frozenset(versions) for name, versions in found.items()}}
        self._versions = versions
        return versions


class _Plan:
    """A decoder for blocks whose event types and versions are known."""

    def __init__(
        self,
        reader: Callable[[str], Reader],
        dec_hook: Callable[[type, Any], Any] | None,
        fields: tuple[str, ...],
        versions: dict[str, Versions],
    ) -> None:
        self._readers: list[Reader] = []
        self._one: dict[type, Callable[[Any], Any] | None] = {}
        self._many: dict[type, Callable[[list[Any]], list[Any]]] = {}
        envelope = [(name, _ENVELOPE[name].type, _ENVELOPE[name].default) for name in fields]
        for event_type, of in versions.items():
            payload, one, many = self._strategy(reader, event_type, of)
            row = msgspec.defstruct(
                "Row",
                [*(field[:2] if field[2] is msgspec.NODEFAULT else field for field in envelope), ("data", payload)],
                tag_field="event_type",
                tag=event_type,
                namespace={"event_type": event_type},
                kw_only=True,
                gc=False,
            )
            self._one[row] = one
            if many:
                self._many[row] = many
        self.parts = any(reader.parts for reader in self._readers)
        self.decode = msgspec.json.Decoder[Any](Union[tuple(self._one)], dec_hook=dec_hook).decode_lines  # noqa: UP007

    def _strategy(
        self, reader_of: Callable[[str], Reader], event_type: str, versions: Versions
    ) -> tuple[Any, Callable[[Any], Any] | None, Callable[[list[Any]], list[Any]] | None]:
        """Return (the type payloads are decoded into, a function from one of them to its event, one from many)."""
        try:
            reader = reader_of(event_type)
        except HangarlogError:
            # Raise it when the event's turn comes.
            return msgspec.Raw, lambda data: reader_of(event_type)(data), None
        self._readers.append(reader)
        (version, *others) = versions
        if others or reader.event_class is None or not version:
            return msgspec.Raw, reader, None
        if reader.plain and version == reader.version:
            return reader.event_class, None, None
        if 0 < version < reader.version:
            return dict[str, Any], None, lambda payloads: reader.upcast_all(payloads, version)
        return msgspec.Raw, reader, None

    def current(self) -> bool:
        """True if the registry has not changed since."""
        return all(reader.current() for reader in self._readers)

    def events(self, rows: list[Any]) -> Iterable[Any]:
        """Return the event of each row. Raises one of `FAILURES` if the block must be read one by one."""
        if self._many and len(self._one) == 1:
            (upcast,) = self._many.values()
            return upcast(list(map(_data, rows)))
        many = {
            kind: iter(upcast([_data(row) for row in rows if type(row) is kind])) for kind, upcast in self._many.items()
        }
        return self._each(rows, many) if many or any(self._one.values()) else map(_data, rows)

    def _each(self, rows: list[Any], many: dict[type, Iterator[Any]]) -> Iterator[Any]:
        for row in rows:
            kind = type(row)
            one = self._one[kind]
            yield next(many[kind]) if kind in many else row.data if one is None else one(row.data)


def _flattened(rows: list[Any], events: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Replace each `Parts` by its events, and repeat its row for each of them."""
    all_rows: list[Any] = []
    all_events: list[Any] = []
    for row, event in zip(rows, events, strict=True):
        of_row = event if type(event) is Parts else (event,)
        all_rows += [row] * len(of_row)
        all_events += of_row
    return all_rows, all_events


def _only_version(block: VerifiedBlock) -> int | None:
    """Return the schema version of all payloads of a block, if its text proves without decoding that they share one.

    Each line has a `{`, and each payload has one. If there are no others, payloads hold no nested objects. If then as
    many payloads as lines begin with this version, all of them do.
    """
    begins = _VERSION.match(block.first.data)
    if begins is None:
        return None
    text, head = block.text, b',"data":%b' % begins[0][:-1]
    found = text.count(head + b",")
    if found != block.size:
        found += text.count(head + b"}")
    if found != block.size:
        return None
    braces = len(text) - len(text.replace(b"{", b""))  # Takes a quarter of the time of `count`.
    return int(begins[1]) if braces == 2 * block.size else None
