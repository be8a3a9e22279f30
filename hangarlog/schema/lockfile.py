"""The schema lock: a file in the user's repository with the wire shape of every event type at every version.

It is sorted and indented JSON, so that you can review its changes. Each event type and each definition is a block of
lines, with the comma between two blocks on a line of its own. So git merges branches that add types, unless two add one
at the same place of the order.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET

from hangarlog.errors import SchemaLockError
from hangarlog.record.strict import refuse_repeated_keys
from hangarlog.schema.definitions import MAX_DEPTH, PREFIX, Definitions, bounded, share, with_references
from hangarlog.schema.describe import Schema
from hangarlog.system.filesystem import FRESH, FileSystem

FORMAT = 2
_FIRST_FORMAT = 1  # It is read too. Each schema has its own definitions there.
DEFAULT_PATH = "event-schema.json"

_IN_FILE = "#/definitions/"
_MAX_LOCK_BYTES = 16 << 20
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
    """The locked event types by name."""

    events: dict[str, LockedType] = {}

    def encode(self) -> bytes:
        """Return the bytes of the file. Equal definitions of all types are in one part of it."""
        # Today's classes name their definitions; those of former versions get other names if they differ.
        places = sorted(
            ((name, version) for name, locked in self.events.items() for version in locked.versions()),
            key=lambda place: (place[1] != max(self.events[place[0]].versions()), place[0], -place[1]),
        )
        schemas = [self.events[name].schemas[str(version)] for name, version in places]
        shared, definitions = share(schemas, [name for name, _ in places], _IN_FILE)
        events = {name: msgspec.structs.replace(locked, schemas={}) for name, locked in self.events.items()}
        for (name, version), schema in sorted(zip(places, shared, strict=True), key=lambda each: each[0]):
            events[name].schemas[str(version)] = schema
        parts = [
            f'"hangarlog_schema": {FORMAT}'.encode(),
            _blocks("events", events),
            _blocks("definitions", definitions),
        ]
        return b"{\n" + b"\n,\n".join(parts) + b"\n}\n"


def _blocks(name: str, members: Mapping[str, Any]) -> bytes:
    """Return a member of the file, with each of its own members as a block of lines."""
    blocks = [
        msgspec.json.encode(key)
        + b": "
        + msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2)
        for key, value in sorted(members.items())
    ]
    return f'"{name}": {{\n'.encode() + b"\n,\n".join(blocks) + (b"\n}" if blocks else b"}")


class _LockFile(msgspec.Struct):
    """The content of the file."""

    hangarlog_schema: int
    events: dict[str, LockedType] = {}
    definitions: dict[str, Schema] = {}


class _Header(msgspec.Struct):
    hangarlog_schema: int


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
    if _CONFLICT.search(raw):
        raise SchemaLockError(
            path,
            "it has the conflict markers of a merge; take either side (`git checkout --ours` or `--theirs`) and run "
            "`hangarlog schema lock` again",
        )
    try:
        found = msgspec.json.decode(raw, type=_Header).hangarlog_schema
        if not _FIRST_FORMAT <= found <= FORMAT:
            raise SchemaLockError(
                path, f"it has format {found}, but this version knows up to {FORMAT}; upgrade hangarlog"
            )
        lock = msgspec.json.decode(raw, type=_LockFile)
        refuse_repeated_keys(raw)
        _check_lock(lock)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise SchemaLockError(path, f"it is damaged ({error}); restore it from your repository") from error
    return SchemaLock(_completed(lock))


_CONFLICT = re.compile(rb"^(<{7}|={7}|>{7})( |\r?$)", re.MULTILINE)


def _completed(lock: _LockFile) -> dict[str, LockedType]:
    """Return the types of a file with the definitions that each schema refers to, as shared objects."""
    if lock.hangarlog_schema == _FIRST_FORMAT:
        return lock.events

    def in_memory(reference: str) -> str:
        return PREFIX + reference.removeprefix(_IN_FILE)

    definitions = Definitions({name: with_references(each, in_memory) for name, each in lock.definitions.items()})
    for locked in lock.events.values():
        for version, schema in locked.schemas.items():
            locked.schemas[version] = definitions.complete(with_references(schema, in_memory))
    return lock.events


def write_lock(path: str, lock: SchemaLock) -> None:
    """Replace the lock at `path` atomically, and keep its permissions.

    A new file has those of an ordinary source file.

    Raises:
        SchemaLockError: `path` is a symbolic link, and the link or the file it leads to is not the user's own.
    """
    if os.path.islink(path):
        if not _is_own_link(path):
            cause = "it is a symbolic link, which may lead anywhere; give the path of the file itself with --lock"
            raise SchemaLockError(path, cause)
        path = os.path.realpath(path)
    path, filesystem = os.path.abspath(path), FileSystem()
    rights = _source_rights()
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(path).st_mode
        if stat.S_ISREG(found):  # Otherwise a link has appeared since. It is replaced, so its permissions do not count.
            rights = stat.S_IMODE(found) & 0o777
    filesystem.set_rights(os.path.dirname(path), rights)
    try:
        filesystem.replace_file(path, lock.encode())
    except OSError:
        with contextlib.suppress(OSError):
            filesystem.remove(path + FRESH)
        raise


def _source_rights() -> int:
    """Return the permissions of a new source file: everybody's, without those that the umask takes away."""
    mask = os.umask(0o077)  # It cannot be read without being set. Nobody gets more rights meanwhile.
    os.umask(mask)
    return 0o666 & ~mask


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
    checks: list[str] = msgspec.field(default=[], name="x-checks")
    keys: _SchemaPart | _Unset = msgspec.field(default=UNSET, name="x-keys")
    names: list[str] | _Unset = msgspec.field(default=UNSET, name="x-names")
    former: dict[str, _SchemaPart] = msgspec.field(default={}, name="x-former")
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


def _check_lock(lock: _LockFile) -> None:
    """Raise `ValueError` or `TypeError` unless `describe` or `Gathered` could have made every schema.

    Patterns are not compiled or run, here or in a check, unless a class of the application has the same one.
    """
    shared = _converted(lock.definitions) if lock.hangarlog_schema > _FIRST_FORMAT else {}
    try:
        _check_definitions(shared)
    except _REASONS as error:
        raise ValueError(f"definitions: {error}") from error
    for name, locked in lock.events.items():
        if not all(1 <= number <= _MAX_VERSION for number in (locked.version, locked.split or 1, *locked.inferred)):
            raise ValueError(f"{name} has a version that is not between 1 and {_MAX_VERSION}")
        for version, schema in locked.schemas.items():
            if not (
                version.isascii() and version.isdecimal() and len(version) < 11 and 1 <= int(version) <= _MAX_VERSION
            ):
                raise ValueError(f"{name} has a version {version[:20]!r}")
            try:
                _check_schema(schema, shared if lock.hangarlog_schema > _FIRST_FORMAT else None)
            except _REASONS as error:
                raise ValueError(f"{name} v{version}: {error}") from error


_REASONS = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)


def _converted(definitions: dict[str, Schema]) -> dict[str, _SchemaPart]:
    return msgspec.convert(definitions, dict[str, _SchemaPart])


def _check_schema(schema: Schema, shared: dict[str, _SchemaPart] | None) -> None:
    """Check the schema of a payload. `shared` has the definitions of all, None if the schema has its own."""
    root = msgspec.convert(schema, _SchemaPart)
    if root.type != "object" or root.reference is not UNSET:
        raise ValueError("its schema is not that of an object")
    if shared is None:
        _check_definitions(root.definitions, with_root=True)
    elif root.definitions:
        raise ValueError("it has definitions of its own")
    _check_part(root, root.definitions if shared is None else shared, shared is None, 0)


def _check_definitions(definitions: dict[str, _SchemaPart], *, with_root: bool = False) -> None:
    """Check definitions, which may refer to the payload with `with_root`."""
    for part in definitions.values():
        _check_part(part, definitions, with_root, 0)
    if any(part.reference is not UNSET for part in definitions.values()):
        raise ValueError("a definition is only a reference")
    try:
        TopologicalSorter({name: _alternatives(part) for name, part in definitions.items()}).prepare()
    except CycleError:
        raise ValueError("a definition is one of its own alternatives") from None


def _alternatives(part: _SchemaPart) -> Iterator[str]:
    """Yield the names of the definitions that are alternatives of a part."""
    for each in part.any_of or ():
        if each.reference is not UNSET:
            yield each.reference.split("/", 2)[-1]
        yield from _alternatives(each)


def _check_part(part: _SchemaPart, definitions: dict[str, _SchemaPart], with_root: bool, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    if part.reference is not UNSET:
        prefix = PREFIX if with_root else _IN_FILE
        known = part.reference.startswith(prefix) and part.reference.removeprefix(prefix) in definitions
        if not known and not (with_root and part.reference == "#"):
            raise ValueError(f"{part.reference} refers to nothing")
        return
    _check_words(part)
    for value in (part.default, part.enum, part.const, *part.limits()):
        if value is not UNSET:
            bounded(value)
    inner = [*(part.properties or {}).values(), *part.former.values(), *(part.prefix_items or []), *(part.any_of or [])]
    inner += [each for each in (part.additional_properties, part.items, part.keys) if isinstance(each, _SchemaPart)]
    for each in inner:
        _check_part(each, definitions, with_root, depth + 1)


def _check_words(part: _SchemaPart) -> None:
    if not part.is_typed():
        raise ValueError("a part of a schema has no type")
    if part.type == "object" and part.properties is not UNSET and part.required is UNSET:
        raise ValueError("an object does not list its required fields")
    if part.type == "object" and part.properties is UNSET and not isinstance(part.additional_properties, _SchemaPart):
        raise ValueError("an object lists neither its fields nor the type of its values")
    if part.type == "array" and not isinstance(part.items, _SchemaPart) and part.prefix_items is UNSET:
        raise ValueError("an array does not give the type of its items")
