"""Payloads, metadata, snapshots, types and ids of events."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgspec

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.maintenance.verify import verify
from hangarlog.testing import registered

from .part import REFUSALS, Part, command


def nested(levels: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind is list else {"x": value}
    return value


class Typed(msgspec.Struct):
    value: Any


def payloads(part: Part) -> None:
    """Each is read back as it was, or refused with nothing written."""
    with registered(Typed=Typed), part.store() as store:
        for number, value in enumerate(wild_values()):
            for kind in ("untyped", "typed", "metadata", "snapshot"):
                shown = f"{type(value).__name__} {number} as {kind}"
                with part.case(shown, brings=64 * size_of(value)):
                    keep(store, value, kind)
        for wrong in ({"saved_at": 5}, {"saved_at": "\ud800"}, {"schema_version": "x"}, {"version": 10**30}):
            with part.case(f"a snapshot with {wrong}"):
                options: dict[str, Any] = {"version": 0, "state": {}, **wrong}
                with contextlib.suppress(ValueError, TypeError):
                    store.save_snapshot("a:1", **options)
                    raise AssertionError("it is taken")
                store.load_snapshot("a:1")
        for shown, event in odd_events().items():
            with part.case(shown, brings=2 << 30 if "MB" in shown else 0):
                before = store.get_event_count()
                try:
                    store.append("a:1", [event], ANY)
                except REFUSALS:
                    assert store.get_event_count() == before
                    raise
                (last,) = store.records(reverse=True, limit=1)
                assert (last.event_type, last.event.data) == (event.event_type, event.data)
        with part.case("all of it again", brings=2 << 30):
            assert list(verify(store)) == []
    for data in (
        '{"a":1,"a":2}',
        '{"x":' * 2000 + "1" + "}" * 2000,
        '{"x":1e999}',
        '{"x":NaN}',
        '{"x":"\\ud800"}',
        "[]",
    ):
        with part.case(f"the command line with {data[:30]}"):
            done = command("append", part.path, "cli:1", "--type", "T", "--data", data)
            assert done.returncode in (0, 1, 2), done.returncode
            assert b"Traceback" not in done.stderr, done.stderr[-300:]


def wild_values() -> list[Any]:
    """Values of a payload's field: deep, huge, out of range, of no JSON form, or JSON texts that are none."""
    cyclic: dict[str, Any] = {}
    cyclic["x"] = cyclic
    # fmt: off
    return [
        *(nested(levels, kind) for levels in (100, 127, 128, 2_000, 100_000) for kind in (list, dict)),
        *(2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400, -(10**400), 10**5000),
        *(math.nan, math.inf, -math.inf, [math.nan], {"x": {"y": math.inf}}, 1e308, 5e-324, -0.0, True, None),
        *(
            "\ud800", "a\udfff", ["\udc00"], {"\ud800": 1}, {"": 1}, {"\0": "\0"}, "\u2028\u2029\x7f\x9b\u202e",
            "\U0010ffff",
        ),
        *(cyclic, {1: 2}, {None: 1}, {(1, 2): 3}, {1.5: 1}, b"\xff", {1, 2}, object(), type, lambda: 1, 1j, ...),
        *({"crc": "00000000"}, {"_version": 2}, {"__proto__": 1}, '"},"crc":"00000000"}\n', "\n" * 1000, "\\" * 1001),
        *(["x"] * 100_000, {str(n): n for n in range(100_000)}, "x" * (20 << 20), "\0" * (4 << 20)),
        *(msgspec.Raw(b"{"), msgspec.Raw(b'{"a":1,"a":2}'), msgspec.Raw(b"NaN"), msgspec.Raw(b"1\n"), msgspec.Raw(b"")),
        *(
            msgspec.Raw(b"[" * 200_000), msgspec.Raw(b"[" * 2000 + b"]" * 2000), msgspec.Raw(b'"\xff"'),
            msgspec.Raw(b"1e999"),
        ),
    ]
    # fmt: on


def odd_events() -> dict[str, UntypedEvent]:
    """Events that are odd as a whole."""
    return {
        "a type of 1 MB": UntypedEvent("T" * (1 << 20), {}),
        "a type with controls": UntypedEvent("\x1b[2J\n\0", {}),
        "a type with a surrogate": UntypedEvent("\ud800", {}),
        "an id of 10 MB": UntypedEvent("T", {}, event_id="x" * (10 << 20)),
        "an id with a surrogate": UntypedEvent("T", {}, event_id="\ud800"),
        "an id with a newline": UntypedEvent("T", {}, event_id="\n\0"),
        "a huge version": UntypedEvent("T", {}, schema_version=10**400),
        "no version": UntypedEvent("T", {}, schema_version=None),  # type: ignore[arg-type]
        "a list for data": UntypedEvent("T", []),  # type: ignore[arg-type]
        "64 MB": UntypedEvent("T", {"text": "x" * (64 << 20)}),
    }


def size_of(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, dict)) else 100_000


def keep(store: FileEventStore, value: Any, kind: str) -> None:
    """Store a value in one of its places and read it back."""
    before = store.get_event_count()
    try:
        if kind == "snapshot":
            store.append("snap:1", [UntypedEvent("T", {})], ANY)
            before += 1
            store.save_snapshot("snap:1", 0, {"value": value})
            loaded = store.load_snapshot("snap:1")
            assert loaded
            found = loaded["state"]["value"]
        else:
            event = (
                Typed(value) if kind == "typed" else UntypedEvent("T", {} if kind == "metadata" else {"value": value})
            )
            store.append("a:1", [event], ANY, metadata={"value": value} if kind == "metadata" else None)
            (last,) = store.records("a:1", reverse=True, limit=1)
            if kind == "metadata":
                found = (last.metadata or {})["value"]
            else:
                found = last.event.value if kind == "typed" else last.event.data["value"]
    except REFUSALS:
        assert store.get_event_count() == before, "it was refused, and written"
        raise
    if not isinstance(value, (msgspec.Raw, bytes, set, dict)):
        assert (found, type(found)) == (value, type(value)), f"{str(found)[:80]} was read back"
