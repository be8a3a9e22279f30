"""A damaged record does not keep a stream from being erased: else nobody could delete what must go."""

from __future__ import annotations

from pathlib import Path

import pytest
from erased_stores import opened

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.maintenance.repair import repair

pytestmark = pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")

ONE, COUNT = "person:1", 6


def filled(path: Path, segment_bytes: int) -> FileEventStore:
    store = opened(path, segment_bytes=segment_bytes)
    for number in range(COUNT):
        store.append("other:1", [UntypedEvent("Named", {"n": number})], ANY)
        store.append(ONE, [UntypedEvent("Named", {"n": number, "name": "Lovelace"})], ANY)
    return store


def damage(path: Path, pattern: str, number: int) -> None:
    """Change a letter of a person's event in the file that has it."""
    for file in path.glob(pattern):
        text = file.read_bytes()
        at = text.find(b'"n":%d,"name":"Lov' % number)
        if at >= 0:
            with file.open("r+b") as stream:
                stream.seek(at + len(b'"n":%d,"name":"Lo' % number))
                stream.write(b"w")


def in_streams(path: Path) -> bool:
    texts = [file.read_bytes() for file in path.glob("streams/*/*.jsonl")]
    return any(b"Lovelace" in text or b"Lowelace" in text for text in texts)


@pytest.mark.parametrize("number", [0, 1, COUNT - 2, COUNT - 1])
@pytest.mark.parametrize(
    ("segment_bytes", "both", "is_open"),
    [(500, False, False), (500, False, True), (100_000, False, False), (100_000, False, True), (100_000, True, True)],
)  # Without its last event, or the first one of a segment, a store is opened by `repair` alone.
def test_a_damaged_stream_is_deleted(
    tmp_path: Path, segment_bytes: int, number: int, both: bool, is_open: bool
) -> None:
    """Nothing of it is left in its files, and it begins anew with the version after its last."""
    path = tmp_path / "s"
    store = filled(path, segment_bytes)
    if not is_open:
        store.close()
    damage(path, "streams/person/1*.jsonl", number)
    if both:
        damage(path, "journal*.jsonl", number)
    store = store if is_open else opened(path)
    assert store.delete_stream(ONE) == COUNT
    assert not in_streams(path)
    assert store.delete_stream(ONE) == 0
    assert store.append(ONE, [UntypedEvent("Named", {"n": COUNT})], ANY) == COUNT
    store.close()
    if both:
        list(repair(path))
    with opened(path) as store:
        assert [each.data["n"] for each in store.read_stream(ONE)] == [COUNT]
        assert not in_streams(path)
        assert len(store.read_stream("other:1")) == COUNT


@pytest.mark.parametrize("number", [1, COUNT - 3])
def test_a_damaged_beginning_is_truncated(tmp_path: Path, number: int) -> None:
    """What is shown is whole, so nothing else is looked at."""
    with filled(tmp_path / "s", 100_000) as store:
        damage(tmp_path / "s", "streams/person/1.jsonl", number)
        assert store.truncate_stream(ONE, COUNT - 2) == COUNT - 2
        assert [each.data["n"] for each in store.read_stream(ONE)] == [COUNT - 2, COUNT - 1]
        assert b"Lowelace" not in (tmp_path / "s/streams/person/1.jsonl").read_bytes()
