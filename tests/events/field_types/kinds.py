"""Every kind of field, with a value: what becomes of an event whose field `x` has this type and this value."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import typing
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import attrs
import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

EQUAL = "equal"
AT_REGISTRATION = "refused at registration"
AT_WRITE = "refused at the write"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A type of field and a value in it. `same` compares what was read with it where `==` cannot."""

    title: str
    type: Any
    value: Any
    expected: str = EQUAL
    shown: str = ""
    same: Callable[[Any, Any], bool] | None = None
    hooks: bool = False
    default: Any = msgspec.NODEFAULT


class Text(enum.Enum):
    A = "a"


class Number(enum.Enum):
    ONE = 1


class Int(enum.IntEnum):
    ONE = 1


class Str(enum.StrEnum):
    A = "a"


class Flags(enum.Flag):
    A = 1
    B = 2


class IntFlags(enum.IntFlag):
    A = 1
    B = 2


class Fraction(enum.Enum):
    HALF = 0.5


class Mixed(enum.Enum):
    ONE = 1
    A = "a"


class Truth(enum.Enum):
    YES = True


class Nothing(enum.Enum):
    NONE = None


class Pair(NamedTuple):
    a: int
    b: str = "b"


class Keys(TypedDict, total=False):
    a: typing.Required[int]
    b: str


class Inner(Struct):
    a: int


class Derived(Inner):
    b: int = 2


class Renamed(Struct, rename="camel"):
    first_name: str


class Array(Struct, array_like=True):
    a: int
    b: str


class Strict(Struct, forbid_unknown_fields=True):
    a: int


class Docker(Struct, tag="docker"):
    image: str


class Local(Struct, tag="local"):
    path: str


class Tree(Struct):
    children: list[Tree] = []


class WithFraction(Struct):
    shade: Fraction


_T = TypeVar("_T")


class Box(Struct, Generic[_T]):
    content: _T


@dataclasses.dataclass
class Data:
    a: int
    b: int = dataclasses.field(init=False, default=2)

    @functools.cached_property
    def double(self) -> int:
        return self.a * 2


@dataclasses.dataclass
class WithInitVar:
    a: dataclasses.InitVar[int]


@attrs.define
class Attrs:
    a: int
    _b: int = 2


class Custom:
    """Only the hooks know it. It has no `__eq__`."""

    def __init__(self, text: str) -> None:
        self.text = text


def same_custom(one: Any, two: Any) -> bool:
    return type(one) is type(two) is Custom and one.text == two.text


def same_json(one: Any, two: Any) -> bool:
    return type(two) is Raw and bool(msgspec.json.decode(one) == msgspec.json.decode(two))


def same_text(one: Any, two: Any) -> bool:
    return type(one) is type(two) and str(one) == str(two)


def same_clock(one: Any, two: Any) -> bool:
    return bool(one.replace(tzinfo=None, fold=0) == two.replace(tzinfo=None)) and one.utcoffset() == two.utcoffset()


def computed() -> Data:
    data = Data(3)
    assert data.double == 6
    data.b = 7
    return data


class Zone(dt.tzinfo):
    """A zone that puts its clock back in the hour after two on the 25th of each month."""

    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(hours=1 if when is not None and when.day == 25 and when.fold else 2)

    def dst(self, when: dt.datetime | None) -> dt.timedelta:
        return self.utcoffset(when) - dt.timedelta(hours=1)

    def tzname(self, when: dt.datetime | None) -> str:
        return "zone"


UserId = NewType("UserId", int)
_SECONDS = dt.timezone(dt.timedelta(minutes=19, seconds=32))
_DAY = dt.date(2026, 1, 2)
_ID = uuid.UUID(int=7)

_PLAIN = [
    Kind("`str`", str, "é\u2028\x00"),
    Kind("`str`", str, "\ud800", AT_WRITE, "half a surrogate pair"),
    Kind("`str`", str, 5, AT_WRITE),
    Kind("`str`", str, _ID, AT_WRITE, "a UUID"),
    Kind("`str`", str, Text.A, AT_WRITE, "a member of an enum"),
    Kind("`int`", int, 2**63 + 1),
    Kind("`int`", int, 2**70),
    Kind("`int`", int, 1.5, AT_WRITE),
    Kind("`int`", int, 1.0, AT_WRITE),
    Kind("`int`", int, True, AT_WRITE),
    Kind("`float`", float, 0.1),
    Kind("`float`", float, 1, "equal, as float"),
    Kind("`float`", float, 2**60 + 1, AT_WRITE, "2**60 + 1, which is no float"),
    Kind("`float`", float, float("nan"), AT_WRITE, "NaN"),
    Kind("`float`", float, float("-inf"), AT_WRITE, "-infinity"),
    Kind("`bool`", bool, True),
    Kind("`bool`", bool, 1, AT_WRITE),
    Kind("`None`", type(None), None),
    Kind("`int | None`", int | None, None),
    Kind("`NewType`", UserId, 7),
    Kind("`Annotated[int, Meta(ge=1)]`", Annotated[int, Meta(ge=1)], 1),
    Kind("`Annotated[int, Meta(ge=1)]`", Annotated[int, Meta(ge=1)], 0, AT_WRITE),
    Kind('`Annotated[str, Meta(pattern="^a")]`', Annotated[str, Meta(pattern="^a")], "b", AT_WRITE),
    Kind("`Annotated[list[int], Meta(min_length=1)]`", Annotated[list[int], Meta(min_length=1)], [], AT_WRITE),
    Kind('`Literal["a", 1, None]`', Literal["a", 1, None], 1),
    Kind('`Literal["a", 1, None]`', Literal["a", 1, None], "b", AT_WRITE),
    Kind("`bytes`", bytes, b"\x00\xff"),
    Kind("`bytearray`", bytearray, bytearray(b"\xff")),
    Kind("`memoryview`", memoryview, memoryview(b"\xff"), shown="of bytes"),
    Kind("`str`", str, b"a", AT_WRITE),
]

_TIMES = [
    Kind("`datetime`", dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, 678901), shown="without a zone"),
    Kind("`datetime`", dt.datetime, dt.datetime(2026, 1, 2, tzinfo=dt.UTC), shown="in UTC"),
    Kind(
        "`datetime`",
        dt.datetime,
        dt.datetime(2026, 7, 2, tzinfo=Zone()),
        shown="in a named zone, of which the offset stays",
    ),
    Kind(
        "`datetime`",
        dt.datetime,
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=Zone(), fold=1),
        shown="in the hour that a clock repeats",
        same=same_clock,
    ),
    Kind("`datetime`", dt.datetime, dt.datetime(2026, 1, 2, tzinfo=_SECONDS), AT_WRITE, "its offset has seconds"),
    Kind("`date`", dt.date, _DAY, shown="a date"),
    Kind("`date`", dt.date, dt.datetime(2026, 1, 2, 3), AT_WRITE, "a datetime"),
    Kind("`time`", dt.time, dt.time(1, 2, 3, 4), shown="without a zone"),
    Kind("`time`", dt.time, dt.time(1, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))), shown="+05:30"),
    Kind("`time`", dt.time, dt.time(1, tzinfo=_SECONDS), AT_WRITE, "its offset has seconds"),
    Kind("`timedelta`", dt.timedelta, dt.timedelta(days=-3, microseconds=1), shown="negative, with microseconds"),
    Kind("`UUID`", uuid.UUID, _ID, shown="a UUID"),
    Kind("`Decimal`", decimal.Decimal, decimal.Decimal("1.50"), same=same_text, shown="1.50, with its zeros"),
    Kind("`Decimal`", decimal.Decimal, decimal.Decimal("NaN"), same=same_text, shown="NaN"),
    Kind("`Decimal`", decimal.Decimal, 1.5, "equal, as Decimal"),
    Kind("`Decimal | float`", decimal.Decimal | float, decimal.Decimal("1.50"), same=same_text, shown="1.50"),
]

_ENUMS = [
    Kind("`Enum` of texts", Text, Text.A, shown="a member"),
    Kind("`Enum` of integers", Number, Number.ONE, shown="a member"),
    Kind("`IntEnum`", Int, Int.ONE, shown="a member"),
    Kind("`StrEnum`", Str, Str.A, shown="a member"),
    Kind("`Flag`", Flags, Flags.A | Flags.B, shown="two members"),
    Kind("`IntFlag`", IntFlags, IntFlags.A | IntFlags.B, shown="two members"),
    Kind("`Enum` of other values", Fraction, Fraction.HALF, AT_REGISTRATION, "a member"),
    Kind("`Enum` of texts and integers", Mixed, Mixed.ONE, AT_REGISTRATION, "a member"),
    Kind("`Enum` of truth values", Truth, Truth.YES, AT_REGISTRATION, "a member"),
    Kind("`Enum` of `None`", Nothing, Nothing.NONE, AT_REGISTRATION, "a member"),
    Kind("`list` of an `Enum` of other values", list[Fraction], [], AT_REGISTRATION),
    Kind("`dict` with such keys", dict[Fraction, int], {}, AT_REGISTRATION),
    Kind("a Struct with such a field", WithFraction, None, AT_REGISTRATION, "any"),
]

_COLLECTIONS = [
    Kind("`list[int]`", list[int], [1, 2]),
    Kind("`list[int]`", list[int], (1, 2), "equal, as list"),
    Kind("`list[int]`", list[int], {1}, AT_WRITE),
    Kind("`tuple[int, str]`", tuple[int, str], (1, "a")),
    Kind("`tuple[int, ...]`", tuple[int, ...], (1, 2)),
    Kind("`tuple[int, ...]`", tuple[int, ...], [1, 2], "equal, as tuple"),
    Kind("`set[int]`", set[int], {1, 2}),
    Kind("`set[int]`", set[int], [1, 2], AT_WRITE),
    Kind("`frozenset[str]`", frozenset[str], frozenset("a"), shown="a frozenset"),
    Kind("`set[datetime]`", set[dt.datetime], {dt.datetime(2026, 1, 2, tzinfo=dt.UTC)}, shown="in UTC"),
    Kind(
        "`set[datetime]`", set[dt.datetime], {dt.datetime(2026, 1, 2, tzinfo=_SECONDS)}, AT_WRITE, "offset of seconds"
    ),
    Kind("`Sequence[int]`", collections.abc.Sequence[int], [1]),
    Kind("`Collection[int]`", collections.abc.Collection[int], [1]),
    Kind("`Mapping[str, int]`", collections.abc.Mapping[str, int], {"a": 1}),
    Kind("`collections.abc.Set[int]`", collections.abc.Set[int], {1}),
    Kind("`deque`", collections.deque, collections.deque([1]), AT_WRITE, "a deque"),
    Kind("`NamedTuple`", Pair, Pair(1), shown="a NamedTuple"),
    Kind("`TypedDict`", Keys, {"a": 1}),
    Kind("`dict[str, int]`", dict[str, int], {"a": 1}),
    Kind("`dict[str, int]`", dict[str, int], collections.OrderedDict(a=1), "equal, as dict", "an OrderedDict"),
    Kind("`dict[str, int]`", dict[str, int], {1: 1}, AT_WRITE),
    Kind("`dict[int, str]`", dict[int, str], {1: "a"}),
    Kind("`dict[float, str]`", dict[float, str], {1.5: "a"}),
    Kind("`dict[date, int]`", dict[dt.date, int], {_DAY: 1}, shown="by date"),
    Kind("`dict[UUID, int]`", dict[uuid.UUID, int], {_ID: 1}, shown="by UUID"),
    Kind("`dict[Enum, int]`", dict[Number, int], {Number.ONE: 1}, shown="by member"),
    Kind("`dict[bytes, int]`", dict[bytes, int], {b"a": 1}),
    Kind("`dict[Decimal, int]`", dict[decimal.Decimal, int], {decimal.Decimal(1): 1}, shown="by Decimal"),
    Kind("`dict[bool, int]`", dict[bool, int], {True: 1}, AT_WRITE),
    Kind("`dict[tuple[int, int], int]`", dict[tuple[int, int], int], {(1, 2): 1}, AT_WRITE),
    Kind("`dict[int | str, int]`", dict[int | str, int], {"a": 1}),
    Kind("`dict[int | str, int]`", dict[int | str, int], {1: 1}, AT_WRITE),
    Kind("`dict[int | str, int]`", dict[int | str, int], {1: 1, "1": 2}, AT_WRITE),
]

_CLASSES = [
    Kind("a Struct", Inner, Inner(1), shown="an instance"),
    Kind("a Struct", Inner, Derived(1), AT_WRITE, "of a derived class"),
    Kind("a Struct", Inner, Inner(1.5), AT_WRITE, "with a wrong type"),  # type: ignore[arg-type]
    Kind("a Struct with renamed fields", Renamed, Renamed("Ada"), shown="an instance"),
    Kind("a Struct that is `array_like`", Array, Array(1, "b"), shown="an instance"),
    Kind("a Struct that forbids unknown fields", Strict, Strict(1), shown="an instance"),
    Kind("a Struct that contains itself", Tree, Tree([Tree()]), shown="an instance"),
    Kind("a generic Struct, `Box[int]`", Box[int], Box(1), shown="an instance"),
    Kind("a generic Struct, `Box[int]`", Box[int], Box("a"), AT_WRITE, "of a text"),
    Kind("a dataclass", Data, computed(), shown="with `init=False`, a cached property"),
    Kind("a dataclass with an `InitVar`", WithInitVar, None, AT_REGISTRATION, "any"),
    Kind("an attrs class", Attrs, Attrs(1), shown="an instance"),
    Kind("an attrs class", Attrs, Attrs(1, 3), AT_WRITE, "a private field that is not its default"),
]

_UNIONS = [
    Kind("`str | int`", str | int, "a"),
    Kind("`int | float`", int | float, 1.0),
    Kind("`UUID | None`", uuid.UUID | None, _ID, shown="a UUID"),
    Kind("`list[int] | dict[str, int]`", list[int] | dict[str, int], [1]),
    Kind("Structs with tags", Docker | Local, Local("/"), shown="an instance"),
    Kind("Structs without tags", Inner | Renamed, Inner(1), AT_REGISTRATION, "an instance"),
    Kind("a Struct and `dict`", Inner | dict[str, int], Inner(1), AT_REGISTRATION, "an instance"),
    Kind("a Struct and `str`", Inner | str, "a"),
    Kind("a dataclass and a Struct", Data | Inner, Inner(1), AT_REGISTRATION, "an instance"),
    Kind("`str | date`", str | dt.date, "a", AT_REGISTRATION),
    Kind("`datetime | date`", dt.datetime | dt.date, _DAY, AT_REGISTRATION, "a date"),
    Kind("`str | UUID`", str | uuid.UUID, _ID, AT_REGISTRATION, "a UUID"),
    Kind("`str | bytes`", str | bytes, "a", AT_REGISTRATION),
    Kind("`str | Decimal`", str | decimal.Decimal, "a", AT_REGISTRATION),
    Kind("`str` and an `Enum` of texts", str | Text, "a", AT_REGISTRATION),
    Kind("`int` and an `IntEnum`", int | Int, 1, AT_REGISTRATION),
    Kind("`list` and `tuple`", list[int] | tuple[int, ...], [1], AT_REGISTRATION),
    Kind("`list[str | date]`", list[str | dt.date], ["a"], AT_REGISTRATION),
]

_OTHERS = [
    Kind("`Any`", Any, {"a": [1, 0.5, None, "b", True]}),
    Kind("`Any`", Any, 2**70),
    Kind("`Any`", Any, (1, 2), "equal, as list"),
    Kind("`Any`", Any, {1, 2}, AT_WRITE),
    Kind("`Any`", Any, {1: 2}, AT_WRITE),
    Kind("`Any`", Any, _DAY, AT_WRITE, "a date"),
    Kind("`Any`", Any, b"a", AT_WRITE),
    Kind("`Any`", Any, decimal.Decimal("1.5"), AT_WRITE, "a Decimal"),
    Kind("`Any`", Any, Text.A, AT_WRITE, "a member of an enum"),
    Kind("`Any`", Any, Inner(1), AT_WRITE, "a Struct"),
    Kind("`object`", object, [1]),
    Kind("`list`", list, [1, "a"]),
    Kind("`dict`", dict, {"a": 1}),
    Kind("`msgspec.Raw`", Raw, Raw(b'{"a":[1.50]}'), same=same_json, shown="JSON"),
    Kind("`msgspec.Raw`", Raw, Raw(b'{\n"a": 1}'), same=same_json, shown="JSON on two lines: blanks are removed"),
    Kind("`msgspec.Raw`", Raw, Raw(b"{"), AT_WRITE, "no JSON"),
    Kind("`msgspec.Raw`", Raw, Raw(b'{"a":1,"a":2}'), AT_WRITE, "with a key twice"),
    Kind("`int | UnsetType`", int | UnsetType, 1, default=UNSET),
    Kind("`int | UnsetType`, by default `UNSET`", int | UnsetType, UNSET, default=UNSET),
    Kind("`int | UnsetType`, by default 5", int | UnsetType, UNSET, AT_WRITE, default=5),
    Kind("a class, with hooks", Custom, Custom("a"), same=same_custom, hooks=True, shown="an instance"),
    Kind("a class, without hooks", Custom, Custom("a"), AT_WRITE, "an instance"),
    Kind("`complex`", complex, 1j, AT_WRITE),
    Kind("`Callable`", Callable[[], None], print, AT_WRITE, "a function"),
    Kind("`LiteralString`", typing.LiteralString, "a", AT_REGISTRATION),
    Kind("a class that does not exist", "Missing", 1, AT_WRITE),
]

GROUPS = {
    "Plain values": _PLAIN,
    "Times, ids, decimals": _TIMES,
    "Enums": _ENUMS,
    "Collections": _COLLECTIONS,
    "Classes in fields": _CLASSES,
    "Unions": _UNIONS,
    "Anything else": _OTHERS,
}
KINDS = [kind for group in GROUPS.values() for kind in group]
