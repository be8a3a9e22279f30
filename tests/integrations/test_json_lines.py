"""JSON lines go both ways: what an export wrote is imported as it was, and every line that is not so is named."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from pathlib import Path
from zlib import crc32

import pytest

from hangarlog import ANY, EncodedEvent, FileEventStore, SourceError, UntypedEvent
from hangarlog.integrations.export import cloud_events, journal_lines
from hangarlog.integrations.imported import Imported
from hangarlog.integrations.json_lines import import_lines
from hangarlog.integrations.line_source import LineSource


def opened(path: Path) -> FileEventStore[UntypedEvent]:
    return FileEventStore.untyped(path, durability="relaxed", segment_bytes=2000)


def exported(store: FileEventStore[UntypedEvent]) -> bytes:
    return b"".join(block + b"\n" for block in journal_lines(store))


def take(store: FileEventStore[UntypedEvent], text: bytes, **options: bool) -> Imported:
    report = Imported()
    import_lines(store, LineSource(io.BytesIO(text), "x.jsonl"), report, **options)
    return report


def refused(store: FileEventStore[UntypedEvent], text: bytes, **options: bool) -> str:
    with pytest.raises(SourceError) as caught:
        take(store, text, **options)
    assert str(caught.value).startswith("cannot import x.jsonl: ")
    return str(caught.value).removeprefix("cannot import x.jsonl: ")


@pytest.fixture
def source(tmp_path: Path) -> FileEventStore[UntypedEvent]:
    """A store with all that a line may hold: batches over streams, metadata, moves of cursors, odd numbers and text."""
    store = opened(tmp_path / "source")
    for number in range(12):
        event = UntypedEvent("T", {"n": number}, event_id=f"id-{number}")
        store.append_at_end(f"a:{number % 3}", [event], metadata={"k": "\u2028"} if number % 2 else None)
    both = [UntypedEvent("Ü", {"x": 3.5}), EncodedEvent("B", b'{"x":1.0e2}', metadata={"own": 1})]
    store.append_many([("a:1", both, ANY), ("b", both[:1], ANY), ("a:1", both[1:], ANY)])
    text = b'{"a":12345678901234567890123,"b":"\\u00e9","_version":3}'
    store.append_at_end("c:\u6f22", [EncodedEvent("E", text, recorded_at="2020-01-01T00:00:00+02:00")])
    store.append_at_end("out:1", [UntypedEvent("O", {})] * 2, cursor=store.cursor("mailer").at(7))
    store.cursor("mailer").reset(0)
    store.append_many([("out:1", both, ANY), ("out:2", both, ANY)], cursor=store.cursor("mailer").at(3))
    store.delete_stream("a:2")
    store.append_at_end("a:2", [UntypedEvent("T", {})])
    return store


LINES = 24


def test_lines_go_both_ways_byte_for_byte(source: FileEventStore[UntypedEvent], tmp_path: Path) -> None:
    """With positions, versions, ids, times, metadata, batches and moves of cursors; and only once."""
    text = exported(source)
    with opened(tmp_path / "copy") as copy:
        assert take(copy, text) == Imported(taken=LINES, streams=7)
        assert exported(copy) == text
        assert copy.cursor("mailer").position == 3
        assert take(copy, text) == Imported(already=LINES, streams=7)
        source.append_at_end("a:0", [UntypedEvent("T", {})])
        assert take(copy, exported(source)) == Imported(taken=1, already=LINES, streams=7)
        following = b"".join(exported(source).splitlines(keepends=True)[20:])
        assert take(copy, following) == Imported(already=LINES - 19, streams=4)
        assert exported(copy) == exported(source)


def test_lines_that_come_in_any_pieces_are_the_same(source: FileEventStore[UntypedEvent], tmp_path: Path) -> None:
    """As a pipe gives them; the last may lack its newline, and empty lines mean nothing."""
    text = exported(source)

    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read1(7)

    with opened(tmp_path / "copy") as copy:
        report = Imported()
        import_lines(copy, LineSource(Pipe(text.replace(b"\n", b"\n\n")[:-2]), "pipe"), report)
        assert (report.taken, exported(copy)) == (LINES, text)


def test_a_store_with_other_events_gives_them_other_positions(
    source: FileEventStore[UntypedEvent], tmp_path: Path
) -> None:
    """And leaves out the moves of cursors, which count positions. It is said, also when it is run again."""
    with opened(tmp_path / "copy") as copy:
        copy.append_at_end("mine:1", [UntypedEvent("M", {})])
        report = take(copy, exported(source))
        assert (report.taken, report.positions_kept) == (LINES, False)
        assert [c.name for c in copy.cursors()] == []
        assert take(copy, exported(source)) == Imported(already=LINES, streams=7)
        kept = ("stream_version", "event_type", "event_id", "recorded_at", "metadata", "data")
        for stream_id in copy.list_streams():
            if stream_id not in ("mine:1", "a:2"):
                both = ([json.loads(line) for line in read(store, stream_id)] for store in (copy, source))
                assert [*zip(*([[each.get(key) for key in kept] for each in one] for one in both), strict=True)]
        sizes = [json.loads(line).get("batch_end", 0) and 1 for line in exported(copy).splitlines()]
        assert sizes[1:] == [json.loads(line).get("batch_end", 0) and 1 for line in exported(source).splitlines()]


def read(store: FileEventStore[UntypedEvent], stream_id: str) -> list[bytes]:
    return [line for line in exported(store).splitlines() if json.loads(line)["stream_id"] == stream_id]


def test_cloud_events_go_both_ways_but_for_what_they_lack(source: FileEventStore[UntypedEvent], tmp_path: Path) -> None:
    """Batches, and metadata other than two ids. They continue an import of lines, too."""

    def events(store: FileEventStore[UntypedEvent]) -> list[dict[str, object]]:
        return [{**json.loads(event), "source": ""} for event in cloud_events(store)]

    text = b"".join(event + b"\n" for event in cloud_events(source))
    with opened(tmp_path / "copy") as copy:
        assert take(copy, text).taken == LINES
        assert events(copy) == events(source)
        assert take(copy, exported(source)).already == LINES


def test_a_source_that_is_cut_anywhere_is_named_and_can_be_completed(
    source: FileEventStore[UntypedEvent], tmp_path: Path
) -> None:
    """What came before is there, a batch as a whole or not at all."""
    text = exported(source)
    lines = text.splitlines(keepends=True)
    with opened(tmp_path / "copy") as copy:
        assert refused(copy, text[: len(lines[0]) + 40]) == (
            "line 2: it is torn: the file ends within it; export it again"
        )
        assert copy.get_event_count() == 1
        message = refused(copy, b"".join(lines[:14]))
        assert message.startswith("line 14: the source ends within a batch: positions 15 to 16 are missing")
        assert copy.get_event_count() == 12
        assert refused(copy, b"".join(lines[:15] + lines[15:16])[:-30]).startswith("line 16: it is torn")
        assert copy.get_event_count() == 12
        assert take(copy, text) == Imported(taken=LINES - 12, already=12, streams=7)
        assert exported(copy) == text


def sealed(line: bytes, **changes: object) -> bytes:
    """A line with other values, and the right checksum."""
    values = {**json.loads(line), **changes}
    values.pop("crc")
    values["data"] = values.pop("data")  # The last one.
    body = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()[:-1]
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


DAMAGE = {
    "a bit": (lambda line: line.replace(b'"n":2', b'"n":3'), "line 3: the checksum is"),
    "nothing of ours": (lambda line: b'{"level":"info"}\n', "line 3: the line does not start with"),
    "no JSON": (lambda line: b"hello\n", "line 3: the line does not start with"),
    "zeros": (lambda line: b"\0" * 100 + b"\n", "line 3: "),
    "not UTF-8": (lambda line: b"\xff" + line, "line 3: "),
    "twice": (lambda line: line + line, "line 4: position 3 comes after 3: lines stand twice"),
    "gone": (lambda line: b"", "line 3: position 3 is missing before position 4; export it again, or"),
    "lost": (lambda line: b'{"position":3,"lost":{}}\n', "line 3: "),
    "an id": (lambda line: sealed(line, stream_id="../../x"), "line 3: bad stream id"),
    "a reserved id": (lambda line: sealed(line, stream_id="$x"), "line 3: bad stream id"),
    "no type": (lambda line: sealed(line, event_type=""), "line 3: event type"),
    "no event id": (lambda line: sealed(line, event_id=""), "line 3: event type 'T': event_id"),
    "a time": (lambda line: sealed(line, recorded_at="now"), "line 3: the checksum is right but"),
    "a version": (lambda line: sealed(line, stream_version=-1), "line 3: the checksum is right but"),
    "a leap": (lambda line: sealed(line, stream_version=7), None),
    "a huge position": (lambda line: sealed(line, position=1 << 60), "line 3: the checksum is right but"),
    "a batch": (
        lambda line: sealed(line, batch_end=1 << 50),
        "line 4: its batch_end is 0, but the batch before it ends",
    ),
    "a batch before": (lambda line: sealed(line, batch_end=2), "line 3: its batch_end 2 is wrong"),
    "no schema version": (
        lambda line: sealed(line, data={"_version": 0}),
        "line 3: Expected `int` >= 1 - at `$._version`",
    ),
    "data": (lambda line: sealed(line, data=[1]), "line 3: the checksum is right but"),
    "metadata": (lambda line: sealed(line, metadata=None), "line 3: the checksum is right but"),
    "depth": (
        lambda line: sealed(line, data={"x": nested(300)}),
        "line 3: the checksum is right but the line is not a record: it is nested deeper than 128 levels",
    ),
    "a key of the future": (lambda line: sealed(line, colour="red"), "line 3: it has the key 'colour'"),
    "a cursor": (lambda line: sealed(line, cursor={"name": "../x", "position": 1}), "line 3: bad cursor name"),
    "a cursor ahead": (lambda line: sealed(line, cursor={"name": "x", "position": 99}), "line 3: cursor 'x' cannot"),
    "an odd cursor": (lambda line: sealed(line, cursor=[1]), "line 3: "),
}


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("name", DAMAGE)
def test_a_line_that_is_no_event_of_an_export_is_named(tmp_path: Path, name: str) -> None:
    """Damaged, foreign or hostile. The two before it are imported, nothing else is, and the store stays sound."""
    change, message = DAMAGE[name]
    with opened(tmp_path / "source") as store:
        for number in range(6):
            store.append_at_end("a:1" if number != 2 else "a:2", [UntypedEvent("T", {"n": number})])
        lines = exported(store).splitlines(keepends=True)
    original = [*lines]
    lines[2] = change(lines[2])
    with opened(tmp_path / "copy") as copy:
        if message is None:  # A stream may begin later: it was imported compacted. Here it ends there.
            assert take(copy, b"".join(lines)).taken == 6
            return
        assert refused(copy, b"".join(lines)).startswith(message)
        kept = 3 if name == "twice" else 2
        assert exported(copy).splitlines(keepends=True) == original[:kept]


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (gzip.compress, "it is compressed by gzip"),
        (lambda text: b"\xef\xbb\xbf" + text, "it begins with a byte order mark"),
        (lambda text: text.decode().encode("utf-16"), "it is UTF-16"),
        (lambda text: text.replace(b"\n", b"\r\n"), "line 1: it ends in CR LF"),
        (lambda text: b"SQLite format 3\0" + text, "it is a SQLite database; use --format db"),
        (
            lambda text: b'{"specversion":"1.0"}\n' + text,
            "line 1: it is not a CloudEvent that `hangarlog export` wrote",
        ),
    ],
)
def test_a_file_in_another_form_is_told_what_to_do(tmp_path: Path, convert: object, message: str) -> None:
    with opened(tmp_path / "source") as store, opened(tmp_path / "copy") as copy:
        store.append_at_end("a:1", [UntypedEvent("T", {})])
        assert callable(convert)
        assert refused(copy, convert(exported(store))).startswith(message)
        assert copy.get_event_count() == 0


def test_a_line_without_an_end_is_refused_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hangarlog.integrations.line_source.MAX_LINE_BYTES", 1000)
    monkeypatch.setattr("hangarlog.integrations.line_source._READ_BYTES", 100)

    class Endless(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return b'{"position":1' + b"1" * 87

    with opened(tmp_path / "copy") as copy, pytest.raises(SourceError, match="line 1: it is longer than the limit"):
        import_lines(copy, LineSource(Endless(), "x"), Imported())


def test_a_batch_without_an_end_is_refused_at_the_limit(
    source: FileEventStore[UntypedEvent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hangarlog.integrations.json_lines.MAX_BATCH_BYTES", 50)
    with opened(tmp_path / "copy") as copy:
        assert refused(copy, exported(source)).startswith("line 15: its batch has more than the limit of 50 bytes")


def test_a_part_of_an_export_is_imported_if_that_is_meant(source: FileEventStore[UntypedEvent], tmp_path: Path) -> None:
    """Streams may begin later, and batches lack their other streams. Nothing is passed over without a word."""
    lines = exported(source).splitlines(keepends=True)
    one = b"".join(line for line in lines if b'"stream_id":"a:1"' in line)
    with opened(tmp_path / "copy") as copy:
        assert "are missing before position 5" in refused(copy, one)
        assert take(copy, one, partial=True) == Imported(taken=6, already=1, streams=1, positions_kept=False)
        assert take(copy, one, partial=True) == Imported(already=7, streams=1)
    later = b"".join(lines[6:])
    with opened(tmp_path / "later") as copy:
        assert "line 1: it is version 2 of stream 'a:0', and its versions 0 to 1 must come before" in refused(
            copy, later
        )
        report = take(copy, later, partial=True)
        assert (report.taken, report.positions_kept) == (LINES - 6, False)
        assert "the store has stream 'a:0' only from a later version on" in refused(copy, b"".join(lines))


def test_what_contradicts_the_store_is_refused(source: FileEventStore[UntypedEvent], tmp_path: Path) -> None:
    """Another event at a version, another content of the same event, a stream that was deleted for good."""
    lines = exported(source).splitlines(keepends=True)
    with opened(tmp_path / "other") as other:
        other.append_at_end("a:1", [UntypedEvent("Other", {})])
        message = refused(other, b"".join(lines))
        assert message.startswith("line 2: stream 'a:1' version 0 is T id-1 here, but Other")
    with opened(tmp_path / "changed") as changed:
        take(changed, lines[0])
        assert "has another content" in refused(changed, sealed(lines[0], data={"_version": 1, "n": 7}))
    with opened(tmp_path / "gone") as gone:
        take(gone, lines[0])
        gone.delete_stream("a:0", permanent=True)
        assert "line 4: stream 'a:0' was deleted for good" in refused(gone, b"".join(lines))


def test_events_that_the_store_hides_are_known(source: FileEventStore[UntypedEvent], tmp_path: Path) -> None:
    """Compacted or deleted here: they are not imported again."""
    text = exported(source)
    with opened(tmp_path / "copy") as copy:
        copy.append_at_end("mine:1", [UntypedEvent("M", {})])
        take(copy, text)
        copy.truncate_stream("a:0", 2)
        copy.delete_stream("a:1")
        assert take(copy, text) == Imported(already=LINES, streams=7)


def test_an_import_that_is_interrupted_goes_on(source: FileEventStore[UntypedEvent], tmp_path: Path) -> None:
    """At any event. It is synced, too, and the report says how far it came."""
    text = exported(source)

    class Interrupted(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            if part := super().read1(1000):
                return part
            raise KeyboardInterrupt

    with opened(tmp_path / "copy") as copy:
        for stop in (1, 2500, 4200):
            report = Imported()
            with contextlib.suppress(KeyboardInterrupt):
                import_lines(copy, LineSource(Interrupted(text[:stop]), "x"), report)
            assert report.taken + report.already == copy.get_event_count()
        assert 0 < copy.get_event_count() < LINES
        take(copy, text)
        assert exported(copy) == text
