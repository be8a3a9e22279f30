"""Searching and asking with the tools that people have; each must agree with the store."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from conftest import tool
from recipe_page import BIG, EVENTS, desk, fill, journal_lines, library, mystore, opened, output, recipe, shell

from hangarlog import ANY, UntypedEvent

__all__ = ["desk", "mystore"]
PAID = [number for number in range(EVENTS) if number % 3 == 0]
SUMS = {
    kind: sum(BIG if number % 5 == 0 else number for number in range(EVENTS) if (number % 3 == 0) == (kind == "Paid"))
    for kind in ("Ordered", "Paid")
}


def lines(text: str) -> list[str]:
    return text.split("\n")[:-1]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def half_written() -> None:
    """Leave a part of a line at the end of the journal, as a writer does that is at it."""
    with open("mystore/journal.jsonl", "ab") as journal:
        journal.write(journal_lines()[-1][:-30])


def test_grep_and_ripgrep_find_a_text_once(mystore: Path) -> None:
    """In the journal, in the order of commit; in a stream; with the whole folder, the trap is real."""
    tool("rg")
    journal, stream = recipe("Search for a text")
    expected = [line.decode().removesuffix("\n") for line in journal_lines() if b'"event_type":"Paid"' in line]
    assert len(expected) == len(PAID)
    for command in journal.splitlines():
        assert lines(output(command)) == expected, command
    assert len(lines(output(stream))) == EVENTS / 4
    assert len(lines(output('rg -INF \'"event_type":"Paid"\' mystore'))) == 2 * len(PAID)


def test_the_journal_keeps_what_was_deleted(mystore: Path) -> None:
    """As the page says before its recipes; the stream's own file does not."""
    with opened() as store:
        store.delete_stream("order:001")
        assert store.read_stream("order:001") == []
    assert sum(b'"stream_id":"order:001"' in line for line in journal_lines()) == EVENTS / 4
    assert output("cat mystore/streams/order/001*.jsonl").count('"data":{"_version') == 0


def test_jq_and_gojq_find_a_field(mystore: Path) -> None:
    """gojq keeps integers beyond a float; jq changes them when it computes."""
    tool("jq")
    tool("gojq")
    (block,) = recipe("Search for a field")
    by_jq, by_hangarlog, by_gojq = block.splitlines()
    expected = [[number + 1, f"tea \u2028 \U0001f600 {number}"] for number in PAID]
    for command in (by_jq, by_hangarlog):
        assert [json.loads(line) for line in lines(output(command))] == expected, command
    found = [json.loads(line) for line in lines(output(by_gojq))]
    assert found == [[number + 1, BIG] for number in range(0, EVENTS, 5)]
    changed = output("jq 'select(.position == 1) | .data.cents + 0' mystore/journal*.jsonl")
    assert json.loads(changed) == BIG - 1

    half_written()
    done = shell(by_jq)
    assert done.returncode != 0
    assert [json.loads(line) for line in lines(done.stdout)] == expected


def test_many_streams_are_searched_without_naming_them_all(desk: Path) -> None:
    """The shell's list of arguments is too long; a smaller stack makes that limit small, too."""
    with opened() as store:
        for number in range(999):
            store.append(f"order:{'x' * 140}{number}", [UntypedEvent("Paid", {"cents": number, "n": 0})], ANY)
    walking, journal = recipe("Search very many streams")
    expected = [line.decode().removesuffix("\n") for line in journal_lines() if b'"cents":7,' in line]
    assert len(expected) == 1
    for command in (*walking.splitlines(), *journal.splitlines()):
        done = shell(f"ulimit -s 400; {command}")
        assert lines(done.stdout) == expected, command
        assert done.returncode == (123 if "xargs" in command else 0)
    done = shell("ulimit -s 400; grep tea mystore/streams/order/*.jsonl")
    assert "rgument list too long" in done.stderr


def test_duckdb_counts_every_event_once(mystore: Path) -> None:
    """Sums are exact; a line that is being written is left out; a missing segment and damage are seen."""
    tool("duckdb")
    sums, complete = recipe("DuckDB")
    assert {row["event_type"]: int(row["cents"]) for row in rows(output(sums))} == SUMS
    assert rows(output(complete)) == [{"events": "60", "last_position": "60", "complete": "true"}]
    half_written()
    assert rows(output(complete)) == [{"events": "60", "last_position": "60", "complete": "true"}]
    sealed = len(journal_lines(sealed=True))
    query = "duckdb -csv -init tools/duckdb_views.sql -c \"SELECT count(*) AS n FROM sealed_events('mystore')\""
    assert rows(output(query)) == [{"n": str(sealed)}]

    third = sorted(mystore.glob("journal.0*.jsonl"))[2]
    content = third.read_bytes()
    third.write_bytes(content[:-40])
    assert shell(query).returncode == 1
    assert rows(output(complete))[0]["complete"] == "false"
    third.unlink()
    assert rows(output(complete))[0]["complete"] == "false"


def test_duckdb_in_python_hands_over_frames(mystore: Path) -> None:
    """As the page says, also of a store that has nothing sealed yet."""
    duckdb = pytest.importorskip("duckdb")
    with opened("new") as store:
        fill(store, 0, 3)
    connection = duckdb.connect()
    connection.sql(Path("tools/duckdb_views.sql").read_text())
    assert connection.sql("FROM events_complete('new')").fetchall() == [(3, 3, True)]
    query = "SELECT (data->>'cents')::BIGINT FROM events('mystore') ORDER BY position LIMIT 1"
    assert connection.sql(query).fetchall() == [(BIG,)]
    library("pandas")
    library("polars")
    relation = connection.sql("FROM events('mystore')")
    assert len(relation.df()) == len(relation.pl()) == relation.arrow().read_all().num_rows == EVENTS
    guessed = connection.sql(
        "DESCRIBE SELECT data FROM read_json('mystore/journal*.jsonl', maximum_sample_files = 1)"
    ).fetchall()
    assert "late" not in guessed[0][1]


def test_sqlite_utils_takes_only_what_is_new(mystore: Path) -> None:
    """Also with a key that the table lacks, which stops it without `--alter`."""
    tool("sqlite-utils")
    load, ask = recipe("SQLite")
    output(load)
    with sqlite3.connect("events.db") as database:
        database.execute("UPDATE events SET crc = 'mine' WHERE position = 1")
    with opened() as store:
        store.append("order:1", [UntypedEvent("Paid", {"cents": 0})], ANY, metadata={"by": "ann"})
    new = f"hangarlog read mystore --from {EVENTS}"
    assert shell(f"{new} | sqlite-utils insert events.db events - --nl --pk position").returncode == 1
    output(load)
    found = database.execute("SELECT position, data ->> 'cents', crc FROM events ORDER BY position").fetchall()
    database.close()
    assert [row[:2] for row in found] == [*enumerate([*cents(EVENTS), 0], 1)]
    assert found[0][2] == "mine"
    assert {row["event_type"]: row["cents"] for row in json.loads(output(ask))} == SUMS


def cents(last: int) -> list[int]:
    return [BIG if number % 5 == 0 else number for number in range(last)]


def test_polars_reads_sealed_segments(mystore: Path) -> None:
    """Numbers are exact; without a schema, a key that comes late is missing."""
    polars = library("polars")
    (program,) = recipe("polars", "python")
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - that is the test
    sealed = len(journal_lines(sealed=True))
    assert names["events"]["cents"].to_list() == cents(sealed)
    assert names["events"]["recorded_at"].is_sorted()
    guessed = polars.scan_ndjson("mystore/journal.0*.jsonl", infer_schema_length=20).collect_schema()
    assert "late" not in str(guessed)


def test_pandas_reads_sealed_segments(mystore: Path) -> None:
    """Ids stay texts and numbers exact; without `dtype=False` they do not."""
    pandas = library("pandas")
    (program,) = recipe("pandas", "python")
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - that is the test
    sealed = len(journal_lines(sealed=True))
    assert names["events"]["cents"].tolist() == cents(sealed)
    assert names["events"]["event_id"][7] == "0007"
    guessed = pandas.read_json(names["segments"][0], lines=True)
    assert guessed["event_id"][7] == 7
    assert pandas.Series([{"cents": BIG}, {}]).str["cents"][0] == BIG - 1


def test_pyarrow_reads_sealed_segments(mystore: Path) -> None:
    """Long lines too; with its default block size, those stop it."""
    library("pyarrow")
    (program,) = recipe("pyarrow", "python")
    with opened() as store:
        store.append("order:1", [UntypedEvent("Paid", {"cents": 60, "text": "x" * 3_000_000})], ANY)
        fill(store, 61, 80)
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - that is the test
    sealed = len(journal_lines(sealed=True))
    assert [data["cents"] for data in names["events"]["data"].to_pylist()] == [*cents(60), 60, *cents(sealed)[61:]]
    (long,) = [path for path in names["segments"] if Path(path).stat().st_size > 3_000_000]
    with pytest.raises(names["pa"].ArrowInvalid, match="block size"):
        names["pj"].read_json(long, parse_options=names["parse"])


def test_lnav_knows_the_format(mystore: Path) -> None:
    """It shows every event as one line, and answers SQL."""
    tool("lnav")
    (block,) = recipe("Browse with lnav")
    install, show, ask = block.splitlines()
    output(install)
    shown = sorted(lines(output(show)), key=lambda line: int(line.split()[1]))  # Within a millisecond in any order.
    assert [int(line.split()[1]) for line in shown] == [*range(1, EVENTS + 1)]
    assert re.fullmatch(rf"\S+ +1 order:000@0 Paid \{{.*{BIG}\}}", shown[0])
    assert re.findall(r"(Ordered|Paid)\W+(\d+)", output(ask)) == [("Ordered", "40"), ("Paid", "20")]
    query = "SELECT json_extract(log_body, '$.cents') AS cents FROM hangarlog WHERE position = 1"
    assert output(f'lnav -n -c ";{query}" -c ":write-csv-to -" mystore/journal*.jsonl').split() == ["cents", str(BIG)]
    with opened() as store:
        position = store.append("order:1", [UntypedEvent("Paid", {"text": "\x1b[31m"})], ANY).last_position
    assert position == EVENTS + 1
    assert "\x1b" not in output(show.replace("journal*", "journal"))
