"""Sources that are not whole from position 1 on, are damaged, or say what no store writes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from copied_stores import OtherEngine, contents, copied, cursors, dropped, event, opened, versions
from made_lines import line

from hangarlog import ANY, CorruptionError, Envelope, MemoryEventStore, RetentionPolicy
from hangarlog.copying import CopyError, copy
from hangarlog.maintenance.verify import verify
from hangarlog.record.line import encode_envelope


def test_a_source_whose_journal_begins_later_gets_dense_positions(tmp_path: Path) -> None:
    with dropped(tmp_path / "source") as source, opened(tmp_path / "target") as target:
        source.cursor("middle").reset(60)
        source.retain()
        assert source.first_position > 1
        done = copy(source, target)
        assert not done.positions_kept
        assert [row[0] for row in contents(target)] == [*range(1, target.last_position + 1)]
        assert versions(target) == versions(source)
        _check_streams(source, target)
        for name in ("middle", "new"):
            position = source.cursor(name).position
            there = [row[1:3] for row in contents(target, cursors(target)[name])]
            assert there == [row[1:3] for row in contents(source, position) if row[1:3] in there]
            shown = {(s, v) for s, (_, found) in versions(source).items() for v in found}
            assert {row[1:3] for row in contents(source, position)} & shown <= set(there)
        assert not list(verify(target))
        source.append("a:0", [event(1)] * 3, ANY)
        source.append("new:1", [event(1)], ANY, cursor=source.cursor("middle").at(source.last_position - 1))
        assert copy(source, target).events == 4
        assert target.cursor("middle").position == target.last_position - 2
        _check_streams(source, target)


def _check_streams(source: Any, target: Any) -> None:
    """All that streams show is the same, but for the positions."""
    assert versions(target) == versions(source)
    for stream_id in source.list_streams():
        pairs = zip(source.records(stream_id), target.records(stream_id), strict=True)
        for here, there in pairs:
            assert (here.event, here.event_id, here.recorded_at) == (there.event, there.event_id, there.recorded_at)


@pytest.mark.parametrize("before", [False, True])
def test_events_that_are_erased_in_the_middle_of_a_stream(tmp_path: Path, before: bool) -> None:
    """A segment keeps hidden events that another one has lost: the copy has none of them. Also after a first copy."""
    with opened(tmp_path / "source", segment_bytes=12000) as source, opened(tmp_path / "target") as target:
        for number in range(30):
            source.append("keeps:1", [event(number, text="x" * 1000)], ANY)
            source.append("keeps:2", [event(number)] * (1 if number < 15 else 6), ANY)
        source.truncate_stream("keeps:2", 100)
        if before:
            copy(source, target)
        source.retain()
        found = [row[0] for row in contents(source)]
        assert source.first_position == 1
        assert len(found) < source.last_position  # Some are erased, and not those of the first segments.
        assert any(row[1:3] == ("keeps:2", 0) for row in contents(source))
        done = copy(source, target)
        assert done.positions_kept == before
        _check_streams(source, target)
        source.append("keeps:2", [event(1)], ANY)
        copy(source, target)
        _check_streams(source, target)
        assert not list(verify(target))


@pytest.mark.parametrize("erased", ["first:1", "middle:1", "last:1", "both"])
def test_a_batch_of_which_a_part_is_erased_stays_a_batch(tmp_path: Path, erased: str) -> None:
    with opened(tmp_path / "source", segment_bytes=3000) as source:
        shares = [("first:1", 2), ("middle:1", 2), ("last:1", 1 if erased == "both" else 2)]
        for number in range(30):
            source.append_many([(stream, [event(number)] * count, ANY) for stream, count in shares])
        for stream_id in ["first:1", "middle:1"] if erased == "both" else [erased]:
            source.delete_stream(stream_id)
        source.append("last:1", [event(1)], ANY)
        source.append("z:1", [event(1)], ANY)
        source.retain()
        assert len(contents(source)) < source.last_position
        copied(tmp_path / "source", tmp_path / "target")
        with opened(tmp_path / "target") as target:
            _check_streams(source, target)
            sizes = [len(batch) for batch in batches(target)]
            assert sizes[:20] == [1 if erased == "both" else 4] * 20
            assert not list(verify(target))
        assert copied(tmp_path / "source", tmp_path / "target").events == 0


def batches(store: Any) -> list[list[Any]]:
    found: list[list[Any]] = [[]]
    for row in contents(store):
        found[-1].append(row)
        if row[8] in (0, row[0]):
            found.append([])
    return found[:-1]


def test_a_stream_that_has_lost_its_middle_since_the_first_copy_is_named(tmp_path: Path) -> None:
    """The target has its beginning, and no stream has gaps."""
    with opened(tmp_path / "source", segment_bytes=12000) as source, opened(tmp_path / "target") as target:
        for number in range(30):
            source.append("keeps:1", [event(number, text="x" * 1000)], ANY)
            source.append("keeps:2", [event(number)] * (1 if number < 15 else 6), ANY)
            if number == 5:
                copy(source, target)
        source.truncate_stream("keeps:2", 100)
        source.retain()
        with pytest.raises(CopyError, match=r"versions [0-9]+ to 99 of stream 'keeps:2' were dropped from the source"):
            copy(source, target)
        copied(tmp_path / "source", tmp_path / "another")
        with opened(tmp_path / "another") as another:
            _check_streams(source, another)


def test_a_deleted_stream_without_events_is_named(tmp_path: Path, hangarlog: Any) -> None:
    with opened(tmp_path / "source", segment_bytes=2000) as source:
        for number in range(40):
            source.append("a:1" if number < 20 else "a:2", [event(number, text="x" * 100)], ANY)
        source.delete_stream("a:1")
        source.retain()
    done = copied(tmp_path / "source", tmp_path / "target")
    assert list(done.not_taken) == ["a:1"]
    again = hangarlog("copy", "source", "target")
    assert again.returncode == 0
    assert b"stream 'a:1' is not in the target: it is deleted, and its events were dropped" in again.stderr


def test_an_archive_is_copied_too(tmp_path: Path) -> None:
    with opened(tmp_path / "store", segment_bytes=2000) as store:
        for number in range(60):
            store.append(f"a:{number % 3}", [event(number, text="x" * 40)], ANY)
        store.archive(tmp_path / "archive", before=50)
    copied(tmp_path / "archive", tmp_path / "target")
    with opened(tmp_path / "archive") as archive, opened(tmp_path / "target") as target:
        assert contents(target) == contents(archive)
        assert versions(target) == versions(archive)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder with the store `source`, of 12 events."""
    with opened(tmp_path / "source") as source:
        for number in range(12):
            source.append("a:1", [event(number, text="good")], ANY)
    return tmp_path


def _damage(path: Path) -> None:
    """Change a byte in the payload of position 7."""
    lines = path.read_bytes().split(b"\n")
    lines[6] = lines[6].replace(b"good", b"bad!")
    path.write_bytes(b"\n".join(lines))


def test_an_event_that_is_damaged_in_one_copy_comes_from_the_other(damaged: Path) -> None:
    with opened(damaged / "source") as source:
        _damage(damaged / "source/journal.jsonl")
        with pytest.warns(Warning, match="served from the streams"):
            assert copy(source, MemoryEventStore.untyped()).compared == 12


def test_an_event_that_is_damaged_in_both_copies_is_named_and_none_is_passed_over(
    damaged: Path, hangarlog: Any
) -> None:
    for name in ("journal", "streams/a/1"):
        _damage(damaged / f"source/{name}.jsonl")
    for _ in range(2):
        done = hangarlog("copy", "source", "target")
        assert done.returncode == 1
        assert b"position 7 (stream 'a:1', version 6) of the source is damaged in both copies" in done.stderr
        assert b"hangarlog backup" in done.stderr
    with opened(damaged / "target") as target:
        assert [row[0] for row in contents(target)] == [1, 2, 3, 4, 5, 6]
    assert hangarlog("backup", "source", "kept").returncode == 1
    with warnings.catch_warnings(action="ignore"), opened(damaged / "kept") as kept:
        found = [record.position for record in kept.records(on_damage="skip")]
        assert found == [position for position in range(1, 13) if position != 7]


WRONG = {
    "a key twice": (line(3, data='{"x":1,"x":2}'), "the key 'x' comes twice"),
    "an unknown key": (line(3, more="5"), "the key 'more', which this version does not know"),
    "a time that is none": (line(3, recorded_at='"soon"'), "recorded_at"),
    "a version that is none": (line(3, data='{"_version":"x"}'), "_version"),
    "a cursor that is none": (line(3, cursor='{"name":"a","to":5}'), "cursor"),
    "a bad cursor": (line(3, cursor='{"name":"$a","position":1}'), "cursor"),
    "a batch that is none": (line(3, batch_end="2"), "batch of position 3"),
    "an empty id": (line(3, event_id='""'), "event_id"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_line_with_a_right_checksum_that_no_store_writes_is_named(tmp_path: Path, name: str) -> None:
    """In both copies. What comes before is copied, and nothing behind it."""
    wrong, told = WRONG[name]
    with opened(tmp_path / "source") as source:
        source.append("a:1", [event(0)], ANY)
    text = b"".join([line(1), line(2), wrong, line(4)])
    (tmp_path / "source/journal.jsonl").write_bytes(text)
    (tmp_path / "source/streams/a/1.jsonl").write_bytes(text)
    (tmp_path / "source/state").unlink()
    with opened(tmp_path / "target") as target, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with opened(tmp_path / "source") as source, pytest.raises((CopyError, CorruptionError), match=told):
            copy(source, target)
        assert target.last_position in (0, 2)


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a line within a time": ({"recorded_at": '2026-01-01T00:00:00.000000Z","data":{},"x":"'}, "position 2"),
    "a stream id": ({"stream_id": "../../x"}, "bad stream id"),
    "an empty type": ({"event_type": ""}, "type"),
    "data that is no object": ({"data": b"[1]"}, "not an object"),
    "data that is no JSON": ({"data": b'{"a":1},"crc":"x'}, "position 2"),
    "metadata that is no object": ({"metadata": b"5"}, "not an object"),
    "too deep": ({"data": b'{"x":%b}' % (b"[" * 300 + b"]" * 300)}, "nested"),
    "a batch without an end": ({"batch_end": 9}, "the batch"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_another_engine_gives_is_checked(tmp_path: Path, name: str) -> None:
    """Anybody may have written its messages."""
    changed, told = HOSTILE[name]
    with OtherEngine() as source, opened(tmp_path / "target") as target:
        for number in range(3):
            source.append("a:1", [event(number)], ANY)
        good = source._journal[1]
        fields = {field: getattr(good, field) for field in Envelope.__struct_fields__} | changed
        fields |= {key: type(good.data)(value) for key, value in fields.items() if isinstance(value, bytes)}
        source._journal[1] = Envelope(**fields)
        with pytest.raises(CopyError, match=told):
            copy(source, target)
        assert target.last_position <= 1


def test_lines_with_blanks_and_escapes_keep_their_meaning(tmp_path: Path) -> None:
    """Their own bytes are not kept, as an append writes them in its own form."""
    text = b"".join([line(1, data='{"a": "\\u0041", "b" : 1.50}'), line(2, event_type='"\\u0054"')])
    with opened(tmp_path / "source") as source:
        source.append("a:1", [event(0)], ANY)
    for path in ("source/journal.jsonl", "source/streams/a/1.jsonl"):
        (tmp_path / path).write_bytes(text)
    (tmp_path / "source/state").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copied(tmp_path / "source", tmp_path / "target")
    with opened(tmp_path / "target") as target:
        first, second = contents(target)
        assert (first[6], second[3]) == (b'{"a": "\\u0041", "b" : 1.50}', "T")


def test_retention_while_it_is_copied(tmp_path: Path) -> None:
    """What is dropped after it was copied stays in the target; the comparison knows that it is hidden."""
    with opened(tmp_path / "source", segment_bytes=2000) as source, opened(tmp_path / "target") as target:
        for number in range(90):
            source.append(f"a:{number % 3}", [event(number, text="x" * 40)], ANY)

        def drop(what: str, done: int, total: int) -> None:
            if what == "copying" and done == total:
                source.retain(RetentionPolicy(max_events=10))

        done = copy(source, target, progress=drop)
        assert source.first_position > 1
        assert (done.events, target.first_position) == (90, 1)
        assert done.positions_kept
        assert versions(target) == versions(source)
        again = copy(source, target)
        assert again.events == 0


def test_an_envelope_of_another_engine_is_what_a_line_holds() -> None:
    """The tests' engine gives what the interface asks for."""
    with OtherEngine() as store:
        store.append("a:1", [event(1)], ANY)
        found = next(store.envelopes())[0]
        assert type(found) is Envelope
        assert encode_envelope(found).endswith(b"\n")
