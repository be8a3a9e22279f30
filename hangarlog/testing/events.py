"""The events and helpers of the conformance suite."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import msgspec

from hangarlog.events.registry import DEFAULT_REGISTRY, EVENT_TYPE_MAP, EVENT_VERSION_MAP, register_event_type


class Counted(msgspec.Struct, frozen=True):
    """An event of the suite that is a Struct."""

    number: int
    event_id: str | None = None


class _Base:
    """A base class that sets attributes beside the fields, as the events of MCP Hangar do."""

    def __init__(self) -> None:
        self.event_id = f"made-{next(_ids)}"
        self.occurred_at = 0.0


_ids = iter(range(1 << 62))


@dataclasses.dataclass
class Noted(_Base):
    """An event of the suite that is a dataclass, with `event_id` and `occurred_at` beside its fields."""

    text: str
    level: str = "info"

    def __post_init__(self) -> None:
        super().__init__()


@contextlib.contextmanager
def registered(**event_classes: type) -> Iterator[None]:
    """Register event classes by name for the block, then restore the default registry."""
    types, versions, dropped = dict(EVENT_TYPE_MAP), dict(EVENT_VERSION_MAP), dict(DEFAULT_REGISTRY.dropped)
    try:
        for name, event_class in event_classes.items():
            register_event_type(event_class, name=name)
        yield
    finally:
        EVENT_TYPE_MAP.clear()
        EVENT_TYPE_MAP.update(types)
        EVENT_VERSION_MAP.clear()
        EVENT_VERSION_MAP.update(versions)
        DEFAULT_REGISTRY.dropped.clear()
        DEFAULT_REGISTRY.dropped.update(dropped)


class raises:  # noqa: N801 - reads as a statement
    """`with raises(SomeError) as caught:` passes if the block raises `SomeError`, which is then `caught.error`."""

    error: Any

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def __enter__(self) -> raises:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        assert kind is not None, f"{self._kind.__name__} was not raised"
        self.error = error
        return issubclass(kind, self._kind)
