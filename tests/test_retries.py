"""docs/appending.md says in one table what each kind of retry does. Here every cell of it is carried out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import ROOT

from hangarlog import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    AppendResult,
    EventStore,
    FileEventStore,
    MemoryEventStore,
)
from hangarlog.testing import registered


class Paid(msgspec.Struct, frozen=True):
    event_id: str | None = None


PAGE = ROOT / "docs" / "appending.md"
ROWS = re.findall(r"^\| (.+) \|$", PAGE.read_text(), re.MULTILINE)
TABLE = {cells[0]: cells[1:] for row in ROWS[2:] for cells in [row.split(" | ")]}
SINCE = ["nothing since", "others have appended", "the events were compacted", "both"]

EVENTS = [Paid("e-1"), Paid("e-2")]
MORE = [*EVENTS, Paid("e-3")]
WITHOUT = [Paid(), Paid()]
Result = AppendResult | dict[str, AppendResult]
Append = Callable[[EventStore, int], Result]
"""Appends to the store; the stream was at the given version before, and again later where that is wanted."""


def one(events: list[Paid], expected: int | None = None, **options: Any) -> Append:
    """An append to the one stream, by default at the exact version."""
    return lambda store, before: store.append("a:1", events, before if expected is None else expected, **options)


def at_end(events: list[Paid], **options: Any) -> Append:
    return lambda store, before: store.append_at_end("a:1", events, **options)


def many(streams: list[str], **options: Any) -> Append:
    """One append to several streams, at the exact version of the first one; the others are new."""
    return lambda store, before: store.append_many(
        [(stream_id, EVENTS, before if stream_id == "a:1" else NO_STREAM) for stream_id in streams], **options
    )


def now(store: EventStore, before: int) -> Result:
    return store.append("a:1", EVENTS, store.get_stream_version("a:1"))


def at_any_version(store: EventStore, before: int) -> Result:
    """Repeated with each expected version; all do the same."""
    results = {
        repr(store.append("a:1", EVENTS, expected, idempotent=True))
        for expected in (before, NO_STREAM, ANY, STREAM_EXISTS, 77)
    }
    assert len(results) == 1
    return store.append_at_end("a:1", EVENTS, idempotent=True)


ALWAYS = {"idempotent": True}
CASES: dict[str, tuple[bool, Append, list[Append]]] = {
    # (True if the stream is there before, the first append, the appends of which each is the second one)
    "the exact version": (True, one(EVENTS), [one(EVENTS)]),
    "`NO_STREAM`": (False, one(EVENTS, NO_STREAM), [one(EVENTS, NO_STREAM)]),
    "`ANY`, `append_at_end`": (True, one(EVENTS, ANY), [one(EVENTS, ANY), at_end(EVENTS)]),
    "`STREAM_EXISTS`": (True, one(EVENTS, STREAM_EXISTS), [one(EVENTS, STREAM_EXISTS)]),
    "`append_many`, exact versions": (True, many(["a:1", "b:1"]), [many(["a:1", "b:1"]), many(["b:1", "a:1"])]),
    "`append_many`, of which one stream has its events": (True, one(EVENTS), [many(["a:1", "b:1"])]),
    "the version that the stream is at now": (True, one(EVENTS), [now]),
    "the exact version, only the first of the events": (True, one(EVENTS), [one(EVENTS[:1])]),
    "the exact version, one more event": (True, one(EVENTS), [one(MORE)]),
    "the exact version, events without ids": (True, one(WITHOUT), [one(WITHOUT)]),
    "`ANY`, events without ids": (True, one(WITHOUT, ANY), [one(WITHOUT, ANY), at_end(WITHOUT)]),
    "the exact version, `retry=False`": (True, one(EVENTS), [one(EVENTS, retry=False)]),
    "`ANY`, `retry=False`": (True, one(EVENTS, ANY), [one(EVENTS, ANY, retry=False), at_end(EVENTS, retry=False)]),
    "`idempotent=True`, any expected version": (True, one(EVENTS), [at_any_version, at_end(EVENTS, **ALWAYS)]),
    "`idempotent=True`, only the first of the events": (True, one(EVENTS), [one(EVENTS[:1], **ALWAYS)]),
    "`idempotent=True`, one more event": (True, one(EVENTS), [one(MORE, **ALWAYS), at_end(MORE, **ALWAYS)]),
    "`idempotent=True`, `append_many`": (True, many(["a:1", "b:1"]), [many(["a:1", "b:1"], **ALWAYS)]),
    "`idempotent=True`, `append_many`, of which one stream has its events": (
        True,
        one(EVENTS),
        [many(["a:1", "b:1"], **ALWAYS)],
    ),
    "`idempotent=True`, events without ids": (True, one(WITHOUT), [one(WITHOUT, **ALWAYS), at_end(WITHOUT, **ALWAYS)]),
}


def outcome(store: EventStore, append: Append, before: int) -> str:
    """What an append did, in the words of the table."""
    count = store.get_event_count()
    try:
        result = append(store, before)
    except Exception as error:
        assert store.get_event_count() == count
        return f"`{type(error).__name__}`"
    written = {each.written for each in (result.values() if isinstance(result, dict) else [result])}
    assert written == {store.get_event_count() > count}
    return "written again" if written == {True} else "recognised"


def test_the_table_has_a_row_for_each_case() -> None:
    assert list(TABLE) == list(CASES)
    assert list(ROWS[0].split(" | "))[1:] == SINCE


@pytest.mark.parametrize("since", SINCE)
@pytest.mark.parametrize("row", CASES)
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_retry_does_what_the_table_says(tmp_path: Path, row: str, since: str, kind: str) -> None:
    exists, first, again = CASES[row]
    for number, append in enumerate(again):
        opened: EventStore = MemoryEventStore()
        if kind == "file":
            opened = FileEventStore(tmp_path / str(number), durability="relaxed")
        with registered(Paid=Paid), opened as store:
            if exists:
                store.append("a:1", [Paid("before")], NO_STREAM)
            before = store.get_stream_version("a:1")
            first(store, before)
            if since in SINCE[2:]:
                store.save_snapshot("a:1", store.get_stream_version("a:1"), {})
            if since in (SINCE[1], SINCE[3]):
                store.append("a:1", [Paid("other")], ANY)
            if since in SINCE[2:]:
                assert store.compact_stream("a:1")
            assert outcome(store, append, before) == TABLE[row][SINCE.index(since)]
