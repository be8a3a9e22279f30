"""Sessions of the OpenAI Agents SDK in a store: `Session(session_id, path)`. Install `hangarlog[openai-agents]`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

try:
    from agents.exceptions import UserError
    from agents.memory.session import SessionABC
    from agents.memory.session_settings import SessionSettings, coerce_session_settings, resolve_session_limit
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hangarlog.integrations.openai_agents needs openai-agents, which is not installed; "
        "run: pip install 'hangarlog[openai-agents]'",
        name="agents",
    ) from error

from hangarlog.errors import ConcurrencyError, StreamIdError, StreamNotFoundError
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.engine import Durability
from hangarlog.eventstore.expected_version import ANY
from hangarlog.integrations.sessions import (
    Known,
    Opened,
    Store,
    Streams,
    append,
    as_json,
    event,
    from_json,
    not_known,
    stream_id,
)
from hangarlog.record.envelope import Envelope

if TYPE_CHECKING:
    from agents.items import TResponseInputItem

_CATEGORY, _ITEM, _POPPED = "openai-agents", "Item", "Popped"
_MANY = 256
"""So many items are decoded in a thread, not in the event loop."""


class _Pop(msgspec.Struct, frozen=True):
    """The removal of the last item. `below` is the version of the item before it, -1 if there is none."""

    below: int


_pop = msgspec.json.Decoder(_Pop).decode


def _item(stream: str, version: int, data: bytes) -> Any:
    try:
        return from_json("item", data)
    except msgspec.MsgspecError as error:
        raise not_known(Envelope(0, stream, version, _ITEM, "", "", msgspec.Raw(data)), str(error)) from error


def _below(removal: Envelope) -> int:
    try:
        return _pop(removal.data).below
    except msgspec.MsgspecError as error:
        raise not_known(removal, str(error)) from error


class _Tail:
    """The last items of a conversation. Older ones are at version `below` and before it, none if it is -1."""

    def __init__(self) -> None:
        self.items: list[tuple[int, bytes]] = []
        self.below = -1

    def add(self, envelope: Envelope) -> None:
        if envelope.event_type == _ITEM:
            self.items.append((envelope.stream_version, bytes(envelope.data)))
        elif envelope.event_type == _POPPED:
            self.drop_above(_below(envelope))
        else:
            raise not_known(envelope)

    def drop_above(self, version: int) -> None:
        """Forget the items behind a version."""
        while self.items and self.items[-1][0] > version:
            self.items.pop()
        if not self.items:
            self.below = min(self.below, version)

    def last(self, stream: str, count: int | None) -> list[Any]:
        """Return the last items, in their order."""
        first = 0 if count is None else max(0, len(self.items) - count)
        return [_item(stream, *each) for each in self.items[first:]]

    def has(self, count: int | None) -> bool:
        """True if no older items are needed for so many."""
        return self.below < 0 or (count is not None and len(self.items) >= count)

    def prepend(self, blocks: Iterable[Sequence[Envelope]]) -> None:
        """Take older events, the latest first. A removal leads to the item before it."""
        below, rest = self.below, -1
        older: list[tuple[int, bytes]] = []
        for block in blocks:
            for envelope in block:
                version = envelope.stream_version
                if version > below:
                    continue
                if envelope.event_type == _ITEM:
                    older.append((version, bytes(envelope.data)))
                    below = rest = version - 1
                elif envelope.event_type == _POPPED:
                    below = rest = _below(envelope)
                else:
                    raise not_known(envelope)
            if block and below < block[-1].stream_version - 1:
                break  # What is skipped need not be read.
        self.below = rest
        self.items[:0] = older[::-1]


class _Tails(Streams[_Tail]):
    """Reads conversations from their ends."""

    def _read_all(self, store: Store, stream: str, known: Known[_Tail]) -> None:
        for block in store.envelopes(stream, reverse=True, limit=1):
            for last in block:
                known.version = known.first = known.state.below = last.stream_version
                known.event_id = last.event_id

    def read_back(self, stream: str, known: Known[_Tail], count: int | None) -> None:
        """Read older items, until there are `count` or no more."""
        tail = known.state
        while not tail.has(count):
            wanted = None if count is None else count - len(tail.items)
            tail.prepend(self._opened.store.envelopes(stream, reverse=True, from_version=tail.below, limit=wanted))
        if tail.items:
            known.first = min(known.first, tail.items[0][0])

    def added(self, stream: str, result: AppendResult, datas: list[bytes]) -> None:
        """Take items that were appended, if nothing else was meanwhile: else they are read when they are needed."""
        known = self._of(stream)
        with known.lock:
            moment = known.moment
            if moment is None or result.first_position != moment.committed + 1:
                return
            if known.event_id or known.version < 0:
                known.state.items += zip(range(result.first_version, int(result) + 1), datas, strict=True)
                known.took(result)


class Session(SessionABC):
    """Keeps the items of a conversation in a stream. All sessions of a process on one path share an open store.

    `where` is the folder of a store, which is created if it is missing, or an open store. What is added or removed is
    durable when the call returns. Several processes may use one session.

    Raises:
        UserError: the session id is too long.
    """

    def __init__(
        self,
        session_id: str,
        where: str | os.PathLike[str] | Store,
        *,
        durability: Durability = "always",
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        try:
            self._stream = stream_id(_CATEGORY, session_id)
        except StreamIdError as error:
            raise UserError(str(error)) from error
        self.session_id = session_id
        self.session_settings = (
            SessionSettings() if session_settings is None else coerce_session_settings(session_settings)
        )
        self._opened = Opened(where, durability)
        self._tails = _Tails(self._opened, _Tail, _Tail.add)

    @property
    def store(self) -> Store:
        """The event store."""
        return self._opened.store

    def close(self) -> None:
        """Close the store, unless it was given or other sessions of this process use it."""
        self._opened.close()

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the items in their order, with a limit the last ones. They are read from the end."""
        limit = resolve_session_limit(limit, self.session_settings)
        wanted = None if limit is None or limit < 0 else limit
        with self._tails.at_once(self._stream) as known:
            if known and known.state.has(wanted) and min(len(known.state.items), wanted or _MANY) < _MANY:
                return known.state.last(self._stream, wanted)
        return await self._opened.run(self._get, wanted)

    def _get(self, wanted: int | None) -> list[TResponseInputItem]:
        with self._tails.of(self._stream) as known:
            self._tails.read_back(self._stream, known, wanted)
            return known.state.last(self._stream, wanted)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items, all or none."""
        await self._opened.run(self._add, list(items))

    def _add(self, items: list[TResponseInputItem]) -> None:
        store, datas = self.store, [as_json("item", item) for item in items]
        if not datas:
            return
        result = append(store, self._stream, [event(_ITEM, data) for data in datas], ANY)
        self._tails.added(self._stream, result, datas)

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the last item and return it, None if there is none. No other caller gets the same."""
        return await self._opened.run(self._pop)

    def _pop(self) -> TResponseInputItem | None:
        while True:
            with self._tails.of(self._stream) as known:
                self._tails.read_back(self._stream, known, 2)
                items = known.state.items
                if not items:
                    return None
                item: TResponseInputItem = _item(self._stream, *items[-1])
                below = items[-2][0] if len(items) > 1 else -1
                try:
                    removal = event(_POPPED, b'{"below":%d}' % below)
                    self._tails.append(self._stream, known, [removal])
                except ConcurrencyError:
                    continue
                known.state.drop_above(below)
                return item

    async def clear_session(self) -> None:
        """Erase all items."""
        await self._opened.run(self._clear)

    def _clear(self) -> None:
        try:
            self.store.delete_stream(self._stream)
        except StreamNotFoundError:
            return
