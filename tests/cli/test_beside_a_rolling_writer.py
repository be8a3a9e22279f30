"""Every command that reads, beside a writer that seals a segment with nearly every append: none fails, none lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from hangarlog.cli.app import hangarlog

WRITER = """
import sys
from hangarlog import ANY, FileEventStore, UntypedEvent
with FileEventStore.untyped(sys.argv[1], durability="relaxed", segment_bytes=300) as store:
    number = 0
    while True:
        batch = [(f"c{number % 3}:{n}", [UntypedEvent("T", {"number": number})], ANY) for n in range(number % 4 + 1)]
        move = store.cursor("reader").at(store.get_event_count()) if number % 5 == 0 else None
        store.append_many(batch, cursor=move)
        number += 1
        if number == 20:
            print("rolling", flush=True)
        if number > 20:
            sys.stdin.read(0)
        if number % 50 == 0:
            store.compact_stream("c0:0") if store.load_snapshot("c0:0") else None
            store.save_snapshot("c0:0", store.get_stream_version("c0:0"), {})
"""


@pytest.fixture
def rolling(tmp_path: Path) -> Iterator[Path]:
    """A store that another process writes to."""
    path = tmp_path / "s"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        assert writer.stdout
        assert writer.stdout.readline() == b"rolling\n"
        yield path
        assert writer.poll() is None, "the writer failed"
    finally:
        writer.kill()
        writer.communicate()


COMMANDS = {
    "stats": ["stats", "{s}"],
    "streams": ["streams", "{s}", "-l", "--path"],
    "read": ["read", "{s}"],
    "read a stream": ["read", "{s}", "c1:0"],
    "read backwards by type": ["read", "{s}", "--reverse", "--type", "T", "--limit", "50"],
    "read by time": ["read", "{s}", "--since", "1h", "--category", "c2"],
    "tail": ["tail", "{s}"],
    "tail a stream": ["tail", "{s}", "c0:0", "-n", "3"],
    "export": ["export", "{s}", "-"],
    "export a database": ["export", "{s}", "{new}.db"],
    "verify": ["verify", "{s}"],
    "verify read-only": ["verify", "{s}", "--read-only"],
    "subscribers": ["subscribers", "{s}"],
    "schema show": ["schema", "show", "{s}"],
    "backup": ["backup", "{s}", "{new}"],
}


def test_no_command_that_reads_fails_because_a_writer_rolls(
    rolling: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Each prints a prefix of the history, in order and whole."""
    places = {"{s}": str(rolling), "{new}": str(tmp_path / "new"), "{new}.db": str(tmp_path / "new.db")}
    for name, words in COMMANDS.items():
        code = hangarlog.main([places.get(word, word) for word in words], standalone_mode=False)
        found = capsysbinary.readouterr()
        assert (code or 0, found.err) == (0, b""), name
        rows = [json.loads(line) for line in found.out.splitlines()]
        assert rows, name
        assert all(row.get("damaged", 0) == 0 for row in rows), name
        if name in ("read", "export"):
            assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
        if name == "streams":
            live = [rolling / "streams" / f"{row['stream_id'].replace(':', '/')}.jsonl" for row in rows]
            assert [row["paths"][-1] for row in rows] == list(map(str, live))
