"""The events that are written: MCP Hangar's ProviderStarted, or the real events of the test data."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from hangarlog import register_event_type

REAL = Path(__file__).resolve().parent.parent.parent / "tests" / "data" / "mcp-hangar-events.db"
_ID = "80ca934f-0983-485a-b4cf-"


@register_event_type
class ProviderStarted(msgspec.Struct):
    """As MCP Hangar writes it."""

    provider_id: str
    mode: str
    tools_count: int
    startup_duration_ms: float
    event_id: str
    occurred_at: float


@register_event_type
class Noted(msgspec.Struct):
    """A payload of any size."""

    event_id: str
    text: str


def event(number: int) -> ProviderStarted:
    """A fresh one, about 200 bytes as JSON, with an id of its own."""
    return ProviderStarted("math", "subprocess", 3, 409.18, f"{_ID}{number:012d}", 1795404241.28)


def noted(number: int, size: int) -> Noted:
    """One of so many bytes as JSON; at least 37."""
    made = Noted(f"{number:012d}", "")
    made.text = "x" * (size - len(msgspec.json.encode(made)))
    return made


def first_number() -> int:
    """Where a process begins to count, so that no two processes make the same id."""
    return os.getpid() * 10_000_000 % 10**12


def events(count: int, kind: str = "", first: int | None = None) -> list[Any]:
    """So many fresh events: `kind` is "" for ProviderStarted, "real", or a payload's size in bytes."""
    begin = first_number() if first is None else first
    numbers = range(begin, begin + count)
    if kind == "real":
        return [_real(number) for number in numbers]
    return [noted(number, int(kind)) if kind else event(number) for number in numbers]


def _real(number: int) -> Any:
    make, values = real_events()[number % len(real_events())]
    return make(**{**values, "event_id": f"{_ID}{number:012d}"})


_TYPES: dict[type, Any] = {dict: dict[str, Any], list: list[Any], type(None): str | None}


@cache
def real_events() -> Sequence[tuple[Callable[..., Any], dict[str, Any]]]:
    """(class, fields) of the stored events in order, with a class made for each type and registered."""
    with sqlite3.connect(f"{REAL.as_uri()}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT event_type, data FROM events ORDER BY global_position").fetchall()
    connection.close()
    parsed = [(name, {k: v for k, v in json.loads(data).items() if k != "_version"}) for name, data in rows]
    kinds: dict[str, dict[str, set[type]]] = {}
    for name, values in parsed:
        for key, value in values.items():
            kinds.setdefault(name, {}).setdefault(key, set()).add(type(value))
    classes = {name: _class(name, fields) for name, fields in kinds.items()}
    return [(classes[name], values) for name, values in parsed]


def _class(name: str, fields: dict[str, set[type]]) -> type:
    if name == "ProviderStarted":
        return ProviderStarted
    made = msgspec.defstruct(name, [(key, _TYPES.get(_one(kinds), _one(kinds))) for key, kinds in fields.items()])
    return register_event_type(made)


def _one(kinds: set[type]) -> type:
    """A field that is None somewhere is read as such."""
    return type(None) if type(None) in kinds else next(iter(kinds))


def event_classes(kind: str) -> dict[str, type]:
    """Stored name -> class, of the events of a kind."""
    if kind == "real":
        return {make.__name__: make for make, _ in real_events() if isinstance(make, type)}
    return {"Noted": Noted} if kind else {"ProviderStarted": ProviderStarted}
