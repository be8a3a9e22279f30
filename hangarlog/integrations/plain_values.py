"""Values of a program as JSON can hold them: what has no JSON form becomes text, and nothing raises."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from types import TracebackType
from typing import Any
from uuid import UUID

MAX_LEVELS, MAX_VALUES = 16, 10_000

_MAX_FRAMES = 100
_MAX_EXCEPTIONS = 100
_MAX_INT = 1 << 63
_SHOWN = (date, time, Decimal, UUID, Enum, BaseException, type, str, int, float)
_LEAVES = frozenset([bool, type(None)])


def as_text(value: object) -> str:
    """Return `str(value)` in a form that JSON can hold."""
    try:
        text = value if type(value) is str else str(value)
    except Exception as error:  # It is the program's own code.
        text = f"<{type(value).__name__}: its str() raised {type(error).__name__}>"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def plain(value: Any) -> Any:
    """Return a value made of what JSON has. Instances of other classes become text: `str` of dates, else `repr`.

    So does what is nested deeper than 16 levels, or comes after 10,000 values.
    """
    return _plain(value, MAX_LEVELS, [MAX_VALUES])


def _plain(value: Any, levels: int, left: list[int]) -> Any:
    kind = type(value)
    if kind is str:
        return as_text(value)
    if kind in _LEAVES:
        return value
    if kind is int:
        return value if -_MAX_INT <= value < _MAX_INT else as_text(value)
    if kind is float:
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, _SHOWN):
        return as_text(value)
    with contextlib.suppress(Exception):  # Its methods are the program's own code, and other threads may change it.
        if isinstance(value, (Mapping, list, tuple, set, frozenset)):
            left[0] -= len(value)
            if levels == 0 or left[0] < 0:
                return f"<{kind.__name__} of {len(value)}>"
            if isinstance(value, Mapping):
                return {as_text(key): _plain(item, levels - 1, left) for key, item in [*value.items()]}
            return [_plain(item, levels - 1, left) for item in [*value]]
    return _shown(value)


def _shown(value: object) -> str:
    try:
        return as_text(repr(value))
    except Exception as error:
        return f"<{type(value).__name__}: its repr() raised {type(error).__name__}>"


ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


def exception(exc_info: ExcInfo) -> dict[str, Any] | None:
    """Return an exception with its message, frames, notes and causes; None if there is none.

    Of more than 100 frames, the first and the last 50 are kept. With causes and members of groups, 100 exceptions are.
    """
    _, value, trace = exc_info
    return None if value is None else _described(value, trace, MAX_LEVELS // 2, [_MAX_EXCEPTIONS])


def _described(error: BaseException, trace: TracebackType | None, levels: int, left: list[int]) -> dict[str, Any]:
    left[0] -= 1
    kind = type(error)
    found: dict[str, Any] = {"type": as_text(kind.__qualname__), "module": as_text(kind.__module__)}
    found |= {"message": as_text(error), **_frames(trace)}
    if notes := getattr(error, "__notes__", None):
        found["notes"] = plain(notes)
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    others = {"cause": error.__cause__}
    if error.__cause__ is None and not error.__suppress_context__:
        others["context"] = error.__context__
    for name, other in others.items():
        if other is not None and levels and left[0] > 0:
            found[name] = _described(other, other.__traceback__, levels - 1, left)
    if members and levels:
        found["exceptions"] = [
            _described(each, each.__traceback__, levels - 1, left) for each in members if left[0] > 0
        ]
    return found


def _frames(trace: TracebackType | None) -> dict[str, Any]:
    frames = traceback.StackSummary.extract(traceback.walk_tb(trace), lookup_lines=False)
    half = _MAX_FRAMES // 2
    omitted = max(0, len(frames) - _MAX_FRAMES)
    kept = frames[:half] + frames[-half:] if omitted else frames
    shown = [
        {
            "file": as_text(frame.filename),
            "line": frame.lineno,
            "function": as_text(frame.name),
            "text": as_text(frame.line or ""),
        }
        for frame in kept
    ]
    return {"frames": shown, "frames_omitted": omitted} if omitted else {"frames": shown}
