"""Whole blocks of lines to typed events: envelope and payload of each are decoded in one call of msgspec a block.

A block's lines may be of many types and schema versions. Each type's payloads are decoded into its class where all of
the block are of its current version, into dictionaries for the upcasters where all are older, and else one by one.
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

_MAX_TYPES = 200  # Event types that are decoded for at once; when there are more, the count begins again.
_ENVELOPE = {field.name: field for field in msgspec.structs.fields(Envelope)}
_VERSION = re.compile(rb'\{"_version":([1-9][0-9]{0,8})[,}]')
_data, _position, _stream_id = map(attrgetter, ("data", "position", "stream_id"))
_second = itemgetter(1)

Versions = frozenset[int | None]


class Parts(tuple[Any, ...]):
    """The events that one stored event has become, where they may be none, or several."""

    __slots__ = ()


class Reader(Protocol):
    """How payloads of one event type are read: the bytes of one, or many that are decoded and of one older version."""

    event_class: type | None
    version: int
    plain: bool
    """Whether decoding into the class is all there is to do at the current version."""
    parts: bool
    """Whether a stored event gives not one, but `Parts`."""

    def __call__(self, data: Any) -> Any: ...  # noqa: D102
    def from_object(self, payload: dict[str, Any]) -> Any: ...  # noqa: D102
    def upcast_all(self, payloads: list[dict[str, Any]], version: int) -> list[Any]: ...  # noqa: D102
    def current(self) -> bool: ...  # noqa: D102


class _Versioned(msgspec.Struct, gc=False):
    _version: Any = 1


class _Kind(msgspec.Struct, gc=False):
    """What is asked of every line first, where its version cannot be told from the text."""

    event_type: str
    data: _Versioned


_kinds = msgspec.json.Decoder(_Kind).decode_lines
_versioned = msgspec.json.Decoder(_Versioned).decode


def kinds_of(block: Sequence[Envelope]) -> list[tuple[str, int]]:
    """(event type, schema version) of every record, 0 where the version is none. Raises one of `FAILURES`."""
    if type(block) is VerifiedBlock:
        found = ((kind.event_type, kind.data._version) for kind in _kinds(block.text))
    else:
        found = ((envelope.event_type, _versioned(envelope.data)._version) for envelope in block)
    return [(name, version if type(version) is int and version > 0 else 0) for name, version in found]


class TypedBlocks:
    """Reads blocks of records as (envelope, event), the envelope with at least `fields`. Threads may share it."""

    def __init__(
        self, reader: Callable[[str], Reader], dec_hook: Callable[[type, Any], Any] | None, fields: tuple[str, ...]
    ) -> None:
        self._reader, self._dec_hook, self._fields = reader, dec_hook, fields
        self._versions: dict[str, Versions] = {}  # Of the types met so far, each as in the last block that was asked.
        self._plans: dict[Any, _Plan] = {}

    def events(self, block: Sequence[Envelope]) -> Iterable[Any]:
        """The event of every record. Raises what the reader of an event's type raises, when it is its turn."""
        rows, events = self._decoded(block)
        return events if rows is not None else map(_second, self._one_by_one(block))

    def pairs(self, block: Sequence[Envelope]) -> Iterable[tuple[Any, Any]]:
        """(envelope, event) of every record. Raises what `events` raises."""
        rows, events = self._decoded(block)
        return zip(rows, events, strict=True) if rows is not None else self._one_by_one(block)

    def placed(self, block: Sequence[Envelope]) -> Iterable[tuple[int, str, Any]]:
        """(position, stream id, event) of every record, where these are of the fields. Raises what `events` raises."""
        rows, events = self._decoded(block)
        if rows is None:
            return ((envelope.position, envelope.stream_id, event) for envelope, event in self._one_by_one(block))
        return zip(map(_position, rows), map(_stream_id, rows), events)  # noqa: B905 - they are as many

    def _decoded(self, block: Sequence[Envelope]) -> tuple[list[Any] | None, Iterable[Any]]:
        """A block's events, and the envelope of each; None for these where they are to be read one by one."""
        if type(block) is VerifiedBlock:
            for ask in (False, True):  # A type that was not met before is the usual reason to ask.
                with contextlib.suppress(*FAILURES):
                    plan = self._plan(block, ask)
                    rows = plan.decode(block.text)
                    if len(rows) == len(block):
                        events = plan.events(rows)
                        return _spread(rows, events) if plan.parts else (rows, events)
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

    def _plan(self, run: VerifiedBlock, ask: bool) -> _Plan:
        version = None if ask else _only_version(run)
        if version is None:
            versions = self._ask(run)
            key: Any = frozenset(versions.items())
        else:
            self._versions.setdefault(run.first.event_type, frozenset([version]))
            key = version, frozenset(self._versions)
            versions = dict.fromkeys(key[1], frozenset([version]))
        plan = self._plans.get(key)
        if plan is None or not plan.current():
            if len(self._plans) > _MAX_TYPES:
                self._plans.clear()
            plan = self._plans[key] = _Plan(self._reader, self._dec_hook, self._fields, versions)
        return plan

    def _ask(self, run: VerifiedBlock) -> dict[str, Versions]:
        """Find out of which types and versions the records are; with those of the types met before."""
        found: dict[str, set[Any]] = {}
        for kind in _kinds(run.text):
            version = kind.data._version
            found.setdefault(kind.event_type, set()).add(version if type(version) is int else None)
        known = self._versions if len(self._versions) <= _MAX_TYPES else {}
        # Another thread may be here, too: what is returned is this run's.
        versions = {**known, **{name: frozenset(versions) for name, versions in found.items()}}
        self._versions = versions
        return versions


class _Plan:
    """How the records of some types, each of known versions, are decoded."""

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
            payload, one, many = self._way(reader, event_type, of)
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

    def _way(
        self, reader_of: Callable[[str], Reader], event_type: str, versions: Versions
    ) -> tuple[Any, Callable[[Any], Any] | None, Callable[[list[Any]], list[Any]] | None]:
        """(what payloads are decoded into, what makes an event of one, what makes events of many of them)."""
        try:
            reader = reader_of(event_type)
        except HangarlogError:
            # It is raised when it is the event's turn.
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
        """Whether the registry still says what it said."""
        return all(reader.current() for reader in self._readers)

    def events(self, rows: list[Any]) -> Iterable[Any]:
        """The event of each row. Raises one of `FAILURES` where they are to be read one by one."""
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


def _spread(rows: list[Any], events: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """As many rows as events, where some events are `Parts`."""
    spread: list[Any] = []
    parts: list[Any] = []
    for row, event in zip(rows, events, strict=True):
        of_row = event if type(event) is Parts else (event,)
        spread += [row] * len(of_row)
        parts += of_row
    return spread, parts


def _only_version(run: VerifiedBlock) -> int | None:
    """The schema version of all payloads of a run, if its text proves that they are of one without being decoded.

    Every line has its own `{`, and every payload one. If there are no more, and as many payloads as lines begin with
    this version, these are all of them: none is another object within one.
    """
    begins = _VERSION.match(run.first.data)
    if begins is None:
        return None
    text, head = run.text, b',"data":%b' % begins[0][:-1]
    found = text.count(head + b",")
    if found != run.size:
        found += text.count(head + b"}")
    if found != run.size:
        return None
    braces = len(text) - len(text.replace(b"{", b""))  # A quarter of the time that `count` takes.
    return int(begins[1]) if braces == 2 * run.size else None
