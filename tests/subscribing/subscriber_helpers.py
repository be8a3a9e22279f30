"""Processes and stores of the tests of subscribers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT

from hangarlog import FileEventStore, UntypedEvent

PROGRAMS = Path(__file__).parent / "subscriber_programs.py"


@contextlib.contextmanager
def running(command: str, path: Path, name: str, number: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a command of the programs; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAMS), command, str(path), name, str(number)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next lines that a process prints."""
    assert process.stdout
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def opened(path: Path, **options: Any) -> FileEventStore[UntypedEvent]:
    return FileEventStore.untyped(path, durability="relaxed", **options)


def fill(store: FileEventStore[UntypedEvent], count: int, streams: int = 5) -> None:
    for number in range(count):
        store.append_at_end(f"in:{number % streams}", [UntypedEvent("Asked", {"number": number})])


def answered(store: FileEventStore[UntypedEvent], until: int | None = None) -> Counter[int]:
    """How often each event was answered, up to a position."""
    return Counter(record.event.data["position"] for record in store.records(category="out", to_position=until))
