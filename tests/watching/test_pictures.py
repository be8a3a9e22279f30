"""What `hangarlog stats` draws on a terminal, and its axes."""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import Command
from terminals import STYLE, terminal

from hangarlog import ANY, EncodedEvent, FileEventStore
from hangarlog.cli.sparkline import bar, sparkline
from hangarlog.watching.figures import short, sized, timed
from hangarlog.watching.scales import interval_name, interval_of, round_steps, time_ticks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for day, count in ((1, 10), (2, 40), (5, 80)):
            at = f"2026-11-{day:02}T03:04:05.000000Z"
            store.append("a:1", [EncodedEvent(f"On{day}", b"{}", recorded_at=at)] * count, ANY)
    return tmp_path / "s"


def test_the_picture_shows_when_events_came_and_their_types(path: Path, hangarlog: Command) -> None:
    text = hangarlog("stats", path, "--plot", COLUMNS="60").stdout.decode()
    figures, _, picture = text.partition("\n\n")
    assert "events             130" in figures
    lines = picture.splitlines()
    assert lines[0].startswith("events per ")
    heights = [sum(line[at : at + 1] not in ("", " ") for line in lines[1:6]) for at in range(8, 60)]
    tall = [height for height in heights if height]
    assert tall == sorted(tall)
    assert max(tall) == 5
    rows = picture[picture.index("event types") :].splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["On5", "On2", "On1"]
    assert [row.split()[-2:] for row in rows] == [["62%", "80"], ["31%", "40"], ["8%", "10"]]
    assert all(len(line) <= 60 for line in picture.splitlines())


def test_a_pipe_gets_no_picture_unless_it_is_asked_for(path: Path, hangarlog: Command) -> None:
    assert hangarlog("stats", path).stdout.count(b"\n") == 1


def test_a_terminal_gets_it_and_may_go_without(path: Path) -> None:
    command = [sys.executable, "-m", "hangarlog", "stats", path]
    with terminal(*command, COLUMNS="") as shown:
        assert shown.end() == 0
        assert b"event types" in STYLE.sub(b"", shown.shown)
        assert "█".encode() in shown.shown
    with terminal(*command, "--no-plot") as shown:
        assert shown.end() == 0
        assert b"event types" not in shown.shown
    with terminal(*command, PYTHONIOENCODING="ascii", NO_COLOR="1") as shown:
        assert shown.end() == 0
        assert shown.shown.isascii()
        assert b"\x1b" not in shown.shown
        assert b"####" in shown.shown


@pytest.mark.parametrize("unicode", [True, False])
def test_sparklines_and_bars_have_their_width(unicode: bool) -> None:
    assert sparkline([0, 1, None, 7], 4, unicode=unicode) == ("▁▂ █" if unicode else "_. #")
    assert sparkline([1, 2], 4, unicode=unicode).strip() == sparkline([1, 2], 2, unicode=unicode)
    assert len(sparkline([1.0] * 9, 4, unicode=unicode)) == 4
    assert sparkline([], 3, unicode=unicode) == "   "
    assert sparkline([0, 0], 2, unicode=unicode) == ("▁▁" if unicode else "__")
    for share in (0, 0.01, 0.5, 0.999, 1, 7, -1):
        assert len(bar(share, 8, unicode=unicode)) == 8
    assert bar(0.5, 8, unicode=unicode).strip() == ("████" if unicode else "####")


def test_numbers_are_short() -> None:
    assert [short(each) for each in (None, 0, 0.44, 9.95, 12, 999, 1204, 99_999, 123_456, 5e6, 3e10)] == (
        ["-", "0", "0.4", "9.9", "12", "999", "1,204", "99,999", "123k", "5.00M", "30.0G"]
    )
    assert [sized(each) for each in (None, 0, 999, 1000, 45_459_173, 2e12)] == (
        ["-", "0 B", "999 B", "1.00 kB", "45.5 MB", "2.00 TB"]
    )
    times = (None, 0, 3e-6, 92e-6, 1.4e-3, 0.25, 3.2, 99, 100, 7200, 200_000)
    assert [timed(each) for each in times] == (
        ["-", "0 s", "3.0 µs", "92 µs", "1.4 ms", "250 ms", "3.2 s", "99 s", "2 min", "2 h", "2 d"]
    )


def test_ticks_are_round_few_and_within() -> None:
    generator = random.Random(5)
    for _ in range(2000):
        first = generator.uniform(0, 4e9)
        span = 10 ** generator.uniform(-3, 9.5)
        most = generator.randint(2, 12)
        ticks = time_ticks(first, first + span, most)
        assert len(ticks) <= most
        assert all(first <= tick.at <= first + span for tick in ticks)
        assert [tick.at for tick in ticks] == sorted({tick.at for tick in ticks})
        interval = interval_of(first, first + span, most)
        assert span / interval <= most
        assert interval_name(interval)
        highest = 10 ** generator.uniform(-2, 12)
        steps = round_steps(highest, 6)
        assert len(steps) <= 6
        assert steps[0] == 0
        assert steps[-1] >= highest * (1 - 1e-9)
        assert steps[-1] <= highest * 5


def test_ticks_of_years_are_labelled_with_years() -> None:
    first, last = (datetime(year, 3, 1, tzinfo=UTC).timestamp() for year in (1999, 2026))
    assert [tick.label for tick in time_ticks(first, last, 8)] == ["2000", "2005", "2010", "2015", "2020", "2025"]
