"""Where the default of a field comes from, and whether stored events ever need it.

A default is constant (a literal, or what a pure factory returns), computed (an impure factory, or a value that differs
from one process to the next), or UNSET. Of a computed one no value is recorded: it would be another in every run. A
class that writes a field always needs its default only for events that were stored before it had the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints
from weakref import WeakKeyDictionary

import msgspec
from msgspec import NODEFAULT, UNSET

from hangarlog.schema.definitions import bounded
from hangarlog.schema.purity import pure_value

Keywords = dict[str, Any]

_EMPTY = (list, dict, set)  # The factories whose empty values `omit_defaults` leaves out.

_varying: WeakKeyDictionary[type, set[str]] = WeakKeyDictionary()
"""The fields of a class whose defaults were seen to differ between two processes."""


_unset: WeakKeyDictionary[type, set[str]] = WeakKeyDictionary()


def set_varying(fields: Mapping[type, set[str]]) -> None:
    """Note the fields whose defaults differ between two processes: they count as computed from now on."""
    for owner, names in fields.items():
        _varying.setdefault(owner, set()).update(names)


def default_keywords(owner: type, field: Any, enc_hook: Callable[[Any], Any] | None) -> Keywords:
    """Return the keywords of a field's default: `default` with its value, or `x-default` with where it comes from.

    There is none if the field has no default, or one without a JSON form.
    """
    default = field.default
    if field.name in _varying.get(owner, ()):
        return {"x-default": "computed"}
    try:
        if field.default_factory is not NODEFAULT:
            known = field.default_factory in _EMPTY
            default = field.default_factory() if known else pure_value(field.default_factory)
            if not _is_pure_class(field.default_factory):
                return {"x-default": "computed"}
    except Exception:  # A factory may raise anything. One that does is no constant.
        return {"x-default": "computed"}
    if default is UNSET or default is NODEFAULT:  # `inspect` leaves out UNSET; a key of a TypedDict has no default.
        return {"x-default": "unset"}
    try:
        plain = msgspec.to_builtins(default, enc_hook=enc_hook, str_keys=True, order="deterministic")
        return {"default": bounded(msgspec.json.decode(msgspec.json.encode(plain)))}
    except Exception:  # A hook may raise anything.
        return {}


def _is_pure_class(factory: Any) -> bool:
    """False if a factory is a class with a computed default, which msgspec calls unseen."""
    if not isinstance(factory, type) or not hasattr(factory, "__struct_fields__"):
        return True
    fields = msgspec.structs.fields(factory)
    return not any(default_keywords(factory, field, None).get("x-default") == "computed" for field in fields)


def is_always_written(info: Any, field: Any, *, nested: bool) -> bool:
    """True if a class writes a field with a default into every event.

    `nested` says that the class is inside an event: msgspec writes a nested dataclass by the attributes that it has,
    and an instance that msgspec has decoded lacks those with a plain default.
    """
    has_value = field.default is not NODEFAULT or field.default_factory is not NODEFAULT
    if field.required or not has_value or field.default is UNSET or field.name in _may_be_unset(info.cls):
        return False
    if nested and hasattr(info.cls, "__dataclass_fields__") and info.cls.__dictoffset__:
        return field.default_factory is not NODEFAULT
    config = getattr(info.cls, "__struct_config__", None)
    if config is None or not config.omit_defaults or config.array_like:
        return True
    return field.default_factory is not NODEFAULT and field.default_factory not in _EMPTY


def _may_be_unset(owner: type) -> set[str]:
    """Return the fields of a class that take UNSET, which is not written. `inspect` leaves it out of their types."""
    found = _unset.get(owner)
    if found is None:
        try:
            hints = get_type_hints(owner)
        except Exception:  # Annotations may hold anything. What `inspect` cannot resolve either is reported there.
            hints = {}
        found = _unset[owner] = {name for name, kind in hints.items() if msgspec.UnsetType in get_args(kind)}
    return found
