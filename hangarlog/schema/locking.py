"""Making a schema lock from an application's classes today and from the previous lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from msgspec import structs

from hangarlog.errors import EventSerializationError
from hangarlog.events.serializer import OWN_TYPES, EventSerializer
from hangarlog.schema.check import Finding, check, failing
from hangarlog.schema.definitions import PREFIX, share
from hangarlog.schema.describe import Schema, describe_all
from hangarlog.schema.lockfile import LockedType, SchemaLock
from hangarlog.schema.share import StoredKind
from hangarlog.schema.written import forget_omitted

_NO_FIELDS: Schema = {"type": "object", "properties": {}, "required": []}


def refused(serializer: EventSerializer, before: SchemaLock, accept: Collection[str] = ()) -> list[Finding]:
    """Return the findings that prevent a new lock.

    The locked shapes of the types in `accept` are forgotten: use it for types that were never stored.
    """
    return failing(check(serializer, without(before, accept)))


def without(lock: SchemaLock, names: Collection[str]) -> SchemaLock:
    """Return a lock without some types."""
    return SchemaLock(events={name: locked for name, locked in lock.events.items() if name not in names})


def make_lock(serializer: EventSerializer, before: SchemaLock) -> SchemaLock:
    """Return the lock of today's types, with the shapes of their former versions from `before`."""
    registry, chain = serializer.registry, serializer.chain
    current = {name: each for name, each in registry.types.items() if registry.canonical_name(name) == name}
    shapes = describe_all(current, serializer.enc_hook)
    events: dict[str, LockedType] = {}
    for name in {*registry.types, *registry.dropped, *chain.split_types(), *before.events}:
        locked = before.events.get(name, LockedType(1))
        event_class, split = registry.types.get(name), chain.split_of(name)
        schemas = dict(locked.schemas)
        version, alias_of = locked.version, None
        if name in registry.dropped:
            pass
        elif event_class is not None:
            version, alias_of = registry.target_version(name), registry.canonical_name(name)
            if alias_of == name:
                shape = shapes[name]
                if isinstance(shape, EventSerializationError):
                    raise shape
                schemas[str(version)] = shape
                forget_omitted(shape, _earlier_shapes(serializer, before, name, version))
                if version > 1 and not any(int(number) < version for number in schemas):
                    forget_omitted(shape, [_NO_FIELDS])  # Events of versions that no lock knows may lack any.
                alias_of = None
        elif split is not None:
            version = split[0]
        events[name] = LockedType(
            version,
            alias_of,
            registry.dropped.get(name),
            split[0] if split else None,
            dict(sorted(schemas.items(), key=lambda item: int(item[0]))),
            [number for number in locked.inferred if number != version or event_class is None],
        )
    return SchemaLock(events=dict(sorted(events.items())))


def not_locked(serializer: EventSerializer, lock: SchemaLock) -> list[Finding]:
    """Return a finding for each type that is not in a lock exactly as it is today."""
    made = make_lock(serializer, lock).events
    changed = {name: locked for name, locked in made.items() if lock.events.get(name) != locked}
    for name in _alike(lock.events, changed):
        del changed[name]
    return [
        Finding(name, "not locked", f"{_difference(lock.events.get(name), locked)}; run `hangarlog schema lock`")
        for name, locked in changed.items()
    ]


def _alike(before: Mapping[str, LockedType], after: Mapping[str, LockedType]) -> list[str]:
    """Return the names of types that differ only in the names of their definitions: a lock has equal ones as one."""
    names = [name for name in after if name in before and before[name].versions() == after[name].versions()]
    pairs = [(each[name], name) for each in (before, after) for name in names]
    schemas = [locked.schemas[version] for locked, _ in pairs for version in sorted(locked.schemas)]
    shared, _ = share(schemas, [name for locked, name in pairs for _ in locked.schemas], PREFIX)
    left = iter(shared)
    renamed = [
        structs.replace(locked, schemas={each: next(left) for each in sorted(locked.schemas)}) for locked, _ in pairs
    ]
    return [name for name, one, other in zip(names, renamed, renamed[len(names) :], strict=False) if one == other]


def _difference(before: LockedType | None, after: LockedType) -> str:
    if before is None:
        return "it is not in the lock"
    if before.version != after.version:
        return f"the lock has version {before.version}, the class version {after.version}"
    return f"the lock has another shape of version {after.version}"


def _earlier_shapes(serializer: EventSerializer, before: SchemaLock, name: str, version: int) -> list[Schema]:
    """Return the locked shapes of a version, under a type's name and its former ones."""
    canonical_name = serializer.registry.canonical_name
    found = [locked.schema(version) for other, locked in before.events.items() if canonical_name(other) == name]
    return [shape for shape in found if shape is not None]


def unread_types(lock: SchemaLock, stored: Collection[StoredKind], accept: Collection[str]) -> list[Finding]:
    """Return a finding for each stored type that is neither in the lock nor in `accept`, nor of the store itself."""
    counts: Counter[str] = Counter()
    for each in stored:
        if not each.event_type.startswith(OWN_TYPES):
            counts[each.event_type] += each.count
    return [
        Finding(name, "vanished", f"the store holds {count:,} events of it, but no class is registered to read them")
        for name, count in sorted(counts.items())
        if name not in lock.events and name not in accept
    ]


def with_gathered(lock: SchemaLock, stored: Collection[StoredKind]) -> SchemaLock:
    """Return the lock with the inferred shapes of stored events added, for versions whose shape it does not know."""
    events = dict(lock.events)
    for each in stored:
        locked = events.get(each.event_type)
        if locked is not None and each.payload is not None and each.version > 0 and not locked.schema(each.version):
            schemas = {**locked.schemas, str(each.version): each.payload.schema()}
            inferred = sorted({*locked.inferred, each.version})
            events[each.event_type] = structs.replace(locked, schemas=schemas, inferred=inferred)
    return SchemaLock(events=events)
