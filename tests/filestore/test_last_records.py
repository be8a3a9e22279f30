"""Reads of the last records of a stream, and what tells that no read would find anything else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.log import segment

SIZES = (0, 10, 3000, 50, 9000, 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileEventStore[UntypedEvent]]:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed", segment_bytes=64 << 10) as store:
        for number in range(200):
            event = UntypedEvent("Said", {"number": number, "text": "x" * SIZES[number % len(SIZES)]})
            store.append("a:1", [event], ANY)
        yield store


@pytest.mark.parametrize("start", [None, 199, 198, 120, 40, 1, 0])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50, 199, 200, 1000])
def test_the_last_records_are_those_of_a_read_forwards(
    store: FileEventStore[UntypedEvent], start: int | None, limit: int
) -> None:
    """Over short and long lines, and over sealed segments."""
    found = [
        record.event.data["number"] for record in store.records("a:1", reverse=True, from_version=start, limit=limit)
    ]
    last = 199 if start is None else start
    assert found == [*range(last, -1, -1)][:limit]


def test_no_more_records_are_decoded_than_are_wanted(
    store: FileEventStore[UntypedEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of two hundred: each is decoded once, and the oldest of a block once more."""
    decoded = []
    decode = segment.decode_record
    monkeypatch.setattr(segment, "decode_record", lambda line: decoded.append(1) or decode(line))
    assert len([*store.records("a:1", reverse=True, limit=10)]) == 10
    assert len(decoded) <= 20


def test_a_reader_that_goes_on_gets_all(store: FileEventStore[UntypedEvent]) -> None:
    """What is wanted is no limit: a filter may need more."""
    log = store.folder.stream("a:1")
    numbers = [record.stream_version for block in log.backward(wanted=3) for record in block]
    assert numbers == [*range(199, -1, -1)]


def test_a_moment_stays_until_something_changes(store: FileEventStore[UntypedEvent], tmp_path: Path) -> None:
    """An append, a deletion, a truncation, a roll, here and in another open store."""
    other = FileEventStore.untyped(tmp_path / "s", durability="relaxed")
    changes = [
        lambda: store.append("a:1", [UntypedEvent("Said", {})], ANY),
        lambda: other.append("b:1", [UntypedEvent("Said", {})], ANY),
        lambda: other.truncate_stream("a:1", 100),
        lambda: other.delete_stream("a:1"),
        lambda: store.delete_stream("b:1"),
        lambda: other.append("a:1", [UntypedEvent("Said", {})], ANY),
    ]
    moments = [store._moment()]
    for change in changes:
        assert store._moment() == moments[-1] is not None
        [*store.records("a:1", limit=1)]
        store.get_stream_version("a:1")
        assert store._moment() == moments[-1]
        change()
        moments.append(store._moment())
    assert len(set(moments)) == len(moments)
    other.close()
