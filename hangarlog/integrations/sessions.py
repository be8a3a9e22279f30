"""What the stores of agent frameworks share: streams for any names, payloads of any JSON, an open store, what is known.

A session is a stream. Frameworks name sessions by any text, and call from event loops.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from urllib.parse import unquote
from weakref import WeakValueDictionary

import msgspec

from hangarlog.aio.threads import Threads
from hangarlog.errors import EventSerializationError, StoreOpenError, StreamIdError
from hangarlog.events.payload import too_deep
from hangarlog.events.registry import UntypedEvent
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.engine import Durability
from hangarlog.eventstore.stream_id import why_not_an_id
from hangarlog.filestore.store import FileEventStore
from hangarlog.record.envelope import Envelope

Store = FileEventStore[UntypedEvent]
State = TypeVar("State")
Result = TypeVar("Result")

_MOST_KNOWN = 256
"""The most streams of which an adapter keeps what it has read."""


# Names

_UNSAFE = re.compile(r"[%/\\:\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def stream_id(category: str, *names: str) -> str:
    """Return the stream for some names, which may be any text. Different names have different streams.

    Raises `StreamIdError` if they are too long together, and `TypeError` if one is no text.
    """
    found = f"{category}:{'/'.join(map(_quoted, names))}"
    if cause := why_not_an_id(found):
        raise StreamIdError(found, cause)
    return found


def prefix_of(category: str, *names: str) -> str:
    """Return the prefix of the streams whose names begin with these."""
    return f"{stream_id(category, *names)}/"


def names_of(stream: str) -> list[str]:
    """Return the names that `stream_id` was given."""
    _, _, path = stream.partition(":")
    return ["" if name == "%" else unquote(name, errors="surrogatepass") for name in path.split("/")]


def _quoted(name: str) -> str:
    if name in ("", ".", ".."):
        return name.replace(".", "%2E") or "%"
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode(errors="surrogatepass")), name)


# Payloads

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode_quickly, _decode_any = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def as_json(name: str, value: Any) -> bytes:
    """Return a JSON object with one member, `{"NAME":value}`.

    Python's JSON has NaN, lone surrogates and any depth, too. Such a value is stored as text, `{"NAME_json":"…"}`.

    Raises `TypeError`, `ValueError` and `RecursionError` as `json.dumps` does.
    """
    data = _as_plain_json(value)
    if data is None or too_deep(data):
        return b'{"%b_json":%b}' % (name.encode(), json.dumps(json.dumps(value)).encode())
    return b'{"%b":%b}' % (name.encode(), data)


def _as_plain_json(value: Any) -> bytes | None:
    """Return what `json.dumps` makes of a value, None if a store's line cannot hold it."""
    try:
        data = _encode_quickly(value)
        if _decode_any(data) == value:  # Else msgspec has made text of bytes, or null of NaN, which json.dumps refuses.
            return data
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        pass
    try:
        return _encode(value).encode()
    except ValueError:
        return None


def from_json(name: str, data: bytes | msgspec.Raw) -> Any:
    """Return the value that `as_json` was given, None if the object has no such member."""
    found = _decode(data)
    text = found.get(f"{name}_json")
    return found.get(name) if text is None else json.loads(text)


# The open store

_shared: WeakValueDictionary[tuple[str, Durability, int], Opened] = WeakValueDictionary()
_sharing = threading.Lock()


class Opened:
    """A store, and threads for its calls. The adapters of a process that open the same path share one."""

    def __init__(self, store: Store, users: int) -> None:
        self.store, self._users = store, users
        self._threads, self._pid = Threads(), os.getpid()

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in a thread. If the task is cancelled meanwhile, wait for the end of what has begun."""
        if self._pid != os.getpid():  # A fork has no threads.
            self._threads, self._pid = Threads(), os.getpid()
        return await self._threads.run(function, *args)

    def add_user(self) -> None:
        """Count one more adapter."""
        self._users += 1

    def close(self) -> None:
        """Close the store when its last adapter is closed. A store that was given is its giver's."""
        with _sharing:
            self._users -= 1
            last = self._users == 0
        if last:
            self.store.close()


def opened(where: str | os.PathLike[str] | Store, durability: Durability) -> Opened:
    """Return the store at a path, or the store given. Raises what `FileEventStore` raises."""
    if isinstance(where, FileEventStore):
        return Opened(where, users=-1)
    key = (os.path.abspath(where), durability, os.getpid())
    with _sharing:
        found = _shared.get(key)
        if found is None or not _is_usable(found.store):
            found = _shared[key] = Opened(FileEventStore.untyped(where, durability=durability), users=0)
        found.add_user()
        return found


def _is_usable(store: Store) -> bool:
    """True unless the store was closed, or its folder was moved or deleted."""
    try:
        store.get_event_count()
    except StoreOpenError:
        return False
    return True


# What is known of streams


class Known(Generic[State]):
    """A stream as far as it was read: what its events come to, and its version."""

    def __init__(self, state: State) -> None:
        self.state, self.version, self.event_id = state, -1, ""
        self.lock = threading.Lock()

    def took(self, result: AppendResult) -> None:
        """Note an append whose events the state has taken, so that they are not read again."""
        self.version, self.event_id = int(result), result.event_ids[-1]


class Streams(Generic[State]):
    """What the events of streams come to, of those used last. It is brought up to date by reading on.

    `begin` returns the state of an empty stream; `add(state, envelope)` takes an event into it.
    """

    def __init__(self, store: Store, begin: Callable[[], State], add: Callable[[State, Envelope], None]) -> None:
        self._store, self._begin, self._add = store, begin, add
        self._known: OrderedDict[str, Known[State]] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def of(self, stream: str) -> Iterator[Known[State]]:
        """Lend what is known of a stream now. Other threads wait until it is given back."""
        with self._lock:
            known = self._known.pop(stream, None) or Known(self._begin())
            self._known[stream] = known
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        with known.lock:
            if not self._read_on(stream, known):
                self._read_all(stream, known)
            yield known

    def _read_on(self, stream: str, known: Known[State]) -> bool:
        """Read what is new. Return False if the stream is not the one that was read: it was deleted, or put back."""
        if not known.event_id:
            return False
        newer: list[Envelope] = []
        for block in self._store.envelopes(stream, reverse=True, to_version=known.version):
            newer += block
        if not newer or (newer[-1].stream_version, newer[-1].event_id) != (known.version, known.event_id):
            return False
        for envelope in newer[-2::-1]:
            self._take(known, envelope)
        return True

    def _read_all(self, stream: str, known: Known[State]) -> None:
        known.state, known.event_id = self._begin(), ""
        known.version = self._store.get_stream_version(stream)  # First: whatever comes later is a conflict.
        for block in self._store.envelopes(stream):
            for envelope in block:
                self._take(known, envelope)

    def _take(self, known: Known[State], envelope: Envelope) -> None:
        self._add(known.state, envelope)
        known.version, known.event_id = envelope.stream_version, envelope.event_id


def not_known(envelope: Envelope) -> EventSerializationError:
    """Return the error for an event of a type that this version does not know."""
    place = f"version {envelope.stream_version} of stream {envelope.stream_id!r}"
    return EventSerializationError(
        envelope.event_type,
        f"{place} is none of this adapter's; if a newer hangarlog has written it, update this one",
    )
