"""Positions and versions near the highest that there can be, and stretches of numbers that no copy has."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import Added
from limits import run_limited

from hangarlog import ANY, EventSerializer, FileEventStore, NumberError, SourceError
from hangarlog.integrations.mcp_hangar_sqlite import import_database
from hangarlog.log.segment import Segment
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.record.envelope import MAX_NUMBER
from hangarlog.record.line import encode_records

READ = """
import warnings
warnings.simplefilter("ignore")
limit(more)
with opened(sys.argv[1]) as store:
    for skip in ("skip", "raise"):
        for reverse in (False, True):
            try:
                for block in store.envelopes("a:1", reverse=reverse, on_damage=skip):
                    print(*(record.stream_version for record in block))
            except CorruptionError as error:
                print(error.stream_version, error.cause)
    print(store.get_stream_version("a:1"))
"""


def make(path: Path, places: Iterable[tuple[int, int]], between: bytes = b"") -> Path:
    """A store of one stream, of records with these (position, version), by hand."""
    with FileEventStore(path, durability="relaxed"):
        pass
    lines = [
        encode_records(
            position, "a:1", version, [("T", f"e{position}", b"{}", None, None)], b"2026-01-01T00:00:00.000000Z"
        )
        for position, version in places
    ]
    text = b"".join(line + between for (line,), _ in lines)
    for name in ("ring", "checkpoint.json"):
        (path / name).unlink(missing_ok=True)
    (path / "streams" / "a").mkdir(parents=True)
    (path / "journal.jsonl").write_bytes(text)
    (path / "streams" / "a" / "1.jsonl").write_bytes(text)
    return path


def opened(path: Path) -> FileEventStore:
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), durability="relaxed")


@pytest.mark.parametrize("places", [[(1, MAX_NUMBER)], [(1, 0), (2, MAX_NUMBER)], [(1, 0), (2, 1 << 40)]])
def test_a_stretch_of_versions_that_no_copy_has_is_one_damage(tmp_path: Path, places: list[tuple[int, int]]) -> None:
    """It takes no memory for each of them."""
    make(tmp_path / "s", places)
    shown = run_limited(READ, 64 << 20, tmp_path / "s", seconds=20)
    versions = [version for _, version in places]
    first, last = len(places) - 1, versions[-1] - 1
    lines = shown.splitlines()
    assert sum(f"stream_version {first} to {last} are in neither copy" in line for line in lines) == 2
    assert lines[: len(versions)] == [*map(str, versions)]
    assert lines[len(versions) : 2 * len(versions)] == [*map(str, versions[::-1])]
    assert lines[-1] == str(versions[-1])


def test_a_stream_at_the_highest_version_takes_no_more(tmp_path: Path) -> None:
    """Nothing is written, alone or in a batch, and the store goes on as it was."""
    make(tmp_path / "s", [(1, MAX_NUMBER - 2)])
    list(repair(str(tmp_path / "s")))
    with opened(tmp_path / "s") as store:
        with pytest.raises(NumberError, match=r"'a:1' is at its end.*go on in a new stream") as met:
            store.append("a:1", [Added(1), Added(2), Added(3)], ANY)
        assert (met.value.field, met.value.number, met.value.stream_id) == ("stream_version", MAX_NUMBER + 1, "a:1")
        assert store.append("a:1", [Added(1), Added(2)], ANY) == MAX_NUMBER
        with pytest.raises(NumberError):
            store.append("a:1", [Added(1)], ANY)
        with pytest.raises(NumberError):
            store.append_many([("b:1", [Added(1)], ANY), ("a:1", [Added(1)], ANY)])
        assert store.append("b:1", [Added(1)], ANY) == 0
    with opened(tmp_path / "s") as store:
        assert store.get_stream_version("a:1") == MAX_NUMBER
        assert store.get_event_count() == 4
        assert list(verify(store)) == []


def test_a_journal_at_the_highest_position_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No store gets there, so the limit is a low one here."""
    monkeypatch.setattr("hangarlog.record.batch.MAX_NUMBER", 3)
    with opened(tmp_path / "s") as store:
        store.append("a:1", [Added(1), Added(2)], ANY)
        with pytest.raises(NumberError, match=r"the journal is at its end.*append to a new store") as met:
            store.append_many([("b:1", [Added(1)], ANY), ("c:1", [Added(1)], ANY)])
        assert (met.value.field, met.value.number, met.value.stream_id) == ("position", 4, None)
        store.append("b:1", [Added(1)], ANY)
        with pytest.raises(NumberError):
            store.append("b:1", [Added(1)], ANY)
        assert store.get_event_count() == 3


@pytest.mark.parametrize("version", [MAX_NUMBER + 1, (1 << 63) - 1, -1])
def test_an_import_refuses_versions_that_no_stream_can_have(tmp_path: Path, version: int) -> None:
    """It names the row, and nothing of the stream is begun."""
    from hangarlog.integrations.mcp_hangar_sqlite import _SCHEMA

    with sqlite3.connect(tmp_path / "x.db") as database:
        database.executescript(_SCHEMA)
        row = (7, "a:1", version, "T", "{}", None, "2026-01-01T00:00:00+00:00")
        database.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    database.close()
    with opened(tmp_path / "s") as store:
        with pytest.raises(SourceError, match=f"global_position 7 has stream_version {version}"):
            import_database(store, str(tmp_path / "x.db"))
        assert store.append("a:1", [Added(1)], ANY) == 0


@pytest.mark.parametrize(
    ("step", "between", "damaged"),
    [(2, b"", False), (1, b"x\n", False), (1, b"", True)],
    ids=["every second lost", "a line between", "no line whole"],
)
def test_a_repair_reads_as_much_more_as_there_is_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, between: bytes, damaged: bool
) -> None:
    """Four times the lines cost about four times the work, not sixteen times, however they are torn apart."""
    counted = itertools.count()
    lines_at = Segment.lines_at

    def counting(self: Segment, *place: int) -> tuple[list[bytes], int]:
        lines, following = lines_at(self, *place)
        for _ in lines:
            next(counted)
        return lines, following

    monkeypatch.setattr(Segment, "lines_at", counting)
    work = []
    for count in (100, 400):
        before = next(counted)
        path = make(tmp_path / str(count), [(1 + step * n, step * n) for n in range(count)], between)
        for file in (path / "journal.jsonl", path / "streams" / "a" / "1.jsonl") if damaged else ():
            file.write_bytes(file.read_bytes().replace(b'"T"', b'"U"'))
        list(repair(str(path)))
        work.append(next(counted) - before)
    assert work[1] < 6 * work[0]
