"""The events that engines write: MCP Hangar's ProviderStarted, payloads of any size, or the tests' real events."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import msgspec

from bench.harness.paths import ROOT
from hangarlog import register_event_type

REAL_EVENTS = ROOT / "tests" / "data" / "mcp-hangar-events.db"
_ID_PREFIX = "80ca934f-0983-485a-b4cf-"


@register_event_type
class ProviderStarted(msgspec.Struct):
    """The event as MCP Hangar writes it."""

    provider_id: str
    mode: str
    tools_count: int
    startup_duration_ms: float
    event_id: str
    occurred_at: float


@register_event_type
class Noted(msgspec.Struct):
    """An event with a payload of any size."""

    event_id: str
    text: str


def event(number: int) -> ProviderStarted:
    """Return a fresh event of about 200 bytes as JSON; its id contains `number`."""
    return ProviderStarted("math", "subprocess", 3, 409.18, f"{_ID_PREFIX}{number:012d}", 1795404241.28)


def noted(number: int, size_bytes: int) -> Noted:
    """Return an event of `size_bytes` as JSON, at least 37."""
    padded = Noted(f"{number:012d}", "")
    padded.text = "x" * (size_bytes - len(msgspec.json.encode(padded)))
    return padded


def first_number() -> int:
    """Return the first event number of this process, so that no two processes use the same id."""
    return os.getpid() * 10_000_000 % 10**12


def events(count: int, payload_kind: str = "", first: int | None = None) -> list[Any]:
    """Return fresh events. `payload_kind` is "" for ProviderStarted, "real", or the size of a payload in bytes."""
    begin = first_number() if first is None else first
    numbers = range(begin, begin + count)
    if payload_kind == "real":
        return [_real(number) for number in numbers]
    return [noted(number, int(payload_kind)) if payload_kind else event(number) for number in numbers]


def _real(number: int) -> Any:
    make, values = real_events()[number % len(real_events())]
    return make(**{**values, "event_id": f"{_ID_PREFIX}{number:012d}"})


_FIELD_TYPES: dict[type, Any] = {dict: dict[str, Any], list: list[Any], type(None): str | None}


@cache
def real_events() -> Sequence[tuple[Callable[..., Any], dict[str, Any]]]:
    """Return (class, fields) of the real events in order. Each event type gets a class, which is registered."""
    with sqlite3.connect(f"{REAL_EVENTS.as_uri()}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT event_type, data FROM events ORDER BY global_position").fetchall()
    connection.close()
    parsed = [(name, {k: v for k, v in json.loads(data).items() if k != "_version"}) for name, data in rows]
    types: dict[str, dict[str, set[type]]] = {}
    for name, values in parsed:
        for key, value in values.items():
            types.setdefault(name, {}).setdefault(key, set()).add(type(value))
    classes = {name: _class(name, fields) for name, fields in types.items()}
    return [(classes[name], values) for name, values in parsed]


def _class(name: str, fields: dict[str, set[type]]) -> type:
    if name == "ProviderStarted":
        return ProviderStarted
    cls = msgspec.defstruct(name, [(key, _field_type(types)) for key, types in fields.items()])
    return register_event_type(cls)


def _field_type(types: set[type]) -> Any:
    """Return the type of a field; one that is ever None is an optional string."""
    found = type(None) if type(None) in types else next(iter(types))
    return _FIELD_TYPES.get(found, found)


def event_classes(payload_kind: str) -> dict[str, type]:
    """Return the class of each stored event type."""
    if payload_kind == "real":
        return {make.__name__: make for make, _ in real_events() if isinstance(make, type)}
    return {"Noted": Noted} if payload_kind else {"ProviderStarted": ProviderStarted}
