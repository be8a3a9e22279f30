"""The schema lock: a file in the user's repository with the wire shape of every event type at every version.

It is sorted and indented JSON, so that you can review its changes.
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

_MAX_LOCK_BYTES = 16 << 20
_MAX_DEPTH = 32  # Levels of nesting in a schema, and in a default.
_MAX_VERSION = 1 << 31


class LockedType(msgspec.Struct, omit_defaults=True):
    """A stored event type as it was when the lock was made.

    `version` is the schema version that was written. `alias_of` is the current name of the class, if this is a former
    one. `dropped` is the reason if the type was dropped, and `split` the version at which it was split. `schemas` maps
    each known version to its wire shape; for the versions in `inferred` it comes from stored events, not from a class.
    """

    version: int
    alias_of: str | None = None
    dropped: str | None = None
    split: int | None = None
    schemas: dict[str, Schema] = {}
    inferred: list[int] = []

    def schema(self, version: int) -> Schema | None:
        """Return the wire shape at a version, None if it is unknown."""
        return self.schemas.get(str(version))

    def versions(self) -> list[int]:
        """Return the versions with a known wire shape, in order."""
        return sorted(map(int, self.schemas))


class SchemaLock(msgspec.Struct):
    """The content of the file: its format, and the locked types by name."""

    hangarlog_schema: int = FORMAT
    events: dict[str, LockedType] = {}

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=2) + b"\n"


def read_lock(path: str) -> SchemaLock:
    """Read a schema lock.

    Raises:
        SchemaLockError: the file is missing, damaged, or of another format.
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
        _check_lock(lock)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise SchemaLockError(path, f"it is damaged ({error}); restore it from your repository") from error
    if lock.hangarlog_schema != FORMAT:
        raise SchemaLockError(
            path, f"it has format {lock.hangarlog_schema}, but this version knows {FORMAT}; upgrade hangarlog"
        )
    return lock


def write_lock(path: str, lock: SchemaLock) -> None:
    """Replace the lock at `path` atomically, and keep its permissions.

    Raises:
        SchemaLockError: `path` is a symbolic link, and the link or the file it leads to is not the user's own.
    """
    if os.path.islink(path):
        if not _is_own_link(path):
            cause = "it is a symbolic link, which may lead anywhere; give the path of the file itself with --lock"
            raise SchemaLockError(path, cause)
        path = os.path.realpath(path)
    path, filesystem = os.path.abspath(path), FileSystem()
    with contextlib.suppress(FileNotFoundError):  # A new file is private.
        found = os.lstat(path).st_mode
        if stat.S_ISREG(found):  # Otherwise a link has appeared since. It is replaced, so its permissions do not count.
            filesystem.set_rights(os.path.dirname(path), stat.S_IMODE(found) & 0o777)
    filesystem.replace_file(path, lock.encode())


def _is_own_link(path: str) -> bool:
    """True if the user owns both a link and the file it leads to."""
    try:
        owners = {os.lstat(path).st_uid, os.stat(path).st_uid}
    except OSError:  # The link is broken or leads to itself.
        return False
    return not hasattr(os, "geteuid") or owners == {os.geteuid()}


_Count = Annotated[int, msgspec.Meta(ge=0)]
_NonEmpty = msgspec.Meta(min_length=1)
_Positive = msgspec.Meta(gt=0)
_Unset = msgspec.UnsetType


class _SchemaPart(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A schema or a part of one: the keywords that may occur, with the types of their values."""

    type: Literal["object", "array", "string", "integer", "number", "boolean", "null"] | _Unset = UNSET
    properties: dict[str, _SchemaPart] | _Unset = UNSET
    required: list[str] | _Unset = UNSET
    additional_properties: _SchemaPart | Literal[False] | _Unset = UNSET
    items: _SchemaPart | Literal[False] | _Unset = UNSET
    prefix_items: list[_SchemaPart] | _Unset = UNSET
    any_of: Annotated[list[_SchemaPart], _NonEmpty] | _Unset = UNSET
    enum: Annotated[list[str | int | float | bool | None], _NonEmpty] | _Unset = UNSET
    const: str | int | _Unset = UNSET
    default: Any = UNSET
    default_from: Literal["computed", "unset"] | _Unset = msgspec.field(default=UNSET, name="x-default")
    is_written: bool = msgspec.field(default=False, name="x-written")
    keys: _SchemaPart | _Unset = msgspec.field(default=UNSET, name="x-keys")
    python: str | _Unset = msgspec.field(default=UNSET, name="x-python")
    reference: str | _Unset = msgspec.field(default=UNSET, name="$ref")
    definitions: dict[str, _SchemaPart] = msgspec.field(default={}, name="$defs")
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
    multiple_of: Annotated[float, _Positive] | Annotated[int, _Positive] | _Unset = UNSET

    def limits(self) -> tuple[Any, ...]:
        """Return the numbers that limit the values."""
        lengths = (self.min_length, self.max_length, self.min_items, self.max_items)
        sizes = (self.min_properties, self.max_properties, self.multiple_of)
        return (*lengths, *sizes, self.minimum, self.maximum, self.exclusive_minimum, self.exclusive_maximum)

    def is_typed(self) -> bool:
        """True if it gives the type of its values or lists them, or takes any value."""
        kinds = (self.type, self.any_of, self.enum, self.const, self.python, self.reference)
        return any(kind is not UNSET for kind in kinds) or self == _SchemaPart(
            default=self.default,
            default_from=self.default_from,
            is_written=self.is_written,
            definitions=self.definitions,
        )


def _check_lock(lock: SchemaLock) -> None:
    """Raise `ValueError` or `TypeError` unless `describe` or `Gathered` could have made every schema.

    Patterns are not compiled or run, here or in a check, unless a class of the application has the same one.
    """
    for name, locked in lock.events.items():
        if not all(1 <= number <= _MAX_VERSION for number in (locked.version, locked.split or 1, *locked.inferred)):
            raise ValueError(f"{name} has a version that is not between 1 and {_MAX_VERSION}")
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
    root = msgspec.convert(schema, _SchemaPart)
    if root.type != "object" or root.reference is not UNSET:
        raise ValueError("its schema is not that of an object")
    for part in (root, *root.definitions.values()):
        _check_part(part, root, 0)
    if any(part.reference is not UNSET for part in root.definitions.values()):
        raise ValueError("a definition is only a reference")
    try:
        TopologicalSorter({name: _alternatives(part) for name, part in root.definitions.items()}).prepare()
    except CycleError:
        raise ValueError("a definition is one of its own alternatives") from None


def _alternatives(part: _SchemaPart) -> Iterator[str]:
    """Yield the names of the definitions that are alternatives of a part."""
    for each in part.any_of or ():
        if each.reference is not UNSET:
            yield each.reference.removeprefix("#/$defs/")
        yield from _alternatives(each)


def _check_part(part: _SchemaPart, root: _SchemaPart, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
    if part.reference is not UNSET:
        if part.reference != "#" and part.reference.removeprefix("#/$defs/") not in root.definitions:
            raise ValueError(f"{part.reference} refers to nothing")
        return
    _check_words(part)
    _check_values((part.default, part.enum, part.const, *part.limits()), 0)
    inner = [*(part.properties or {}).values(), *(part.prefix_items or []), *(part.any_of or [])]
    inner += [each for each in (part.additional_properties, part.items, part.keys) if isinstance(each, _SchemaPart)]
    for each in inner:
        _check_part(each, root, depth + 1)


def _check_words(part: _SchemaPart) -> None:
    if not part.is_typed():
        raise ValueError("a part of a schema has no type")
    if part.type == "object" and part.properties is not UNSET and part.required is UNSET:
        raise ValueError("an object does not list its required fields")
    if part.type == "object" and part.properties is UNSET and not isinstance(part.additional_properties, _SchemaPart):
        raise ValueError("an object lists neither its fields nor the type of its values")
    if part.type == "array" and not isinstance(part.items, _SchemaPart) and part.prefix_items is UNSET:
        raise ValueError("an array does not give the type of its items")


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
