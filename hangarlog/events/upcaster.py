"""Upcasters bring old payloads to the current schema version, one version per step, when they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from hangarlog.errors import UpcasterError, UpcastingError


class IEventUpcaster(ABC):
    """One step of schema evolution. It must be pure: no I/O, no clock, no randomness."""

    @property
    @abstractmethod
    def event_type(self) -> str:
        """The stored event type."""

    @property
    @abstractmethod
    def from_version(self) -> int:
        """The schema version that the upcaster takes."""

    @property
    @abstractmethod
    def to_version(self) -> int:
        """The schema version that the upcaster returns: `from_version + 1`."""

    @abstractmethod
    def upcast(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the payload at `to_version` for a payload at `from_version`, which has no `_version` key."""


class Upcaster(Protocol):
    """The upcasters that a chain accepts: any object with the members of `IEventUpcaster`."""

    @property
    def event_type(self) -> str: ...  # noqa: D102
    @property
    def from_version(self) -> int: ...  # noqa: D102
    @property
    def to_version(self) -> int: ...  # noqa: D102
    def upcast(self, data: dict[str, Any]) -> dict[str, Any]: ...  # noqa: D102


_Step = Callable[[dict[str, Any]], dict[str, Any]]
Split = Callable[[dict[str, Any]], Iterable[tuple[str, dict[str, Any]]]]
"""A splitter: from a payload to the (event type, payload) of each new event. Their `_version` is 1 if missing."""
_Function = TypeVar("_Function", bound=_Step)
_Splitter = TypeVar("_Splitter", bound=Split)


class UpcasterChain:
    """The upcasters and splitters of an application, by event type and the version that they take."""

    def __init__(self) -> None:
        self._steps: dict[str, dict[int, _Step]] = {}
        self._splits: dict[str, tuple[int, Split]] = {}
        self._paths: dict[tuple[str, int, int, str | None], tuple[tuple[int, _Step], ...]] = {}

    def register(self, upcaster: Upcaster) -> None:
        """Add an upcaster object.

        Raises:
            UpcasterError: it does not advance exactly one version, or another upcaster has the same step.
            TypeError: it is not an upcaster, or it is a class instead of an instance.
        """
        if isinstance(upcaster, type):
            raise TypeError(f"register an instance: {upcaster.__name__}() instead of {upcaster.__name__}")
        if not callable(getattr(upcaster, "upcast", None)):
            raise TypeError(f"{upcaster!r} is not an upcaster: it has no upcast method")
        self._add(upcaster.event_type, upcaster.from_version, upcaster.to_version, upcaster.upcast)

    def upcaster(self, event_type: str, from_version: int) -> Callable[[_Function], _Function]:
        """Register a function as the step from `from_version` to the next version: `@chain.upcaster("Started", 1)`."""

        def decorate(function: _Function) -> _Function:
            self._add(event_type, from_version, from_version + 1, function)
            return function

        return decorate

    def splitter(self, event_type: str, from_version: int) -> Callable[[_Splitter], _Splitter]:
        """Register a function that splits events of this type and version: `@chain.splitter("Moved", 1)`.

        The function returns the (event type, payload) of each new event, in order. Older versions are first brought to
        `from_version`. If a class still has this type, its versions begin after `from_version`.

        Raises:
            UpcasterError: the type already has a splitter, or an upcaster from this version.
        """

        def decorate(function: _Splitter) -> _Splitter:
            refuse = _refusal(event_type, from_version, from_version + 1, function)
            if type(from_version) is not int or from_version < 1:
                raise refuse("must start from a whole number from 1 up")
            if event_type in self._splits:
                raise refuse(f"meets another, from v{self._splits[event_type][0]}; split its parts instead")
            if from_version in self._steps.get(event_type, {}):
                raise refuse("meets an upcaster from the same version")
            self._splits[event_type] = from_version, function
            self._paths = {}
            return function

        return decorate

    def split_of(self, event_type: str) -> tuple[int, Split] | None:
        """Return (the version at which a stored type is split, its splitter), None if it is not split."""
        return self._splits.get(event_type)

    @property
    def splits(self) -> Mapping[str, tuple[int, Split]]:
        """What `split_of` returns, for every stored type that is split."""
        return self._splits

    def split_types(self) -> list[str]:
        """Return the stored types that are split."""
        return list(self._splits)

    def steps(self) -> Iterator[tuple[str, int, _Step]]:
        """Yield the (event type, version that it takes, function) of each upcaster."""
        for event_type, steps in self._steps.items():
            for version, step in steps.items():
                yield event_type, version, step

    def _add(self, event_type: str, from_version: int, to_version: int, step: _Step) -> None:
        refuse = _refusal(event_type, from_version, to_version, step)
        if type(from_version) is not int or from_version < 1:
            raise refuse("must start from a whole number from 1 up")
        if to_version != from_version + 1:
            raise refuse("must advance exactly one version")
        if self._splits.get(event_type, (0,))[0] == from_version:
            raise refuse("meets a splitter from the same version")
        steps = self._steps.setdefault(event_type, {})
        if from_version in steps:
            other = getattr(steps[from_version], "__qualname__", repr(steps[from_version]))
            raise refuse(f"meets another for the same step, {other}")
        steps[from_version] = step
        self._paths = {}

    def upcast(
        self, event_type: str, version: int, data: dict[str, Any], *, current_version: int, alias_of: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Bring a payload from `version` to `current_version`, and return (the version reached, the payload).

        Upcasters are looked up under `event_type`, then under `alias_of`, the present name of a renamed type.

        Raises:
            UpcastingError: an upcaster is missing, fails, or does not return a dictionary.
        """
        for at, step in self._path(event_type, version, current_version, alias_of):
            try:
                data = step(data)
            except Exception as error:  # The user's function may raise anything.
                raise UpcastingError(
                    event_type=event_type,
                    from_version=at,
                    message=f"Upcaster for {event_type!r} v{at} -> v{at + 1} failed: {error!r}",
                ) from error
            if not isinstance(data, dict):
                raise UpcastingError(
                    event_type=event_type,
                    from_version=at,
                    message=f"Upcaster for {event_type!r} v{at} -> v{at + 1} returned {type(data).__name__}, "
                    "not the payload's dictionary",
                )
        return max(version, current_version), data

    def upcast_all(
        self,
        event_type: str,
        version: int,
        payloads: list[dict[str, Any]],
        *,
        current_version: int,
        alias_of: str | None = None,
    ) -> list[dict[str, Any]]:
        """Upcast many payloads. Raises `ValueError` if any fails: call `upcast` on each to learn which, and why."""
        for at, step in self._path(event_type, version, current_version, alias_of):
            try:
                payloads = list(map(step, payloads))
            except Exception as error:
                raise ValueError(f"the upcaster from v{at} failed") from error
            if not all(isinstance(payload, dict) for payload in payloads):
                raise ValueError(f"the upcaster from v{at} returned no dictionary")
        return payloads

    def _path(self, *key: Any) -> tuple[tuple[int, _Step], ...]:
        path = self._paths.get(key)
        if path is None:
            path = self._paths[key] = self.path(*key)
        return path

    def path(
        self, event_type: str, version: int, current_version: int, alias_of: str | None
    ) -> tuple[tuple[int, _Step], ...]:
        """Return the steps from one version to another, each as (the version that it takes, the function).

        Raises `UpcastingError` if one is missing.
        """
        path = []
        for at in range(version, current_version):
            step = self._step(event_type, at, alias_of)
            if step is None:
                raise self._gap(event_type, at, current_version)
            path.append((at, step))
        return tuple(path)

    def _step(self, event_type: str, version: int, alias_of: str | None) -> _Step | None:
        step = self._steps.get(event_type, {}).get(version)
        return step or self._steps.get(alias_of or event_type, {}).get(version)

    @staticmethod
    def _gap(event_type: str, version: int, current_version: int) -> UpcastingError:
        return UpcastingError(
            event_type=event_type,
            from_version=version,
            message=f"Missing upcaster for {event_type!r} v{version} -> v{version + 1}, on the way to "
            f"v{current_version}: stored events of v{version} could not be read; register one in the UpcasterChain",
        )

    def check(self, event_type: str, current_version: int, alias_of: str | None = None) -> None:
        """Raise `UpcastingError` ("Missing upcaster …") if a version from 1 on cannot reach `current_version`."""
        for version in self.gaps(event_type, current_version, alias_of):
            raise self._gap(event_type, version, current_version)

    def gaps(self, event_type: str, current_version: int, alias_of: str | None = None) -> Iterator[int]:
        """Yield the versions that lack an upcaster."""
        split = self._splits.get(event_type)
        for version in range(1, max(current_version, split[0] if split else 0)):
            if self._step(event_type, version, alias_of) is None and not (split and split[0] == version):
                yield version


def _refusal(event_type: str, from_version: int, to_version: int, step: object) -> Callable[[str], UpcasterError]:
    def refuse(why: str) -> UpcasterError:
        name = getattr(step, "__qualname__", repr(step))
        return UpcasterError(
            event_type=event_type,
            from_version=from_version,
            message=f"Upcaster {name} for {event_type!r} v{from_version} -> v{to_version} {why}",
        )

    return refuse
