"""What the servers must be like to keep a store: settings of its two JetStream streams, syncs, versions.

The events are in one stream. Everything that is no event, such as snapshots and cursors, is in a key-value bucket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from urllib.request import urlopen

import msgspec

from hangarlog.errors import StoreOpenError
from hangarlog.jetstream.connection import Connection

TESTED_SERVERS = ("2.15.",)
"""The beginnings of the versions that the tests have run on."""
_FORMAT = "hangarlog.format"
_NO_STREAM, _OFFLINE = 10059, 10118
_HTTP_SECONDS = 2.0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants of the servers, and accepts."""

    replicas: int = 3
    durability: str = "always"
    synced: bool = False
    monitor: Sequence[str] = ()
    untested_server: bool = False
    create: bool = True


def bucket_of(name: str) -> str:
    """Return the JetStream stream of a store's key-value bucket."""
    return f"KV_{name}_state"


def key_prefix(name: str) -> str:
    """Return what the subjects of a store's keys begin with."""
    return f"$KV.{name}_state."


def _common(replicas: int) -> dict[str, Any]:
    return {
        "storage": "file",
        "num_replicas": replicas,
        "retention": "limits",
        "discard": "new",
        "max_age": 0,
        "max_bytes": -1,
        "max_msgs": -1,
        "max_msg_size": -1,
        "allow_direct": True,
        "deny_delete": True,
        "metadata": {_FORMAT: "1"},
    }


def stream_settings(name: str, replicas: int) -> dict[str, Any]:
    """Return the settings of the JetStream stream that has a store's events."""
    own = {"max_msgs_per_subject": -1, "allow_atomic": True, "deny_purge": True}
    return {"name": name, "subjects": [f"{name}.e.>"], **_common(replicas), **own}


def bucket_settings(name: str, replicas: int) -> dict[str, Any]:
    """Return the settings of a store's key-value bucket."""
    own = {"max_msgs_per_subject": 1, "allow_msg_ttl": True}
    return {"name": bucket_of(name), "subjects": [f"{key_prefix(name)}>"], **_common(replicas), **own}


_FORBIDDEN = ("sources", "mirror", "subject_transform", "sealed", "no_ack", "allow_rollup_hdrs", "first_seq")
"""Settings that could change, hide, add or drop messages."""


def flaws(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return how the settings of a JetStream stream differ from those that a store needs."""
    said = []
    for key, value in wanted.items():
        actual = found.get(key, False if value is True else value if value in (0, -1) else None)
        if key == "metadata" or (key == "num_replicas" and isinstance(actual, int) and actual >= value):
            continue
        if actual != value:
            said.append(f"{key} is {json.dumps(actual)}, not {json.dumps(value)}")
    said += [f"{key} is set" for key in _FORBIDDEN if found.get(key)]
    if found.get("persist_mode") == "async":
        said.append('persist_mode is "async", so an acknowledged event may not be stored')
    return said


async def prepare(connection: Connection, name: str, wanted: Wanted) -> None:
    """Check the servers and the store's streams, and make the streams if there are none.

    Raises `StoreOpenError`, which says everything that is not as it must be.
    """
    version = connection.server_version
    if not version.startswith(TESTED_SERVERS) and not wanted.untested_server:
        tested = ", ".join(f"{beginning}x" for beginning in TESTED_SERVERS)
        cause = f"the server has version {version}, and the tests ran on {tested}; accept it with untested_server=True"
        raise StoreOpenError(connection.path, cause)
    await _check_syncs(connection, wanted)
    for settings in (stream_settings(name, wanted.replicas), bucket_settings(name, wanted.replicas)):
        await _prepare_stream(connection, settings, wanted)


async def _prepare_stream(connection: Connection, settings: dict[str, Any], wanted: Wanted) -> None:
    name, path = settings["name"], connection.path
    answer = await connection.api(f"STREAM.INFO.{name}")
    error = answer.get("error")
    if error and error["err_code"] == _NO_STREAM:
        if not wanted.create:
            raise StoreOpenError(path, f"there is no JetStream stream {name!r}, and create=False")
        answer = await connection.api(f"STREAM.CREATE.{name}", settings)
        if answer.get("error"):  # Another process may have made it.
            refused, answer = answer["error"], await connection.api(f"STREAM.INFO.{name}")
            if answer.get("error"):
                raise StoreOpenError(path, f"the JetStream stream {name!r} cannot be made: {refused['description']}")
    elif error:
        raise StoreOpenError(path, f"JetStream says: {error['description']}")
    found = answer["config"]
    if _FORMAT not in (found.get("metadata") or {}):
        raise StoreOpenError(
            path,
            f"the JetStream stream {name!r} belongs to another program: it lacks the metadata {_FORMAT!r}; "
            "use another name",
        )
    if (form := found["metadata"][_FORMAT]) != "1":
        raise StoreOpenError(
            path, f"the JetStream stream {name!r} has format {form!r}, which this version does not know"
        )
    said = flaws(found, settings)
    if said:
        advice = (
            "a weaker replicas=N is accepted if you name it"
            if "num_replicas" in " ".join(said)
            else "mend it with `nats stream edit`"
        )
        raise StoreOpenError(
            path, f"the JetStream stream {name!r} is not as a store needs it: {'; '.join(said)}; {advice}"
        )


async def _check_syncs(connection: Connection, wanted: Wanted) -> None:
    """Raise `StoreOpenError` unless the servers sync each write, or the caller accepts that they may not."""
    if wanted.durability == "relaxed" or wanted.synced:
        return
    if not wanted.monitor:
        raise StoreOpenError(
            connection.path,
            "a client cannot see whether the servers sync each write (`sync_interval: always`). Give their monitoring "
            "addresses, monitor=['http://host:8222', …], or vouch for it with synced=True, or accept with "
            "durability='relaxed' that a power cut may lose acknowledged events",
        )
    for url in wanted.monitor:
        try:
            found = await asyncio.to_thread(_varz, url)
            always = found["jetstream"]["config"].get("sync_always")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreOpenError(
                connection.path, f"{url} is no monitoring address of a server with JetStream ({error})"
            ) from error
        if not always:
            cause = f"the server at {url} does not sync each write: set `jetstream {{ sync_interval: always }}`"
            raise StoreOpenError(connection.path, f"{cause}, or accept it with durability='relaxed'")


def _varz(url: str) -> Any:
    if not url.startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    with urlopen(f"{url.rstrip('/')}/varz", timeout=_HTTP_SECONDS) as answer:
        return json.loads(answer.read())
