"""Reads of a store and its archive: the events of both in one order, each once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from archived_stores import ALL, EVENTS, opened, written
from dying import Died, DyingFileSystem

from hangarlog import ArchiveError, EventsDroppedError, FileEventStore, RetentionPolicy
from hangarlog.cli.both import records_of_both

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(params=["whole", "cut short", "restored", "grown", "untouched"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """The paths of a store and its archive, in every state that they may have."""
    path, archive = tmp_path / "s", tmp_path / "a"
    with written(path) as store:
        if request.param == "untouched":
            store.archive(archive, before=9)
            store.restore_archive(archive)
        if request.param in ("whole", "restored", "grown"):
            store.archive(archive, before=30)
        if request.param == "grown":
            store.archive(archive, before=50, compress=True)
        if request.param == "restored":
            store.restore_archive(archive)
    if request.param == "cut short":  # All is in both, and some streams hide it here.
        for at in range(10, 500):
            try:
                with FileEventStore.untyped(path, create=False, filesystem=DyingFileSystem(at)) as store:
                    store.archive(archive, before=30)
            except Died:
                marks = path / "snapshots"
                if marks.exists() and [*marks.rglob("*.json")]:
                    break
        else:
            pytest.fail("it was never cut short there")
    return path, archive


@pytest.mark.parametrize("stream", [None, "a:1"])
def test_reads_give_each_event_once_in_order(both: tuple[Path, Path], stream: str | None) -> None:
    wanted = ALL if stream is None else [*range(2, EVENTS + 1, 3)]
    with opened(both[0]) as store, opened(both[1]) as archive:
        for start, limit in product((None, 0, 3, 8, 24, 25, 40), (None, 7, 30)):
            options = {"start": start, "limit": limit, "skip_damaged": False}
            begin = -1 if start is None else start
            after = [n for at, n in enumerate(wanted) if (at >= begin if stream else n > begin)]
            found = records_of_both(store, archive, stream, reverse=False, **options)
            assert [record.position for record, _ in found] == after[:limit]
            before = [n for at, n in enumerate(wanted) if start is None or (at <= start if stream else n < start)]
            found = records_of_both(store, archive, stream, reverse=True, **options)
            assert [record.position for record, _ in found] == before[::-1][:limit]


def test_the_command_line_reads_and_exports_both(both: tuple[Path, Path], hangarlog: Command, tmp_path: Path) -> None:
    store, archive = both
    assert _positions(hangarlog("read", store, "--archive", archive).stdout) == ALL
    assert _positions(hangarlog("export", store, "-", "--archive", archive).stdout) == ALL
    done = hangarlog("export", store, "all.jsonl", "--archive", archive)
    assert json.loads(done.stdout) == {"events": EVENTS, "target": "all.jsonl"}
    assert _positions((tmp_path / "all.jsonl").read_bytes()) == ALL
    done = hangarlog("export", store, "-", "--format", "cloudevents", "--archive", archive)
    assert [int(json.loads(line)["sequence"]) for line in done.stdout.splitlines()] == ALL


def _positions(lines: bytes) -> list[int]:
    return [json.loads(line)["position"] for line in lines.splitlines()]


def test_what_is_no_archive_of_the_store_is_refused(hangarlog: Command, tmp_path: Path) -> None:
    with written(tmp_path / "s") as store, written(tmp_path / "other") as other:
        store.archive(tmp_path / "a", before=30)
        other.archive(tmp_path / "b", before=30)
    for archive in ("b", "s", "other"):
        for command in (["read", "s"], ["export", "s", "-"]):
            done = hangarlog(*command, "--archive", archive)
            assert (done.returncode, done.stdout) == (1, b"")
            assert b"is no archive of the store" in done.stderr
    done = hangarlog("export", "s", "all.db", "--archive", "a")
    assert done.returncode == 2


def test_a_gap_between_both_is_an_error(tmp_path: Path, hangarlog: Command) -> None:
    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=18)
        store.retain(RetentionPolicy(max_events=20))
        with pytest.raises(ArchiveError, match="it has positions 1 to 16, and the store begins with 41"):
            store.archive(tmp_path / "a", before=50)
    done = hangarlog("read", "s", "--archive", "a")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"has dropped positions 17 to 40" in done.stderr


def test_a_move_while_both_are_read_is_an_error_at_the_end(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=18)
        with opened(tmp_path / "a") as archive:
            found = records_of_both(store, archive, None, None, None, reverse=False, skip_damaged=False)
            assert next(found)[0].position == 1
            with opened(tmp_path / "s") as other:
                other.archive(tmp_path / "a", before=30)
            with pytest.raises((ArchiveError, EventsDroppedError)):
                list(found)
