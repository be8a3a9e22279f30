"""An application's event class with all that it is made of, as data that can be changed and written as a module."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

ROOT = "Event"


@dataclass(frozen=True)
class Type:
    """A type: its kind, what it is made of, and its limits.

    `args` has types; of an "enum" or a "ref" the name, of a "literal" the values.
    """

    kind: str
    args: tuple[Any, ...] = ()
    limits: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Default:
    """A field's default: `how` is "value", "factory" or "unset", `text` its JSON."""

    how: str
    text: str = ""


@dataclass(frozen=True)
class Field:
    """A field; `alias` is its name in events, if it is another one."""

    name: str
    type: Type
    default: Default | None = None
    alias: str = ""


@dataclass(frozen=True)
class Class:
    """A class: `kind` is "struct", "dataclass" or "attrs". `options` are keywords of a Struct."""

    kind: str
    fields: tuple[Field, ...]
    options: tuple[tuple[str, Any], ...] = ()

    def option(self, name: str) -> Any:
        return dict(self.options).get(name)

    def with_option(self, name: str, value: Any) -> Class:
        """The same with another option; None and False take it away."""
        options = {**dict(self.options), name: value}
        kept = {key: each for key, each in options.items() if each is not None and each is not False}
        return replace(self, options=tuple(sorted(kept.items())))


@dataclass(frozen=True)
class World:
    """The classes by name, of which `Event` is stored, and the enums: (member, value) by name."""

    classes: dict[str, Class]
    enums: dict[str, tuple[tuple[str, Any], ...]] = field(default_factory=dict)

    def with_class(self, name: str, made: Class) -> World:
        if made.option("array_like"):  # There, msgspec writes UNSET as null.
            unset = Default("unset")
            fields = tuple(replace(each, default=None) if each.default == unset else each for each in made.fields)
            made = replace(made, fields=fields)
        return replace(self, classes={**self.classes, name: made})


_PLAIN = {
    **{name: name for name in ("bool", "int", "float", "str", "None", "bytes", "Any", "UUID", "Decimal")},
    **{name: name for name in ("date", "time", "timedelta", "datetime")},
    "aware": "Annotated[datetime, Meta(tz=True)]",
    "naive": "Annotated[datetime, Meta(tz=False)]",
}
_WRAPS = {"list": "list[{}]", "set": "set[{}]", "frozenset": "frozenset[{}]", "many": "tuple[{}, ...]"}


def annotation(kind: Type) -> str:
    """A type as it is written in Python."""
    parts = [annotation(each) for each in kind.args if isinstance(each, Type)]
    if kind.kind in _PLAIN:
        text = _PLAIN[kind.kind]
    elif kind.kind in ("enum", "ref"):
        text = kind.args[0]
    elif kind.kind == "literal":
        text = f"Literal[{', '.join(map(repr, kind.args))}]"
    elif kind.kind == "union":
        text = f"Union[{', '.join(parts)}]"
    elif kind.kind == "dict":
        text = f"dict[{parts[0]}, {parts[1]}]"
    elif kind.kind == "tuple":
        text = f"tuple[{', '.join(parts) or '()'}]"
    else:
        text = _WRAPS[kind.kind].format(parts[0])
    limits = ", ".join(f"{name}={value!r}" for name, value in kind.limits)
    return f"Annotated[{text}, Meta({limits})]" if limits else text


_HEAD = """from __future__ import annotations
import dataclasses, enum
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Union
from uuid import UUID
import attrs, msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field
from hangarlog.events.decodable import decoder_of  # msgspec's own crashes on some types.

def of(text, decoder):
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise TypeError(str(error)) from None  # As a constructor would.
"""
_EMPTY = {("list", "[]"): "list", ("dict", "{}"): "dict", ("set", "[]"): "set"}


def source(world: World) -> str:
    """A module with the enums and the classes of a world."""
    lines = [_HEAD]
    for name, members in world.enums.items():
        lines += [f"class {name}(enum.Enum):", *(f"    {member} = {value!r}" for member, value in members), ""]
    for name, made in world.classes.items():
        lines += _class_lines(name, made)
    kinds = [repr(kind) for kind in _made_by_factories(world)]
    lines.append(f"decoders = {{kind: decoder_of(eval(kind)) for kind in [{', '.join(kinds)}]}}")
    return "\n".join(lines) + "\n"


def _made_by_factories(world: World) -> dict[str, None]:
    fields = [each for made in world.classes.values() for each in made.fields]
    return {annotation(each.type): None for each in fields if each.default and each.default.how == "factory"}


def _class_lines(name: str, made: Class) -> Iterator[str]:
    if made.kind == "struct":
        options = "".join(f", {key}={value!r}" for key, value in made.options)
        yield f"class {name}(Struct{options}):"
    else:
        yield "@dataclasses.dataclass(kw_only=True)" if made.kind == "dataclass" else "@attrs.define(kw_only=True)"
        yield f"class {name}:"
    yield from (f"    {_field_line(each, made.kind)}" for each in made.fields)
    if not made.fields:
        yield "    pass"
    yield ""


def _field_line(each: Field, kind: str) -> str:
    text = annotation(each.type)
    maker = {"struct": "field", "dataclass": "dataclasses.field", "attrs": "attrs.field"}[kind]
    words = []
    if each.default is not None:
        value = f"of({each.default.text!r}, decoder_of({text}))"
        if each.default.how == "unset":
            text = f"Union[{text}, UnsetType]"
            words.append("default=UNSET")
        elif each.default.how == "value":
            words.append(f"default={value}")
        else:
            factory = _EMPTY.get(
                (each.type.kind, each.default.text), f"lambda: of({each.default.text!r}, decoders[{text!r}])"
            )
            words.append(f"{'factory' if kind == 'attrs' else 'default_factory'}={factory}")
    if each.alias and kind == "struct":
        words.append(f"name={each.alias!r}")
    return f"{each.name}: {text}" + (f" = {maker}({', '.join(words)})" if words else "")


_numbers = itertools.count()


def load(world: World) -> ModuleType:
    """A module of a world. Unload it when its classes are used no more.

    Raises anything: msgspec and Python refuse many classes.
    """
    module = ModuleType(f"made_{next(_numbers)}")
    sys.modules[module.__name__] = module
    try:
        exec(compile(source(world), module.__name__, "exec", dont_inherit=True), vars(module))  # noqa: S102
    except BaseException:
        unload(module)
        raise
    return module


def unload(module: ModuleType) -> None:
    sys.modules.pop(module.__name__, None)
