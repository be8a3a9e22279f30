"""What a benchmark takes as payloads, and what it says to what it does not take."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.benchmark import payloads as module
from hangarlog.benchmark.errors import BenchmarkError
from hangarlog.benchmark.payloads import from_store, from_text, load, of_size, sample
from hangarlog.system.filesystem import FileSystem


def test_a_file_has_one_object_perhaps_on_several_lines_or_one_per_line() -> None:
    assert from_text(b'{\n  "a": 1\n}\n', "f").untyped == [UntypedEvent("Measured", {"a": 1})]
    assert from_text(b'\xef\xbb\xbf\n{"a":1}\r\n\n {"a":2}', "f").untyped == [
        UntypedEvent("Measured", {"a": 1}),
        UntypedEvent("Measured", {"a": 2}),
    ]


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        (b"", "f", "it is empty; write a JSON object"),
        (b" \n\n", "f", "it is empty"),
        (b"[1,2]", "f", "it is an array; a payload is a JSON object"),
        (b'[{"a":1},\n{"a":2}]', "f", "it is an array"),
        (b'"text"', "f", "it is no object"),
        (b"{'a': 1}", "f", "it is no JSON object: JSON is malformed"),
        (b'{"a":1', "f", "it is no JSON object: Input data was truncated"),
        (b'{"a":1}\n{"a":}\n', "line 2 of f", "it is no JSON object"),
        (b'{"a":1}\n\n{"a":1,"a":2}\n', "line 3 of f", "the key 'a' comes twice"),
        (b'{"a":"\xff\xfe"}', "f", "UTF-8"),
        (b"\x00\x01\x02", "f", "it is no JSON object"),
        (b'{"a":' * 600 + b"1" + b"}" * 600, "f", "nested deeper"),
        (b'{"_version":0}', "f", "schema_version must be a whole number"),
        (b'{"_version":"1"}', "f", "schema_version must be a whole number"),
    ],
)
def test_each_payload_that_cannot_be_appended_is_refused_with_its_place(text: bytes, place: str, said: str) -> None:
    with pytest.raises(BenchmarkError) as caught:
        from_text(text, "f")
    assert (caught.value.path, said in caught.value.cause) == (place, True), caught.value


def test_payloads_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too large is refused, too many are cut, and so is a last line that was read in part."""
    monkeypatch.setattr(module, "MAX_EVENT_BYTES", 50)
    with pytest.raises(BenchmarkError, match="the event has 108 bytes, a benchmark takes 50 at most"):
        from_text(b'{"a":"%b"}' % (b"x" * 100), "f")
    monkeypatch.setattr(module, "MAX_EVENTS", 3)
    assert len(from_text(b'{"a":1}\n' * 5, "f").untyped) == 3
    monkeypatch.setattr(module, "MAX_BYTES", 20)
    assert len(from_text(b'{"a":1}\n{"a":1}\n{"a":1', "f").untyped) == 2


def test_a_payload_has_the_size_that_is_asked_for() -> None:
    for size in (11, 12, 1000):
        (text,) = of_size(size).texts
        assert len(text) == size + len('"_version":1,')
    assert 150 < sample().mean_bytes < 250


def test_lines_of_a_store_stand_for_their_events(tmp_path: Path) -> None:
    """From the file or an export, and as the store itself reads them; what is hangarlog's own is left out."""
    events = [UntypedEvent("Noted", {"n": number}, 2) for number in range(3)]
    with FileEventStore.untyped(tmp_path / "s") as store:
        store.append("a:1", events, ANY)
        store.append("hangarlog:parked", [UntypedEvent("hangarlog.Parked", {})], ANY)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
        assert from_store(str(tmp_path / "s")).untyped == events
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")} == before
    lines = (tmp_path / "s/journal.jsonl").read_bytes().splitlines(keepends=True)
    assert from_text(b"".join(lines[:3]), "journal.jsonl").untyped == events
    FileEventStore.untyped(tmp_path / "empty").close()
    with pytest.raises(BenchmarkError, match="has no events"):
        from_store(str(tmp_path / "empty"))


def test_batches_go_round_the_events_and_their_lines_are_as_many(tmp_path: Path) -> None:
    payloads = from_text(b'{"a":1}\n{"a":2}\n{"a":3}\n', "f")
    numbers = [[event.a for event in batch] for batch in payloads.batches(2)]
    assert numbers == [[1, 2], [3, 1]]
    assert [text.count(b"\n") for text in payloads.batch_lines(2)] == [2, 2]
    assert [len(payloads.batches(size)) for size in (1, 10)] == [3, 1]
    payloads.save(FileSystem(), str(tmp_path / "events"))
    again, _ = load(FileSystem(), str(tmp_path / "events"))
    assert list(map(msgspec.structs.asdict, again)) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_payloads_of_one_shape_become_instances_of_a_class() -> None:
    """Fields may be missing, and of several types."""
    given = b'{"a":1,"b":null,"event_id":"x"}\n{"b":[1],"a":2.5,"c":{"d":1},"event_id":"x"}\n'
    payloads = from_text(given, "f")
    assert payloads.classes == 1
    first, second = payloads.events
    assert (first.a, first.b, first.c) == (1, None, msgspec.UNSET)
    assert (second.a, second.b, second.c) == (2.5, [1], {"d": 1})
    assert payloads.serializer.encode(second)[0] == "Measured"


@pytest.mark.parametrize(
    "text",
    [
        b'{"a b":1}',
        b'{"class":1}',
        b'{"_private":1}',
        b'{"a":1,"_version":2}',
        b'{"event_id":7}',
        b"{%b}" % b",".join(b'"a%d":1' % number for number in range(300)),
    ],
)
def test_payloads_that_no_class_can_have_stay_untyped(text: bytes) -> None:
    payloads = from_text(text, "f")
    assert payloads.classes == 0
    assert payloads.events == payloads.untyped
