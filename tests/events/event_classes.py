"""Events of every kind of class."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid

import attrs
import msgspec


class Colour(enum.Enum):
    RED = "red"


class Inner(msgspec.Struct):
    a: int


class AStruct(msgspec.Struct):
    at: datetime.datetime
    day: datetime.date
    key: uuid.UUID
    colour: Colour
    inner: list[Inner]
    pairs: dict[int, tuple[int, str]]
    raw: bytes
    maybe: float | None = None


class DomainEvent:
    """As MCP Hangar's: not a dataclass, sets identity and time beside the fields."""

    def __init__(self) -> None:
        self.event_id = str(uuid.uuid4())
        self.occurred_at = 1.25
        self._secret = object()


@dataclasses.dataclass
class ADataclass(DomainEvent):
    provider_id: str
    count: int = 3
    tags: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()


@dataclasses.dataclass(frozen=True, slots=True)
class ASlottedDataclass:
    a: int
    b: str = "b"


@dataclasses.dataclass(frozen=True)
class AFrozenDataclass(DomainEvent):
    a: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_id", "fresh")
        object.__setattr__(self, "occurred_at", 0.0)


@attrs.define
class AnAttrs:
    a: int
    b: list[str] = attrs.field(factory=list)


@attrs.define(slots=False)
class AnAttrsWithMore:
    a: int

    def __attrs_post_init__(self) -> None:
        self.event_id = "fresh"
