"""What the tests of the doctor share: an examination that proves that it changes nothing, stores, and mounts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from conftest import ROOT

from hangarlog import ANY, EncodedEvent, FileEventStore, UntypedEvent
from hangarlog.doctor.examination import examine
from hangarlog.doctor.finding import Finding
from hangarlog.system.read_only import ReadOnly

HARMLESS = ("ok", "note")


class Watched(ReadOnly):
    """A file system that takes no lock and changes nothing."""

    def _never(self, *arguments: object, **options: object) -> NoReturn:
        raise AssertionError(arguments)

    lock = hold_byte = write = write_at = truncate = sync_data = become = leave_byte = unlock = _never  # type: ignore[assignment]


def everything(path: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(file): (file.read_bytes() if file.is_file() else b"", file.lstat().st_mtime_ns, file.lstat().st_mode)
        for file in sorted(path.rglob("*"))
        if not file.is_fifo()
    }


def examined(path: Path, *, thorough: bool = False) -> list[Finding]:
    """All findings; fails if the store was changed, or a check failed."""
    before = everything(path)
    findings = list(examine(path, thorough=thorough, filesystem=Watched()))
    assert everything(path) == before
    assert [finding for finding in findings if finding.kind == "check-failed"] == []
    return findings


def only(path: Path, kind: str, **options: Any) -> Finding:
    """The one finding of a kind."""
    (finding,) = [finding for finding in examined(path, **options) if finding.kind == kind]
    return finding


def has(path: Path, kind: str, **options: Any) -> bool:
    return any(finding.kind == kind for finding in examined(path, **options))


def treat(finding: Finding) -> str:
    """Run what the finding advises, as somebody would who pastes it; what it prints."""
    command = finding.next.replace("sudo ", "")
    program = f"{sys.executable} -m hangarlog"
    done = subprocess.run(
        ["sh", "-ec", command.replace("hangarlog ", f"{program} ") if command.startswith("hangarlog") else command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, (finding, done.stderr)
    return done.stdout


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def numbered(count: int, size: int = 10, recorded: Sequence[datetime | None] = (None,)) -> list[EncodedEvent]:
    data = msgspec.json.encode({"text": "x" * size})
    return [EncodedEvent("Added", data, recorded_at=recorded[number % len(recorded)]) for number in range(count)]


def made(path: Path, count: int = 10, **options: Any) -> Path:
    """A store with some events, closed."""
    with FileEventStore.untyped(path, **options) as store:
        for number in range(count):
            store.append(f"a:{number % 3}", [UntypedEvent("Added", {"number": number})], ANY)
    return path


@contextmanager
def elsewhere(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program in another process; it prints a line when it is ready, and ends with its input."""
    program = f"import os, sys\nfrom hangarlog import *\n{code}\nprint('ready', flush=True)\nsys.stdin.read()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.communicate()


@contextmanager
def reachable() -> Iterator[Path]:
    """A folder that other users may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def nobody() -> Iterator[None]:
    """Be another user than root for the block."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def mounted(tmp_path: Path, script: str, **environment: str) -> list[Finding]:
    """The findings that the last line of a script prints, which may mount in a namespace of its own; `$d` is doctor."""
    from campaigns.disks import no_mounts

    if reason := no_mounts():
        pytest.skip(reason)
    program = f"{sys.executable} -m hangarlog"
    script = script.replace("$d", f"{program} doctor").replace("$h", program)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout, done.stderr
    lines = [line for line in done.stdout.splitlines() if '"kind"' in line]
    return [msgspec.json.decode(line, type=Finding) for line in lines]


def of_kind(findings: list[Finding], kind: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.kind == kind]
    return finding


def program(path: Path, code: str) -> list[Finding]:
    """The findings of another process, which runs `code` first."""
    text = f"import sys, msgspec, os\nfrom hangarlog.doctor.examination import examine\nimport ctypes, zlib\n{code}\n"
    text += f"found = list(examine({str(path)!r}))\nsys.stdout.buffer.write(msgspec.json.encode(found))\n"
    done = subprocess.run(
        [sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    return msgspec.json.decode(done.stdout, type=list[Finding])
