"""Many batches in one call are what they would be one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from copied_stores import OtherEngine, contents, cursors, event, opened, versions

from hangarlog import (
    ANY,
    ArchiveError,
    ConcurrencyError,
    FileEventStore,
    MemoryEventStore,
    StreamDeletedError,
    TooLargeError,
)
from hangarlog.maintenance.verify import verify
from hangarlog.record.batch import Pending
from hangarlog.record.cursor_move import CursorMove


def part(stream_id: str, expected: int, *numbers: int, **more: Any) -> Pending:
    events = [("T", f"id-{stream_id}-{number}", b'{"n":%d}' % number, None, None) for number in numbers]
    return Pending(stream_id, events, expected, **more)


@pytest.fixture(params=["file", "small segments", "memory", "other"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return MemoryEventStore.untyped()
    if request.param == "other":
        return OtherEngine()
    size = 64 << 20 if request.param == "file" else 1000
    return opened(tmp_path / "store", segment_bytes=size)


BATCHES = [
    [part("a:1", -1, 0)],
    [part("a:1", 0, 1, 2), part("b:1", -1, 0), part("a:1", 2, 3)],
    [part("b:1", 0, 1), part("a:1", 3, 4)],
    *([part("a:1", number - 1, number)] for number in range(5, 30)),
    [part("c:1", -1, 0)],
]


def test_each_batch_is_whole_and_where_it_says(store: Any) -> None:
    with store:
        firsts = store.append_batches(BATCHES)
        assert firsts == [1, 2, 6, *range(8, 34)]
        ends = {row[0]: row[8] for row in contents(store)}
        assert [ends[position] for position in (1, 2, 3, 4, 5, 6, 7, 8)] == [0, 5, 5, 5, 5, 7, 7, 0]
        assert versions(store) == {"a:1": (29, [*range(30)]), "b:1": (1, [0, 1]), "c:1": (0, [0])}
        assert store.append("c:1", [event(1)], 0).last_position == 34
        assert not isinstance(store, FileEventStore) or not list(verify(store))


def test_batches_that_are_there_are_retries(store: Any) -> None:
    """All of them, or the first ones."""
    with store:
        before = store.append_batches(BATCHES[:4])
        assert store.append_batches(BATCHES[:4]) == before
        assert store.append_batches(BATCHES)[:4] == before
        assert store.last_position == 33


def test_what_comes_before_a_batch_that_fails_is_there(store: Any) -> None:
    with store:
        store.append("d:1", [event(1)], ANY)
        store.delete_stream("d:1", permanent=True)
        fails = {
            ConcurrencyError: [part("a:1", 20, 0)],
            StreamDeletedError: [part("e:1", -1, 0), part("d:1", 0, 1)],
        }
        for number, (error, wrong) in enumerate(fails.items()):
            with pytest.raises(error):
                store.append_batches([[part(f"n:{number}", -1, 0)], wrong, [part(f"n:{number}", 0, 1)]])
            assert store.get_stream_version(f"n:{number}") == 0
            assert store.get_stream_version("e:1") == -1


def test_an_event_that_is_too_large_ends_it(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hangarlog.record.batch.MAX_LINE_BYTES", 500)
    large = Pending("a:1", [("T", "x", b'{"x":"%b"}' % (b"y" * 600), None, None)], 0)
    with store:
        with pytest.raises(TooLargeError):
            store.append_batches([[part("a:1", -1, 0)], [large]])
        assert store.last_position == 1
        store.append("a:1", [event(1)], 0)


def test_moves_of_cursors_are_made(store: Any) -> None:
    with store:
        moving = part("a:1", 0, 1, cursor=CursorMove("me", 1))
        assert store.append_batches([[part("a:1", -1, 0)], [moving], [part("a:1", 1, 2)]]) == [1, 2, 3]
        assert cursors(store) == {"me": 1}


def test_an_archive_takes_none(tmp_path: Path) -> None:
    with opened(tmp_path / "store", segment_bytes=500) as store:
        for number in range(10):
            store.append("a:1", [event(number)], ANY)
        store.archive(tmp_path / "archive", before=8)
    with opened(tmp_path / "archive") as archive, pytest.raises(ArchiveError):
        archive.append_batches([[part("z:1", -1, 0)]])
