"""`import` takes back what `export` wrote, in every format, and says what it did not take."""

from __future__ import annotations

import gzip
import io
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click
import pytest
from conftest import DATABASE, ROOT, Command, tool

from hangarlog import FileEventStore, OutcomeUnknownError, SourceError, UntypedEvent
from hangarlog.cli.app import hangarlog as group

Run = Callable[..., bytes]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command in this process, and return its output."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str, stdin: bytes = b"", code: int = 0) -> bytes:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        assert (group.main([*words], standalone_mode=False) or 0) == code
        return capsysbinary.readouterr().out

    return command


@pytest.fixture
def source(tmp_path: Path) -> None:
    """A store with what MCP Hangar wrote, and a batch."""
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed", segment_bytes=100_000) as store:
        group.main(["import", store.path, str(DATABASE)], standalone_mode=False)
        store.append_at_end("a:1", [UntypedEvent("T", {"n": 1.50}, event_id="x"), UntypedEvent("T", {}, event_id="y")])


@pytest.mark.usefixtures("source")
def test_every_format_goes_both_ways(run: Run, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """JSON lines byte for byte, by a file or a pipe; a database with its rows. The format follows from the file."""
    capsysbinary.readouterr()
    taken = {"taken": 760, "already": 0, "streams": 5, "snapshots": 0}
    text = run("export", "s", "-")
    run("export", "s", "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == text
    assert json.loads(run("import", "by-file", "out.jsonl")) == taken
    assert json.loads(run("import", "by-pipe", "-", stdin=text)) == taken
    os.rename("out.jsonl", "out.export")
    assert json.loads(run("import", "by-content", "out.export")) == taken
    for store in ("by-file", "by-pipe", "by-content"):
        assert run("export", store, "-") == text
        assert json.loads(run("import", store, "-", stdin=text)) == {**taken, "taken": 0, "already": 760}
    events = run("export", "s", "-", "--format", "cloudevents")
    assert json.loads(run("import", "by-events", "-", stdin=events)) == taken
    run("export", "s", "out.db")
    assert json.loads(run("import", "by-database", "out.db")) == taken
    run("export", "by-database", "again.db")
    assert rows(tmp_path / "again.db") == rows(tmp_path / "out.db")
    assert json.loads(run("verify", "by-file"))["damaged"] == 0


def rows(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT * FROM events ORDER BY global_position").fetchall()


@pytest.mark.usefixtures("source")
def test_what_is_wrong_with_a_source_is_said(run: Run, tmp_path: Path) -> None:
    """And no store is made for a source that cannot be read."""
    text = run("export", "s", "-")
    (tmp_path / "out.gz").write_bytes(gzip.compress(text))
    for name in ("text", "text.jsonl"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "folder.jsonl").mkdir()
    for words, cause in (
        (["out.gz"], "cannot import out.gz: it is compressed by gzip"),
        (["text"], "cannot import text: it is not a SQLite database"),
        (["text.jsonl"], "cannot import text.jsonl: line 1: the line does not start with"),
        (["none.jsonl"], "cannot import none.jsonl: it cannot be read: No such file"),
        (["folder.jsonl"], "it cannot be read: Is a directory"),
    ):
        with pytest.raises(SourceError, match=cause):
            run("import", "t", *words)
    for words, cause in (
        (["s"], "s is a store; copy it by `hangarlog backup`"),
        (["-", "--format", "db"], "a database cannot be read from standard input"),
    ):
        with pytest.raises(click.UsageError, match=cause):
            run("import", "t", *words)
    assert not (tmp_path / "t").exists()


def test_an_import_that_ends_early_says_what_it_took(hangarlog: Command, tmp_path: Path) -> None:
    """With exit code 1 and the line. Run again with a whole source, it takes the others."""
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for _ in range(5):
            store.append_at_end("a:1", [UntypedEvent("T", {})])
    text = (tmp_path / "s/journal.jsonl").read_bytes()
    done = hangarlog("import", "t", "-", stdin=text[:-10])
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == [
        "hangarlog: 4 events were imported before this; run it again for the others",
        "hangarlog: cannot import standard input: line 5: it is torn: the file ends within it; export it again",
    ]
    again = hangarlog("import", "t", "-", stdin=text)
    assert json.loads(again.stdout) == {"taken": 1, "already": 4, "streams": 1, "snapshots": 0}
    assert (tmp_path / "t/journal.jsonl").read_bytes() == text
    with FileEventStore.untyped(tmp_path / "mine", durability="relaxed") as store:
        store.append_at_end("b:1", [UntypedEvent("T", {})])
    other = hangarlog("import", "mine", "s/journal.jsonl")
    assert other.returncode == 0
    assert other.stderr.startswith(b"hangarlog: the events have other positions than in the source")


def test_events_can_be_piped_from_one_store_into_another_while_they_come(tmp_path: Path) -> None:
    """`tail -f A | import B -` takes each as it comes."""
    tool("sh")
    with (
        FileEventStore.untyped(tmp_path / "a", durability="relaxed") as source,
        FileEventStore.untyped(tmp_path / "b", durability="relaxed") as target,
    ):
        source.append_at_end("a:1", [UntypedEvent("T", {})])
        python = shlex.quote(sys.executable)
        shell = f"{python} -m hangarlog tail a -f --from 0 | {python} -m hangarlog import b -"
        pipeline = subprocess.Popen(
            ["sh", "-c", f"exec 2>errors; {shell}"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        try:
            subscription = target.subscribe(timeout=60)
            for _ in range(3):
                assert next(subscription).stream_id == "a:1"
                source.append_at_end("a:1", [UntypedEvent("T", {})])
        finally:
            os.killpg(pipeline.pid, 9)
            pipeline.wait()
    assert (tmp_path / "errors").read_text() == ""


def test_a_sync_that_fails_is_told_as_an_imports_own(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was appended the second time, so "append again with the same event ids" would be no advice."""
    for name in ("source", "s"):
        with FileEventStore.untyped(tmp_path / name) as store:
            store.append("a:1", [UntypedEvent("T", {}, event_id="x")], -1)
    (tmp_path / "s/journal.jsonl").write_bytes((tmp_path / "source/journal.jsonl").read_bytes())
    (tmp_path / "s/streams/a/1.jsonl").write_bytes((tmp_path / "source/journal.jsonl").read_bytes())

    def refuse(self: FileEventStore) -> None:
        raise OutcomeUnknownError("journal.jsonl", "it is written, but could not be synced: Permission denied")

    monkeypatch.setattr(FileEventStore, "sync", refuse)
    with pytest.raises(SourceError, match=r"Permission denied; run the import again$"):
        run("import", "s", "source/journal.jsonl")
