"""The schema lock: the wire shape of every event type at every version, in a file of the user's repository.

It is JSON, sorted and indented, so that a change of it can be reviewed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET

from hangarlog.errors import SchemaLockError
from hangarlog.record.strict import refuse_repeated_keys
from hangarlog.schema.describe import Schema
from hangarlog.system.filesystem import FileSystem

FORMAT = 1
DEFAULT_PATH = "event-schema.json"

_MAX_LOCK_BYTES = 16 << 20  # Bytes of a file.
_MAX_DEPTH = 32  # Levels of a schema, and of a default.
_MAX_VERSION = 1 << 31  # Of a version.


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
        raw = FileSystem().read_file(os.path.realpath(path), _MAX_LOCK_BYTES)
    except FileNotFoundError:
        raise SchemaLockError(path, "there is no such file; make it with `hangarlog schema lock`") from None
    except (OSError, ValueError) as error:
        raise SchemaLockError(path, f"it cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        lock = msgspec.json.decode(raw, type=SchemaLock)
        refuse_repeated_keys(raw)
        _check(lock)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise SchemaLockError(path, f"it is damaged ({error}); restore it from your repository") from error
    if lock.hangarlog_schema != FORMAT:
        raise SchemaLockError(
            path, f"it is of format {lock.hangarlog_schema}, this hangarlog knows {FORMAT}; upgrade hangarlog"
        )
    return lock


def write_lock(path: str, lock: SchemaLock) -> None:
    """Put a lock in the place of the one at `path`, whole or not at all. It has the permissions that one had.

    Raises `SchemaLockError` if a symbolic link is there that is not the user's own, or leads to no file of the user's.
    """
    if os.path.islink(path):
        if not _is_own_link(path):
            cause = "it is a symbolic link, which may lead anywhere; give the path of the file itself with --lock"
            raise SchemaLockError(path, cause)
        path = os.path.realpath(path)
    path, filesystem = os.path.abspath(path), FileSystem()
    with contextlib.suppress(FileNotFoundError):  # A new one is private.
        found = os.lstat(path).st_mode
        if stat.S_ISREG(found):  # A link that has come there since is replaced, and its permissions say nothing.
            filesystem.set_rights(os.path.dirname(path), stat.S_IMODE(found) & 0o777)
    filesystem.replace_file(path, lock.encode())


def _is_own_link(path: str) -> bool:
    """Whether the user made a link, and owns the file that it leads to."""
    try:
        owners = {os.lstat(path).st_uid, os.stat(path).st_uid}
    except OSError:  # It leads nowhere, or to itself.
        return False
    return not hasattr(os, "geteuid") or owners == {os.geteuid()}


_Count = Annotated[int, msgspec.Meta(ge=0)]
_Some = msgspec.Meta(min_length=1)
_Above = msgspec.Meta(gt=0)
_Unset = msgspec.UnsetType


class _Part(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The words of a schema, with what may stand after them."""

    type: Literal["object", "array", "string", "integer", "number", "boolean", "null"] | _Unset = UNSET
    properties: dict[str, _Part] | _Unset = UNSET
    required: list[str] | _Unset = UNSET
    additional_properties: _Part | Literal[False] | _Unset = UNSET
    items: _Part | Literal[False] | _Unset = UNSET
    prefix_items: list[_Part] | _Unset = UNSET
    any_of: Annotated[list[_Part], _Some] | _Unset = UNSET
    enum: Annotated[list[str | int | float | bool | None], _Some] | _Unset = UNSET
    const: str | int | _Unset = UNSET
    default: Any = UNSET
    keys: _Part | _Unset = msgspec.field(default=UNSET, name="x-keys")
    python: str | _Unset = msgspec.field(default=UNSET, name="x-python")
    reference: str | _Unset = msgspec.field(default=UNSET, name="$ref")
    definitions: dict[str, _Part] = msgspec.field(default={}, name="$defs")
    format: str | _Unset = UNSET
    content_encoding: str | _Unset = UNSET
    pattern: str | _Unset = UNSET
    unique_items: bool = False
    min_length: _Count | _Unset = UNSET
    max_length: _Count | _Unset = UNSET
    min_items: _Count | _Unset = UNSET
    max_items: _Count | _Unset = UNSET
    min_properties: _Count | _Unset = UNSET
    max_properties: _Count | _Unset = UNSET
    minimum: float | int | _Unset = UNSET
    maximum: float | int | _Unset = UNSET
    exclusive_minimum: float | int | _Unset = UNSET
    exclusive_maximum: float | int | _Unset = UNSET
    multiple_of: Annotated[float, _Above] | Annotated[int, _Above] | _Unset = UNSET

    def limits(self) -> tuple[Any, ...]:
        """The numbers that bound its values."""
        lengths = (self.min_length, self.max_length, self.min_items, self.max_items)
        sizes = (self.min_properties, self.max_properties, self.multiple_of)
        return (*lengths, *sizes, self.minimum, self.maximum, self.exclusive_minimum, self.exclusive_maximum)

    def says_what(self) -> bool:
        """Whether it says of what type its values are, or which; or else nothing at all."""
        kinds = (self.type, self.any_of, self.enum, self.const, self.python, self.reference)
        return any(kind is not UNSET for kind in kinds) or self == _Part(
            default=self.default, definitions=self.definitions
        )


def _check(lock: SchemaLock) -> None:
    """Raise `ValueError` or `TypeError` unless every schema is one that could have been written here.

    A pattern is a text like any other: it is run neither here nor by a check, unless it is the application's, too.
    """
    for name, locked in lock.events.items():
        if not all(1 <= number <= _MAX_VERSION for number in (locked.version, locked.split or 1, *locked.inferred)):
            raise ValueError(f"{name} has a version that is none")
        for version, schema in locked.schemas.items():
            if not (
                version.isascii() and version.isdecimal() and len(version) < 11 and 1 <= int(version) <= _MAX_VERSION
            ):
                raise ValueError(f"{name} has a version {version[:20]!r}")
            try:
                _check_schema(schema)
            except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
                raise ValueError(f"{name} v{version}: {error}") from error


def _check_schema(schema: Schema) -> None:
    root = msgspec.convert(schema, _Part)
    if root.type != "object" or root.reference is not UNSET:
        raise ValueError("its schema is not of an object")
    for part in (root, *root.definitions.values()):
        _check_part(part, root, 0)
    if any(part.reference is not UNSET for part in root.definitions.values()):
        raise ValueError("a definition is only a reference")
    try:
        TopologicalSorter({name: _alternatives(part) for name, part in root.definitions.items()}).prepare()
    except CycleError:
        raise ValueError("a definition is one of its own alternatives") from None


def _alternatives(part: _Part) -> Iterator[str]:
    """The definitions that a part's values are of, as they are."""
    for each in part.any_of or ():
        if each.reference is not UNSET:
            yield each.reference.removeprefix("#/$defs/")
        yield from _alternatives(each)


def _check_part(part: _Part, root: _Part, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
    if part.reference is not UNSET:
        if part.reference != "#" and part.reference.removeprefix("#/$defs/") not in root.definitions:
            raise ValueError(f"{part.reference} refers to nothing")
        return
    _check_words(part)
    _check_values((part.default, part.enum, part.const, *part.limits()), 0)
    inner = [*(part.properties or {}).values(), *(part.prefix_items or []), *(part.any_of or [])]
    inner += [each for each in (part.additional_properties, part.items, part.keys) if isinstance(each, _Part)]
    for each in inner:
        _check_part(each, root, depth + 1)


def _check_words(part: _Part) -> None:
    if not part.says_what():
        raise ValueError("a part of a schema does not say what it is of")
    if part.type == "object" and part.properties is not UNSET and part.required is UNSET:
        raise ValueError("an object does not say what is required")
    if part.type == "object" and part.properties is UNSET and not isinstance(part.additional_properties, _Part):
        raise ValueError("an object says neither its properties nor its values")
    if part.type == "array" and not isinstance(part.items, _Part) and part.prefix_items is UNSET:
        raise ValueError("an array does not say what is in it")


def _check_values(values: Iterable[Any], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"a default is nested deeper than {_MAX_DEPTH} levels")
    for value in values:
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            raise ValueError("a number is beyond 64 bits")
        if isinstance(value, dict):
            _check_values(value.values(), depth + 1)
        elif isinstance(value, list):
            _check_values(value, depth + 1)
