"""Stores to copy, and what a copy must have of them, found without the comparison that the copy makes itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Raw

from hangarlog import ANY, EncodedEvent, EventRegistry, EventSerializer, FileEventStore, MemoryEventStore, UntypedEvent
from hangarlog.copying import Copied, copy
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.selection import Span
from hangarlog.maintenance.verify import verify
from hangarlog.record.envelope import Envelope

HOSTILE = [
    "a:x/%2e%2e",
    "Audit Log",
    "Ünïcode:😀",
    "x:con",
    "a:%s%d{0}",
    "a:" + "y" * 1000,
    'q:"\\\\',
    "aB:aB",
    "ab:ab",
]


FIELDS = Envelope.__struct_fields__


def opened(path: Path, filesystem: Any = None, **options: Any) -> FileEventStore[Any]:
    return FileEventStore.untyped(path, durability="relaxed", filesystem=filesystem, **options)


def event(number: int, **more: Any) -> UntypedEvent:
    return UntypedEvent("T", {"n": number, **more})


def fill(store: EventStore[Any], rounds: int = 3) -> None:
    """Append batches of every shape: alone, of one stream, of several that alternate, with moves of cursors."""
    for number in range(rounds):
        for stream_id in HOSTILE:
            store.append(stream_id, [event(number)], ANY, metadata={"correlation_id": stream_id, "n": number})
        store.append("b:1", [event(number, text=f'"{n}\u2028\\') for n in range(5)], ANY)
        store.append_many(
            [("b:1", [event(number)], ANY), ("b:2", [event(number)], ANY), ("b:1", [event(number)] * 2, ANY)]
        )
        move = store.cursor("with an append").at(store.last_position - 2)
        store.append_many([("b:3", [event(number)], ANY), ("b:2", [event(number)], ANY)], cursor=move)
        given = EncodedEvent("T2", b'{"_version":7,"x":1.50,"y":"\\u00e9"}', recorded_at="2020-01-01T00:00:00+02:00")
        store.append("b:2", [given], ANY)
        store.cursor(f"reader {number}").advance(store.last_position - number)


def dropped(path: Path) -> FileEventStore[Any]:
    """A store whose journal begins later after a retention; some of its streams hide events, one was deleted."""
    store = opened(path, segment_bytes=2000)
    for number in range(90):
        store.append(f"a:{number % 3}", [event(number, text="x" * 40)], ANY)
        if number % 10 == 0:
            store.append_many([("b:1", [event(number)], ANY), ("a:1", [event(number)], ANY)])
    for name, at in (("old", 3), ("middle", 50), ("new", 95)):
        store.cursor(name).advance(at)
    store.cursor("old").delete()
    store.delete_stream("a:2")
    store.append("a:2", [event(100)], ANY)
    store.truncate_stream("a:0", 20)
    store.truncate_stream("a:1", 24)
    store.truncate_stream("b:1", 6)
    return store


def contents(store: EventStore[Any], first: int = 0) -> list[tuple[Any, ...]]:
    """All that reads show of a store's events."""
    return [
        tuple(bytes(value) if isinstance(value, Raw) else value for value in map(one.__getattribute__, FIELDS))
        for block in store.envelopes(from_position=first)
        for one in block
    ]


def versions(store: EventStore[Any]) -> dict[str, tuple[int, list[int]]]:
    """{stream: (its version, the versions that it shows)}."""
    return {
        stream_id: (
            store.get_stream_version(stream_id),
            [one.stream_version for block in store.envelopes(stream_id) for one in block],
        )
        for stream_id in store.list_streams()
    }


def cursors(store: EventStore[Any]) -> dict[str, int]:
    return {cursor.name: cursor.position for cursor in store.cursors()}


def check_equal(source: EventStore[Any], target: EventStore[Any]) -> None:
    """The target is the source, at the same positions."""
    assert contents(target) == contents(source)
    assert versions(target) == versions(source)
    assert cursors(target) == cursors(source)
    assert target.list_snapshots() == source.list_snapshots()
    if isinstance(target, FileEventStore):
        assert not list(verify(target))


def copied(source: Path, target: Path, filesystem: Any = None) -> Copied:
    with opened(source) as here, opened(target, filesystem) as there:
        return copy(here, there)


class OtherEngine(MemoryEventStore[Any]):
    """An engine that gives only what the interface asks for: envelopes without checksums, in small blocks."""

    def __init__(self) -> None:
        super().__init__(serializer=EventSerializer(registry=EventRegistry(), unknown="untyped"))

    def _blocks(self, span: Span) -> Iterator[Sequence[Envelope]]:
        for block in super()._blocks(span):
            plain = [Envelope(*map(each.__getattribute__, FIELDS)) for each in block]
            yield from (plain[at : at + 7] for at in range(0, len(plain), 7))
