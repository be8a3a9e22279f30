"""Conversations of pydantic-ai in a store: `ConversationStore(path)`. Install `hangarlog[pydantic-ai]`.

A conversation is a stream: its messages, and after those of each save its record. A fork is a stream with a copy of the
messages that it begins with, so that deleting the one erases it and leaves the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

try:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_ai.conversation_store import ConversationConflict, ConversationEntry, ConversationRecord
    from pydantic_ai.conversation_store import ConversationStore as _ConversationStore
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.messages import ModelMessagesTypeAdapter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hangarlog.integrations.pydantic_ai needs pydantic-ai 2.68 or newer, which is not installed; "
        "run: pip install 'hangarlog[pydantic-ai]'",
        name="pydantic_ai",
    ) from error

from hangarlog.errors import ConcurrencyError, StreamIdError, StreamNotFoundError
from hangarlog.eventstore.engine import Durability
from hangarlog.integrations.sessions import (
    Known,
    Opened,
    Recent,
    Store,
    Streams,
    event,
    member,
    not_known,
    read_at,
    stream_id,
    take,
)
from hangarlog.record.envelope import Encoded, Envelope

_CATEGORY, _MESSAGE, _SAVED = "pydantic-ai", "Message", "Saved"
_MANY = 64
"""So many messages are decoded in a thread, not in the event loop."""
_MOST_PLACES = 10_000
"""The most entries of which it is remembered in which conversation they are."""


class _Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry without its message."""

    id: str
    parent: str | None = None


class _Stored(msgspec.Struct, frozen=True):
    """What an event holds: a message or a record, as pydantic's JSON; `…_json` if it is JSON of Python's kind only."""

    id: str = ""
    parent: str | None = None
    message: msgspec.Raw = msgspec.Raw()
    message_json: str = ""
    record: msgspec.Raw = msgspec.Raw()
    record_json: str = ""


_encode = msgspec.json.Encoder().encode
_link, _stored = msgspec.json.Decoder(_Link).decode, msgspec.json.Decoder(_Stored).decode
_records: TypeAdapter[ConversationRecord] = TypeAdapter(ConversationRecord)


class _Log:
    """A conversation: where each entry is, and which is before it; the last events; the record that was saved last."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[int, str | None]] = {}
        self.record: bytes | None = None
        self.recent = Recent()

    def add(self, envelope: Envelope) -> None:
        if envelope.event_type == _MESSAGE:
            link, data = _link(envelope.data), bytes(envelope.data)
            self.entries[link.id] = envelope.stream_version, link.parent
            self.recent.add(envelope.stream_version, data)
        elif envelope.event_type == _SAVED:
            stored = _stored(envelope.data)
            self.record = bytes(stored.record) or stored.record_json.encode()
        else:
            raise not_known(envelope)

    def chain(self, entry_id: str | None, limit: int | None) -> list[int]:
        """Return the versions of an entry and those before it, the first one first; with a limit, of the last ones."""
        versions: list[int] = []
        while entry_id in self.entries and (limit is None or len(versions) < limit):
            version, entry_id = self.entries[entry_id]
            versions.append(version)
        return versions[::-1]


class ConversationStore(_ConversationStore):
    """Keeps the conversations of pydantic-ai. Several processes may save to one: the slower gets a conflict.

    `where` is the folder of a store, which is created if it is missing, or an open store. A save is durable when it
    returns. `delete` erases the conversation's messages.
    """

    def __init__(self, where: str | os.PathLike[str] | Store, *, durability: Durability = "always") -> None:
        self._opened = Opened(where, durability)
        self._logs = Streams(self._opened, _Log, _Log.add)
        self._places: dict[str, str] = {}

    @property
    def store(self) -> Store:
        """The event store."""
        return self._opened.store

    def close(self) -> None:
        """Close the store, unless it was given or others of this process use it."""
        self._opened.close()

    # Records

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """Return the record of a conversation, None if it is not there."""
        stream = _stream(conversation_id)
        with self._logs.at_once(stream) as known:
            if known:
                return self._noted(stream, known)
        return await self._opened.run(self._record, conversation_id)

    def _record(self, conversation_id: str) -> ConversationRecord | None:
        stream = _stream(conversation_id)
        with self._logs.of(stream) as known:
            return self._noted(stream, known)

    def _noted(self, stream: str, known: Known[_Log]) -> ConversationRecord | None:
        record = _read_record(known)
        if record is not None:
            self._note(stream, [record.head_id, *record.branches])
        return record

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> Sequence[ConversationRecord]:
        """Return all records, or those of a scope, the one saved last first. One event of each is read."""
        return await self._opened.run(self._all_records, scope, limit)

    def _all_records(self, scope: str | None, limit: int | None) -> list[ConversationRecord]:
        last = (
            envelope
            for stream in self.store.list_streams(f"{_CATEGORY}:")
            for block in self.store.envelopes(stream, reverse=True, limit=1)
            for envelope in block
        )
        log, found = _Log(), []
        for envelope in last:
            take(_Log.add, log, envelope)
            record = _decoded_record(log.record or b"")
            if scope is None or record.scope == scope:
                found.append(record)
        return sorted(found, key=lambda record: record.updated_at, reverse=True)[:limit]

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Store a record and its new entries, all or none. Raises `ConversationConflict` as the base class says."""
        entries = [_entry_event(entry) for entry in new_entries]
        saved = event(_SAVED, b"{%b}" % member("record", _records.dump_json(record)))
        links = [(entry.id, entry.parent_id) for entry in new_entries]
        await self._opened.run(self._write, record, entries, saved, links, expected_revision)

    def _write(
        self,
        record: ConversationRecord,
        entries: list[Encoded],
        saved: Encoded,
        links: list[tuple[str, str | None]],
        expected_revision: str | None,
    ) -> None:
        stream, new = _stream(record.conversation_id), {entry_id for entry_id, _ in links}
        tips = [record.head_id, *(parent for _, parent in links), *record.branches]
        elsewhere = self._copies([tip for tip in tips if tip is not None and tip not in new], stream)
        with self._logs.of(stream) as known:
            self._check(known, record.conversation_id, expected_revision)
            own = known.state.entries
            copies = {entry_id: copied for entry_id, copied in elsewhere.items() if entry_id not in own}
            if record.head_id is not None and record.head_id not in (own.keys() | new | copies.keys()):
                raise ConversationConflict(record.conversation_id)
            events = [*copies.values(), *entries, saved]
            try:
                result = self._logs.append(stream, known, events)
            except ConcurrencyError as conflict:
                raise ConversationConflict(record.conversation_id) from conflict
            for version, (kind, _, data, _, _) in enumerate(events, result.first_version):
                known.state.add(_as_read(kind, data, version))
        self._note(stream, [record.head_id, *record.branches])

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Erase a conversation with all its messages. A fork of it has copies of those that it shares."""
        await self._opened.run(self._delete, conversation_id, expected_revision)

    def _delete(self, conversation_id: str, expected_revision: str) -> None:
        stream = _stream(conversation_id)
        with self._logs.of(stream) as known:
            self._check(known, conversation_id, expected_revision)
            try:
                dropped = self.store.delete_stream(stream, expected_version=known.version)
            except (ConcurrencyError, StreamNotFoundError) as conflict:
                raise ConversationConflict(conversation_id) from conflict
        if not dropped:  # Another process was faster.
            raise ConversationConflict(conversation_id)

    @staticmethod
    def _check(known: Known[_Log], conversation_id: str, expected_revision: str | None) -> None:
        record = _read_record(known)
        if (record.revision if record else None) != expected_revision:
            raise ConversationConflict(conversation_id)

    # Entries

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Return an entry. Raises `KeyError` if no conversation has it."""
        return (await self._opened.run(self._history, entry_id, 1))[0]

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """Return the entries up to `head_id`, in order, or only the last `limit` of them. Raises `KeyError`."""
        if head_id is None or limit == 0:
            return []
        if place := self._places.get(head_id):
            with self._logs.at_once(place) as known:
                versions = known.state.chain(head_id, limit) if known else []
                if known and 0 < len(versions) < _MANY and (datas := known.state.recent.at(versions)):
                    return _decoded_entries(place, datas)
        return await self._opened.run(self._history, head_id, limit)

    def _history(self, head_id: str, limit: int | None) -> list[ConversationEntry]:
        return _decoded_entries(*self._chain(head_id, limit))

    def _chain(self, head_id: str, limit: int | None = None, but_not: str = "") -> tuple[str, list[bytes]]:
        """Return (the stream, the events) of an entry and those before it. Raises `KeyError` if it is nowhere."""
        for stream in self._candidates(head_id):
            if stream == but_not:
                continue
            with self._logs.of(stream) as known:
                versions = known.state.chain(head_id, limit)
                found = known.state.recent.at(versions)
            if found is None:
                found = [bytes(envelope.data) for envelope in read_at(self.store, stream, versions)]
            if found and len(found) == len(versions):  # Else it was deleted meanwhile.
                self._note(stream, [head_id])
                return stream, found
        raise KeyError(head_id)

    def _candidates(self, entry_id: str) -> Iterator[str]:
        """Yield the streams that may have an entry: first that in which it was seen last."""
        if place := self._places.get(entry_id):
            yield place
        yield from self.store.list_streams(f"{_CATEGORY}:")

    def _copies(self, tips: list[str], stream: str) -> dict[str, Encoded]:
        """Return the events of entries that stand in other conversations, with all before them, by their ids."""
        with self._logs.of(stream) as known:
            missing = [tip for tip in tips if tip not in known.state.entries]
        copies: dict[str, Encoded] = {}
        for tip in missing:
            if tip not in copies:
                try:
                    _, datas = self._chain(tip, but_not=stream)
                except KeyError:
                    continue
                copies |= {_link(data).id: event(_MESSAGE, data) for data in datas}
        return copies

    def _note(self, stream: str, entry_ids: Sequence[str | None]) -> None:
        if len(self._places) > _MOST_PLACES:
            self._places = {}
        self._places |= {entry_id: stream for entry_id in entry_ids if entry_id is not None}


def _stream(conversation_id: str) -> str:
    try:
        return stream_id(_CATEGORY, conversation_id)
    except StreamIdError as error:
        raise UserError(str(error)) from error


def _entry_event(entry: ConversationEntry) -> Encoded:
    text = ModelMessagesTypeAdapter.dump_json([entry.message])[1:-1]
    return event(_MESSAGE, b"%b,%b}" % (_encode(_Link(entry.id, entry.parent_id))[:-1], member("message", text)))


def _as_read(kind: str, data: bytes, version: int) -> Envelope:
    """Return an event that was just appended as a read returns it, as far as a log looks at it."""
    return Envelope(1, "", version, kind, "", "", msgspec.Raw(data))


def _read_record(known: Known[_Log]) -> ConversationRecord | None:
    return None if known.state.record is None else _decoded_record(known.state.record)


def _decoded_record(text: bytes) -> ConversationRecord:
    try:
        return _records.validate_json(text)
    except ValidationError as error:
        raise _unreadable("record of a conversation", error) from error


def _decoded_entries(stream: str, datas: list[bytes]) -> list[ConversationEntry]:
    stored = [_stored(data) for data in datas]
    texts = [bytes(each.message) or each.message_json.encode() for each in stored]
    try:
        messages = ModelMessagesTypeAdapter.validate_json(b"[%b]" % b",".join(texts))
    except ValidationError as error:
        raise _unreadable(f"messages in {stream!r}", error) from error
    return [
        ConversationEntry(id=each.id, parent_id=each.parent, message=message)
        for each, message in zip(stored, messages, strict=True)
    ]


def _unreadable(what: str, error: Any) -> UserError:
    return UserError(
        f"this version of pydantic-ai cannot read the {what}; if a newer one has saved it, update: {error}"
    )
