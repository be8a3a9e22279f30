"""The schema lock: the wire shape of every event type at every version, in a file of the user's repository.

It is JSON, sorted and indented, so that a change of it can be reviewed.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from hangarlog.errors import SchemaLockError
from hangarlog.filesystem import FileSystem
from hangarlog.schema.describe import Schema

FORMAT = 1
DEFAULT_PATH = "event-schema.json"


class LockedType(msgspec.Struct, omit_defaults=True):
    """A stored event type. `version` is the one that events were written at when it was locked.

    `alias_of` is the name its class was written under then, if that was another. `schemas` has the wire shape of each
    version that is known, `inferred` those that were gathered from stored events instead of from a class.
    """

    version: int
    alias_of: str | None = None
    dropped: str | None = None
    split: int | None = None
    schemas: dict[str, Schema] = {}
    inferred: list[int] = []

    def schema(self, version: int) -> Schema | None:
        """The wire shape at a version, None where the lock has none."""
        return self.schemas.get(str(version))

    def versions(self) -> list[int]:
        """The versions whose wire shape is known, in order."""
        return sorted(map(int, self.schemas))


class SchemaLock(msgspec.Struct):
    """What the file holds."""

    hangarlog_schema: int = FORMAT
    events: dict[str, LockedType] = {}

    def encode(self) -> bytes:
        """The bytes of the file."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=2) + b"\n"


def read_lock(path: str) -> SchemaLock:
    """The lock in a file.

    Raises:
        SchemaLockError: there is none, or it is damaged, or of another format.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except FileNotFoundError:
        raise SchemaLockError(path, "there is no such file; make it with `hangarlog schema lock`") from None
    try:
        lock = msgspec.json.decode(raw, type=SchemaLock)
        _check(lock)
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise SchemaLockError(path, f"it is damaged ({error}); restore it from your repository") from error
    if lock.hangarlog_schema != FORMAT:
        raise SchemaLockError(
            path, f"it is of format {lock.hangarlog_schema}, this hangarlog knows {FORMAT}; upgrade hangarlog"
        )
    return lock


def write_lock(path: str, lock: SchemaLock) -> None:
    """Put a lock in the place of the one at `path`, whole or not at all."""
    FileSystem().replace_file(os.path.abspath(path), lock.encode())


_MAX_DEPTH = 100


def _check(lock: SchemaLock) -> None:
    for name, locked in lock.events.items():
        for version, schema in locked.schemas.items():
            if not (version.isascii() and version.isdecimal() and int(version) >= 1):
                raise ValueError(f"{name} has a version {version!r}")
            _check_schema(schema, schema, _MAX_DEPTH)


def _check_schema(part: Any, root: Schema, depth: int) -> None:
    """Raise `ValueError` or `TypeError` unless a schema is one that this version could have written."""
    if not isinstance(part, dict) or depth < 0:
        raise ValueError(f"{msgspec.json.encode(part).decode()[:80]} is no schema that is written here")
    reference = part.get("$ref")
    if reference is not None and reference != "#" and reference.removeprefix("#/$defs/") not in root.get("$defs", {}):
        raise ValueError(f"{reference} refers to nothing")
    if any("$ref" in named for named in part.get("$defs", {}).values()):
        raise ValueError("a definition is only a reference")
    kind = part.get("type")
    if reference is None and kind is None and part.keys() - {"const", "enum", "anyOf", "x-python", "default", "$defs"}:
        raise ValueError(f"a schema has no type: {sorted(part)}")
    lists = [part.get("anyOf", []), part.get("prefixItems", [])]
    inner = [*lists[0], *lists[1], *part.get("properties", {}).values(), *part.get("$defs", {}).values()]
    inner += [part[word] for word in ("items", "additionalProperties", "x-keys") if isinstance(part.get(word), dict)]
    if kind == "object" and "properties" in part and not isinstance(part.get("required"), list):
        raise ValueError("an object does not say what is required")
    if kind == "object" and "properties" not in part and not isinstance(part.get("additionalProperties"), dict):
        raise ValueError("an object says neither its properties nor its values")
    for each in inner:
        _check_schema(each, root, depth - 1)
