"""Every form of event class: what becomes of an event of it."""

from __future__ import annotations

import abc
import dataclasses
import functools
import itertools
import uuid
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import attrs
import msgspec
from msgspec import UNSET, Struct, UnsetType

from .kinds import AT_REGISTRATION, AT_WRITE, EQUAL

_T = TypeVar("_T")
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of class. `define` returns the class, `make` an event of it; `names` are the attributes to compare."""

    title: str
    define: Callable[[], type]
    make: Callable[[type], Any]
    expected: str = EQUAL
    names: tuple[str, ...] = ("a",)


def with_a(event_class: type) -> Any:
    return event_class(a=1)


def struct(**config: Any) -> Callable[[], type]:
    return lambda: msgspec.defstruct("Happened", [("a", int)], module=__name__, **config)


def setting(**values: Any) -> Callable[[type], Any]:
    """Make an event, then set attributes of it."""

    def make(event_class: type) -> Any:
        event = event_class(a=1)
        for name, value in values.items():
            setattr(event, name, value)
        return event

    return make


def asked_for(name: str) -> Callable[[type], Any]:
    def make(event_class: type) -> Any:
        event = event_class(a=1)
        getattr(event, name)
        return event

    return make


class Base(Struct):
    a: int


class DerivedStruct(Base, kw_only=True):
    b: str = "b"


class GenericStruct(Struct, Generic[_T]):
    a: _T


class AbstractBase(Struct):
    a: int

    @abc.abstractmethod
    def what(self) -> str: ...


class Concrete(AbstractBase):
    def what(self) -> str:
        return "it"


class WithMembers(Struct, dict=True):
    kind: ClassVar[str] = "k"
    a: int
    b: list[int] = msgspec.field(default_factory=list)
    _c: int = 3

    @property
    def double(self) -> int:
        return self.a * 2

    @functools.cached_property
    def triple(self) -> int:
        return self.a * 3


class Normalizing(Struct):
    a: int

    def __post_init__(self) -> None:
        self.a = abs(self.a)


class Counting(Struct):
    a: int

    def __post_init__(self) -> None:
        self.a += 1


class Refusing(Struct):
    a: int

    def __post_init__(self) -> None:
        if self.a > 1:
            raise ValueError("a is too large")


class Failing(Struct):
    needed: ClassVar[dict[str, int]] = {}
    a: int

    def __post_init__(self) -> None:
        self.needed.pop("once")


def made_once(event_class: type) -> Any:
    Failing.needed["once"] = 1
    return event_class(a=1)


class WithOwnEq(Struct):
    a: int
    b: float = 0.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WithOwnEq)


def same_name_twice() -> type:
    names = {"a": "x", "b": "x"}
    return msgspec.defstruct("Happened", [("a", int), ("b", int, 2)], rename=names)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slotted:
    a: int
    b: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class NotInInit:
    a: int
    b: int = dataclasses.field(init=False, default=2)
    _c: int = 3


@dataclasses.dataclass
class WithInitVar:
    a: int
    b: dataclasses.InitVar[int] = 3

    def __post_init__(self, b: int) -> None:
        self.c = b


@dataclasses.dataclass
class InheritedInitVar(WithInitVar):
    d: int = 4


@dataclasses.dataclass
class Members:
    kind: ClassVar[str] = "k"
    a: int

    @property
    def double(self) -> int:
        return self.a * 2

    @functools.cached_property
    def triple(self) -> int:
        return self.a * 3


@dataclasses.dataclass
class Unset:
    a: int
    b: int | UnsetType = UNSET


@dataclasses.dataclass
class SetsMore:
    a: int

    def __post_init__(self) -> None:
        self.event_id = uuid.uuid4()
        self.more = {"x": next(_numbers)}


@dataclasses.dataclass(eq=False)
class NoEq:
    a: int
    b: int = dataclasses.field(default=2, compare=False)


@attrs.define
class AttrsSlotted:
    a: int
    _b: int = attrs.field(default=2, alias="private")
    c: int = attrs.field(init=False, default=3)
    d: list[int] = attrs.field(factory=list)

    @functools.cached_property
    def triple(self) -> int:
        return self.a * 3


@attrs.define(slots=False, kw_only=True)
class AttrsDict:
    a: int

    @functools.cached_property
    def triple(self) -> int:
        return self.a * 3


@attrs.define
class AttrsChecked:
    a: int = attrs.field(converter=int, validator=attrs.validators.gt(0))


@attrs.define
class AttrsCheckedOnce:
    a: int = attrs.field(validator=attrs.validators.gt(0), on_setattr=attrs.setters.NO_OP)


def of(event_class: type) -> Callable[[], type]:
    return lambda: event_class


_STRUCTS = [
    Form("frozen, kw_only, gc=False", struct(frozen=True, kw_only=True, gc=False), with_a),
    Form("dict=True, an attribute that is set on the event: it is not stored", struct(dict=True), setting(note="n")),
    Form("omit_defaults", lambda: msgspec.defstruct("Happened", [("a", int, 1)], omit_defaults=True), with_a),
    Form("renamed fields", struct(rename="pascal"), with_a),
    Form("two fields with the same stored name", same_name_twice, with_a, AT_REGISTRATION),
    Form("tag", struct(tag=True), with_a),
    Form("tag_field='kind', tag=3", struct(tag_field="kind", tag=3), with_a),
    Form("tag_field='_version'", struct(tag_field="_version", tag="x"), with_a, AT_REGISTRATION),
    Form("a field that is stored as `_version`", struct(rename={"a": "_version"}), with_a, AT_REGISTRATION),
    Form("array_like", struct(array_like=True), with_a, AT_REGISTRATION),
    Form("forbid_unknown_fields", struct(forbid_unknown_fields=True), with_a, AT_REGISTRATION),
    Form("eq=False", struct(eq=False), with_a),
    Form("order, cache_hash", struct(frozen=True, order=True, cache_hash=True), with_a),
    Form("derived", of(DerivedStruct), with_a, names=("a", "b")),
    Form("derived from an abstract one", of(Concrete), with_a),
    Form("generic: its values are `Any`", of(GenericStruct), with_a),
    Form(
        "class variables, properties, cached properties, a private field",
        of(WithMembers),
        asked_for("triple"),
        names=("a", "b", "_c", "triple"),
    ),
    Form("`__post_init__` that normalizes", of(Normalizing), lambda cls: cls(-1)),
    Form("`__post_init__` that changes more each time", of(Counting), with_a, AT_WRITE),
    Form("`__post_init__` that refuses a value that was set later", of(Refusing), setting(a=2), AT_WRITE),
    Form("`__post_init__` that fails the second time", of(Failing), made_once, AT_WRITE),
    Form("its own `__eq__`", of(WithOwnEq), with_a, names=("a", "b")),
    Form("its own `__eq__`, a value that would change", of(WithOwnEq), setting(b=2**60 + 1), AT_WRITE),
    Form("a field that was set past its type", struct(), setting(a=1.5), AT_WRITE),
]

_DATACLASSES = [
    Form("frozen, slots, kw_only, default_factory", of(Slotted), with_a, names=("a", "b")),
    Form("`init=False`, a private field", of(NotInInit), setting(b=7, _c=8), names=("a", "b", "_c")),
    Form("`InitVar`", of(WithInitVar), with_a, AT_REGISTRATION),
    Form("an inherited `InitVar`", of(InheritedInitVar), with_a, AT_REGISTRATION),
    Form("class variables, properties", of(Members), with_a, names=("a", "double")),
    Form("cached properties: they are not stored", of(Members), asked_for("triple"), names=("a", "triple")),
    Form("`UNSET`", of(Unset), with_a, names=("a", "b")),
    Form("`UNSET`, with a value", of(Unset), setting(b=3), names=("a", "b")),
    Form("attributes that `__post_init__` sets", of(SetsMore), with_a, names=("a", "event_id", "more")),
    Form(
        "`event_id` and `occurred_at`, set on the event",
        of(Members),
        setting(event_id="e", occurred_at=1.5),
        names=("a", "event_id", "occurred_at"),
    ),
    Form("another attribute, set on the event", of(Members), setting(note="n"), AT_WRITE),
    Form("a private attribute, set on the event: it is not stored", of(Members), setting(_note="n")),
    Form("eq=False, compare=False", of(NoEq), setting(b=3), names=("a", "b")),
    Form("eq=False, a value that would change", of(NoEq), setting(b=True), AT_WRITE),
    Form("a field that was set past its type", of(Members), setting(a="x"), AT_WRITE),
]

_ATTRS = [
    Form(
        "slots, a private field, `alias`, `init=False`, `factory`",
        of(AttrsSlotted),
        setting(_b=7, c=8),
        names=("a", "_b", "c", "d"),
    ),
    Form("cached properties", of(AttrsSlotted), asked_for("triple"), names=("a", "triple")),
    Form("cached properties, without slots", of(AttrsDict), asked_for("triple"), names=("a", "triple")),
    Form("`converter` and `validator`", of(AttrsChecked), lambda cls: cls("1")),
    Form("`validator`, against a value that was set later", of(AttrsCheckedOnce), setting(a=-1), AT_WRITE),
    Form("another attribute, set on the event", of(AttrsDict), setting(note="n"), AT_WRITE),
]

FORMS = {"Structs": _STRUCTS, "Dataclasses": _DATACLASSES, "attrs classes": _ATTRS}
ALL_FORMS = [(family, form) for family, forms in FORMS.items() for form in forms]
