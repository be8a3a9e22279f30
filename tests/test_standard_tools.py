"""The real tail, grep, jq and DuckDB read a store as it is, while it is written."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import Added, tool

from hangarlog import ANY, FileEventStore


@pytest.mark.parametrize("path", ["journal.jsonl", "streams/a/1.jsonl"])
def test_tail_follows_one_path_across_rolls_and_shows_every_event_once(small: FileEventStore, path: str) -> None:
    """`tail -F` on the live end, of the journal and of a stream, over at least three rolls of either."""
    small.append("a:1", [Added(0)], -1)
    tail = subprocess.Popen(
        [tool("tail"), "-F", "-n", "+1", str(Path(small.path) / path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert tail.stdout
        shown = [json.loads(tail.stdout.readline())]
        for number in range(1, 40):
            small.append("a:1", [Added(number)], number - 1)
            # tail must get to run between two rolls: as soon as it has shown an event the next may come.
            shown.append(json.loads(tail.stdout.readline()))
    finally:
        tail.kill()
        rest, _ = tail.communicate()
    assert rest == ""
    assert [line["data"]["number"] for line in shown] == list(range(40))
    log = small.folder.journal if path.startswith("journal") else small.folder.stream("a:1")
    assert len(log.sealed()) >= 3


def test_cat_of_the_segments_is_the_whole_log_in_order(small: FileEventStore) -> None:
    """Sealed ones sort before the live one, in the order of their first records."""
    for number in range(40):
        small.append("a:1", [Added(number)], ANY)
    command = "cat journal.0*.jsonl journal.jsonl; cat streams/a/1.0*.jsonl streams/a/1.jsonl"
    text = subprocess.run(["sh", "-c", command], cwd=small.path, capture_output=True, check=True).stdout
    numbers = [json.loads(line)["data"]["number"] for line in text.splitlines()]
    assert numbers == [*range(40), *range(40)]


def test_jq_and_grep_agree_with_the_store(small: FileEventStore) -> None:
    """On every segment of the journal."""
    tool("jq")
    for number in range(40):
        small.append(f"s:{number % 3}", [Added(number, "\u2028 \u0085 \U0001f600 \x1b")], ANY)
    program = 'select(.stream_id == "s:1") | [.stream_version, .data.number, .data.text] | @json'
    command = f"cat journal.0*.jsonl journal.jsonl | jq -r '{program}'"
    text = subprocess.run(["sh", "-c", command], cwd=small.path, capture_output=True, check=True).stdout
    rows = [json.loads(line) for line in text.split(b"\n") if line]
    assert rows == [[r.stream_version, r.event.number, r.event.text] for r in small.records("s:1")]
    grep = subprocess.run(
        [tool("grep"), "-h", '"stream_id":"s:1"', *map(str, sorted(Path(small.path).glob("journal*.jsonl")))],
        capture_output=True,
        check=True,
    ).stdout
    assert grep.count(b"\n") == len(rows)


def test_duckdb_reads_journal_and_streams_with_their_types(small: FileEventStore) -> None:
    """Times as timestamps, payloads as structs."""
    duckdb = pytest.importorskip("duckdb")
    for number in range(40):
        small.append(f"s:{number % 3}", [Added(number)], ANY)
    files = f"{small.path}/journal*.jsonl"
    query = (
        "SELECT stream_id, count(*), max(stream_version), sum(data.number), min(recorded_at) <= max(recorded_at) "
        f"FROM read_json('{files}', format = 'newline_delimited') GROUP BY stream_id ORDER BY stream_id"
    )
    rows = duckdb.sql(query).fetchall()
    assert [row[:4] for row in rows] == [
        (s, len(events := small.read_stream(s)), len(events) - 1, sum(event.number for event in events))
        for s in small.list_streams()
    ]
    kinds = duckdb.sql(f"DESCRIBE SELECT position, recorded_at FROM read_json('{files}')").fetchall()
    assert [row[1] for row in kinds] == ["BIGINT", "TIMESTAMP WITH TIME ZONE"]


def test_a_python_that_knows_nothing_of_hangarlog_can_check_a_store(small: FileEventStore) -> None:
    """With json and zlib alone: positions, versions, checksums."""
    import zlib

    for number in range(40):
        small.append(f"s:{number % 3}", [Added(number)], ANY)
    names = sorted(path.name for path in Path(small.path).glob("journal*.jsonl"))
    names.sort(key=lambda name: name == "journal.jsonl")
    lines = b"".join((Path(small.path) / name).read_bytes() for name in names).split(b"\n")[:-1]
    versions: dict[str, int] = {}
    for position, line in enumerate(lines, 1):
        record = json.loads(line)
        assert record["position"] == position
        assert record["stream_version"] == versions.get(record["stream_id"], -1) + 1
        versions[record["stream_id"]] = record["stream_version"]
        assert record["crc"] == f"{zlib.crc32(line[:-18]):08x}"
        assert list(record)[-1] == "crc"
