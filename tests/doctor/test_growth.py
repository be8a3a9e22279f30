"""How fast a store grows, by the recorded times of its journal, and when its disk is full."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from examined import ago, has, mounted, numbered, of_kind, only

from hangarlog import ANY, FileEventStore
from hangarlog.doctor.growth import DAY, bytes_a_day
from hangarlog.doctor.look import Look

EVENT = 1000


def grown(path: Path, days: list[int], segment_bytes: int = 100_000) -> Path:
    """A store with so many events recorded 0 to 1 days ago, 1 to 2, and so on: evenly, the oldest first."""
    with FileEventStore.untyped(path, durability="relaxed", segment_bytes=segment_bytes) as store:
        for day, count in reversed([*enumerate(days)]):
            times = [ago((day + (count - number - 0.5) / count) * DAY) for number in range(count)]
            for start in range(0, count, 50):
                store.append("a:1", numbered(min(50, count - start), EVENT - 250, times[start : start + 50]), ANY)
    return path


def rate(path: Path) -> float:
    found = bytes_a_day(Look(str(path)))
    assert found
    return found[0] / EVENT


@pytest.mark.parametrize("segment_bytes", [20_000, 100_000_000])
def test_an_even_rate_is_found(tmp_path: Path, segment_bytes: int) -> None:
    """With many segments, and within a single one."""
    assert rate(grown(tmp_path / "s", [200] * 5, segment_bytes)) == pytest.approx(200, rel=0.1)


def test_the_last_days_count_most(tmp_path: Path) -> None:
    assert 150 < rate(grown(tmp_path / "rising", [200, 200, 50, 50, 50, 50])) / 0.8 < 200
    assert rate(grown(tmp_path / "falling", [50, 50, 200, 200, 200, 200])) < 150
    assert rate(grown(tmp_path / "ended", [0, 0, 0, 400])) < 60


def test_a_young_store_has_no_rate_and_half_a_day_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FileEventStore.untyped(path) as store:
        assert bytes_a_day(Look(str(path))) is None
        store.append("a:1", numbered(100, EVENT - 250, [ago(3000)]), ANY)
        assert bytes_a_day(Look(str(path))) is None
        assert only(path, "growth").severity == "ok"
    with FileEventStore.untyped(tmp_path / "t") as store:
        store.append("a:1", numbered(100, EVENT - 250, [ago(DAY / 2)]), ANY)
    assert rate(tmp_path / "t") == pytest.approx(200, rel=0.1)


def test_when_the_disk_will_be_full(tmp_path: Path) -> None:
    """On a real one of 20 MB; on a large one it is not worth a word."""
    stores = {"slow": [40, 40], "medium": [400, 400], "fast": [4000, 10], "young": [4000]}
    for name, days in stores.items():
        grown(tmp_path / name, days)
    assert only(tmp_path / "slow", "growth").facts["bytes_a_day"] == pytest.approx(2 * 40 * EVENT, rel=0.1)
    assert not has(tmp_path / "slow", "disk-full-soon")
    script = "mkdir m && mount -t tmpfs -o size=20m none m && cp -r {0} m && $d m/{0}"
    for name, severity in zip(stores, ("note", "warning", "problem", "note"), strict=True):
        finding = of_kind(mounted(tmp_path, script.format(name)), "disk-full-soon")
        assert finding.severity == severity, name
        (tmp_path / "m").rmdir()


def test_times_in_other_forms_end_nothing(tmp_path: Path) -> None:
    """Nor does damage in the middle."""
    path = grown(tmp_path / "s", [100] * 3, 20_000)
    for file in sorted(path.glob("journal.0*.jsonl"))[::2]:
        file.write_bytes(b"x" + file.read_bytes()[1:])
    before = time.monotonic()
    assert only(path, "growth").severity == "ok"
    assert time.monotonic() >= before
