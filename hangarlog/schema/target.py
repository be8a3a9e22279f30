"""Finding an application's events: the serializer, chain or registry that `module:attribute` names."""

from __future__ import annotations

import sys
import tomllib
from importlib import import_module
from typing import Any

import msgspec

from hangarlog.errors import EventsNotFoundError, HangarlogError
from hangarlog.registry import EventRegistry
from hangarlog.schema.lockfile import DEFAULT_PATH
from hangarlog.serializer import EventSerializer, checks_deferred
from hangarlog.upcaster import UpcasterChain


class Settings(msgspec.Struct):
    """The table `[tool.hangarlog]` of a project's pyproject.toml."""

    events: str | None = None
    schema_lock: str = DEFAULT_PATH


def read_settings(path: str = "pyproject.toml") -> Settings:
    """The settings in a project's file, the defaults where there is none. Raises `EventsNotFoundError`."""
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
        return msgspec.convert(tables.get("tool", {}).get("hangarlog", {}), Settings)
    except FileNotFoundError:
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, AttributeError) as error:
        raise EventsNotFoundError(path, f"its table [tool.hangarlog] cannot be read: {error}") from error


def load_events(target: str, folder: str | None = None) -> EventSerializer:
    """The serializer at `module` or `module:attribute`; modules are also looked for in `folder`.

    The attribute may be a serializer, a chain, a registry, or a function without arguments that gives one. Of a module
    the only serializer is taken, else the only chain; without either, the default registry and no upcasters.

    Raises:
        EventsNotFoundError: there is nothing of the kind, or importing it fails.
    """
    if folder is not None and folder not in sys.path:
        sys.path.insert(0, folder)
    name, _, attribute = target.partition(":")
    try:
        with checks_deferred():
            module = import_module(name)
            if not attribute:
                return _only_one(module, target)
            found: Any = module
            for part in attribute.split("."):
                found = getattr(found, part)
            if callable(found) and not isinstance(found, type):
                found = found()
            return _serializer(found, target)
    except (EventsNotFoundError, HangarlogError):
        raise
    except (Exception, SystemExit) as error:  # Whatever the user's module raises: its events are not to be had.
        raise EventsNotFoundError(target, f"{type(error).__name__}: {error}") from error


def _only_one(module: Any, target: str) -> EventSerializer:
    for kind in (EventSerializer, UpcasterChain):
        found = {id(value): value for value in vars(module).values() if isinstance(value, kind)}
        if len(found) > 1:
            names = sorted(name for name, value in vars(module).items() if isinstance(value, kind))
            raise EventsNotFoundError(target, f"it has several; say which, as {target}:{names[0]}")
        for value in found.values():
            return _serializer(value, target)
    return EventSerializer()


def _serializer(found: object, target: str) -> EventSerializer:
    if isinstance(found, EventSerializer):
        return found
    if isinstance(found, UpcasterChain):
        return EventSerializer(found)
    if isinstance(found, EventRegistry):
        return EventSerializer(registry=found)
    raise EventsNotFoundError(target, f"it is a {type(found).__name__}, not an EventSerializer, a chain or a registry")
