"""Random event classes of every kind, and their next versions: what a check must get along with.

msgspec refuses many of them, and crashes on some others.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import random
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, Union

import attrs
import msgspec
from msgspec import UNSET, Meta, UnsetType

Fields = list[tuple[str, Any, Any]]  # (name, type, default or NODEFAULT)

NAMES = ("id", "user_id", "userId", "created", "created_at", "msg", "message", "name", "total", "state", "lines")
SCALARS: list[Any] = [
    *(str, int, float, bool, None, bytes, object, Any, list, dict, set, tuple, msgspec.Raw, complex, range),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, decimal.Decimal),
    *(Annotated[int, Meta(ge=0, lt=9)], Annotated[str, Meta(pattern="^a", max_length=5)]),
    *(Annotated[str, Meta(min_length=2)], Annotated[list[int], Meta(min_length=1)], Annotated[float, Meta(gt=0)]),
    *(Literal["a", "b"], Literal[1, "a", None], Literal["b"], frozenset[int], tuple[()], tuple[int, str]),
    *(tuple[int, ...], dict[int, str], dict[str, Any], dict[datetime.date, int]),
    enum.Enum("Colour", {"RED": "red", "BLUE": "blue"}),
    enum.IntEnum("Number", {"ONE": 1, "TWO": 2}),
    enum.Enum("Huge", {f"M{at}": at for at in range(3000)}),
    enum.Enum("Odd", {"A": 1, "B": "b"}),
]
DEFAULTS: list[Any] = [None, 0, 1.5, "", "text", True, UNSET, (), frozenset(), float("nan"), 1 << 70, object(), b"x"]
FACTORIES: list[Callable[[], Any]] = [list, dict, set, dict, lambda: [1], lambda: 1 / 0, random.random, object]


class Makes:
    """Makes classes from a seed."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.classes: list[Any] = []
        self.tagged: list[Any] = []  # msgspec takes unions of these.

    def kind(self, depth: int = 0) -> Any:
        """A type for a field."""
        roll = self.choose.random()
        if roll < 0.4 or depth > 3:
            return self.choose.choice(SCALARS)
        if roll < 0.6 and self.classes:
            return self.choose.choice(self.classes)
        inner = self.kind(depth + 1)
        wrapped: list[Callable[[], Any]] = [
            lambda: Union[(inner, None)],  # noqa: UP007 - it may be None
            lambda: list[inner],
            lambda: dict[str, inner],
            lambda: tuple[inner, int],
            lambda: Union[(inner, UnsetType)],  # noqa: UP007 - it may be None
            lambda: Union[(inner, self.kind(depth + 1))],  # noqa: UP007
            lambda: Union[tuple(self.classes[-3:]) or (int,)],  # noqa: UP007
            lambda: set[inner],
            lambda: Union[(*self.tagged[-3:], None)],
            lambda: list[Union[(*self.tagged[-4:], int)]],
        ]
        try:
            return self.choose.choice(wrapped)()
        except TypeError:
            return inner

    def fields(self) -> Fields:
        """Some fields; those with a default come last."""
        names = self.choose.sample(NAMES, self.choose.randint(0, 5))
        found = [(name, self.kind(), self.default()) for name in names]
        return sorted(found, key=lambda field: field[2] is not msgspec.NODEFAULT)

    def default(self) -> Any:
        """A default, a field with a factory, or none."""
        roll = self.choose.random()
        if roll < 0.5:
            return msgspec.NODEFAULT
        return self.choose.choice(DEFAULTS) if roll < 0.8 else self.choose.choice(FACTORIES)

    def next_fields(self, fields: Fields) -> Fields:
        """Fields after a change or two: renamed, removed, added, of another type, of another default."""
        made = list(fields)
        for _ in range(self.choose.randint(1, 3)):
            at = self.choose.randrange(len(made)) if made else 0
            roll = self.choose.random()
            if not made or roll < 0.25:
                made.append((self.choose.choice(NAMES), self.kind(), self.default()))
            elif roll < 0.45:
                del made[at]
            elif roll < 0.7:
                made[at] = (self.choose.choice(NAMES), *made[at][1:])
            elif roll < 0.9:
                made[at] = (made[at][0], self.kind(), made[at][2])
            else:
                made[at] = (*made[at][:2], self.default())
        unique = {field[0]: field for field in made}.values()
        return sorted(unique, key=lambda field: field[2] is not msgspec.NODEFAULT)

    def make(self, name: str, fields: Fields) -> Any:
        """A class of one of the kinds, or None if Python refuses it."""
        makers = [_struct, _struct, _tagged, _array, _generic, _dataclass, _attrs, _typed_dict, _named_tuple]
        makers.append(_recursive)
        maker = self.choose.choice(makers)
        try:
            made = maker(name, fields)
        except (TypeError, ValueError):
            return None
        self.classes.append(made)
        if maker is _tagged:
            self.tagged.append(made)
        return made


def _struct_fields(fields: Fields) -> list[Any]:
    return [
        (name, kind) if default is msgspec.NODEFAULT else (name, kind, _struct_default(default))
        for name, kind, default in fields
    ]


def _struct_default(default: Any) -> Any:
    return msgspec.field(default_factory=default) if callable(default) else default


def _struct(name: str, fields: Fields) -> Any:
    return msgspec.defstruct(name, _struct_fields(fields))


def _tagged(name: str, fields: Fields) -> Any:
    return msgspec.defstruct(name, _struct_fields(fields), tag=True, forbid_unknown_fields=bool(len(fields) % 2))


def _array(name: str, fields: Fields) -> Any:
    return msgspec.defstruct(name, _struct_fields(fields), array_like=True)


def _generic(name: str, fields: Fields) -> Any:
    from typing import Generic, TypeVar

    part = TypeVar("part")
    made: Any = msgspec.defstruct(
        name, [("held", part), *_struct_fields(fields)], bases=(msgspec.Struct, Generic[part])
    )
    return made[fields[0][1]] if fields else made


def _recursive(name: str, fields: Fields) -> Any:
    made = msgspec.defstruct(name, [*_struct_fields(fields), ("again", f"list[{name}]", ())], module=__name__)
    globals()[name] = made
    return made


def _dataclass(name: str, fields: Fields) -> Any:
    made: list[Any] = []
    for field, kind, default in fields:
        if default is msgspec.NODEFAULT:
            made.append((field, kind))
        elif callable(default):
            made.append((field, kind, dataclasses.field(default_factory=default)))
        else:
            made.append((field, kind, dataclasses.field(default=default)))
    return dataclasses.make_dataclass(name, made)


def _attrs(name: str, fields: Fields) -> Any:
    made = {}
    for field, kind, default in fields:
        if default is msgspec.NODEFAULT:
            made[field] = attrs.field(type=kind)
        elif callable(default):
            takes_self = attrs.Factory(lambda self: 1, takes_self=True)
            made[field] = attrs.field(type=kind, default=takes_self if default is list else attrs.Factory(default))
        else:
            made[field] = attrs.field(type=kind, default=default)
    return attrs.make_class(name, made)


def _named_tuple(name: str, fields: Fields) -> Any:
    return NamedTuple(name, [(field, kind) for field, kind, _ in fields])  # type: ignore[misc]


def _typed_dict(name: str, fields: Fields) -> Any:
    return TypedDict(name, {field: kind for field, kind, _ in fields}, total=bool(len(fields) % 2))  # type: ignore[operator]
