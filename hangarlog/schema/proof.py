"""What the stored events say to a check: which defaults none of them needs, and what reading them loses."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator

from hangarlog.errors import EventSerializationError
from hangarlog.events.serializer import EventSerializer
from hangarlog.schema.check import Finding, Kind
from hangarlog.schema.describe import describe
from hangarlog.schema.lockfile import SchemaLock
from hangarlog.schema.losses import field_paths, losses_in_order
from hangarlog.schema.shape import join_path, tags
from hangarlog.schema.share import StoredKind
from hangarlog.schema.written import FieldPair, fields_in_both


def with_proof(lock: SchemaLock, serializer: EventSerializer, stored: Collection[StoredKind]) -> SchemaLock:
    """Return a copy of a lock in which a field counts as always written if no stored event lacks it."""
    if not stored:
        return lock
    proved = SchemaLock(events={name: copy.deepcopy(locked) for name, locked in lock.events.items()})
    for count, lacking, field, path in _fields(proved, serializer, stored):
        if path not in lacking and field.before is not None and not field.always:
            field.before["x-written"] = f"0 of {count:,} stored events lack it"
    return proved


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
    for _, lacking, field, path in _fields(lock, serializer, stored):
        if path in lacking and field.before is not None:
            field.before.pop("x-written", None)


def _fields(
    lock: SchemaLock, serializer: EventSerializer, stored: Collection[StoredKind]
) -> Iterator[tuple[int, set[str], FieldPair, str]]:
    """Yield (number of stored events, paths that some of them lack, field, its path) of today's locked versions."""
    registry = serializer.registry
    counts: dict[str, int] = {}
    lacking: dict[str, set[str]] = {}
    for each in stored:
        name = registry.canonical_name(each.event_type)
        counts[name] = counts.get(name, 0) + each.count
        lacking.setdefault(name, set()).update(loss.path for loss in each.losses if loss.kind == "default")
    for event_type, locked in lock.events.items():
        name = registry.canonical_name(event_type)
        shape = locked.schema(registry.target_version(event_type))
        if shape is None or name not in counts or event_type not in registry.types or "*" in lacking[name]:
            continue
        try:
            today = describe(event_type, registry.types[event_type], serializer.enc_hook)
        except EventSerializationError:
            continue  # The check reports it.
        paths = field_paths(today)
        for field in list(fields_in_both(shape, today)):
            owner = paths.get(id(field.owner), "")
            path = f"{owner}[{field.name}]" if isinstance(field.name, int) else join_path(owner, field.name)
            yield counts[name], lacking[name], field, path


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
