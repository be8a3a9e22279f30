"""Finds an application's events: the serializer, chain or registry at `module:attribute`."""

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
from hangarlog.events.event_class import checks_deferred
from hangarlog.events.registry import EventRegistry
from hangarlog.events.serializer import EventSerializer
from hangarlog.events.upcaster import UpcasterChain
from hangarlog.schema.lockfile import DEFAULT_PATH
from hangarlog.system.filesystem import FileSystem


class Settings(msgspec.Struct):
    """The table `[tool.hangarlog]` of a project's pyproject.toml."""

    events: str | None = None
    schema_lock: str = DEFAULT_PATH


_MAX_SETTINGS_BYTES = 1 << 20


def read_settings(path: str = "pyproject.toml") -> Settings:
    """Return the settings in a project's file, or the defaults if there is no file.

    Raises:
        EventsNotFoundError: the file cannot be read.
    """
    try:
        return _read_file(path, os.path.realpath(path))[0]
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise _settings_error(path, error) from error


def vetted_settings(path: str = "pyproject.toml") -> tuple[Settings, str | None]:
    """Return (settings, reason to distrust them).

    The reason is None if only the user can have written the settings, or if there are none.

    Raises:
        EventsNotFoundError: the file cannot be read.
    """
    try:
        settings, owner = _read_file(path, path)
    except FileNotFoundError:
        return Settings(), None
    except OSError as error:
        if os.path.islink(path):
            return Settings(), "it is a symbolic link"
        raise _settings_error(path, error) from error
    if settings == Settings():
        return settings, None
    folder = os.path.dirname(os.path.abspath(path))
    if store := next((ancestor for ancestor in _ancestors(folder) if _is_store(ancestor)), None):
        return settings, f"{store} is a store"
    if _is_of_another_user(owner):
        return settings, "it is another user's"
    return settings, _why_writable(folder)


def find_settings(folder: str) -> tuple[Settings, str, str | None]:
    """Return (settings, folder of their file, reason to distrust them) of the nearest project around a folder.

    A pyproject.toml without the table does not count. Without any, the settings name a lock that is found upwards too.

    Raises:
        EventsNotFoundError: a file cannot be read.
    """
    for ancestor in _ancestors(folder):
        path = os.path.join(ancestor, "pyproject.toml")
        settings, why = vetted_settings(path)
        if why is not None or settings != Settings():
            return settings, ancestor, why
    for ancestor in _ancestors(folder):
        path = os.path.join(ancestor, DEFAULT_PATH)
        if os.path.isfile(path) and (ancestor == folder or not _is_of_another_user(os.stat(path).st_uid)):
            return Settings(), ancestor, None
    return Settings(), folder, None


def _read_file(path: str, real_path: str) -> tuple[Settings, int]:
    """Return (settings, owner's user id) of a file. Both are read through one descriptor: the file may be replaced."""
    filesystem = FileSystem()
    fd = filesystem.open_read(real_path)  # Does not follow links.
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
        raise _settings_error(path, error) from error


def _settings_error(path: str, error: Exception) -> EventsNotFoundError:
    return EventsNotFoundError(path, f"its table [tool.hangarlog] cannot be read: {error}")


def _is_store(folder: str) -> bool:
    return os.path.lexists(os.path.join(folder, "hangarlog.json"))


def _ancestors(folder: str) -> Iterator[str]:
    """Yield a folder, its parent, and so on up to the root."""
    yield folder
    while folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
        yield folder


def _is_of_another_user(owner: int) -> bool:
    return hasattr(os, "geteuid") and owner != os.geteuid()


def _why_writable(folder: str) -> str | None:
    """Return how another user could replace a folder or add files to it; None if no one can."""
    if not hasattr(os, "geteuid"):
        return None
    for ancestor in _ancestors(folder):
        found = os.lstat(ancestor)  # Not `stat`: the owner of a link counts too.
        if found.st_uid != os.geteuid() and (ancestor == folder or found.st_uid != 0):
            return f"the folder {ancestor} is another user's"
        sticky = ancestor != folder and found.st_mode & stat.S_ISVTX  # Only owners rename entries, as in /tmp.
        others = stat.S_IWOTH if _is_private_group(found.st_gid) else stat.S_IWGRP | stat.S_IWOTH
        if found.st_mode & others and not sticky:
            return f"others may write to the folder {ancestor}"
    return None


def _is_private_group(group: int) -> bool:
    """True if only the user is in a group.

    Many systems give each user such a group, and a umask that lets it write.
    """
    import grp
    import pwd

    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    # Root's group may be the primary group of other users, as in many containers.
    return user.pw_uid != 0 and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}


def why_distrusted(target: str, folder: str) -> str | None:
    """Return why the module of `target`, which a project's settings name, must not be imported from `folder`.

    Return None if it may be. The module and each package around it must be the user's own files, in folders that only
    the user may write to.
    """
    if module_file(target, folder) is None:
        return None
    folders: Iterable[str] | None = [folder]
    name = ""
    for part in target.partition(":")[0].split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, list(folders or ()))
        if spec is None:
            return None  # The import reports it.
        folders = spec.submodule_search_locations
        for path in [spec.origin] if spec.origin else list(folders or ()):
            real_path = os.path.realpath(path)
            if _is_of_another_user(os.stat(real_path).st_uid):
                return f"{path} is another user's"
            if why := _why_writable(os.path.dirname(real_path) if spec.origin else real_path):
                return why
    return None


def module_file(target: str, folder: str) -> str | None:
    """Return the file in `folder` that `load_events` would import, None if the module is elsewhere or missing."""
    name = target.partition(":")[0].partition(".")[0]
    if not name or _is_elsewhere(name):
        return None
    spec = PathFinder.find_spec(name, [folder])
    return None if spec is None else spec.origin or os.path.join(folder, name)


def _is_elsewhere(name: str) -> bool:
    """True if an import would find the module without the folder."""
    return name in sys.modules or find_spec(name) is not None


def load_events(target: str, folder: str | None = None) -> EventSerializer:
    """Return the serializer at `module` or `module:attribute`.

    `folder` is searched last for the module. The attribute may be a serializer, a chain, a registry, or a function
    without arguments that returns one. For a module alone, its only serializer is taken, or else its only chain. A
    module with neither stands for the default registry without upcasters.

    Raises:
        EventsNotFoundError: the target is something else, or importing it fails.
    """
    name, _, attribute = target.partition(":")
    if folder is not None and folder not in sys.path and module_file(target, folder):
        sys.path.append(folder)  # Last, so that its files do not hide Python's modules.
    try:
        with checks_deferred():
            module = import_module(name)
            if not attribute:
                return _find_in_module(module, target)
            found: Any = module
            for part in attribute.split("."):
                found = getattr(found, part)
            if callable(found) and not isinstance(found, type):
                found = found()
            return _serializer(found, target)
    except (EventsNotFoundError, HangarlogError):
        raise
    except (Exception, SystemExit) as error:  # The application's module may raise anything.
        raise EventsNotFoundError(target, f"{type(error).__name__}: {error}") from error


def _find_in_module(module: Any, target: str) -> EventSerializer:
    for kind in (EventSerializer, UpcasterChain):
        found = {id(value): value for value in vars(module).values() if isinstance(value, kind)}
        if len(found) > 1:
            names = sorted(name for name, value in vars(module).items() if isinstance(value, kind))
            raise EventsNotFoundError(
                target, f"it has more than one {kind.__name__}; name one, as in {target}:{names[0]}"
            )
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
