"""Classes for payloads, as an application would have them: one per event type, with a field for each key.

Classes are quicker than dictionaries. Payloads that no class can have stay `UntypedEvent`s.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from keyword import iskeyword
from operator import or_
from typing import Any

import msgspec

from hangarlog.errors import HangarlogError
from hangarlog.events.payload import FAILURES
from hangarlog.events.registry import EventRegistry, UntypedEvent
from hangarlog.events.serializer import EventSerializer

_MAX_CLASSES = 100
_MAX_FIELDS = 200
_HINTS: dict[type, Any] = {dict: dict[str, Any], list: list[Any]}
_decode = msgspec.json.Decoder().decode


def typed(events: Sequence[UntypedEvent]) -> tuple[list[Any], EventSerializer]:
    """Return the events as instances of classes, and the serializer that knows these.

    Return the events themselves if a payload cannot be stored and read back the same as an instance.
    """
    try:
        return _typed(events)
    except (HangarlogError, NameError, *FAILURES):
        return list(events), EventSerializer(registry=EventRegistry(), unknown="untyped")


def _typed(events: Sequence[UntypedEvent]) -> tuple[list[Any], EventSerializer]:
    by_type: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_type.setdefault(event.event_type, []).append(event.data)
    if len(by_type) > _MAX_CLASSES or any(event.schema_version != 1 for event in events):
        raise ValueError("too many types, or versions that need upcasters")
    registry = EventRegistry()
    classes = {name: registry.event(_class(datas), name=name) for name, datas in by_type.items()}
    serializer = EventSerializer(registry=registry, unknown="untyped")
    made: list[Any] = [msgspec.convert(event.data, classes[event.event_type], strict=True) for event in events]
    for event, instance in zip(events, made, strict=True):
        if _decode(serializer.encode(instance)[2]) != {"_version": 1, **event.data}:
            raise ValueError("it would be stored otherwise")
    return made, serializer


def _class(datas: list[dict[str, Any]]) -> type:
    """Return a class with a field for each key, of the types that its values have. Keys that may be missing may be."""
    kinds: dict[str, set[type]] = {}
    for data in datas:
        for key, value in data.items():
            kinds.setdefault(key, set()).add(type(value))
    if len(kinds) > _MAX_FIELDS or not all(
        key.isidentifier() and not iskeyword(key) and key[0] != "_" for key in kinds
    ):
        raise ValueError("no names of fields")
    fields: list[Any] = []
    for key, found in kinds.items():
        hints = [None if kind is type(None) else _HINTS.get(kind, kind) for kind in sorted(found, key=str)]
        hint = reduce(or_, hints)
        always = all(key in data for data in datas)
        fields.append((key, hint) if always else (key, hint | msgspec.UnsetType, msgspec.UNSET))
    return msgspec.defstruct("Event", fields, kw_only=True)
