"""Finding an application's events: the serializer, chain or registry that `module:attribute` names."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any

import msgspec

from hangarlog.errors import EventsNotFoundError, HangarlogError
from hangarlog.events.registry import EventRegistry
from hangarlog.events.serializer import EventSerializer, checks_deferred
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.schema.lockfile import DEFAULT_PATH
from hangarlog.system.filesystem import FileSystem


class Settings(msgspec.Struct):
    """The table `[tool.hangarlog]` of a project's pyproject.toml."""

    events: str | None = None
    schema_lock: str = DEFAULT_PATH


_MAX_SETTINGS_BYTES = 1 << 20  # Bytes of a pyproject.toml.


def read_settings(path: str = "pyproject.toml") -> Settings:
    """The settings in a project's file, the defaults where there is none. Raises `EventsNotFoundError`."""
    try:
        return _read(path, os.path.realpath(path))[0]
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise _unreadable(path, error) from error


def own_settings(path: str = "pyproject.toml") -> tuple[Settings, str | None]:
    """The settings in a project's file, and why they may not be followed: somebody else may have put them there.

    None if there is no reason, or no setting. Raises `EventsNotFoundError`.
    """
    try:
        settings, owner = _read(path, path)
    except FileNotFoundError:
        return Settings(), None
    except OSError as error:
        if os.path.islink(path):
            return Settings(), "it is a symbolic link"
        raise _unreadable(path, error) from error
    if settings == Settings():
        return settings, None
    folder = os.path.dirname(os.path.abspath(path))
    if store := next((each for each in _ancestors(folder) if _is_store(each)), None):
        return settings, f"{store} is a store"
    if _is_others(owner):
        return settings, "it is another user's"
    return settings, _who_changes(folder)


def _read(path: str, real_path: str) -> tuple[Settings, int]:
    """The settings in a file, and its owner; both of one descriptor, as the name may come to be another file's."""
    filesystem = FileSystem()
    fd = filesystem.open_read(real_path)  # Refuses links.
    try:
        if filesystem.size(fd) > _MAX_SETTINGS_BYTES:
            raise OSError(errno.EFBIG, f"it has more than {_MAX_SETTINGS_BYTES} bytes", path)
        text, owner = filesystem.read(fd, _MAX_SETTINGS_BYTES, 0), os.fstat(fd).st_uid
    finally:
        filesystem.close(fd)
    try:
        table = tomllib.loads(text.decode()).get("tool", {}).get("hangarlog", {})
        return msgspec.convert(table, Settings), owner
    except (ValueError, RecursionError, msgspec.ValidationError, AttributeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> EventsNotFoundError:
    return EventsNotFoundError(path, f"its table [tool.hangarlog] cannot be read: {error}")


def _is_store(folder: str) -> bool:
    return os.path.lexists(os.path.join(folder, "hangarlog.json"))


def _ancestors(folder: str) -> Iterator[str]:
    """A folder, the one it is in, and so on."""
    yield folder
    while folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
        yield folder


def _is_others(owner: int) -> bool:
    return hasattr(os, "geteuid") and owner != os.geteuid()


def _who_changes(folder: str) -> str | None:
    """How somebody else could put files into a folder of one's own, or another folder in its place; None if not so."""
    if not hasattr(os, "geteuid"):
        return None
    for each in _ancestors(folder):
        found = os.lstat(each)  # A link in its place would be somebody's, too.
        if found.st_uid != os.geteuid() and (each == folder or found.st_uid != 0):
            return f"the folder {each} is another user's"
        sticky = each != folder and found.st_mode & stat.S_ISVTX  # Where nobody renames what is another's, as in /tmp.
        others = stat.S_IWOTH if _is_private(found.st_gid) else stat.S_IWGRP | stat.S_IWOTH
        if found.st_mode & others and not sticky:
            return f"others may write to the folder {each}"
    return None


def _is_private(group: int) -> bool:
    """Whether a group is the user's alone: where each user has one, the umask often lets it write."""
    import grp
    import pwd

    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    # Root's may be the first group of others, as in many containers.
    return user.pw_uid != 0 and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}


def distrusted(target: str, folder: str) -> str | None:
    """Why a module in `folder` that a project's file names may not be imported, or None.

    Each of its packages, and itself, has to be a file of the user's own, where nobody else puts any.
    """
    if found_in(target, folder) is None:
        return None
    places: Iterable[str] | None = [folder]
    name = ""
    for part in target.partition(":")[0].split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, list(places or ()))
        if spec is None:
            return None  # The import says so.
        places = spec.submodule_search_locations
        for path in [spec.origin] if spec.origin else list(places or ()):
            real_path = os.path.realpath(path)
            if _is_others(os.stat(real_path).st_uid):
                return f"{path} is another user's"
            if why := _who_changes(os.path.dirname(real_path) if spec.origin else real_path):
                return why
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
