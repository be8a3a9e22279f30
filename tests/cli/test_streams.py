"""`streams --path`, and what is said of a stream that does not exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hangarlog import FileEventStore, StreamNotFoundError, UntypedEvent
from hangarlog.cli.app import hangarlog
from hangarlog.cli.read import _hint
from hangarlog.cli.unknown_stream import unknown_stream


@pytest.fixture
def store(tmp_path: Path) -> FileEventStore[UntypedEvent]:
    store = FileEventStore.untyped(tmp_path / "s", durability="relaxed", segment_bytes=500)
    for stream_id in ("order:1", "order:2024:7", "provider:math", "provider:text", "Audit Log", "x" * 300):
        for number in range(4 if stream_id == "order:1" else 1):
            store.append_at_end(stream_id, [UntypedEvent("T", {"number": number})])
    store.append_at_end("gone:1", [UntypedEvent("T", {})])
    store.delete_stream("gone:1")
    return store


def test_the_files_of_a_stream_are_listed_in_the_order_of_events(
    store: FileEventStore[UntypedEvent], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """All that are there, however the id is written: read one after another they are the stream."""
    hangarlog.main(["streams", store.path, "--path", "-l"], standalone_mode=False)
    rows = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [row["stream_id"] for row in rows] == store.list_streams()
    assert [row["version"] for row in rows] == [3 if row["stream_id"] == "order:1" else 0 for row in rows]
    for row in rows:
        lines = [json.loads(line) for path in row["paths"] for line in Path(path).read_bytes().splitlines()]
        assert [line["stream_version"] for line in lines] == list(range(row["version"] + 1))
        assert {line["stream_id"] for line in lines} == {row["stream_id"]}
    assert [len(row["paths"]) > 1 for row in rows].count(True) == 1
    hangarlog.main(["streams", store.path, "--prefix", "order:2"], standalone_mode=False)
    assert capsysbinary.readouterr().out == b'{"stream_id":"order:2024:7"}\n'


@pytest.mark.parametrize(
    ("stream_id", "said"),
    [
        ("order", "it is a category: `hangarlog read s --category order`"),
        ("provider:maths", "did you mean 'provider:math'? List the streams with `hangarlog streams s`"),
        ("Provider:math", "did you mean 'provider:math'"),
        ("audit log", "did you mean 'Audit Log'"),
        ("orders:1", "did you mean 'order:1'"),
    ],
)
def test_what_the_user_may_have_meant_is_said(store: FileEventStore[UntypedEvent], stream_id: str, said: str) -> None:
    found = unknown_stream(store, stream_id, ("read", "s"))
    assert str(found).startswith(f"stream not found: {stream_id!r}; {said}")


@pytest.mark.parametrize("stream_id", ["gone", "gone:2", "nothing:like-it", "z" * 300])
def test_nothing_is_suggested_where_nothing_is_like_it(store: FileEventStore[UntypedEvent], stream_id: str) -> None:
    """A deleted stream is not suggested."""
    said = f"stream not found: {stream_id!r}; list the streams with `hangarlog streams 'my store'`"
    assert str(unknown_stream(store, stream_id, ("read", "my store"))) == said


def test_reading_an_unknown_stream_suggests_the_category(store: FileEventStore[UntypedEvent]) -> None:
    """In `read` and `tail`, with the store as it was named, in quotes where a shell needs them."""
    for command in ("read", "tail"):
        with pytest.raises(StreamNotFoundError, match=f"hangarlog {command} .*/s --category order"):
            hangarlog.main([command, store.path, "order"], standalone_mode=False)
    assert "`hangarlog read 'my store' --category order`" in str(unknown_stream(store, "order", ("read", "my store")))


def test_a_follower_of_a_category_is_told_a_command_that_works(
    store: FileEventStore[UntypedEvent], capsys: pytest.CaptureFixture[str]
) -> None:
    """The store and `-f` were quoted as one word."""
    _hint(store, "order", ("tail", store.path, "-f"))
    said = capsys.readouterr().err
    assert said.endswith(f"it is a category: `hangarlog tail {store.path} -f --category order`\n")
