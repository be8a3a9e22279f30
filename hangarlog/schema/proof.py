"""What the stored events say to a check: which defaults none of them needs, and what reading them loses."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import msgspec

from hangarlog.errors import EventSerializationError
from hangarlog.events.serializer import EventSerializer
from hangarlog.schema.check import Finding, Kind
from hangarlog.schema.describe import describe_all
from hangarlog.schema.lockfile import LockedType, SchemaLock
from hangarlog.schema.losses import field_paths, losses_in_order
from hangarlog.schema.shape import join_path, tags
from hangarlog.schema.share import StoredKind
from hangarlog.schema.written import FieldPair, fields_in_both


def with_proof(lock: SchemaLock, serializer: EventSerializer, stored: Collection[StoredKind]) -> SchemaLock:
    """Return a copy of a lock in which a field counts as always written if no stored event lacks it."""
    if not stored:
        return lock
    names = {each.event_type for each in _fields(lock, serializer, stored) if each.is_proved}
    # Only what changes is copied: the others go on sharing their definitions.
    copies = {name: _copy(lock.events[name]) for name in names}
    for each in _fields(SchemaLock(events=copies), serializer, stored):
        if each.is_proved and each.field.before is not None:
            each.field.before["x-written"] = f"0 of {each.stored:,} stored events lack it"
    return SchemaLock(events=lock.events | copies)


def _copy(locked: LockedType) -> LockedType:
    schemas = msgspec.json.decode(msgspec.json.encode(locked.schemas))
    return msgspec.structs.replace(locked, schemas=schemas)


def forgive_tags(lock: SchemaLock, serializer: EventSerializer, stored: Collection[StoredKind]) -> None:
    """Remove the losses of tags that a class had in the lock: a tag holds nothing that reads could lose."""
    for each in stored:
        names = {each.event_type, serializer.registry.canonical_name(each.event_type)}
        shapes = [lock.events[name].schema(each.version) for name in names if name in lock.events]
        found: set[str] = set()
        for shape in filter(None, shapes):
            parts = [shape, *shape.get("$defs", {}).values()]
            paths = field_paths(shape)
            found.update(join_path(paths.get(id(part), ""), name) for part in parts for name, _ in tags(part))
        each.losses = [loss for loss in each.losses if loss.kind != "unread" or loss.path not in found]


def forget_lacking(lock: SchemaLock, serializer: EventSerializer, stored: Collection[StoredKind]) -> None:
    """Note in a new lock that fields which some stored event lacks are not always written."""
    lacking = [each for each in stored if any(loss.kind == "default" for loss in each.losses)]
    for each in _fields(lock, serializer, lacking) if lacking else ():
        if each.is_lacking and each.field.before is not None:
            each.field.before.pop("x-written", None)


class _StoredField(NamedTuple):
    """A field of a locked version that is today's. `stored` is the number of stored events."""

    event_type: str
    stored: int
    field: FieldPair
    is_lacking: bool

    @property
    def is_proved(self) -> bool:
        """True if the stored events show more than the lock: none lacks the field."""
        return not self.is_lacking and self.field.before is not None and not self.field.always


def _fields(lock: SchemaLock, serializer: EventSerializer, stored: Collection[StoredKind]) -> Iterator[_StoredField]:
    """Yield the fields of today's locked versions of stored types."""
    registry = serializer.registry
    counts: dict[str, int] = {}
    lacking: dict[str, set[str]] = {}
    for each in stored:
        name = registry.canonical_name(each.event_type)
        counts[name] = counts.get(name, 0) + each.count
        lacking.setdefault(name, set()).update(loss.path for loss in each.losses if loss.kind == "default")
    described = describe_all(
        {name: registry.types[name] for name in lock.events if name in registry.types}, serializer.enc_hook
    )
    for event_type, locked in lock.events.items():
        name = registry.canonical_name(event_type)
        shape = locked.schema(registry.target_version(event_type))
        if shape is None or name not in counts or event_type not in registry.types or "*" in lacking[name]:
            continue
        today = described[event_type]
        if isinstance(today, EventSerializationError):
            continue  # The check reports it.
        paths = field_paths(today)
        for field in list(fields_in_both(shape, today)):
            if field.before is None or (field.always and not lacking[name]):
                continue  # There is nothing to add or to take away.
            owner = paths.get(id(field.owner), "")
            path = f"{owner}[{field.name}]" if isinstance(field.name, int) else join_path(owner, field.name)
            yield _StoredField(event_type, counts[name], field, path in lacking[name])


def loss_findings(stored: Collection[StoredKind]) -> list[Finding]:
    """Return a finding for each kind of loss, and for events that cannot be read."""
    findings = []
    for each in stored:
        if each.failures:
            first = each.failures[0]
            message = f"{each.failed:,} of {each.count:,} events of v{each.version} cannot be read; first at position "
            cause = f"{first.position}: {first.cause}"
            findings.append(Finding(each.event_type, "unreadable", message + cause, version=each.version))
        for loss in losses_in_order(each.losses):
            seen = each.seen.get(loss.path)
            kind: Kind = "lost" if loss.fails(seen) else "stored"
            findings.append(Finding(each.event_type, kind, loss.text(each.count, seen), version=each.version))
    return findings
