"""Tests of an application's schema evolution: the schema check as an assertion, and made-up events of every version."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from hangarlog.events.serializer import EventSerializer
from hangarlog.schema.check import Finding, check, failing
from hangarlog.schema.describe import Schema
from hangarlog.schema.elsewhere import find_varying, may_be_varying
from hangarlog.schema.lockfile import SchemaLock, read_lock
from hangarlog.schema.sample import TEXTS, sample
from hangarlog.schema.target import load_events, read_settings

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

_Option = TypeVar("_Option")


class SchemaGuard:
    """The value of the fixture `hangarlog_schema`: checks the events and the schema lock of a project's folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def findings(
        self, events: str | EventSerializer | None = None, lock: str | SchemaLock | None = None
    ) -> list[Finding]:
        """Return all findings of the schema check, including notes.

        `events` is a serializer or its location (`module:attribute`), `lock` is a lock or its path. The defaults come
        from the folder's pyproject.toml.

        Raises:
            EventsNotFoundError: the events cannot be loaded.
            SchemaLockError: the lock cannot be read.
        """
        settings = read_settings(os.path.join(self._folder, "pyproject.toml"))
        found = events if events is not None else settings.events
        serializer = load_events(found or "", self._folder) if not isinstance(found, EventSerializer) else found
        if not isinstance(lock, SchemaLock):
            lock = read_lock(os.path.join(self._folder, lock or settings.schema_lock))
        findings = check(serializer, lock)
        if may_be_varying(findings) and isinstance(found, str) and find_varying(serializer, found, self._folder):
            findings = check(serializer, lock)
        return findings

    def check(self, events: str | EventSerializer | None = None, lock: str | SchemaLock | None = None) -> None:
        """Fail the test if stored events could no longer be read. Arguments and errors are those of `findings`."""
        __tracebackhide__ = True
        failures = failing(self.findings(events, lock))
        if failures:
            raise AssertionError("\n".join(("stored events could not be read any more:", *map(_text, failures))))


def _text(finding: Finding) -> str:
    lines = [f"- {finding.event_type}: {finding.message}", *(f"    {detail}" for detail in finding.details)]
    return "\n".join([*lines, *(f"    {line}" for line in finding.code.splitlines())])


def stored_payloads(
    lock: str | SchemaLock, event_types: Sequence[str] | None = None
) -> SearchStrategy[tuple[str, bytes]]:
    """Return a hypothesis strategy for (event type, stored payload) of all types and versions in a schema lock.

    `event_types` limits the types. Decorate a test with `@given(stored_payloads("event-schema.json"))`, and call
    `serializer.deserialize_all(*stored)` in it. Versions that were inferred from a store are left out, because their
    shape covers only the payloads that were there.

    Raises:
        SchemaLockError: the lock cannot be read.
        ValueError: the lock has no version of these types.
    """
    from hypothesis import strategies

    lock = lock if isinstance(lock, SchemaLock) else read_lock(lock)
    shapes = [
        (name, version, schema)
        for name, locked in lock.events.items()
        for version in locked.versions()
        if (schema := locked.schema(version)) is not None
        and version not in locked.inferred
        and (event_types is None or name in event_types)
    ]
    if not shapes:
        raise ValueError("the lock has no version of these event types")

    @strategies.composite
    def stored(draw: DrawFn) -> tuple[str, bytes]:
        name, version, schema = draw(strategies.sampled_from(shapes))
        return name, msgspec.json.encode({"_version": version, **sample(schema, _Drawn(draw))})

    return stored()


class _Drawn:
    """A source of values that hypothesis draws."""

    def __init__(self, draw: DrawFn) -> None:
        self._draw = draw

    def choose(self, path: str, options: Sequence[_Option]) -> _Option:
        from hypothesis import strategies

        return self._draw(strategies.sampled_from(options))

    def integer(self, path: str, schema: Schema) -> int:
        from hypothesis import strategies

        step: int = schema.get("multipleOf", 1)
        least = schema.get("minimum", schema.get("exclusiveMinimum", -(1 << 63) - 1) + 1)
        most = schema.get("maximum", schema.get("exclusiveMaximum", 1 << 63) - 1)
        return step * self._draw(strategies.integers(-(-least // step), most // step))

    def number(self, path: str, schema: Schema) -> float:
        from hypothesis import strategies

        if "multipleOf" in schema:
            return float(schema["multipleOf"] * self.integer(path, {}))
        above, below = "exclusiveMinimum" in schema, "exclusiveMaximum" in schema
        return self._draw(
            strategies.floats(
                schema["exclusiveMinimum"] if above else schema.get("minimum"),
                schema["exclusiveMaximum"] if below else schema.get("maximum"),
                exclude_min=above,
                exclude_max=below,
                allow_nan=False,
                allow_infinity=False,
            )
        )

    def text(self, path: str, schema: Schema) -> str:
        from hypothesis import strategies

        kind: Any = schema.get("format") or schema.get("contentEncoding")
        if kind in TEXTS:
            return self._draw(strategies.sampled_from(TEXTS[kind]))
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if "pattern" in schema:
            found = strategies.from_regex(schema["pattern"], alphabet=_characters())
            return self._draw(found.filter(lambda text: least <= len(text) <= (len(text) if most is None else most)))
        return self._draw(strategies.text(_characters(), min_size=least, max_size=most))


def _characters() -> SearchStrategy[str]:
    from hypothesis import strategies

    return strategies.characters(exclude_categories=["Cs"])
