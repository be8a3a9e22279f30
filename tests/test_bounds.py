"""What a store takes of memory and time is bounded by what it is given: by a payload, by the size of a file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import ROOT, Added
from limits import run_limited

from hangarlog import ANY, CorruptionWarning, EventStore, FileEventStore, MemoryEventStore, TooLargeError
from hangarlog.log.log import Log
from hangarlog.maintenance.verify import verify
from hangarlog.record import batch
from hangarlog.record.envelope import Envelope

pytest.importorskip("resource")

TEXT = 8 << 20
"""Bytes of a payload."""


TEXTS = {
    "letters": "'x' * size",
    "brackets": "'[' * size",
    "200 brackets and letters": "'[' * 200 + 'x' * size",
    "quotes": "'\"' * (size // 2)",
    "quotes and brackets": "'\"[' * (size // 3)",
    "backslashes": "'\\\\' * (size // 2)",
    "digits": "'1' * size",
    "commas": "',[' * (size // 2)",
    "newlines": "'\\n[' * (size // 3)",
    "controls": "'\\x01' * (size // 6)",
    "what NaN becomes": "'null[' * (size // 5)",
    "Latin letters": "'\\xe9[' * (size // 3)",
    "Chinese": "'\\u4e2d' * (size // 3)",
}
ARRAYS = {
    "numbers": "list(range(1000, 1000 + size // 7))",
    "zeros": "[0] * (size // 2)",
    "texts with brackets": "['\"[' for _ in range(size // 6)]",
    "a large object": "{str(i): i for i in range(size // 20)}",
    "fractions": "[i + 0.5 for i in range(size // 11)]",
}
MADE = (
    "size = int(sys.argv[2]); value = {}; store = opened(sys.argv[1])\n"
    "store.append('b:1', [UntypedEvent('T', dict())], ANY)\n"
)


@pytest.mark.parametrize("made", TEXTS.values(), ids=TEXTS)
def test_no_text_takes_more_than_eight_times_its_size(tmp_path: Path, made: str) -> None:
    """To append it, and to read it again; with the text itself, whatever is in it."""
    append = "limit(more); " + MADE.format(made) + "store.append('a:1', [UntypedEvent('T', {'x': value})], ANY)"
    run_limited(append, 8 * TEXT, tmp_path / "s", TEXT)
    read = (
        "store = opened(sys.argv[1]); list(hangarlog.maintenance.verify.verify(store)); limit(more)\n"
        "assert len(store.read_stream('a:1')) == 1; assert len(list(store.records(reverse=True))) == 2"
    )
    run_limited(read, 8 * TEXT, tmp_path / "s")


@pytest.mark.parametrize("made", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("event", ["UntypedEvent('T', {'x': value})", "Any_(value)"])
def test_no_value_takes_more_than_eight_times_its_text_beside_itself(tmp_path: Path, made: str, event: str) -> None:
    """Numbers take more than their text, so the caller's own object comes on top; it is not made a second time."""
    made = (
        "import msgspec, typing\nclass Any_(msgspec.Struct):\n    x: typing.Any\nevent(Any_)\n"
        + MADE.format(made)
        + f"limit(more); store.append('a:1', [{event}], ANY)"
    )
    run_limited(made, 8 * TEXT, tmp_path / "s", TEXT)


@pytest.mark.parametrize("kind", ["metadata", "snapshot", "batch"])
def test_metadata_snapshots_and_batches_are_bounded_as_payloads_are(tmp_path: Path, kind: str) -> None:
    """The text is in one of several places of an append."""
    calls = {
        "metadata": "store.append('a:1', [UntypedEvent('T', {})], ANY, metadata={'x': value})",
        "snapshot": "store.save_snapshot('b:1', 0, {'x': value}); store.load_snapshot('b:1')",
        "batch": "store.append('a:1', [UntypedEvent('T', {'x': value}), UntypedEvent('T', {})], ANY)",
    }
    run_limited(
        "limit(more); " + MADE.format(TEXTS["quotes and brackets"]) + calls[kind], 8 * TEXT, tmp_path / "s", TEXT
    )


@pytest.mark.parametrize("kind", [FileEventStore, MemoryEventStore])
def test_an_event_that_no_line_can_hold_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[EventStore]
) -> None:
    """So is a batch that no index could say the end of."""
    monkeypatch.setattr(batch, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(batch, "MAX_BATCH_BYTES", 3000)
    with kind(tmp_path / "s") if kind is FileEventStore else kind() as store:  # type: ignore[call-arg]
        with pytest.raises(TooLargeError, match=r"the event takes 1[0-9]* bytes, the limit is 1000"):
            store.append("a:1", [Added(1, "x" * 1000)], ANY)
        with pytest.raises(TooLargeError, match="event takes"):
            store.append_many([("a:1", [Added(1)], ANY), ("b:1", [Added(1, "x" * 1000), Added(2)], ANY)])
        with pytest.raises(TooLargeError, match=r"the batch takes [0-9]* bytes.*several batches"):
            store.append("a:1", [Added(number, "x" * 500) for number in range(5)], ANY)
        assert store.get_event_count() == 0
        assert store.append("a:1", [Added(1, "x" * 700)], ANY) == 0


def test_pages_that_a_power_cut_took_are_no_damage_however_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros in the place of many lines make one line of their own, longer than any that is written."""
    monkeypatch.setattr("hangarlog.log.segment.MAX_LINE_BYTES", 1 << 20)
    cut = tmp_path / "cut"
    with FileEventStore(tmp_path / "whole", durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
        store.sync()
        end = os.path.getsize(store.folder.journal.active_path)
        for number in range(30):
            store.append("b:1", [Added(number, "x" * 100_000)], ANY)
        shutil.copytree(store.path, cut)
    (cut / "state").unlink()
    shutil.rmtree(cut / "streams" / "b")
    with open(cut / "journal.jsonl", "r+b") as journal:
        journal.seek(end + 4096 - end % 4096)
        journal.write(bytes(2 << 20))
    with pytest.warns(CorruptionWarning, match="put into"):
        store = FileEventStore(cut)
    with store:
        assert store.get_event_count() == 1
        assert (cut / "put-aside.jsonl").exists()


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("content", [b"", b"somebody's\n", b'{"position":1,"stream_id":"a:1"'])
def test_the_journal_is_read_once_for_all_files_that_are_no_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, lost: bool
) -> None:
    """Whether their names could be those of streams, or of ones that were cut; when it is opened, and listed."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append_many([("a:1", [Added(1)], ANY), ("b" * 300, [Added(1)], ANY)])
    for number in range(100):
        for name in (f"x{number}", f"y{number}~{'0' * 64}", f"Y{number}"):
            (tmp_path / f"s/streams/{name}.jsonl").write_bytes(content)
    if lost:
        (tmp_path / "s/state").unlink()
    passes: list[str] = []
    forward = Log.forward

    def counted(log: Log, start: int, limit: int | None = None) -> Iterator[Sequence[Envelope]]:
        passes.append(log.name)
        return forward(log, start, limit)

    monkeypatch.setattr(Log, "forward", counted)
    with FileEventStore(tmp_path / "s") as store:
        assert store.list_streams() == ["a:1", "b" * 300]
        assert store.list_streams("x1") == []
        assert list(verify(store)) == [] or content
    assert passes.count("journal") < 10


def test_folders_within_folders_are_somebody_elses(tmp_path: Path) -> None:
    """However deep: Python's own stack would not reach so far."""
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(1)], ANY)
    before = os.getcwd()
    for folder in ("s/streams", "s/streams/a", "s"):
        os.chdir(tmp_path / folder)
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
        os.chdir(before)
    for words in (["stats"], ["streams"], ["verify"], ["repair"], ["backup", tmp_path / "copy"]):
        done = subprocess.run(
            [sys.executable, "-m", "hangarlog", words[0], tmp_path / "s", *words[1:]],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr[-500:]
    for folder in ("s/streams", "s/streams/a", "s"):
        subprocess.run(["rm", "-r", tmp_path / folder / "d"], check=True)  # Too deep for Python's own.


LISTS = """
import subprocess
from hangarlog.record.line import encode_records
path = sys.argv[1]
value = b'{"_version":1,"x":[' + b",".join([b"[]"] * (int(sys.argv[2]) // 3)) + b"]}"
with opened(path) as store:
    store.append("a:1", [UntypedEvent("T", {})], ANY)
for name in ("ring", "checkpoint.json"):
    if os.path.exists(f"{path}/{name}"):
        os.remove(f"{path}/{name}")
(line,), _ = encode_records(2, "a:1", 1, [("T", "e", value, None, None)], b"2026-01-01T00:00:00.000000Z")
for name in ("journal.jsonl", "streams/a/1.jsonl"):
    with open(f"{path}/{name}", "ab") as file:
        file.write(line)
"""


def test_lists_of_lists_cost_a_check_or_an_export_a_small_multiple(tmp_path: Path) -> None:
    """As objects they take 27 times their text; nobody needs these to look for keys that come twice."""
    run_limited(LISTS, 0, tmp_path / "s", TEXT)
    check = (
        "store = opened(sys.argv[1]); from hangarlog.filestore.stored_lines import as_stored\nlimit(more)\n"
        "assert list(hangarlog.maintenance.verify.verify(store)) == []\n"
        "assert sum(len(lines) for _, lines in as_stored(store, store.envelopes())) == 2\n"
    )
    run_limited(check, 8 * TEXT, tmp_path / "s")


COMMAND = """
from hangarlog.cli.main import main
import hangarlog.cli.inspect, hangarlog.cli.read, hangarlog.cli.schema, hangarlog.cli.transfer
limit(more)
sys.argv = ["hangarlog", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    print(ended.code)
"""


@pytest.mark.parametrize("command", ["verify", "read", "tail", "stats", "export", "schema show", "streams"])
def test_a_command_without_enough_memory_says_so(tmp_path: Path, command: str) -> None:
    """It is one line, with the place or the store, and an exit code; never a traceback."""
    run_limited(LISTS, 0, tmp_path / "s", TEXT)
    words = [*command.split(), str(tmp_path / "s"), *([str(tmp_path / "o.jsonl")] if command == "export" else [])]
    program = COMMAND.replace("print(ended.code)", "os._exit(17 if ended.code == 1 else 18)")
    with pytest.raises(AssertionError, match="it ended with 17") as met:
        run_limited(program, TEXT // 2, *words)
    assert "hangarlog: not enough memory for " in str(met.value)
    assert str(tmp_path / "s") in str(met.value)
    assert "Traceback" not in str(met.value)
