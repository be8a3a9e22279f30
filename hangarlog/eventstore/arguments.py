"""Checks of the arguments of reads: a wrong kind is a `TypeError`, never a read that silently finds nothing."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from hangarlog.record.timestamp import as_recorded

_MANY_SECONDS = 1e15
"""More than this is as good as for ever."""

_rfc_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:([Zz])|([+-]\d\d:\d\d))", re.ASCII
).fullmatch


_AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"([0-9]{1,9})([smhdw])").fullmatch


def seconds_of(age: str) -> float | None:
    """Return the seconds of an age such as "1d", None if it is none."""
    found = _AGE(age)
    return int(found[1]) * float(_AGE_UNITS[found[2]]) if found else None


def is_whole(value: object) -> bool:
    """True for an `int`, also for one that an append has returned, but for no `bool`."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole_number(name: str, value: object) -> int:
    """Return a number. Raises `TypeError` unless it is an `int` and no `bool`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    return int(value)


def text(name: str, value: object) -> str:
    """Return a text. Raises `TypeError` for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, not {value!r}")
    return value


def number_or_none(name: str, value: object) -> int | None:
    """Return a number or None. Raises `TypeError`."""
    return value if value is None or type(value) is int else whole_number(name, value)


def seconds_or_none(name: str, value: object) -> float | None:
    """Return seconds or None. Raises `TypeError`, and `ValueError` if they are below 0."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be seconds or None, not {value!r}")
    if not value >= 0:
        raise ValueError(f"{name} must be seconds from 0 on, not {value!r}")
    return min(value, _MANY_SECONDS) * 1.0


def patience(name: str, value: object) -> float | None:
    """Return the seconds that a wait may take; None if it may take for ever, or longer than the system can wait.

    Raises `ValueError` for anything else.
    """
    if value is None:
        return None
    if not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{name} must be seconds from 0 on, or None, not {value!r}")
    return None if value > threading.TIMEOUT_MAX else value


def flag(name: str, value: object) -> bool:
    """Return True or False. Raises `TypeError` for anything else."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


class NotAwaitedError(TypeError):
    """A function that is called here is a coroutine function: it has done nothing."""


def refuse_awaitable(result: object) -> None:
    """Raise `NotAwaitedError` if a function has returned something to be awaited."""
    if result is not None and inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise NotAwaitedError("nobody awaits an async function here; use hangarlog.aio, or a plain function")


def one_or_more(name: str, value: object, kinds: Any, what: str) -> list[Any]:
    """Return the members of a collection, or the one value, all of which are `kinds`: `what`. Raises `TypeError`."""
    found = [value] if isinstance(value, (kinds, bytes)) or not isinstance(value, Iterable) else list(value)
    for one in found:
        if not isinstance(one, kinds):
            raise TypeError(f"{name} must be {what}, or a collection of them, not {one!r}")
    return found


def texts_or_none(name: str, value: object) -> frozenset[str] | None:
    """Return one text, or the texts of a collection. Raises `TypeError`."""
    return None if value is None else frozenset(one_or_more(name, value, str, "a text"))


def moment_or_none(name: str, value: object) -> str | None:
    """Return a time in the form of records; a time between two microseconds becomes the later one.

    Raises:
        TypeError: it is neither a datetime nor text.
        ValueError: it has no offset from UTC, is not RFC 3339, or its year is not from 1 to 9999.
    """
    if value is None:
        return None
    moment = _parsed(name, value) if isinstance(value, str) else value
    if not isinstance(moment, datetime):
        raise TypeError(f"{name} must be a datetime, or a text such as '2026-11-23T03:01:02Z', not {value!r}")
    if moment.utcoffset() is None:
        raise ValueError(f"{name} has no offset from UTC: {value!r}; use an aware datetime, such as datetime.now(UTC)")
    try:
        return as_recorded(moment)
    except OverflowError as error:
        raise ValueError(f"{name} is not in the years 1 to 9999 of UTC: {value!r}") from error


def _parsed(name: str, text: str) -> datetime:
    match = _rfc_3339(text)
    if match is None:
        raise ValueError(f"{name} is not RFC 3339 with an offset, such as '2026-11-23T03:01:02Z': {text!r}")
    day, second, fraction, _, offset = match.groups(default="")
    try:
        moment = datetime.fromisoformat(f"{day}T{second}.{fraction[:6]:0<6}{offset or '+00:00'}")
        return moment + timedelta(microseconds=1) if fraction[6:].strip("0") else moment
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} is no time: {text!r} ({error})") from error
