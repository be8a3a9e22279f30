"""A check of a lock that somebody else made ends: its patterns are not run, and what it holds is not all made up."""

from __future__ import annotations

import ast
import re
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from hangarlog import EventRegistry, EventSerializer, UpcasterChain
from hangarlog.schema import compare, sample, scalars
from hangarlog.schema.check import check, failing
from hangarlog.schema.describe import describe
from hangarlog.schema.lockfile import LockedType, SchemaLock
from hangarlog.schema.skeleton import skeleton

SLOW = "(x+x+)+y"
"""Takes ages on the 40 characters that are tried otherwise."""


class Coded(msgspec.Struct):
    code: Annotated[str, Meta(pattern="^[a-z]+$")]


class Plain(msgspec.Struct):
    code: str = ""


class Node(msgspec.Struct):
    name: str
    left: Node | None = None


class Renamed(msgspec.Struct):
    name: str
    right: Renamed | None = None


def serializer(event_class: type, version: int = 2) -> EventSerializer:
    registry, chain = EventRegistry(), UpcasterChain()
    registry.event(event_class, name="Event", version=version)
    for step in range(1, version):
        chain.upcaster("Event", step)(dict)
    return EventSerializer(chain, registry=registry)


def locked(*fields: dict[str, Any], **definitions: Any) -> SchemaLock:
    """A lock of the versions from 1 up, each with one field."""
    schemas = {
        str(version): {"type": "object", "properties": {"code": field}, "required": ["code"], "$defs": definitions}
        for version, field in enumerate(fields, 1)
    }
    return SchemaLock(events={"Event": LockedType(len(fields), schemas=schemas)})


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The patterns that are run; the slow one is not, even so."""
    patterns: list[str] = []

    class Recorded:
        error = re.error

        @staticmethod
        def search(pattern: str, text: str) -> re.Match[str] | None:
            patterns.append(pattern)
            return None if pattern == SLOW else re.search(pattern, text)

    for module in (sample, scalars):
        monkeypatch.setattr(module, "re", Recorded)
    return patterns


@pytest.mark.parametrize("pattern", [SLOW, "(", "[[", "a{99999999999}", "(" * 5000])
def test_a_pattern_that_only_the_lock_has_is_not_run(ran: list[str], pattern: str) -> None:
    found = check(serializer(Plain), locked({"type": "string", "pattern": pattern}))
    (message,) = (finding.message for finding in found if finding.kind == "untried")
    assert "a pattern that no class has is not run" in message
    assert ran == []


def test_a_pattern_of_the_applications_is_run_on_what_is_made_up(ran: list[str]) -> None:
    field = {"type": "string", "pattern": "^[a-z]+$"}
    assert failing(check(serializer(Coded), locked(field, field))) == []
    assert {*ran} == {"^[a-z]+$"}


def test_neither_is_run_on_long_texts_of_the_lock(ran: list[str]) -> None:
    """One's own pattern may be slow, too."""
    for value, breaks in (("short", []), ("x" * 30, ["changed"])):
        found = check(serializer(Coded, 1), locked({"enum": [value]}))
        assert [finding.kind for finding in failing(found)] == breaks
    assert [*ran] == ["^[a-z]+$"]


def doubling(levels: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A field that holds 2 ** levels values, and the definitions for it."""
    made: dict[str, Any] = {"D0": {"type": "string"}}
    for level in range(1, levels):
        both = {"$ref": f"#/$defs/D{level - 1}"}
        made[f"D{level}"] = {"type": "object", "properties": {"l": both, "r": both}, "required": ["l", "r"]}
    return {"$ref": f"#/$defs/D{levels - 1}"}, made


def test_what_a_small_lock_makes_of_few_words_is_not_made_up_and_compared_once() -> None:
    field, definitions = doubling(60)
    found = check(serializer(Plain), locked(field, field, **definitions))
    assert [finding.kind for finding in found] == ["changed", "untried"]
    assert "it holds more than 20000 values, the limit for samples" in found[1].message
    copy = msgspec.json.decode(msgspec.json.encode(definitions))
    changes = compare.compare_parts(field, field, {"$defs": definitions}, {"$defs": copy})
    assert changes == []
    copy["D0"] = {"type": "integer"}
    changes = compare.compare_parts(field, field, {"$defs": definitions}, {"$defs": copy})
    assert 1 <= len(changes) <= 1000
    assert {change.what for change in changes} == {"was text, is integer"}


def test_a_class_that_holds_itself_may_have_its_field_renamed() -> None:
    """The hint looks into what is compared already."""
    changes = compare.compare(describe("E", Node), describe("E", Renamed))
    assert [(change.path, change.breaking) for change in changes] == [("left", True), ("right", False)]


def test_the_upcaster_to_write_has_nothing_of_a_lock_but_comments_and_quoted_texts() -> None:
    evil = "x\nimport os\nos.abort()"
    fields = [{"x-python": evil}, {"type": "string", "format": evil}, {"type": "array", "items": {}}]
    for field in fields:
        before, after = (
            {"type": "object", "properties": {"code": part}, "required": ["code"]} for part in (field, {"type": "null"})
        )
        for shapes in ((before, after), (after, before)):
            code = skeleton(evil, 1, *shapes)
            assert "import os" in code
            compile(code, "skeleton", "exec")
            (function,) = ast.parse(code).body
            assert isinstance(function, ast.FunctionDef)
            assert len(function.body) == 1
