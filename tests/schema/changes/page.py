"""What the check says of each change, and docs/schema-changes.md, which has all of it."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from hangarlog.schema.check import Finding, check, failing
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.schema.locking import make_lock
from hangarlog.schema.target import load_events

from .breaking import BREAKING
from .change import Change
from .harmless import HARMLESS

CAMPAIGN = "\n## A campaign of random classes\n\n"
PAGE = Path(__file__).resolve().parents[3] / "docs" / "schema-changes.md"
BY_HAND = "\n## Tried on public projects\n"
"""Where the part of the page begins that is not written by the test."""

_HEAD = """
import _thread, dataclasses, datetime, enum, functools, hashlib, itertools, os, random, socket, time, uuid
from typing import Annotated, Any, Generic, Literal, TypeVar
import attrs, msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field
from hangarlog import EventRegistry, EventSerializer, UpcasterChain

registry, chain = EventRegistry(), UpcasterChain()
event = registry.event
serializer = EventSerializer(chain, registry=registry, dec_hook=lambda kind, value: kind())

class Nested(Struct):
    process: int = field(default_factory=os.getpid)
"""


def findings(change: Change, folder: Path) -> list[Finding]:
    """What the check says of the module after, with the lock of the module before, which goes through its file."""
    names: list[str] = []
    for when in ("first", "before", "after"):
        name = re.sub(r"\W", "_", f"{change.title} {when}")
        (folder / f"{name}.py").write_text(_HEAD + (getattr(change, when) or ""))
        names.append(name)
    path = str(folder / "event-schema.json")
    sys.path.insert(0, str(folder))
    try:
        lock = SchemaLock()
        for name in names[:-1]:
            lock = make_lock(load_events(f"{name}:serializer"), lock)
            write_lock(path, lock)
            lock = read_lock(path)
        return check(load_events(f"{names[-1]}:serializer"), lock)
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)  # Each is as it is when a program starts, whoever has asked before.


def table() -> str:
    """The page: what the check says of every change."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [(change, findings(change, Path(folder))) for change in (*BREAKING, *HARMLESS)]
    lines = [
        "# What `schema check` catches, and what it lets pass",
        "",
        "Written by the test that makes each of these changes to a small application, whose events were locked before:",
        "`python -m tests.schema.changes`. How to make such changes is in [schema-evolution.md](schema-evolution.md).",
        "",
        f"## {len(BREAKING)} changes that would make history unreadable",
        "",
        "| change | what it says |",
        "| --- | --- |",
        *(_row(change, failing(found)) for change, found in rows[: len(BREAKING)]),
        "",
        f"## {len(HARMLESS)} changes that do not",
        "",
        "| change | what it notes |",
        "| --- | --- |",
        *(_row(change, found) for change, found in rows[len(BREAKING) :]),
    ]
    _, mark, written_by_the_campaign = PAGE.read_text().partition(BY_HAND)[0].partition(CAMPAIGN)
    return "\n".join(lines) + "\n" + mark + written_by_the_campaign


def _row(change: Change, found: list[Finding]) -> str:
    said = "; ".join(f"*{finding.kind}*: {_first(finding)}" for finding in found[:1]) or "nothing"
    return f"| {change.title} | {said} |".replace("\n", " ")


def _first(finding: Finding) -> str:
    details = [detail.removeprefix("! ") for detail in finding.details if detail.startswith("! ")] or finding.details
    text = details[0].strip() if details else finding.message.partition(";")[0]
    return text.replace("|", "\\|")
