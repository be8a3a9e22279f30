"""The event types of a read, by stored name or by class."""

from __future__ import annotations

from types import UnionType
from typing import Any, Union, get_args, get_origin

from hangarlog.errors import HangarlogError
from hangarlog.events.registry import UntypedEvent
from hangarlog.events.serializer import EventSerializer
from hangarlog.eventstore.arguments import one_or_more
from hangarlog.record.envelope import Envelope


def classes_of(wanted: object) -> list[type]:
    """Return the classes of a class or of a union of classes. Raises `TypeError` for anything else."""
    found = get_args(wanted) if isinstance(wanted, UnionType) or get_origin(wanted) is Union else (wanted,)
    if not all(isinstance(one, type) for one in found):
        raise TypeError(f"type must be a registered class, or a union of them such as A | B, not {wanted!r}")
    return list(found)


class WantedTypes:
    """The wanted types. A text is a stored name, exactly. A class is every stored type that is read back as it.

    These are its name, its former names, and the types that are split: only their parts of this class are wanted. What
    a splitter returns shows only when it runs, so every split event is read.

    Raises:
        TypeError: a value is neither text nor a class, or a class is not registered.
    """

    def __init__(self, wanted: object, serializer: EventSerializer) -> None:
        self._serializer = serializer
        given = one_or_more("event_types", wanted, (str, type), "a stored name or a registered class")
        types = serializer.registry.types
        self._classes = frozenset(one for one in given if isinstance(one, type))
        unregistered = self._classes.difference(types.values())
        if unregistered:
            shown = ", ".join(sorted(found.__qualname__ for found in unregistered))
            raise TypeError(
                f"event_types has a class that is not registered: {shown}; register it with @event, or give the stored "
                "names"
            )
        self._of_classes = frozenset(name for name, found in types.items() if found in self._classes)
        split = frozenset(serializer.chain.split_types() if self._classes else ())
        names = frozenset(one for one in given if isinstance(one, str))
        self._whole, self.split = names | (self._of_classes - split), split - names
        """`split`: the stored types of which only some parts may be wanted."""

    def keeps(self, envelope: Envelope) -> bool:
        """True if the event, or a part of it, is wanted, or cannot be read to tell."""
        name = envelope.event_type
        if name not in self.split:
            return name in self._whole
        try:
            return any(map(self._is_wanted, self._serializer.reader(name)(envelope.data)))
        except HangarlogError:
            return True  # The caller learns why in its turn.

    def keeps_part(self, pair: tuple[Any, Any]) -> bool:
        """True if an event, given with the envelope it is from, is wanted."""
        envelope, event = pair
        return envelope.event_type not in self.split or self._is_wanted(event)

    def _is_wanted(self, event: Any) -> bool:
        untyped = type(event) is UntypedEvent and event.event_type in self._of_classes  # Of a version not known here.
        return type(event) in self._classes or untyped
