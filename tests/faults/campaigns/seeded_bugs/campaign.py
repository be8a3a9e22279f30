"""Row 7: the harness itself. Bugs are put into copies of the library, one at a time; a check must fail for each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..harness import ROOT, Campaign, Figures
from .bug import Bug
from .of_archive import OF_ARCHIVE
from .of_crashes import OF_CRASHES
from .of_following import OF_FOLLOWING
from .of_handling import OF_HANDLING
from .of_kept_streams import OF_KEPT_STREAMS
from .of_retention import OF_RETENTION
from .of_upkeep import OF_UPKEEP

HANG = 240.0  # Seconds after which a check counts as hung: far more than any of them takes.

FIRST = (
    "the threads of a store are waited for without limit",
    "an append is acknowledged without a sync of the ring",
    "recovery does not look into the ring",
    "the ring begins again without a sync of the journal",
    "the expected version is not checked",
    "a version is taken from a cache",
    "readers see what is not committed yet",
    "an opener that finds nobody believes the shared state",
    "an open store holds nothing that shows that it is there",
    "the catalog's mark is not compared with the checkpoint's",
    "an append does not compare a stream's end with the catalog",
    "a folder that was moved is used further",
    "a copy with a gap is refused",
    "close() does not wait for the calls that run",
    "the end of the process closes stores under its threads",
    "a device that fails in another call than a sync is believed further",
)
"""The most telling ones of each sort: a small size runs only those."""

BUGS = sorted(
    OF_CRASHES + OF_HANDLING + OF_KEPT_STREAMS + OF_FOLLOWING + OF_UPKEEP + OF_RETENTION + OF_ARCHIVE,
    key=lambda bug: FIRST.index(bug.name) if bug.name in FIRST else len(FIRST),
)

_caught: dict[str, str] = {}
"""What the last run found: bug -> "caught", "hung"."""


def table() -> list[str]:
    """Markdown rows: each bug, and what catches it."""
    return ["| seeded bug | caught by |", "| --- | --- |", *(f"| {bug.name} | {said(bug.check)} |" for bug in BUGS)]


def said(check: str) -> str:
    """A check in words."""
    if check.startswith("--row"):
        _, row, _, size = check.split()
        return f"row {row} at size {int(size):,}"
    return f"`{check.rpartition('::')[2]}`"


class Bench:
    """Copies of the project, and the checks that run in them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    def plain(self, check: str) -> None:
        """A check must pass where there is no bug, or its failure says nothing."""
        result, output = self._run(self._copy("plain-", check), check)
        assert result == 0, f"{check} fails without a bug: {_end(output)}"

    def seeded(self, bug: Bug) -> str:
        """Whether the check of a bug sees it: "caught", "hung", or what else came of it."""
        copy = self._copy("bug-", bug.name)
        texts = {file: file.read_text() for file in (copy / "hangarlog").rglob(bug.file)}
        times = sum(text.count(bug.text) for text in texts.values())
        assert times == 1, f"{bug.name}: {bug.file} has {times} times {bug.text!r}"
        for file, text in texts.items():
            file.write_text(text.replace(bug.text, bug.bad))
        result, output = self._run(copy, bug.check)
        shutil.rmtree(copy, ignore_errors=True)
        if result is None:
            return "hung"
        # Of pytest, 1 is a test that failed; of a campaign, that it said what is broken, not that it fell over.
        if result == 1 and ("  BROKEN: " in output or not bug.check.startswith("--row")):
            return "caught"
        return "missed" if result == 0 else f"neither passed nor failed: {_end(output)}"

    def _copy(self, kind: str, name: str) -> Path:
        copy = self._folder / (kind + "".join(letter if letter.isalnum() else "-" for letter in name)[-60:])
        without = shutil.ignore_patterns("__pycache__")
        for part in ("hangarlog", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=without)
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / "tmp").mkdir()
        return copy

    def _run(self, copy: Path, check: str) -> tuple[int | None, str]:
        """(exit code, None where it hung; what it said)."""
        if check.startswith("--row"):
            options = ["tests.faults", *check.split(), "--seed", str(self._seed)]
        else:
            options = ["pytest", "-q", "-x", "-p", "no:cacheprovider", check]
        process = subprocess.Popen(
            [sys.executable, "-m", *options],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "TMPDIR": str(copy / "tmp")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # So that what it started can be ended with it.
        )
        self._running.add(process)
        try:
            if self._ended:
                return None, ""
            output, _ = process.communicate(timeout=HANG)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            self._end(process)

    def _end(self, process: subprocess.Popen[str]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        self._running.discard(process)

    def end(self) -> None:
        """End what still runs."""
        self._ended = True
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _end(output: str) -> str:
    return "\n".join(output.splitlines()[-15:])


def run(folder: Path, size: int, seed: int) -> Figures:
    """The first `size` bugs, two at a time."""
    return run_bugs(folder, BUGS[:size], seed)


def run_bugs(folder: Path, bugs: list[Bug], seed: int) -> Figures:
    checks = list(dict.fromkeys(bug.check for bug in bugs))
    _caught.clear()
    bench = Bench(folder, seed)
    with ThreadPoolExecutor(2) as pool:
        try:
            list(pool.map(bench.plain, checks))
            _caught.update(zip((bug.name for bug in bugs), pool.map(bench.seeded, bugs), strict=True))
        finally:
            bench.end()
            pool.shutdown(cancel_futures=True)
    missed = {name: result for name, result in _caught.items() if result not in ("caught", "hung")}
    assert not missed, f"seed {seed}: of {len(bugs)} bugs {len(missed)} are not seen: {missed}"
    by = Counter(said(bug.check) if bug.check.startswith("--row") else "a test" for bug in bugs)
    hung = sum(result == "hung" for result in _caught.values())
    return {
        "bugs": len(bugs),
        "caught": len(bugs),
        "of these hung": hung,
        **{f"by {what}": n for what, n in by.items()},
    }


CAMPAIGN = Campaign(
    row=7,
    fault="a bug in the store itself, of at least 12 sorts",
    promise="the harness sees each of them",
    how="each bug is put into a copy of the library, in which the campaign or the test that is to see it must fail; "
    "without a bug it must pass",
    ci=16,
    release=len(BUGS),
    unit="bugs",
    run=run,
)
