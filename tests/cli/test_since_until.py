"""`--since` and `--until`: which times are understood, and what is said of the others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from hangarlog import EncodedEvent, FileEventStore
from hangarlog.cli import times
from hangarlog.cli.app import hangarlog
from hangarlog.cli.times import parse_time

NOW = datetime(2026, 11, 23, 12, 30, 15, 500_000, tzinfo=UTC)


class Clock(datetime):
    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return NOW


def parsed(text: str) -> datetime | None:
    command = click.Command("read", params=[click.Option(["--since"])])
    return parse_time(click.Context(command), command.params[0], text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23T03:01:02.123456Z", datetime(2026, 11, 23, 3, 1, 2, 123_456, UTC)),
        ("2026-11-23T03:01:02+02:00", datetime(2026, 11, 23, 1, 1, 2, tzinfo=UTC)),
        ("2026-11-23T03:01", datetime(2026, 11, 23, 3, 1, tzinfo=UTC)),
        ("2026-11-23 03:01:02.123 UTC", datetime(2026, 11, 23, 3, 1, 2, 123_000, UTC)),
        (" 2026-11-23 ", datetime(2026, 11, 23, tzinfo=UTC)),
        ("20261123T030102Z", datetime(2026, 11, 23, 3, 1, 2, tzinfo=UTC)),
        ("now", NOW),
        ("today", datetime(2026, 11, 23, tzinfo=UTC)),
        ("yesterday", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2h", NOW - timedelta(hours=2)),
        ("-2h", NOW - timedelta(hours=2)),
        ("0s", NOW),
        ("1w2d3h4m5s", NOW - timedelta(days=9, hours=3, minutes=4, seconds=5)),
    ],
)
def test_a_time_is_understood(monkeypatch: pytest.MonkeyPatch, text: str, moment: datetime) -> None:
    """Also as a terminal shows it. Without an offset it is in UTC."""
    monkeypatch.setattr(times, "datetime", Clock)
    assert parsed(text) == moment


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "'' is not a time; give a time such as"),
        ("soon", "'soon' is not a time; give a time such as"),
        ("-", "is not a time"),
        ("2x", "is not a time"),
        ("1m2h", "is not a time"),
        ("2026-13-01", "is not a time (month must be in 1..12); give"),
        ("2026-02-30T00:00Z", "is not a time (day is out of range for month); give"),
        ("2026-11-23T25:00", "is not a time (hour must be in 0..23); give"),
        ("0001-01-01T00:00+01:00", "is not in the years 1 to 9999"),
        ("999999999w", "is not in the years 1 to 9999"),
        ("9999999999h", "is not a time"),
        ("\u0663h", "is not a time"),
        ("2026-11-23T03:01:02 UTC+1", "is not a time"),
    ],
)
def test_what_is_no_time_has_its_own_message(text: str, cause: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        parsed(text)
    assert cause in caught.value.message


def test_read_prints_what_was_recorded_between_two_times(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """From the first to before the second; of a stream, too. Times in the wrong order are a mistake."""
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for hour in range(6):
            event = EncodedEvent("T", b"{}", recorded_at=f"2026-11-23T0{hour}:00:00Z")
            store.append_at_end(f"a:{hour % 2}", [event])

    def positions(*options: str) -> list[int]:
        hangarlog.main(["read", str(tmp_path / "s"), *options], standalone_mode=False)
        return [int(line[12:].split(b",")[0]) for line in capsysbinary.readouterr().out.splitlines()]

    assert positions("--since", "2026-11-23 02:00") == [3, 4, 5, 6]
    assert positions("--until", "2026-11-23T04:00+02:00") == [1, 2]
    assert positions("--since", "2026-11-23T01:00Z", "--until", "2026-11-23T04:00Z") == [2, 3, 4]
    assert positions("a:0", "--since", "2026-11-23T01:00Z", "--reverse", "--limit", "1") == [5]
    assert positions("--since", "0s") == []
    with pytest.raises(click.UsageError, match="is after --until"):
        positions("--since", "2h", "--until", "3h")
