"""What the stores of agent frameworks share: streams for any names, payloads of any JSON, an open store, what is known.

A session is a stream. Frameworks name sessions by any text, and call from event loops.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from urllib.parse import unquote
from weakref import WeakValueDictionary

import msgspec

from hangarlog.aio.threads import Threads
from hangarlog.errors import EventSerializationError, StoreOpenError, StreamIdError
from hangarlog.events.payload import FAILURES, checked_json, too_deep
from hangarlog.events.registry import UntypedEvent
from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.engine import Durability
from hangarlog.eventstore.expected_version import ANY, STREAM_EXISTS
from hangarlog.eventstore.stream_id import why_not_an_id
from hangarlog.filestore.event_ids import Moment
from hangarlog.filestore.store import FileEventStore
from hangarlog.integrations.stream_names import as_part
from hangarlog.opening import folder_path
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import Encoded, Envelope

Store = FileEventStore[UntypedEvent]
State = TypeVar("State")
Result = TypeVar("Result")

_MOST_KNOWN = 256
"""The most streams of which an adapter keeps what it has read."""


# Names


def stream_id(category: str, *names: str) -> str:
    """Return the stream for some names, which may be any text. Different names have different streams.

    Raises `StreamIdError` if they are too long together, and `TypeError` if one is no text.
    """
    found = f"{category}:{'/'.join(as_part(name) or '%' for name in names)}"
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
    except FAILURES:
        pass
    try:
        data = _encode(value).encode()
        checked_json(b'{"":%b}' % data)
    except (ValueError, msgspec.MsgspecError):
        return None
    return data


def member(name: str, text: bytes) -> bytes:
    """Return the member `"NAME":text` of a JSON object, for JSON that another library has made.

    If a store's line cannot hold it, it is stored as text, `"NAME_json":"…"`, as by `as_json`.
    """
    try:
        checked_json(b'{"":%b}' % text)
    except FAILURES:
        return b'"%b_json":%b' % (name.encode(), _encode_quickly(text.decode()))
    return b'"%b":%b' % (name.encode(), text)


def event(kind: str, data: bytes, *, metadata: bytes | None = None, recorded_at: str | None = None) -> Encoded:
    """Return an event to append. `data` and `metadata` are of `as_json` or of a stored event, so nobody checks them."""
    return kind, None, data, recorded_at, metadata


def read_at(store: Store, stream: str, versions: list[int]) -> list[Envelope]:
    """Return the events of a stream at some versions, in this order, without those that are gone."""
    if not versions:
        return []
    first, last = min(versions), max(versions)
    together = last - first < 2 * len(versions)
    spans = [(first, last)] if together else [(version, version) for version in versions]
    found = {
        envelope.stream_version: envelope
        for first, last in spans
        for block in store.envelopes(stream, from_version=first, to_version=last)
        for envelope in block
    }
    return [found[version] for version in versions if version in found]


def append(
    store: Store, stream: str, events: list[Encoded], *expected: int, also: Iterable[tuple[str, list[Encoded]]] = ()
) -> AppendResult:
    """Append to a stream that is as all of `expected` say, and at the ends of other streams: all or nothing.

    Raises what `FileEventStore.append` raises.
    """
    *checks, last = [Pending(stream, [], each, None) for each in expected]
    others = [Pending(other, more, ANY, None) for other, more in also]
    return store._commit([*checks, msgspec.structs.replace(last, events=events), *others])[stream]


def from_json(name: str, data: bytes | msgspec.Raw, *default: Any) -> Any:
    """Return the value that `as_json` was given, or a default.

    Raises `msgspec.ValidationError` if the object has no such member, and no default is given.
    """
    found = _decode(data)
    if name in found:
        return found[name]
    text = found.get(f"{name}_json")
    if text is not None:
        return json.loads(text)
    if default:
        return default[0]
    raise msgspec.ValidationError(f"Object missing required field `{name}`")


# The open store


class _Shared:
    """A store that was opened for adapters, and the threads in which its calls run."""

    def __init__(self, store: Store) -> None:
        self.store, self.users, self.threads = store, 0, Threads()

    @property
    def is_usable(self) -> bool:
        """True unless the store was closed, or its folder was moved or deleted."""
        try:
            self.store.get_event_count()
            self.store.folder.refuse_moved()  # A read may overlook it for a moment.
        except StoreOpenError:
            return False
        return True


_shared: WeakValueDictionary[tuple[str, Durability, int], _Shared] = WeakValueDictionary()
_sharing = threading.Lock()


class Opened:
    """A store as one adapter uses it. The adapters of a process that open the same path share it.

    It closes with the last of them. A store that was given is its giver's to close.

    Raises what `FileEventStore` raises.
    """

    def __init__(self, where: str | os.PathLike[str] | Store, durability: Durability) -> None:
        self._given = isinstance(where, FileEventStore)
        with _sharing:
            if isinstance(where, FileEventStore):
                self._shared = _Shared(where)
            else:
                key = (os.path.abspath(folder_path(where)), durability, os.getpid())
                found = _shared.get(key)
                if found is None or not found.is_usable:
                    found = _shared[key] = _Shared(FileEventStore.untyped(where, durability=durability))
                self._shared = found
            self._shared.users += 1
        self._closed = False

    @property
    def store(self) -> Store:
        """The store. Raises `StoreOpenError` once this was closed."""
        if self._closed:
            raise StoreOpenError(self._shared.store.path, "it was closed")
        return self._shared.store

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in a thread. If the task is cancelled meanwhile, wait for the end of what has begun."""
        return await self._shared.threads.run(function, *args)

    def close(self) -> None:
        """Use the store no more; closing twice is fine."""
        with _sharing:
            if self._closed:
                return
            self._closed = True
            self._shared.users -= 1
            last = not self._given and self._shared.users == 0
        if last:
            self._shared.store.close()


# What is known of streams


class Recent:
    """The last events of a stream, by version: so many bytes of them."""

    def __init__(self, most_bytes: int = 256 << 10) -> None:
        self._datas: OrderedDict[int, bytes] = OrderedDict()
        self._bytes, self._most_bytes = 0, most_bytes

    def add(self, version: int, data: bytes) -> None:
        """Keep an event, and forget the oldest ones that are too many."""
        self._datas[version] = data
        self._bytes += len(data)
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._datas.popitem(last=False)[1])

    def at(self, versions: list[int]) -> list[bytes] | None:
        """Return the events at some versions, None if one of them is too old."""
        found = [data for version in versions if (data := self._datas.get(version))]
        return found if len(found) == len(versions) else None


class Known(Generic[State]):
    """A stream as far as it was read: what its events come to, its version, and when that was looked up."""

    def __init__(self, state: State) -> None:
        self.state, self.version, self.event_id = state, -1, ""
        self.first = -1
        """The version of the first event that the state depends on."""
        self.moment: Moment | None = None
        self.files: tuple[Any, ...] = ()
        """What the moment says of the store's files: while it stays, nothing is deleted."""
        self.lock = threading.Lock()

    def took(self, result: AppendResult) -> None:
        """Note an append whose events the state has taken, so that they are not read again."""
        before = self.moment
        self.version, self.event_id = int(result), result.event_ids[-1]
        self.first = result.first_version if self.first < 0 else self.first
        alone = before is not None and result.first_position == before.committed + 1
        self.moment = before._replace(committed=result.last_position) if alone and before else None


class Streams(Generic[State]):
    """What the events of streams come to, of those used last. It is brought up to date by reading on.

    `begin` returns the state of an empty stream; `add(state, envelope)` takes an event into it.
    """

    def __init__(self, opened: Opened, begin: Callable[[], State], add: Callable[[State, Envelope], None]) -> None:
        self._opened, self._begin, self._add = opened, begin, add
        self._known: OrderedDict[str, Known[State]] = OrderedDict()
        self._lock = threading.Lock()

    def _of(self, stream: str) -> Known[State]:
        with self._lock:
            known = self._known.pop(stream, None) or Known(self._begin())
            self._known[stream] = known
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
            return known

    @contextmanager
    def of(self, stream: str) -> Iterator[Known[State]]:
        """Lend what is known of a stream now. Other threads wait until it is given back."""
        store, known = self._opened.store, self._of(stream)
        with known.lock:
            moment = store._moment()
            if moment is None or moment != known.moment:
                files = moment[1:] if moment else ()
                if not self._read_on(store, stream, known, files == known.files != ()):
                    known.state, known.event_id, known.first, known.moment = self._begin(), "", -1, None
                    known.version = store.get_stream_version(stream)  # First: whatever comes later is a conflict.
                    self._read_all(store, stream, known)
                known.moment, known.files = moment, files
            yield known

    def append(
        self,
        stream: str,
        known: Known[State],
        events: list[Encoded],
        also: Iterable[tuple[str, list[Encoded]]] = (),
    ) -> AppendResult:
        """Append behind what is known, and to other streams. The caller takes the events into the state.

        Raises `ConcurrencyError` if others have appended since, or deleted the stream, and what `append` raises.
        """
        # An append at the last version of a deleted stream would begin it anew.
        expected = (known.version, STREAM_EXISTS) if known.event_id else (known.version,)
        result = append(self._opened.store, stream, events, *expected, also=also)
        known.took(result)
        return result

    @contextmanager
    def at_once(self, stream: str) -> Iterator[Known[State] | None]:
        """Lend what is known of a stream if nothing must be read or waited for, else None."""
        known = self._of(stream)
        if not known.lock.acquire(blocking=False):
            yield None
            return
        try:
            moment = self._opened.store._moment()
            yield known if moment is not None and moment == known.moment else None
        finally:
            known.lock.release()

    def _read_on(self, store: Store, stream: str, known: Known[State], same_files: bool) -> bool:
        """Read what is new. Return False if the stream is not the one that was read: it was deleted, or put back."""
        if not known.event_id or not (same_files or self._shows(store, stream, known.first)):
            return False
        newer: list[Envelope] = []
        for block in store.envelopes(stream, reverse=True, to_version=known.version):
            newer += block
        if not newer or (newer[-1].stream_version, newer[-1].event_id) != (known.version, known.event_id):
            return False
        for envelope in newer[-2::-1]:
            self._take(known, envelope)
        return True

    @staticmethod
    def _shows(store: Store, stream: str, version: int) -> bool:
        """True if an event was not deleted; then none behind it was."""
        blocks = store.envelopes(stream, from_version=version, limit=1)
        return any(envelope.stream_version == version for block in blocks for envelope in block)

    def _read_all(self, store: Store, stream: str, known: Known[State]) -> None:
        for block in store.envelopes(stream):
            for envelope in block:
                self._take(known, envelope)

    def _take(self, known: Known[State], envelope: Envelope) -> None:
        take(self._add, known.state, envelope)
        known.version, known.event_id = envelope.stream_version, envelope.event_id
        known.first = known.version if known.first < 0 else known.first


def not_known(envelope: Envelope, cause: str = "") -> EventSerializationError:
    """Return the error for an event that this version does not know: its type, or for some cause its payload."""
    place = f"version {envelope.stream_version} of stream {envelope.stream_id!r}"
    which = f"{place} is none of this adapter's{cause and f' ({cause})'}"
    return EventSerializationError(
        envelope.event_type, f"{which}; if a newer hangarlog has written it, update this one"
    )


def take(add: Callable[[State, Envelope], None], state: State, envelope: Envelope) -> None:
    """Take an event into a state. Raises `EventSerializationError` if its payload is not what `add` reads."""
    try:
        add(state, envelope)
    except msgspec.MsgspecError as error:
        raise not_known(envelope, str(error)) from error
