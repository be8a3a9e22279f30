"""A writer that dies at any of its calls leaves a store that the next one makes whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Added

from hangarlog import ANY, ConcurrencyError, FileEventStore
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem


class Died(BaseException):
    """The process is gone: nothing it would do afterwards happens."""


class DyingFileSystem(FileSystem):
    """Counts the calls that change something, and dies in the one numbered `at`, after `share` of a write."""

    def __init__(self, at: int | None = None, share: float = 0.0) -> None:
        self.calls, self.at, self.share = 0, at, share

    def _step(self, partly: Callable[[], None] | None = None) -> None:
        if self.at is not None and self.calls >= self.at:
            if self.calls == self.at and partly:
                partly()
            self.calls += 1
            raise Died
        self.calls += 1

    def write(self, fd: int, data: bytes) -> None:
        self._step(lambda: super(DyingFileSystem, self).write(fd, data[: int(len(data) * self.share)]))
        super().write(fd, data)

    def roll(self, live: str, sealed: str) -> None:
        self._step()
        super().roll(live, sealed)

    def sync_folder(self, path: str) -> None:
        self._step()  # Also within a roll: between its two names. The machine goes on: nothing needs to be synced.

    def truncate(self, fd: int, size: int) -> None:
        self._step()
        super().truncate(fd, size)

    def rename(self, old: str, new: str) -> None:
        self._step()
        super().rename(old, new)

    def remove(self, path: str) -> None:
        self._step()
        super().remove(path)

    def make_folder(self, path: str) -> None:
        self._step()
        super().make_folder(path)

    def sync_data(self, fd: int) -> None:
        self._step()

    def open_append(self, path: str, *, create: bool = False) -> int:
        self._step()
        return super().open_append(path, create=create)

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self._step(lambda: super(DyingFileSystem, self).write_at(fd, data[: int(len(data) * self.share)], offset))
        super().write_at(fd, data, offset)

    def in_background(self, work: Callable[[], None], name: str) -> None:
        work()

    def sync_everything(self, folder: str, paths: Any) -> None:
        self._step()  # What the machine's other files have to sync is no matter here.


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
