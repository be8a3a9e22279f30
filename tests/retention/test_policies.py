"""Policies: what they hide, what goes from the journal, what a dry run says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Added
from retained_stores import segment_firsts, written

from hangarlog import ANY, EncodedEvent, FileEventStore, RetentionPolicy, aio
from hangarlog.maintenance.verify import verify


def shown(store: FileEventStore) -> dict[str, list[int]]:
    """The versions that each stream shows."""
    return {name: [record.stream_version for record in store.records(name)] for name in store.list_streams()}


def texts(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*.jsonl*")}


def sealed_through(store: FileEventStore) -> int:
    """The last position in a sealed segment."""
    return store._write_session.state.published()[1] - 1  # type: ignore[index]


@pytest.mark.parametrize("events", [1, 10, 25, 59, 1000])
def test_the_newest_events_are_kept_by_whole_segments(tmp_path: Path, events: int) -> None:
    with written(tmp_path / "s") as store:
        firsts = [*segment_firsts(store), sealed_through(store) + 1]
        report = store.retain(RetentionPolicy(max_events=events))
        expected = max((first for first in firsts if 60 - first + 1 >= events), default=1)
        assert report.first_position == store.first_position == expected
        assert [record.position for record in store.records()] == [*range(expected, 61)]
        assert report.policies[0].events == expected - 1
        assert [segment.first for segment in report.segments] == [first for first in firsts if first < expected]
        assert not list(verify(store))


def test_bytes_are_those_of_the_text_compressed_or_not(tmp_path: Path) -> None:
    with written(tmp_path / "a") as plain, written(tmp_path / "b") as packed:
        packed.compress()
        reports = [store.retain(RetentionPolicy(max_bytes="5K")) for store in (plain, packed)]
        assert 1 < reports[0].first_position == reports[1].first_position
        kept = sum(file.stat().st_size for file in (tmp_path / "a").glob("journal*.jsonl"))
        assert 5 << 10 <= kept < (5 << 10) + 2 * 2000
        assert reports[0].bytes_freed > reports[1].bytes_freed > 0


def test_age_is_that_of_the_latest_event_of_a_segment(tmp_path: Path) -> None:
    path = tmp_path / "s"
    now = datetime.now(UTC)
    with FileEventStore.untyped(path, segment_bytes=1000, durability="relaxed") as store:
        for days in range(30, -1, -1):
            store.append("a:1", [EncodedEvent("T", b'{"x":"%d"}' % days, recorded_at=now - timedelta(days=days))], ANY)
        report = store.retain(RetentionPolicy(max_age="10d"))
        left = [record.recorded_at for record in store.records()]
        assert 11 <= len(left) <= 15
        assert report.first_position == store.first_position == 32 - len(left)
        assert not list(verify(store))


@pytest.mark.parametrize("size", [0, 300_000])
def test_a_category_has_a_policy_of_its_own(tmp_path: Path, size: int) -> None:
    with written(tmp_path / "s", 20) as store:
        for number in range(40):
            store.append("log:1" if number % 2 else "log:2", [Added(number, "x" * size if number == 3 else "")], ANY)
        before, last = shown(store), sealed_through(store)
        had = {r.position for r in store.records(category="log")}
        report = store.retain(RetentionPolicy(prefix="log:", max_events=4))
        after = shown(store)
        gone = had - {r.position for name in ("log:1", "log:2") for r in store.records(name)}
        assert after["a:0"] == before["a:0"]
        assert sum(len(after[name]) for name in ("log:1", "log:2")) >= 4
        assert max(gone) <= last
        assert report.policies[0].events == len(gone) > 20
        assert store.first_position == 1
        assert not list(verify(store))


def test_events_per_stream(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        store.retain(RetentionPolicy(max_events_per_stream=5))
        assert all(5 <= len(versions) <= 9 and versions[-1] == 19 for versions in shown(store).values())
        assert store.first_position > 1
        assert not list(verify(store))


def test_only_what_a_snapshot_covers(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        store.save_snapshot("a:0", 5, {"n": 5})
        store.save_snapshot("a:1", 15, {"n": 15})
        store.retain(RetentionPolicy(max_events=1, behind_snapshot=True))
        after = shown(store)
        assert (after["a:0"][0], after["a:1"][0], after["a:2"][0]) == (6, 16, 0)
        assert store.load_snapshot("a:1") == {"version": 15, "state": {"n": 15}}
        store.save_snapshot("a:2", 9, {"n": 9})
        store.retain(RetentionPolicy(behind_snapshot=True))
        assert shown(store)["a:2"][0] == 10
        assert 1 < store.first_position <= 18


def test_never_past_a_subscriber_unless_told(tmp_path: Path) -> None:
    with written(tmp_path / "s") as store:
        store.cursor("mailer").advance(20)
        report = store.retain(RetentionPolicy(max_events=1))
        assert report.first_position == store.first_position == max(f for f in segment_firsts(store) if f <= 21)
        assert "'mailer' has not read position 21" in report.held_by
        assert min(r.position for n in store.list_streams() for r in store.records(n)) == 21
        report = store.retain(RetentionPolicy(max_events=1, past_subscribers=True))
        assert store.first_position == report.first_position > 21


def test_what_is_hidden_stays_in_the_journal_for_a_subscriber(tmp_path: Path) -> None:
    with written(tmp_path / "s", streams=1) as store:
        store.cursor("mailer").advance(20)
        store.truncate_stream("a:0", 50)
        assert store.retain().first_position <= 21
        with store.subscribe(0, name="mailer") as subscription:
            assert next(subscription).position == 21


def test_without_policies_what_is_hidden_goes(tmp_path: Path) -> None:
    with written(tmp_path / "s", streams=2) as store:
        store.delete_stream("a:0")
        assert store.retain().segments == []
        store.truncate_stream("a:1", 20)
        report = store.retain()
        assert report.policies == []
        assert report.segments
        assert 1 < store.first_position <= 42
        assert "shows the event" in report.held_by


@pytest.mark.parametrize(
    "policy",
    [
        RetentionPolicy(max_events=10),
        RetentionPolicy(max_bytes=3000),
        RetentionPolicy(max_age=0),
        RetentionPolicy(prefix="a:1", max_events=2),
        RetentionPolicy(max_events_per_stream=2),
    ],
)
def test_a_dry_run_says_what_a_run_then_does(tmp_path: Path, policy: RetentionPolicy) -> None:
    with written(tmp_path / "s") as store:
        before, text = shown(store), texts(tmp_path)
        said = store.retain(policy, dry_run=True)
        assert (shown(store), store.first_position, texts(tmp_path)) == (before, 1, text)
        assert not (tmp_path / "s/retained.json").exists()
        done = store.retain(policy)
        assert (said.dry_run, done.dry_run) == (True, False)
        assert (said.policies, said.segments, said.held_by) == (done.policies, done.segments, done.held_by)
        assert said.first_position == done.first_position == store.first_position
        again = store.retain(policy)
        assert (again.segments, again.policies[0].events) == ([], 0)
        assert not list(verify(store))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: RetentionPolicy(), ValueError),
        (lambda: RetentionPolicy(max_events=-1), ValueError),
        (lambda: RetentionPolicy(max_events="3"), TypeError),  # type: ignore[arg-type]
        (lambda: RetentionPolicy(max_age="3 days"), ValueError),
        (lambda: RetentionPolicy(max_age=True), TypeError),
        (lambda: RetentionPolicy(max_bytes="3 GB"), ValueError),
        (lambda: RetentionPolicy(max_bytes=float("nan")), ValueError),  # type: ignore[arg-type]
        (lambda: RetentionPolicy(prefix=1, max_events=1), TypeError),  # type: ignore[arg-type]
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_in_the_background(tmp_path: Path) -> None:
    """A store that is written to keeps its bound by itself, and stays whole."""
    path = tmp_path / "s"
    with FileEventStore(
        path, segment_bytes=2000, durability="relaxed", retain=[RetentionPolicy(max_events=50)]
    ) as store:
        for number in range(3000):
            store.append(f"a:{number % 3}", [Added(number, "x" * 40)], ANY)
    with FileEventStore(path) as store:
        assert store.first_position > 1000
        store.retain(RetentionPolicy(max_events=50))
        assert 50 <= store.get_event_count() < 65
        assert not list(verify(store))


def test_in_tasks(tmp_path: Path) -> None:
    """The store for tasks has the same call."""
    written(tmp_path / "s").close()

    async def main() -> tuple[int, int]:
        async with aio.open(tmp_path / "s") as store:
            report = await store.retain(RetentionPolicy(max_events=20))
            return report.first_position, await store.first_position()

    first, same = asyncio.run(main())
    assert first == same > 1
