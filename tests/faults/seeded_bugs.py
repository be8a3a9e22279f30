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
from dataclasses import dataclass
from pathlib import Path

from campaign import HERE, Campaign, Figures

ROOT = HERE.parent.parent
HANG = 240.0  # Seconds after which a check counts as hung: far more than any of them takes.


@dataclass(frozen=True)
class Bug:
    """`text`, which is in `file` exactly once, replaced by `bad`; `check` is a campaign's options or a test."""

    name: str
    file: str
    text: str
    bad: str
    check: str


CUTS = "--row 1 --size 1000"
REFUSALS = "--row 2 --size 40"
HISTORIES = "--row 8 --size 20000"
DYING = "tests/faults/test_dying_writer.py"
FAILING = "tests/faults/test_failing_calls.py"
RESTART = "tests/faults/test_restart.py"
BY_HAND = "tests/faults/test_damage_by_hand.py"
DURABILITY = "tests/test_durability.py"
PROCESSES = "tests/concurrency/test_processes.py"
DESCRIPTORS = "tests/test_descriptors.py"
SHARP = "tests/faults/test_sharp.py"
RING = "tests/faults/test_ring.py"
CONFLICTS = "tests/concurrency/test_conflicts.py"

# The most important ones first: a small size runs only those.
BUGS = [
    Bug(
        "an append is acknowledged without a sync of the ring",
        "ring.py",
        "self._filesystem.sync_data(self._fd)",
        "pass",
        CUTS,
    ),
    Bug(
        "the ring begins again without a sync of the journal",
        "sync.py",
        "self._filesystem.sync_data(fd)\n            state.ring_next = (generation + 1, 0)",
        "state.ring_next = (generation + 1, 0)",
        f"{DURABILITY}::test_a_full_ring_syncs_the_journal_once_and_begins_again",
    ),
    Bug(
        "a roll does not sync the folder between its two names",
        "filesystem.py",
        "self.sync_folder(os.path.dirname(live))\n        self.rename(fresh, live)",
        "self.rename(fresh, live)",
        f"{SHARP}::test_a_power_cut_in_a_roll_costs_nothing",
    ),
    Bug(
        "a roll is finished only where its fresh file has kept its name",
        "log.py",
        "if first is not None and os.path.lexists(self.sealed_base(first) + LIVE):",
        "if first is not None and os.path.lexists(fresh):",
        f"{SHARP}::test_a_power_cut_in_a_roll_costs_nothing",
    ),
    Bug(
        "a sync that failed is simply tried again",
        "sync.py",
        "state.mark_sync_failed()",
        "return self._sync()",
        REFUSALS,
    ),
    Bug(
        "a version is taken from a cache",
        "stream.py",
        "if live and self._size(live.fd) != live.size:",
        "if False:",
        f"{PROCESSES}::test_two_stores_on_one_folder_in_one_process_simply_work",
    ),
    Bug(
        "a stream is closed under its writer where another store needs descriptors",
        "stream.py",
        "self._ends.popitem(last=False)\n\n",
        "self._ends.popitem(last=False)[1].close()\n\n",
        f"{DESCRIPTORS}::test_what_is_taken_out_of_a_store_while_it_writes_and_reads_stays_open_until_then",
    ),
    Bug(
        "a file that cannot be opened for want of a descriptor is taken for damage",
        "segment.py",
        "if error.errno not in NO_FILE:",
        "if error.errno in (2, 13):",
        f"{DESCRIPTORS}::test_a_file_the_system_refuses_to_open_is_no_damage",
    ),
    Bug(
        "what is made in a store does not get the store's permissions",
        "filesystem.py",
        "os.fchmod(fd, mode)",
        "pass",
        "tests/test_owners.py::test_a_mode_reaches_every_file_that_is_made_later",
    ),
    Bug(
        "an index is trusted that covers what was lost",
        "replay.py",
        "def forget_index(live: LiveEnd, *, restarted: bool) -> None:",
        "def forget_index(live: LiveEnd, *, restarted: bool) -> None:\n    return",
        f"{BY_HAND}::test_a_power_cut_at_the_end_of_a_line_leaves_no_index_that_covers_more",
    ),
    Bug(
        "the lock's file is deleted when it is given back",
        "lock.py",
        "def release(self, *, everybody: bool = False) -> None:",
        "def release(self, *, everybody: bool = False) -> None:\n"
        "        with contextlib.suppress(OSError):\n            os.unlink(self.path)",
        f"{PROCESSES}::test_eight_processes_with_expected_versions_lose_and_double_nothing",
    ),
    Bug(
        "a short write is taken for a whole one",
        "filesystem.py",
        "while written < len(data):",
        "while False:",
        f"{FAILING}::test_a_real_limit_of_file_sizes_is_met_at_every_byte",
    ),
    Bug(
        "the expected version is not checked",
        "commit.py",
        "matches = expected in (actual, ANY) or",
        "matches = True or",
        HISTORIES,
    ),
    Bug(
        "what a sync covers is asked after it instead of before",
        "sync.py",
        "state.made_durable(committed, first, size)",
        "state.made_durable(*(state.published() or (committed, first, size)))",
        f"{SHARP}::test_what_is_written_during_a_sync_is_not_covered_by_it",
    ),
    Bug(
        "a commit is published before its streams are written",
        "writer.py",
        "journal.append(data, lengths)",
        "journal.append(data, lengths)\n            state.finish(last, first, journal.size)",
        f"{FAILING}::test_no_reader_sees_a_commit_before_it_is_published",
    ),
    Bug(
        "damage in the middle is taken for a torn end",
        "journal_end.py",
        "if unconnected and not (",
        "if False and not (",
        f"{BY_HAND}::test_a_torn_batch_may_have_its_later_pages_on_the_device_first",
    ),
    Bug(
        "recovery does not look into the ring",
        "recovery.py",
        "ring = read_ring(folder.filesystem, folder.ring_path, store_id)",
        "pass",
        CUTS,
    ),
    Bug(
        "a file is replaced without a sync of its text",
        "filesystem.py",
        "self.sync_data(fd)",
        "pass",
        CUTS,
    ),
    Bug(
        "a file is replaced without a sync of its folder",
        "filesystem.py",
        "self.rename(temporary, path)\n        if sync:",
        "self.rename(temporary, path)\n        if False:",
        CUTS,
    ),
    Bug(
        "a journal segment is sealed without a sync",
        "writer.py",
        "self._sync_now(journal)\n        journal = self._journal = journal.roll()",
        "journal = self._journal = journal.roll()",
        CUTS,
    ),
    Bug(
        "a stream's segment is sealed without a sync",
        "writer.py",
        "self._sync_now(live)",
        "pass",
        f"{SHARP}::test_a_power_cut_in_a_roll_costs_nothing",
    ),
    Bug(
        "a stream's segment is sealed before the journal is synced",
        "writer.py",
        "self._sync_now(self._journal)  # First",
        "pass  # First",
        f"{DURABILITY}::test_a_segment_is_sealed_only_when_it_is_on_the_device",
    ),
    Bug(
        "a checkpoint is said of streams that were not synced",
        "checkpoint.py",
        "filesystem.sync_everything(folder.path, (file.path for _, _, file in folder.stream_files()))",
        "pass",
        CUTS,
    ),
    Bug(
        "what a recovery wrote into the journal is not synced",
        "recovery.py",
        "            _sync(folder, live, state)",
        "            pass",
        f"{SHARP}::test_what_a_recovery_took_from_the_ring_stays_when_the_ring_is_written_over",
    ),
    Bug(
        "after a failed sync the journal is not written anew",
        "recovery.py",
        "if state.failures:",
        "if False:",
        REFUSALS,
    ),
    Bug(
        "the first ring is made without a sync of the journal",
        "sync.py",
        "self._filesystem.sync_data(fd)\n        try:\n            identity",
        "try:\n            identity",
        CUTS,
    ),
    Bug(
        "what was taken back is not synced",
        "writer.py",
        "self._sync_now(self._journal)  # Else",
        "pass  # Else",
        f"{SHARP}::test_what_was_taken_back_does_not_come_back_in_a_power_cut",
    ),
    Bug(
        "the shared state of before a restart is believed",
        "state.py",
        "words[_FORMAT] == _MAGIC and words[_BOOT] == self._boot and",
        "words[_FORMAT] == _MAGIC and",
        f"{SHARP}::test_a_state_of_before_a_restart_is_not_believed",
    ),
    Bug(
        "a torn end of the journal is not cut off",
        "journal_end.py",
        "live.cut(self._whole + kept)",
        "pass",
        f"{DYING}::test_a_writer_may_die_at_any_call[0.5]",
    ),
    Bug(
        "streams are not completed after the death of a writer",
        "replay.py",
        'live.append(b"".join([line + b"\\n" for line in missing]))',
        "pass",
        f"{DYING}::test_a_writer_may_die_at_any_call[1.0]",
    ),
    Bug(
        "what reached a stream but not the journal is left there",
        "recovery.py",
        "_cut_phantoms(folder, report.since, since, known, report)",
        "pass",
        f"{RESTART}::test_what_reached_a_stream_but_not_the_journal_never_happened",
    ),
    Bug(
        "a failed append leaves its batch in the journal",
        "writer.py",
        "if self._journal.cut(size):",
        "if False:",
        f"{FAILING}::test_a_full_disk_fails_the_append_whole",
    ),
    Bug(
        "a sync that failed during a commit is taken for what the writer left",
        "state.py",
        'return b"" if words[_SYNC_FAILED] else standing',
        "return standing",
        f"{SHARP}::test_a_sync_that_fails_while_somebody_commits_is_healed_by_the_next_append",
    ),
    Bug(
        "readers see what is not committed yet",
        "reader.py",
        "def _up_to(",
        "def _up_to(blocks: Iterator[list[Envelope]], committed: int) -> Iterator[list[Envelope]]:\n"
        "    return blocks\n\n\ndef _up_to_committed(",
        f"{FAILING}::test_no_reader_sees_a_commit_before_it_is_published",
    ),
    Bug(
        "a failed write past the cache is taken for one that had no room",
        "ring.py",
        "if error.errno not in _NO_ROOM:",
        "if False:",
        f"{RING}::test_a_device_that_fails_in_a_write_through_has_failed_a_sync",
    ),
    Bug(
        "a hole of less than a sector is taken for damage",
        "journal_end.py",
        "self._zeros |= len(line) >= rest",
        "self._zeros |= False and len(line) >= rest",
        f"{RESTART}::test_a_sector_that_the_device_has_as_it_was_when_the_file_ended_in_it_is_a_hole",
    ),
    Bug(
        "the children of a fork write frames from the same memory",
        "ring.py",
        "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS",
        "mmap.MAP_SHARED | mmap.MAP_ANONYMOUS",
        f"{RING}::test_a_forked_child_writes_frames_from_memory_of_its_own",
    ),
    Bug(
        "a conflict is told of what is not committed",
        "live_end.py",
        "if last.position <= committed:",
        "if True:",
        f"{CONFLICTS}::test_what_is_not_committed_is_no_conflict_yet",
    ),
    Bug(
        "a retry is refused as a conflict",
        "writer.py",
        "retried = first.event_id == pending.events[0][1]",
        "retried = False",
        f"{CONFLICTS}::test_a_retry_is_not_taken_for_a_conflict",
    ),
]

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
        file = copy / "hangarlog" / bug.file
        text = file.read_text()
        assert text.count(bug.text) == 1, f"{bug.name}: {bug.file} has {text.count(bug.text)} times {bug.text!r}"
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
    bugs = BUGS[:size]
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
    release=39,
    unit="bugs",
    run=run,
)
