"""A writer that dies at any of its calls leaves a store that the next one makes whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Added
from dying import Died, DyingFileSystem

from hangarlog import ANY, ConcurrencyError, FileEventStore
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem

Commit = list[tuple[str, list[Added], int]]
WORKLOAD: list[Commit] = [
    [("a:1", [Added(1)], ANY)],
    [("a:1", [Added(2), Added(3, "x" * 300)], ANY), ("b:1", [Added(4)], ANY), ("plain", [Added(5)], ANY)],
    *[[("a:1", [Added(n, "y" * 100)], ANY), ("a:2", [Added(n)], ANY)] for n in range(6, 12)],
    [("c:1", [Added(n, "z" * 200) for n in range(12, 18)], ANY)],
]


def run(path: Path, filesystem: FileSystem, *, durability: Any = "relaxed") -> tuple[int, bool]:
    """How many commits were acknowledged, and whether the writer lived."""
    acknowledged = 0
    try:
        store = FileEventStore(path, durability=durability, segment_bytes=900, filesystem=filesystem)
        for commit in WORKLOAD:
            store.append_many(commit)
            acknowledged += 1
    except Died:
        return acknowledged, False
    store.close()
    return acknowledged, True


def flattened(commits: list[Commit]) -> list[tuple[str, Added]]:
    return [(stream_id, event) for commit in commits for stream_id, events, _ in commit for event in events]


def check(path: Path, acknowledged: int) -> None:
    """What was acknowledged is there; of what was not, whole commits in order, or nothing. Then life goes on."""
    with FileEventStore(path, durability="relaxed", segment_bytes=900, filesystem=DyingFileSystem()) as store:
        store.append("next:1", [Added(99)], ANY)
        found = [(stream_id, event) for _, stream_id, event in store.read_all()]
        assert found.pop() == ("next:1", Added(99))
        assert found in (flattened(WORKLOAD[:acknowledged]), flattened(WORKLOAD[: acknowledged + 1]))
        for stream_id in store.list_streams():
            expected = [event for at, event in [*found, ("next:1", Added(99))] if at == stream_id]
            assert store.read_stream(stream_id) == expected
        assert store.get_stream_count() == len(store.list_streams()) == len({at for at, _ in found} | {"next:1"})
        assert list(verify(store)) == []


def total_calls(tmp_path: Path) -> int:
    filesystem = DyingFileSystem()
    assert run(tmp_path / "whole", filesystem) == (len(WORKLOAD), True)
    return filesystem.calls


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_a_writer_may_die_at_any_call(tmp_path: Path, share: float) -> None:
    """Before, within and after every write; within rolls, too; the store that is left is opened by another."""
    died = 0
    for at in range(total_calls(tmp_path)):
        path = tmp_path / f"died-{at}"
        acknowledged, lived = run(path, DyingFileSystem(at, share))
        died += not lived
        check(path, acknowledged)
    assert died > 50


def test_a_recovery_may_die_at_any_call(tmp_path: Path) -> None:
    """It is run again by the next writer, and comes to the same end."""
    deaths = 0
    for at in range(0, total_calls(tmp_path), 3):
        for again in range(40):
            path = tmp_path / f"died-{at}-{again}"
            acknowledged, _ = run(path, DyingFileSystem(at, 0.7))
            try:
                store = FileEventStore(path, durability="relaxed", filesystem=DyingFileSystem(again, 0.5))
                with pytest.raises(ConcurrencyError):
                    store.append("a:1", [Added(0)], 1000)
            except Died:
                deaths += 1
                check(path, acknowledged)
            else:
                check(path, acknowledged)
                break
    assert deaths > 50


def test_a_machine_that_restarts_looks_at_everything_since_the_checkpoint(tmp_path: Path) -> None:
    """As after any call, but with the shared state of before the restart: it is not trusted."""
    for at in range(0, total_calls(tmp_path), 2):
        path = tmp_path / f"died-{at}"
        acknowledged, _ = run(path, DyingFileSystem(at, 0.5))
        if (path / "state").exists():
            (path / "state").unlink()
        check(path, acknowledged)
