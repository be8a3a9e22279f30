"""`hangarlog bench` as it is called: what it prints where, its exit codes, and what it leaves."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command
from test_terminal import IN_NAMES, assert_harmless, shown_by

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.cli import bench

QUICKLY = ["--seconds", "0.1", "--processes", "2"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
DOCUMENT = {
    "": "benchmark hangarlog machine payload rounds seconds stopped measures warnings verdict",
    "machine": "system python cores load folder store file_system",
    "payload": "source events classes bytes line_bytes",
    "measures": "name title group beside processes batch calls events seconds events_per_second bytes_per_second "
    "p50_us p99_us p999_us max_us spread disk_us hangarlog_us histogram",
}
"""The keys that programs rely on. If one goes or changes its meaning, the version rises."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "s"
    with FileEventStore.untyped(path) as made:
        made.append("a:1", [UntypedEvent("Noted", {"text": "x" * number}) for number in range(10)], ANY)
    return path


def content(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_in_a_pipe_it_is_one_json_object_with_the_documented_keys(hangarlog: Command, store: Path) -> None:
    """A store is measured beside it, with its own payloads, and not touched."""
    before = content(store)
    done = hangarlog("bench", *QUICKLY, "--stored", HANGARLOG_STORE=str(store))
    assert done.returncode == 0, done.stderr
    assert content(store) == before
    assert list(store.parent.iterdir()) == [store]
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    assert found["benchmark"] == 1
    for key, names in DOCUMENT.items():
        value = found[key] if key else found
        for each in value if isinstance(value, list) else [value]:
            assert list(each) == names.split(), key
    page = (ROOT / "docs/bench.md").read_text()
    assert [name for names in DOCUMENT.values() for name in names.split() if f"`{name}`" not in page] == []
    assert [each["name"] for each in found["measures"] if f"`{each['name']}`" not in page] == []
    assert (found["machine"]["store"], found["machine"]["folder"]) == (str(store), str(store.parent))
    assert found["payload"] | {"bytes": 0, "line_bytes": 0} == {
        "source": f"the newest events of {store}",
        "events": 10,
        "classes": 1,
        "bytes": 0,
        "line_bytes": 0,
    }
    assert b"which are removed at the end" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_with_what_it_has_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "hangarlog", "bench", str(tmp_path), "--processes", "2"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        # A shell that runs the tests in its background has them ignore it.
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),
    )
    assert running.stderr
    assert b"measuring for 60 s" in running.stderr.readline()
    running.send_signal(number)
    out, errors = running.communicate()
    assert (running.returncode, json.loads(out)["stopped"]) == (130, "interrupted")
    assert errors.splitlines()[-1] == b"hangarlog: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["missing"], 1, "No such file or directory: missing"),
        (["file"], 1, "Not a directory: file"),
        ([".", "--quick", "--seconds", "5"], 2, "--quick and --seconds contradict each other"),
        ([".", "--size", "100", "--payload", "file"], 2, "--payload, --size and --stored exclude each other"),
        ([".", "--stored"], 2, "--stored needs a store"),
        ([".", "--size", "5"], 2, "5 is not in the range"),
        ([".", "--payload", "missing"], 2, "missing: No such file or directory"),
        ([".", "--payload", "."], 2, ".: Is a directory"),
        ([".", "--payload", "file"], 2, "file: it is no JSON object"),
        ([".", "--payload", "-"], 2, "standard input: it is empty"),
    ],
)
def test_what_cannot_be_measured_is_said(
    hangarlog: Command, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    (tmp_path / "file").write_text("no JSON")
    done = hangarlog("bench", *words, HANGARLOG_STORE="")
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert said in done.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_on_a_terminal_it_prints_tables_and_a_verdict(tmp_path: Path) -> None:
    """Whatever the folder is called, and in the letters that the terminal has."""
    folder = tmp_path / IN_NAMES
    folder.mkdir()
    (text,) = shown_by(tmp_path, [["bench", str(folder), *QUICKLY]], PYTHONIOENCODING="ascii")
    assert_harmless(text)
    assert text.isascii()
    for part in ("one append at a time", " = ", "#####", "verdict", "has an event"):
        assert part in text


@pytest.mark.parametrize(("encoding", "shows"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_blocks_are_drawn_where_the_terminal_has_them(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shows: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    assert bench._shows_unicode() is shows


def test_no_other_command_pays_for_its_imports() -> None:
    program = "import sys, hangarlog.cli.bench; print([name for name in sys.modules if 'hangarlog.benchmark' in name])"
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
