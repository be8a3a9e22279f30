"""The events that a benchmark appends: a sample, of a given size, from a file, or from a store."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import Any, TypeVar

import msgspec

from hangarlog.benchmark.classes import typed
from hangarlog.benchmark.errors import BenchmarkError
from hangarlog.errors import EventSerializationError
from hangarlog.events.payload import FAILURES, decode_object
from hangarlog.events.registry import EventRegistry, UntypedEvent
from hangarlog.events.serializer import OWN_TYPES, EventSerializer
from hangarlog.filestore.store import FileEventStore
from hangarlog.record.envelope import Encoded
from hangarlog.record.line import encode_records
from hangarlog.record.strict import refuse_repeated_keys
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.read_only import ReadOnly

MAX_EVENTS = 10_000
"""The most events that are taken from a file or a store. A run appends them again and again."""
MAX_BYTES = 64 << 20
"""The most bytes that are read for them."""
MAX_EVENT_BYTES = 16 << 20
"""The most bytes of one payload."""
MIN_SIZE = len(b'{"text":""}')
EVENT_TYPE = "Measured"

_SAMPLE = (
    b'{"provider_id":"math","mode":"subprocess","tools_count":3,"startup_duration_ms":409.18,'
    b'"event_id":"80ca934f-0983-485a-b4cf-000000000001","occurred_at":1795404241.28,"note":"a sample of hangarlog"}'
)
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
_AT = 1_000_000  # The position and version that the bare calls' lines have.
_TIME = b"2026-01-01T00:00:00.000000Z"
_BOM = b"\xef\xbb\xbf"
_Item = TypeVar("_Item")
_STORED = {"position", "stream_id", "stream_version", "event_type", "data"}  # The keys of a store's line.


class _Transport(msgspec.Struct):
    """An event on its way to another process."""

    event_type: str
    data: msgspec.Raw


class Payloads:
    """The events of a benchmark, in the forms that its measures need.

    Attributes:
        source: Where they come from, in words.
        untyped: The events as they were given.
        events: The same as instances of classes, where that is possible: what is appended. Measures go round them.
        serializer: It knows these classes.
        classes: How many there are, 0 if the events are `UntypedEvent`s.
        texts: Their payloads as a store writes them.
        lines: Their lines as a journal has them: what the bare calls write.
    """

    def __init__(self, source: str, given: Iterable[tuple[str, bytes]], places: Sequence[str]) -> None:
        """`given` has (event type, payload); `places` names each for an error."""
        self.source = source
        self.untyped: list[UntypedEvent] = []
        encoded: list[Encoded] = []
        serializer = EventSerializer(registry=EventRegistry(), unknown="untyped")
        for (event_type, text), place in zip(given, places, strict=True):
            event = _event(event_type, _object(text, place))
            try:
                encoded.append(serializer.encode(event))
            except EventSerializationError as error:
                raise BenchmarkError(place, error.message) from error
            self.untyped.append(event)
        self.events, self.serializer = typed(self.untyped)
        self.classes = len(self.serializer.registry.types)
        self._batch_lines: dict[int, list[bytes]] = {}
        self.texts = [each[2] for each in encoded]
        self.lines = [encode_records(_AT, "bench:single", _AT, [each], _TIME)[0][0] for each in encoded]

    @property
    def mean_bytes(self) -> float:
        """The mean bytes of a payload as it is stored."""
        return sum(map(len, self.texts)) / len(self.texts)

    @property
    def line_bytes(self) -> float:
        """The mean bytes of a line. A store keeps two of each."""
        return sum(map(len, self.lines)) / len(self.lines)

    def batches(self, size: int) -> Sequence[list[Any]]:
        """Return batches of `size` events, in which each event occurs."""
        return [list(part) for part in _parts(self.events, size)]

    def batch_lines(self, size: int) -> Sequence[bytes]:
        """Return the lines of the same batches."""
        if size not in self._batch_lines:
            self._batch_lines[size] = [b"".join(part) for part in _parts(self.lines, size)]
        return self._batch_lines[size]

    def save(self, filesystem: FileSystem, path: str) -> None:
        """Write the events to a file for other processes."""
        rows = [
            _Transport(event.event_type, msgspec.Raw(text))
            for event, text in zip(self.untyped, self.texts, strict=True)
        ]
        filesystem.replace_file(path, msgspec.json.Encoder().encode_lines(rows), sync=False)


def _parts(items: Sequence[_Item], size: int) -> list[tuple[_Item, ...]]:
    """Return lists of `size` items, going round them, as many as it takes for each item to be in one."""
    going_round = cycle(items)
    return [tuple(islice(going_round, size)) for _ in range(-(-len(items) // size))]


def load(filesystem: FileSystem, path: str) -> tuple[list[Any], EventSerializer]:
    """Return the events that `Payloads.save` wrote, and the serializer that knows their classes."""
    rows = msgspec.json.Decoder(_Transport).decode_lines(filesystem.read_file(path, limit=1 << 40))
    return typed([_event(row.event_type, decode_object(bytes(row.data))) for row in rows])


def sample() -> Payloads:
    """Return the payload of those who name none: about 200 bytes of JSON."""
    return Payloads("a sample of hangarlog's", [(EVENT_TYPE, _SAMPLE)], ["the sample"])


def of_size(size: int) -> Payloads:
    """Return a payload of `size` bytes of JSON, at least `MIN_SIZE`. Its text is random: no disk compresses it away."""
    letters = random.Random(size).choices(_LETTERS, k=size - MIN_SIZE)
    return Payloads("of a given size", [(EVENT_TYPE, b'{"text":"%b"}' % "".join(letters).encode())], ["the payload"])


def from_text(raw: bytes, path: str) -> Payloads:
    """Return the payloads of a text: one JSON object, or one per line. Raises `BenchmarkError`.

    Lines of a store, or of an export, stand for their events.
    """
    raw = raw.removeprefix(_BOM)
    lines = {number: line for number, line in enumerate(raw.split(b"\n"), 1) if line.strip()}
    if not lines:
        raise BenchmarkError(path, "it is empty; write a JSON object into it, or one per line")
    several = len(lines) > 1 and all(line.lstrip()[:1] == b"{" for line in lines.values())
    if not several:
        return Payloads(path, [_given(raw, path)], [path])
    if len(raw) > MAX_BYTES:
        lines.popitem()  # It was cut.
    taken = [(f"line {number} of {path}", line) for number, line in lines.items()][:MAX_EVENTS]
    return Payloads(path, [_given(line, place) for place, line in taken], [place for place, _ in taken])


def from_store(path: str) -> Payloads:
    """Return the payloads of a store's newest events. It changes nothing in the store.

    Raises:
        BenchmarkError: it has no events.
        HangarlogError: it cannot be opened or read.
    """
    given: list[tuple[str, bytes]] = []
    size = 0
    with FileEventStore.untyped(path, create=False, filesystem=ReadOnly()) as store:
        for block in store.envelopes(reverse=True, limit=MAX_EVENTS, on_damage="skip"):
            for envelope in block:
                data = bytes(envelope.data)
                size += len(data)
                if size <= MAX_BYTES and len(data) <= MAX_EVENT_BYTES and not envelope.event_type.startswith(OWN_TYPES):
                    given.append((envelope.event_type, data))
            if size > MAX_BYTES:
                break
    if not given:
        raise BenchmarkError(path, "the store has no events to take payloads from; leave out --stored")
    return Payloads(f"the newest events of {path}", given[::-1], [f"an event of {path}"] * len(given))


def _given(text: bytes, place: str) -> tuple[str, bytes]:
    """Return (event type, payload) of a JSON object."""
    if len(text) > MAX_EVENT_BYTES:
        raise BenchmarkError(place, f"the event has {len(text):,} bytes, a benchmark takes {MAX_EVENT_BYTES:,} at most")
    data = _object(text, place)
    if data.keys() >= _STORED and isinstance(data["data"], dict) and isinstance(data["event_type"], str):
        return data["event_type"] or EVENT_TYPE, msgspec.json.encode(data["data"])
    return EVENT_TYPE, text


def _object(text: bytes, place: str) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(text)
        if not isinstance(decoded, dict):
            kind = "an array" if isinstance(decoded, list) else "no object"
            raise BenchmarkError(place, f"it is {kind}; a payload is a JSON object: {{…}}, or one per line")
        refuse_repeated_keys(text)
    except UnicodeDecodeError as error:
        raise BenchmarkError(place, f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    except FAILURES as error:
        raise BenchmarkError(place, f"it is no JSON object: {error}") from error
    return decoded


def _event(event_type: str, data: dict[str, Any]) -> UntypedEvent:
    return UntypedEvent(event_type, data, data.pop("_version", 1))
