"""Stores whose journals have erased events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hangarlog import ANY, EventSerializer, FileEventStore, UntypedEvent
from hangarlog.filestore.erasing import Erased, Erasing
from hangarlog.log.zstd import zstd
from hangarlog.maintenance.verify import verify

SECRET = "Ada Lovelace"
GONE, TOMBSTONE, CUT, KEPT = "person:1", "person:2", "person:3", "person:4"
LONG = "person:" + "long name " * 40
STREAMS = (GONE, TOMBSTONE, CUT, KEPT, LONG)
ROUNDS = 8
TRUNCATED_AT = 5
SHOWN = {GONE: [], TOMBSTONE: [], LONG: [], CUT: [*range(TRUNCATED_AT, ROUNDS)], KEPT: [*range(ROUNDS)]}


def event(stream_id: str, number: int) -> UntypedEvent:
    name = SECRET if number not in SHOWN[stream_id] else "Grace Hopper"
    return UntypedEvent("Named", {"n": number, "name": name, "text": "x" * 60}, event_id=f"{stream_id[-9:]}-{number}")


def opened(path: Path, **options: Any) -> FileEventStore[Any]:
    serializer = EventSerializer(unknown="untyped")
    return FileEventStore(path, **{"durability": "relaxed", "serializer": serializer, **options})


def filled(path: Path, segment_bytes: int = 1_200, **options: Any) -> FileEventStore[Any]:
    """Five streams in turns; then as many events of others that the journal's last segments are of."""
    store = opened(path, segment_bytes=segment_bytes, **options)
    for n in range(ROUNDS):
        for stream_id in STREAMS:
            store.append(stream_id, [event(stream_id, n)], n - 1)
    for n in range(6):
        store.append("other:1", [UntypedEvent("Other", {"n": n, "text": "y" * 200}, event_id=f"other-{n}")], ANY)
    return store


def hide(store: FileEventStore[Any]) -> None:
    for stream_id in (GONE, LONG):
        store.delete_stream(stream_id)
    store.delete_stream(TOMBSTONE, permanent=True)
    store.truncate_stream(CUT, TRUNCATED_AT)


def erase(store: FileEventStore[Any], **options: Any) -> Erased:
    return Erasing(store._write_session).run(seconds=60.0, **options)


def erased(path: Path, **options: Any) -> FileEventStore[Any]:
    """A store whose journal has nothing left of what is hidden."""
    store = filled(path, **options)
    hide(store)
    assert erase(store, least=0.0).segments
    return store


def numbers(store: FileEventStore[Any], stream_id: str) -> list[int]:
    return [each.data["n"] for each in store.read_stream(stream_id)]


def journal(store: FileEventStore[Any]) -> dict[str, list[int]]:
    """What reads of the whole store have of each stream."""
    found: dict[str, list[int]] = {}
    for _, stream_id, each in store.read_all():
        found.setdefault(stream_id, []).append(each.data["n"])
    return found


def check(store: FileEventStore[Any], *, journal_too: bool = True) -> None:
    """What is hidden stays so, everything else is there, and nothing is damaged."""
    assert store.list_streams() == ["other:1", CUT, KEPT]
    for stream_id, shown in SHOWN.items():
        assert numbers(store, stream_id) == shown, stream_id
        assert [r.event.data["n"] for r in store.records(stream_id, reverse=True)] == shown[::-1]
        assert store.get_stream_version(stream_id) == ROUNDS - 1
    found = journal(store)
    for stream_id, shown in SHOWN.items():
        assert [n for n in found.get(stream_id, []) if n in shown] == shown
        if journal_too:
            assert found.get(stream_id, []) == shown, stream_id
    assert found["other:1"][:6] == [*range(6)]
    assert list(verify(store)) == []


def texts(path: Path) -> dict[str, bytes]:
    """The text of every file of a store; that of compressed ones unpacked."""
    found = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            found[str(file.relative_to(path))] = content + _unpacked(file.name, content)
    return found


def _unpacked(name: str, content: bytes) -> bytes:
    unpack: Callable[[bytes], bytes] = zstd(name).decompress
    return unpack(content) if ".zst" in name else b""


def with_secret(path: Path) -> set[str]:
    return {name for name, text in texts(path).items() if SECRET.encode() in text}
