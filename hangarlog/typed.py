"""Whole blocks of lines to typed events: envelope and payload of each are decoded in one call of msgspec a block.

A block's lines may be of many types and schema versions. Each type's payloads are decoded into its class where all of
the block are of its current version, into dictionaries for the upcasters where all are older, and else one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Protocol, Union

import msgspec

from hangarlog.errors import HangarlogError
from hangarlog.record import Envelope
from hangarlog.run import Run

FAILURES = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
"""What a decoder raises where a text does not fit."""

_MANY = 200  # Event types that are decoded for at once; when there are more, the count begins again.
_ENVELOPE = {field.name: field for field in msgspec.structs.fields(Envelope)}
_VERSION = re.compile(rb'\{"_version":([1-9][0-9]{0,8})[,}]')
_data = attrgetter("data")

Pairs = Iterable[tuple[Any, Any]]
Versions = frozenset[int | None]


class Reader(Protocol):
    """How payloads of one event type are read: bytes, or (`upcast`) what they hold as a dictionary."""

    event_class: type | None
    version: int
    plain: bool
    """Whether decoding into the class is all there is to do at the current version."""

    def __call__(self, data: Any) -> Any: ...  # noqa: D102
    def upcast(self, payload: dict[str, Any]) -> Any: ...  # noqa: D102
    def current(self) -> bool: ...  # noqa: D102


class _Versioned(msgspec.Struct, gc=False):
    _version: Any = 1


class _Kind(msgspec.Struct, gc=False):
    """What is asked of every line first, where its version cannot be told from the text."""

    event_type: str
    data: _Versioned


_kinds = msgspec.json.Decoder(_Kind).decode_lines


class TypedBlocks:
    """Reads blocks of records as (envelope, event), the envelope with at least `fields`. Threads may share it."""

    def __init__(
        self, reader: Callable[[str], Reader], dec_hook: Callable[[type, Any], Any] | None, fields: tuple[str, ...]
    ) -> None:
        self._reader, self._dec_hook, self._fields = reader, dec_hook, fields
        self._versions: dict[str, Versions] = {}  # Of the types met so far, each as in the last block that was asked.
        self._plans: dict[Any, _Plan] = {}

    def pairs(self, block: Sequence[Envelope]) -> Pairs:
        """(envelope, event) of every record. Raises what the reader of an event's type raises, when it is its turn."""
        if type(block) is Run:
            for ask in (False, True):  # A type that was not met before is the usual reason to ask.
                try:
                    plan = self._plan(block, ask)
                    rows = plan.decode(block.text)
                    if len(rows) == len(block):
                        return plan.pairs(rows)
                except FAILURES:
                    continue
        return self._one_by_one(block)

    def _one_by_one(self, block: Sequence[Envelope]) -> Pairs:
        readers: dict[str, Reader] = {}
        for envelope in block:
            reader = readers.get(envelope.event_type)
            if reader is None:
                reader = readers[envelope.event_type] = self._reader(envelope.event_type)
            yield envelope, reader(envelope.data)

    def _plan(self, run: Run, ask: bool) -> _Plan:
        version = None if ask else _only_version(run)
        if version is None:
            self._ask(run)
            key: Any = frozenset(self._versions.items())
        else:
            self._versions.setdefault(run.first.event_type, frozenset([version]))
            key = version, frozenset(self._versions)
        plan = self._plans.get(key)
        if plan is None or not plan.current():
            if len(self._plans) > _MANY:
                self._plans.clear()
            versions = self._versions
            if version is not None:
                versions = dict.fromkeys(versions, frozenset([version]))
            plan = self._plans[key] = _Plan(self._reader, self._dec_hook, self._fields, versions)
        return plan

    def _ask(self, run: Run) -> None:
        """Find out of which types and versions the records are."""
        found: dict[str, set[Any]] = {}
        for kind in _kinds(run.text):
            version = kind.data._version
            found.setdefault(kind.event_type, set()).add(version if type(version) is int else None)
        known = self._versions if len(self._versions) <= _MANY else {}
        self._versions = {**known, **{name: frozenset(versions) for name, versions in found.items()}}


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
        self._finish: dict[type, Callable[[Any], Any] | None] = {}
        envelope = [(name, _ENVELOPE[name].type, _ENVELOPE[name].default) for name in fields]
        for event_type, of in versions.items():
            payload, finish = self._way(reader, event_type, of)
            row = msgspec.defstruct(
                "Row",
                [*(field[:2] if field[2] is msgspec.NODEFAULT else field for field in envelope), ("data", payload)],
                tag_field="event_type",
                tag=event_type,
                namespace={"event_type": event_type},
                kw_only=True,
                gc=False,
            )
            self._finish[row] = finish
        self.decode = msgspec.json.Decoder[Any](Union[tuple(self._finish)], dec_hook=dec_hook).decode_lines  # noqa: UP007

    def _way(
        self, reader_of: Callable[[str], Reader], event_type: str, versions: Versions
    ) -> tuple[Any, Callable[[Any], Any] | None]:
        """(what payloads are decoded into, what makes events of that, if anything has to)."""
        try:
            reader = reader_of(event_type)
        except HangarlogError:
            return msgspec.Raw, lambda data: reader_of(event_type)(data)  # It is raised when it is the event's turn.
        self._readers.append(reader)
        if reader.plain and versions == {reader.version}:
            return reader.event_class, None
        if reader.event_class and all(version and 0 < version < reader.version for version in versions):
            return dict[str, Any], reader.upcast
        return msgspec.Raw, reader

    def current(self) -> bool:
        """Whether the maps still say what they said."""
        return all(reader.current() for reader in self._readers)

    def pairs(self, rows: list[Any]) -> Pairs:
        """The decoded rows, each with its event."""
        if any(self._finish.values()):
            return self._finished(rows)
        return zip(rows, map(_data, rows), strict=True)

    def _finished(self, rows: list[Any]) -> Iterator[tuple[Any, Any]]:
        finishes = self._finish
        for row in rows:
            finish = finishes[type(row)]
            yield row, row.data if finish is None else finish(row.data)


def _only_version(run: Run) -> int | None:
    """The schema version of all payloads of a run, if its text proves that they are of one.

    Every line has `"data"` once at least, its own key; if there are no more, and as many payloads that begin with
    this version, these are they. Where payloads have such a key themselves, there are more, and each is asked.
    """
    begins = _VERSION.match(run.first.data)
    if begins is None:
        return None
    text, head = run.text, b',"data":%b' % begins[0][:-1]
    whole = text.count(head + b",")
    if whole != run.size:
        whole += text.count(head + b"}")
    return int(begins[1]) if whole == run.size == text.count(b'"data"') else None
