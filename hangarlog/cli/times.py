"""Times that a user gives, such as `2026-11-23T03:01`, `2026-11-23`, `yesterday` or `2h` ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_ago = re.compile(r"-?(?=[0-9])" + "".join(f"(?:(?P<{name}>[0-9]{{1,9}}){unit})?" for unit, name in _UNITS.items()))
_DAYS = {"today": 0, "yesterday": 1}
_FORMS = "a time such as '2026-11-23T03:01:02Z', '2026-11-23 03:01', '2026-11-23' or '2h' (two hours ago)"


def parse_time(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """Return a time that was given as an option. One without an offset is in UTC, as all times that are shown are.

    Raises:
        click.BadParameter: it is no time.
    """
    if value is None:
        return None
    text, now = value.strip(), datetime.now(UTC)
    try:
        ago = _ago.fullmatch(text)
        if ago:
            return now - timedelta(**{name: int(number) for name, number in ago.groupdict(default="0").items()})
        if text == "now":
            return now
        if text in _DAYS:
            return now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=_DAYS[text])
        moment = datetime.fromisoformat(text.removesuffix("UTC").rstrip())
        return (moment.replace(tzinfo=UTC) if moment.utcoffset() is None else moment).astimezone(UTC)
    except OverflowError:
        cause = f"{value!r} is not in the years 1 to 9999"
    except ValueError as error:
        why = f" ({error})" if text[:4].isdecimal() and "isoformat" not in str(error) else ""
        cause = f"{value!r} is not a time{why}; give {_FORMS}"
    raise click.BadParameter(cause, context, parameter)
