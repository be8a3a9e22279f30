"""What the runner of a projection needs of it, whatever it builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from hangarlog.eventstore.arguments import whole_number
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.cursor import check_cursor_name
from hangarlog.eventstore.record import Record

AnyStore = EventStore[Any]


class Filters(msgspec.Struct, frozen=True):
    """Which events go into a projection: see `EventStore.subscribe`."""

    stream_id: str | None = None
    category: str | Collection[str] | None = None
    not_category: str | Collection[str] | None = None
    event_types: Any = None


class StoredModel(NamedTuple):
    """What is stored of a projection. `usable` is False if it is of another history than the store's events."""

    version: int
    generation: int
    position: int
    usable: bool = True


class Model(ABC):
    """What a projection builds, live or beside the live one. One thread uses it.

    `position` is the one up to which events were saved in it, `generation` the number of rebuilds before it.
    """

    position: int
    generation: int

    @property
    def holds_lock(self) -> bool:
        """True if others wait until it is saved."""
        return False

    @abstractmethod
    def apply(self, record: Record[Any]) -> None:
        """Let an event go into it. Raises what the user's function raises."""

    @abstractmethod
    def is_replaced(self) -> bool:
        """True if another one was put in its place."""

    @abstractmethod
    def save(self, position: int, event_id: str, *, sync: bool) -> None:
        """Save it together with its position, all or nothing. Without `sync`, a power cut may take it back."""

    @abstractmethod
    def close(self) -> None:
        """Forget what was not saved."""


class Definition(ABC):
    """A projection: its name, its version, and which events go into it."""

    def __init__(self, name: str, version: int, filters: Filters, every_events: int, every_seconds: float) -> None:
        self._name, self._filters = check_cursor_name(name), filters
        if whole_number("version", version) < 1:
            raise ValueError(f"version must be a whole number from 1 up, not {version!r}")
        if whole_number("every_events", every_events) < 1:
            raise ValueError(f"every_events must be a whole number from 1 up, not {every_events!r}")
        if not isinstance(every_seconds, (int, float)) or isinstance(every_seconds, bool) or not every_seconds > 0:
            raise ValueError(f"every_seconds must be more than 0 seconds, not {every_seconds!r}")
        self._version, self.every_events, self.every_seconds = int(version), int(every_events), float(every_seconds)

    @property
    def name(self) -> str:
        """The projection's name, which its cursor has, too."""
        return self._name

    @property
    def version(self) -> int:
        """The version of its function: with a higher one, it is built anew."""
        return self._version

    @property
    def filters(self) -> Filters:
        """Which events go into it."""
        return self._filters

    @abstractmethod
    def _stored(self, store: AnyStore) -> StoredModel | None:
        """Return what is stored of the live model, None if nothing is."""

    @abstractmethod
    def _open_live(self, store: AnyStore) -> Model:
        """Return the live model, a new one if none is stored."""

    @abstractmethod
    def _has_unfinished(self, store: AnyStore) -> bool:
        """True if there is a rebuild of this version that did not end."""

    @abstractmethod
    def _open_rebuild(self, store: AnyStore, *, anew: bool) -> Model:
        """Return the model of the rebuild that did not end, or a new one."""

    @abstractmethod
    def _put_in_place(self, store: AnyStore, model: Model, position: int, event_id: str) -> bool:
        """Make a rebuilt model the live one, atomically and durably. Nobody saves the live one meanwhile."""
