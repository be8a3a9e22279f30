"""What the tests share: event classes, stores, and the tools of others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from hangarlog import FileEventStore
from hangarlog.testing import registered

DATABASE = Path(__file__).parent / "data" / "mcp-hangar-events.db"
ROOT = Path(__file__).parent.parent


class Added(msgspec.Struct, frozen=True):
    """The tests' usual event."""

    number: int
    text: str = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the campaigns come first: one of two processes that share the files of tests is busy with them."""
    items.sort(key=lambda item: item.path.name != "test_campaigns.py")


def named(value: object) -> str:
    """Return the id of a test for `value`: its text, without the addresses that differ in each process."""
    return re.sub(" at 0x[0-9a-f]+", "", str(value))


@pytest.fixture(autouse=True)
def added_is_registered() -> Iterator[None]:
    with registered(Added=Added):
        yield


@pytest.fixture
def ring_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a store of this process create its commit ring at its first sync."""
    monkeypatch.setattr("hangarlog.filestore.group_sync.SYNCS_BEFORE_RING", 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileEventStore]:
    with FileEventStore(tmp_path / "store", durability="relaxed") as opened:
        yield opened


@pytest.fixture
def small(tmp_path: Path) -> Iterator[FileEventStore]:
    """A store whose segments roll every few events."""
    with FileEventStore(tmp_path / "store", durability="relaxed", segment_bytes=1000) as opened:
        yield opened


def tool(name: str) -> str:
    """The path of a program the tests did not write; skips, or fails where CI says it must be there."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed"
        if os.environ.get("HANGARLOG_REQUIRE_TOOLS"):
            pytest.fail(message)
        pytest.skip(message)
    return path


Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def hangarlog(tmp_path: Path) -> Command:
    """Run the command line in an empty folder."""

    def run(*arguments: object, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "hangarlog", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            timeout=120,
        )

    return run
