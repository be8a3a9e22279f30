"""Commands that may not write another byte say which of their files is missing and what to do, and leave no pieces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from hangarlog import ANY, FileEventStore, UntypedEvent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this system has no limit of a file's size")

MODULE = "import msgspec, hangarlog\n\n\n@hangarlog.register_event_type\nclass T(msgspec.Struct):\n    x: int\n"
"""The application's events."""


def run(folder: Path, *words: str, blocks: int = 0) -> tuple[int, str]:
    """Run a command that cannot make a file longer than so many blocks. Return (exit code, errors)."""
    command = ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh", sys.executable, "-m", "hangarlog", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("XDG_DATA_HOME", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
    return done.returncode, done.stderr.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "m.py").write_text(MODULE)
    with FileEventStore.untyped(tmp_path / "s") as store:
        store.append("a:1", [UntypedEvent("T", {"x": 1})], ANY)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["backup", "s", "b"], "the backup to b is not complete: "),
        (["export", "s", "e.jsonl"], "no file e.jsonl was written: "),
        (["completion", "bash", "--install"], "the script was not installed: "),
        (["schema", "lock", "--events", "m", "--lock", "l.json"], "the lock file l.json was not written: "),
        (["import", "new", "s/journal.jsonl"], "cannot open the store "),
        (["bench", ".", "--seconds", "0.1", "--processes", "1"], "cannot measure "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_message_names_what_is_missing_and_the_next_step(folder: Path, words: list[str], told: str) -> None:
    code, errors = run(folder, *words)
    last = errors.splitlines()[-1]
    assert (code, told in last, "too large" in last) == (1, True, True), last
    assert "; " in last or ". " in last  # The next step.
    assert not any(wrong in last for wrong in ("write permission", "None"))
    kept = {folder / "b", folder / "new"}  # The next backup, or the next creation of the store, goes on with its own.
    pieces = [path for path in folder.rglob("*.*") if path.suffix in (".new", ".unfinished") or "bench" in path.name]
    assert [path for path in pieces if not kept & {path, *path.parents}] == []


def test_an_import_that_cannot_write_says_only_what_is_true(folder: Path) -> None:
    """The sync after it fails as well, and its error would say that the event is written."""
    with FileEventStore.untyped(folder / "other") as store:
        store.append("b:1", [UntypedEvent("T", {"x": 1})], ANY)
    (folder / "s/ring").unlink(missing_ok=True)
    code, errors = run(folder, "import", "s", "other/journal.jsonl")
    assert (code, "nothing was written" in errors, "it is written" in errors) == (1, True, False)
    assert run(folder, "verify", "s", blocks=100_000) == (0, "")


def test_a_line_that_does_not_fit_into_the_shells_file_leaves_no_part_of_it(folder: Path) -> None:
    start = folder / "home/.bashrc"
    start.write_text("#" * 4090 + "\n")
    before = start.read_bytes()
    code, errors = run(folder, "completion", "bash", "--install", blocks=8)
    assert (code, start.read_bytes()) == (1, before)
    script = folder / "home/.local/share/bash-completion/completions/hangarlog"
    assert f"{script} was written, but the line that reads it was not added: " in errors
    code, errors = run(folder, "completion", "bash", "--install", blocks=100)
    assert (code, errors) == (0, "")


def test_a_shells_file_that_is_no_file_is_refused_before_anything_is_written(folder: Path) -> None:
    os.mkfifo(folder / "home/.bashrc")
    code, errors = run(folder, "completion", "bash", "--install", blocks=100)
    assert (code, "is no file" in errors) == (2, True)
    assert [path.name for path in (folder / "home").iterdir()] == [".bashrc"]
