"""Finding an application's events: the serializer, chain or registry that `module:attribute` names."""

from __future__ import annotations

import os
import sys
import tomllib
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any

import msgspec

from hangarlog.errors import EventsNotFoundError, HangarlogError
from hangarlog.filesystem import FileSystem
from hangarlog.registry import EventRegistry
from hangarlog.schema.lockfile import DEFAULT_PATH
from hangarlog.serializer import EventSerializer, checks_deferred
from hangarlog.upcaster import UpcasterChain


class Settings(msgspec.Struct):
    """The table `[tool.hangarlog]` of a project's pyproject.toml."""

    events: str | None = None
    schema_lock: str = DEFAULT_PATH


_MOST_SETTINGS = 1 << 20  # Bytes of a pyproject.toml.


def read_settings(path: str = "pyproject.toml") -> Settings:
    """The settings in a project's file, the defaults where there is none. Raises `EventsNotFoundError`."""
    try:
        text = FileSystem().read_file(os.path.realpath(path), _MOST_SETTINGS).decode()
        return msgspec.convert(tomllib.loads(text).get("tool", {}).get("hangarlog", {}), Settings)
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError, RecursionError, msgspec.ValidationError, AttributeError) as error:
        raise EventsNotFoundError(path, f"its table [tool.hangarlog] cannot be read: {error}") from error


def distrusted(path: str = "pyproject.toml") -> str | None:
    """Why a project's file may not say what is imported, or None: somebody else may have put it there."""
    folder = os.path.dirname(os.path.abspath(path))
    while True:
        if os.path.lexists(os.path.join(folder, "hangarlog.json")):
            return f"{folder} is a store"
        if folder == os.path.dirname(folder):
            break
        folder = os.path.dirname(folder)
    if hasattr(os, "geteuid") and os.path.exists(path) and os.stat(path).st_uid not in (0, os.geteuid()):
        return "it is another user's"
    return None


def found_in(target: str, folder: str) -> str | None:
    """The file in `folder` that `load_events` would import; None if the module is somewhere else, or nowhere."""
    name = target.partition(":")[0].partition(".")[0]
    if not name or _is_elsewhere(name):
        return None
    spec = PathFinder.find_spec(name, [folder])
    return None if spec is None else spec.origin or os.path.join(folder, name)


def _is_elsewhere(name: str) -> bool:
    return name in sys.modules or find_spec(name) is not None


def load_events(target: str, folder: str | None = None) -> EventSerializer:
    """The serializer at `module` or `module:attribute`; a module that is nowhere else is looked for in `folder`.

    The attribute may be a serializer, a chain, a registry, or a function without arguments that gives one. Of a module
    the only serializer is taken, else the only chain; without either, the default registry and no upcasters.

    Raises:
        EventsNotFoundError: there is nothing of the kind, or importing it fails.
    """
    name, _, attribute = target.partition(":")
    if folder is not None and folder not in sys.path and found_in(target, folder):
        sys.path.append(folder)  # Last: what the folder calls as a module of Python's is not taken for it.
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
