"""What becomes of an event: it is read back equal, directly and through an upcaster, or refused, and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import attrs
import msgspec

from hangarlog import ANY, EventRegistry, EventSerializationError, EventSerializer, MemoryEventStore, UpcasterChain

from .classes import Form
from .kinds import AT_REGISTRATION, AT_WRITE, EQUAL, Custom, Kind


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of it, directly and through an upcaster, and why it was refused."""

    what: str
    why: str = ""
    upcast: str = "-"


def of_kind(kind: Kind, family: str) -> Outcome:
    """What becomes of an event of a Struct, a dataclass or an attrs class with one field of this kind."""
    return outcome(
        lambda: class_of(kind, family),
        lambda event_class: event_class(x=kind.value),
        lambda event, again: _compared(event.x, again.x, kind.same),
        hooks=kind.hooks,
    )


def class_of(kind: Kind, family: str) -> type:
    default = {} if kind.default is msgspec.NODEFAULT else {"default": kind.default}
    if family == "Struct":
        return msgspec.defstruct("Happened", [("x", kind.type, *default.values())], module=__name__)
    if family == "dataclass":
        field = dataclasses.field(**default)
        return dataclasses.make_dataclass("Happened", [("x", kind.type, field)], namespace={"__module__": __name__})
    return attrs.make_class("Happened", {"x": attrs.field(type=kind.type, **default)})


def _compared(value: Any, again: Any, same: Callable[[Any, Any], bool] | None) -> str:
    if same is not None:
        return EQUAL if same(value, again) else f"changed to {again!r}"
    if value != again and not (isinstance(value, (list, tuple)) and list(value) == list(again)):
        return f"changed to {again!r}"
    return EQUAL if type(value) is type(again) else f"equal, as {type(again).__name__}"


def outcome(
    define: Callable[[], type],
    make: Callable[[type], Any],
    compare: Callable[[Any, Any], str],
    *,
    hooks: bool = False,
) -> Outcome:
    """Define, register, write and read: alone, in a batch, and through an upcaster."""
    registry, chain = EventRegistry(), UpcasterChain()
    options: dict[str, Any] = {"registry": registry}
    if hooks:
        options |= {"enc_hook": lambda custom: custom.text, "dec_hook": lambda _, text: Custom(text)}
    try:
        event_class = define()
        registry.event(event_class)
    except (EventSerializationError, ValueError) as error:
        return Outcome(AT_REGISTRATION, str(error))
    store = MemoryEventStore(serializer=EventSerializer(**options))
    try:
        event = make(event_class)
    except (TypeError, ValueError) as error:
        return Outcome("refused by the class itself", str(error))
    try:
        store.append("a:1", [event], ANY)
    except EventSerializationError as error:
        assert store.get_stream_version("a:1") == -1
        for batch in ([event], [event] * 3):
            _assert_refused(store, batch)
        return Outcome(AT_WRITE, str(error))
    store.append("a:1", [event] * 3, ANY)
    found = {compare(event, again) for again in store.read_stream("a:1")}
    payload = bytes(next(iter(store.envelopes("a:1")))[0].data)
    assert payload.startswith(b'{"_version":1')
    registry.versions[event_class.__name__] = 2
    chain.upcaster(event_class.__name__, 1)(lambda data: data)
    upcast = EventSerializer(chain, **options).deserialize(event_class.__name__, payload)
    assert len(found) == 1, found
    return Outcome(found.pop(), upcast=compare(event, upcast))


def _assert_refused(store: MemoryEventStore, batch: list[Any]) -> None:
    try:
        store.append("a:2", batch, ANY)
    except EventSerializationError:
        assert store.get_stream_version("a:2") == -1
    else:
        raise AssertionError("a batch was taken whose events are refused one by one")


def of_form(form: Form) -> Outcome:
    """What becomes of an event of a class of this form."""

    def compare(event: Any, again: Any) -> str:
        found = [(name, getattr(event, name), getattr(again, name)) for name in form.names]
        changed = [f"{name} is {two!r}, was {one!r}" for name, one, two in found if one != two]
        return "; ".join(changed) or EQUAL

    return outcome(form.define, form.make, compare)
