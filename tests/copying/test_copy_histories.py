"""Random histories of a source, with copies in between: the targets always show what it shows."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from copied_stores import OtherEngine, contents, cursors, event, opened, versions

from hangarlog import ANY, CompactionError, RetentionPolicy, SnapshotError, StreamDeletedError, StreamNotFoundError
from hangarlog.copying import Copied, CopyError, copy
from hangarlog.maintenance.verify import verify

REFUSALS = (CompactionError, SnapshotError, StreamDeletedError, StreamNotFoundError)
DROPPED = "were dropped from the source, and the target has those before"
"""The one thing that a target cannot follow."""


class History:
    """Changes a store in every way there is."""

    def __init__(self, store: Any, rng: random.Random) -> None:
        self.store, self.rng = store, rng
        self.steps: list[tuple[int, Callable[[str], object]]] = [
            (50, lambda stream: store.append(stream, self._events(4), ANY)),
            (15, self._append_many),
            (7, lambda stream: store.truncate_stream(stream, rng.randrange(1, 40))),
            (4, lambda stream: store.delete_stream(stream, permanent=rng.random() < 0.1)),
            (4, lambda stream: store.save_snapshot(stream, rng.randrange(9), {"x": rng.random()})),
            (3, store.compact_stream),
            (3, lambda stream: store.delete_snapshot(stream, force=True)),
            (4, lambda stream: store.cursor(stream).reset(rng.randrange(store.last_position + 1))),
            (2, lambda stream: store.retain(RetentionPolicy(max_events=rng.randrange(1, 30)))),
            (2, lambda stream: store.retain()),
        ]

    def step(self) -> None:
        weights, calls = zip(*self.steps, strict=True)
        (call,) = self.rng.choices(calls, weights)
        with contextlib.suppress(*REFUSALS):
            call(self._stream())

    def _stream(self) -> str:
        return f"a:{self.rng.randrange(6)}"

    def _events(self, most: int) -> list[Any]:
        return [event(n, text="x" * self.rng.randrange(300)) for n in range(self.rng.randint(1, most))]

    def _append_many(self, stream: str) -> None:
        move = self.store.cursor("inline").at(self.store.last_position) if self.rng.random() < 0.4 else None
        shares = [(self._stream(), self._events(2), ANY) for _ in range(self.rng.randint(2, 5))]
        self.store.append_many(shares, cursor=move)


@pytest.mark.parametrize("seed", range(12))
def test_targets_show_what_their_source_shows(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with (
        opened(tmp_path / "source", segment_bytes=rng.choice([1500, 4000, 20_000])) as source,
        opened(tmp_path / "file", segment_bytes=rng.choice([1000, 64 << 20])) as file,
        OtherEngine() as other,
        opened(tmp_path / "fresh") as fresh,
    ):
        history, followers = History(source, rng), [file, other]
        for _ in range(rng.randint(4, 10)):
            for _ in range(rng.randint(1, 15)):
                history.step()
            followers = [target for target in followers if _follows(source, target)]
        assert _follows(source, fresh)
        assert copy(source, fresh).events == 0
        for store in (file, fresh):
            assert not list(verify(store))


def _follows(source: Any, target: Any) -> bool:
    """Copy, and check the target. Return False if it cannot follow any more."""
    try:
        done = copy(source, target)
    except CopyError as error:
        assert DROPPED in str(error)  # noqa: PT017 - the one that there may be
        return False
    _check(source, target, done)
    return True


def _check(source: Any, target: Any, done: Copied) -> None:
    shown = {stream_id: found for stream_id, found in versions(source).items() if stream_id not in done.not_taken}
    assert versions(target) == shown
    for stream_id in shown:
        here, there = ([_of(r) for r in store.records(stream_id)] for store in (source, target))
        assert here == there
        assert source.load_snapshot(stream_id) == target.load_snapshot(stream_id)
    places = {row[1:3]: row[0] for row in contents(target)}
    pairs = [(row[0], places[row[1:3]]) for row in contents(source) if row[1:3] in places]
    moved = cursors(target)
    for name, at in cursors(source).items():
        if name not in done.cursors_ahead:
            assert [here <= at for here, _ in pairs] == [there <= moved[name] for _, there in pairs]


def _of(record: Any) -> tuple[Any, ...]:
    return record.event_id, record.stream_version, record.event_type, record.recorded_at, record.event.data
