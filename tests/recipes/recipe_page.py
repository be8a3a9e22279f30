"""The page of recipes: its blocks, and a folder in which they run as somebody would type them."""

from __future__ import annotations

import importlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from hangarlog import ANY, FileEventStore, UntypedEvent

PAGE = ROOT / "docs" / "recipes.md"
BIG = 9_007_199_254_740_993
"""2^53 + 1, which no 64-bit float is equal to."""
SECONDS = 60
"""Until a test gives up on a tool that does not get on."""
EVENTS = 60


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(text)


def recipe(title: str, language: str = "sh") -> list[str]:
    """The blocks of a section in a language. A test unpacks them, so that it misses none."""
    return re.findall(rf"^```{language}\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)


def table(title: str, head: str) -> list[str]:
    """The commands in the first column of a table of a section, and in the second one if it has any."""
    (rows,) = re.findall(rf"^\| what was done \| {head}\|\n\|[- |]+\n((?:\|.*\n)+)", section(title), re.MULTILINE)
    return str(rows).splitlines()


def commands_in(row: str) -> list[str]:
    return re.findall(r"`([^`]+)`", row)


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a block; an error of any of its lines is its error."""
    return subprocess.run(
        ["sh", "-ec", command],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        check=False,
        timeout=SECONDS,
    )


def output(command: str, **environment: str) -> str:
    """What a block prints. It must not fail."""
    done = shell(command, **environment)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@contextmanager
def running(command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that does not end, with all that it starts."""
    process = subprocess.Popen(
        ["sh", "-ec", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def next_line(process: subprocess.Popen[bytes]) -> bytes:
    """What a running command prints next, unbuffered, because `select` sees only what the pipe has."""
    assert process.stdout
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        assert ready, f"nothing came after {line!r}"
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, f"it ended after {line!r}"
        line += byte
    return line


def until(happened: Callable[[], object]) -> None:
    """Return when it has happened."""
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end, "it does not happen"
        threading.Event().wait(0.01)


def library(name: str) -> Any:
    """A module of the extra `recipes`; skips without it, or fails where CI says that it must be there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        message = f"{name} is not installed"
        if os.environ.get("HANGARLOG_REQUIRE_TOOLS"):
            pytest.fail(message)
        pytest.skip(message)


def fill(store: FileEventStore, first: int, last: int) -> None:
    """Append orders: texts that tools stumble over, numbers beyond a float, a key that only late events have."""
    for number in range(first, last):
        data: dict[str, Any] = {"item": f"tea \u2028 \U0001f600 {number}", "cents": BIG if number % 5 == 0 else number}
        if number >= 30:
            data["late"] = {"by": [number, None]}
        kind = "Paid" if number % 3 == 0 else "Ordered"
        store.append(f"order:{number % 4:03}", [UntypedEvent(kind, data, event_id=f"{number:04}")], ANY)


def opened(path: str = "mystore", **options: Any) -> FileEventStore:
    return FileEventStore.untyped(path, **{"durability": "relaxed", "segment_bytes": 2000, **options})


def events_in(path: str = "mystore") -> list[tuple[Any, ...]]:
    """All that a store says of its events, after it was verified."""
    from hangarlog.maintenance.verify import verify

    with opened(path, create=False) as store:
        assert list(verify(store)) == []
        streams = {stream: [event.data for event in store.read_stream(stream)] for stream in store.list_streams()}
        assert sum(map(len, streams.values())) == store.get_event_count()
        return [(r.position, r.stream_id, r.stream_version, r.event.event_type, r.event.data) for r in store.records()]


def journal_lines(path: str = "mystore", *, sealed: bool = False) -> list[bytes]:
    """The lines of the journal's segments, in order."""
    names = sorted(Path(path).glob("journal.0*.jsonl")) + [Path(path) / "journal.jsonl"] * (not sealed)
    return [line for name in names for line in name.read_bytes().splitlines(keepends=True)]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with `tools`, with this checkout's `hangarlog` on the path."""
    program = tmp_path / "bin" / "hangarlog"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m hangarlog "$@"\n')
    program.chmod(0o755)
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    (tmp_path / "home").mkdir()
    folders = [str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mystore(desk: Path) -> Path:
    """A store `mystore` with 60 events in seven segments, that nobody has open."""
    with opened() as store:
        fill(store, 0, EVENTS)
    assert len(journal_lines(sealed=True)) < EVENTS
    return desk / "mystore"
