"""What the servers must be like to keep a store: settings of its two JetStream streams, syncs, versions.

The events are in one stream. Everything that is no event, such as snapshots and cursors, is in a key-value bucket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Literal, TypedDict
from urllib.request import urlopen

import msgspec

from hangarlog.errors import StoreOpenError
from hangarlog.eventstore.arguments import flag, patience, whole_number
from hangarlog.eventstore.engine import Durability, check_durability
from hangarlog.jetstream.connection import Connection

TESTED_SERVERS = ("2.15.",)
"""The beginnings of the versions that the tests have run on."""
_FORMAT = "hangarlog.format"
_NO_STREAM = 10059
_HTTP_SECONDS, _MIN_SECONDS = 2.0, 1.0
_NO_PEERS, _PEERS_SECONDS, _PAUSE_SECONDS = 10005, 5.0, 0.1
"""A server that has just started, or is slow, counts as offline for a moment."""


Reads = Literal["leader", "linearizable"]
"""What a read takes for the end of a store or a stream: the leader's word, or what most servers confirm."""


class ServerOptions(TypedDict, total=False):
    """The options of `JetStreamEventStore`."""

    durability: Durability
    replicas: int
    synced: bool
    monitor: str | Sequence[str]
    untested_server: bool
    timeout: float
    create: bool
    accept_loss: bool
    reads: Reads
    connection: Mapping[str, Any]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants of the servers, and accepts: the options with their defaults."""

    durability: Durability = "always"
    replicas: int = 3
    synced: bool = False
    monitor: str | Sequence[str] = ()
    untested_server: bool = False
    timeout: float = 30.0
    create: bool = True
    accept_loss: bool = False
    reads: Reads = "leader"
    connection: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        """Raise `TypeError` or `ValueError` if an option is wrong."""
        check_durability(self.durability)
        for name in ("synced", "untested_server", "create", "accept_loss"):
            flag(name, getattr(self, name))
        if self.reads not in ("leader", "linearizable"):
            raise ValueError(f"reads are 'leader' or 'linearizable', not {self.reads!r}")
        if whole_number("replicas", self.replicas) not in range(1, 6):
            raise ValueError(f"replicas must be from 1 to 5, not {self.replicas}")
        if (patience("timeout", self.timeout) or 0) < _MIN_SECONDS:
            raise ValueError(f"timeout must be at least {_MIN_SECONDS:g} seconds, not {self.timeout!r}")

    @property
    def monitors(self) -> Sequence[str]:
        """The monitoring addresses."""
        return (self.monitor,) if isinstance(self.monitor, str) else self.monitor


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
    return {"name": name, "subjects": [f"{name}.e.*.*"], **_common(replicas), **own}


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


async def prepare(connection: Connection, name: str, wanted: Wanted) -> int:
    """Check the servers and the store's streams, and make the streams if there are none. Return the replicas.

    Raises `StoreOpenError`, which says everything that is not as it must be.
    """
    version = connection.server_version
    if not version.startswith(TESTED_SERVERS) and not wanted.untested_server:
        tested = ", ".join(f"{beginning}x" for beginning in TESTED_SERVERS)
        cause = f"the server has version {version}, and the tests ran on {tested}; accept it with untested_server=True"
        raise StoreOpenError(connection.path, cause)
    await _check_syncs(connection, wanted)
    events, bucket = stream_settings(name, wanted.replicas), bucket_settings(name, wanted.replicas)
    found = await _settings(connection, name)
    if found is None and not wanted.create:
        raise StoreOpenError(
            connection.path, f"there is no JetStream stream {name!r}, and create=False; check the name"
        )
    if found is not None:
        _check(connection.path, found, events)
    kept = await _settings(connection, bucket["name"])
    if kept is None and found is not None and not wanted.accept_loss:
        cause = (
            f"the key-value bucket of the store is gone ({bucket['name']}), with its snapshots and cursors, and what "
            "it hides; restore it, or begin without them with accept_loss=True"
        )
        raise StoreOpenError(connection.path, cause)
    # The bucket comes first: a process that dies between the two leaves no events without one.
    _check(connection.path, kept or await _create(connection, bucket), bucket)
    if found is None:
        found = await _create(connection, events)
        _check(connection.path, found, events)
    return int(found["num_replicas"])


async def _settings(connection: Connection, name: str) -> dict[str, Any] | None:
    answer = await connection.api(f"STREAM.INFO.{name}")
    if error := answer.get("error"):
        if error["err_code"] == _NO_STREAM:
            return None
        raise StoreOpenError(connection.path, f"JetStream says: {error['description']}")
    settings: dict[str, Any] = answer["config"]
    return settings


async def _create(connection: Connection, settings: dict[str, Any]) -> dict[str, Any]:
    name, begun = settings["name"], monotonic()
    while True:
        answer = await connection.api(f"STREAM.CREATE.{name}", settings)
        error = answer.get("error")
        if not error:
            return dict(answer["config"])
        found = await _settings(connection, name)  # Another process may have made it.
        if found is not None:
            return found
        is_offline = error["err_code"] == _NO_PEERS and "offline" in error["description"]
        if not is_offline or monotonic() - begun > min(_PEERS_SECONDS, connection.seconds):
            cause = f"the JetStream stream {name!r} cannot be made: {error['description']}"
            raise StoreOpenError(connection.path, cause)
        await asyncio.sleep(_PAUSE_SECONDS)


def _check(path: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    name = wanted["name"]
    form = (found.get("metadata") or {}).get(_FORMAT)
    if form is None:
        cause = f"the JetStream stream {name!r} belongs to another program: it lacks the metadata {_FORMAT!r}"
        raise StoreOpenError(path, f"{cause}; use another name")
    if form != "1":
        cause = f"the JetStream stream {name!r} has format {form!r}, which this version does not know"
        raise StoreOpenError(path, f"{cause}; use the version of hangarlog that wrote it, or a later one")
    if said := flaws(found, wanted):
        advice = "change that with `nats stream edit`; fewer replicas are accepted if you name them: replicas=N, or in "
        advice += "an address ?replicas=N"
        raise StoreOpenError(
            path, f"the JetStream stream {name!r} is not as a store needs it: {'; '.join(said)}; {advice}"
        )


async def _check_syncs(connection: Connection, wanted: Wanted) -> None:
    """Raise `StoreOpenError` unless the servers sync each write, or the caller accepts that they may not."""
    if wanted.durability == "relaxed" or wanted.synced:
        return
    if not wanted.monitors:
        raise StoreOpenError(
            connection.path,
            "a client cannot see whether the servers sync each write (`sync_interval: always`). Give their monitoring "
            "addresses, monitor=['http://host:8222', …], or vouch for it with synced=True, in an address ?synced=yes, "
            "or accept with durability='relaxed' that a power cut may lose acknowledged events",
        )
    unseen = []
    for url in wanted.monitors:
        try:
            found = await asyncio.to_thread(_varz, url)
            always = found["jetstream"]["config"].get("sync_always")
        except OSError as error:
            unseen.append(f"{url} cannot be reached ({error})")
            continue
        except (ValueError, KeyError, TypeError) as error:
            cause = f"{url} is no monitoring address of a server with JetStream ({error})"
            raise StoreOpenError(connection.path, cause) from error
        if not always:
            cause = f"the server at {url} does not sync each write: set `jetstream {{ sync_interval: always }}`"
            raise StoreOpenError(connection.path, f"{cause}, or accept it with durability='relaxed'")
    if len(unseen) == len(wanted.monitors):  # A server that is down does not keep others from working.
        raise StoreOpenError(
            connection.path, f"whether the servers sync each write cannot be seen: {'; '.join(unseen)}"
        )


def _varz(url: str) -> Any:
    if not url.startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    with urlopen(f"{url.rstrip('/')}/varz", timeout=_HTTP_SECONDS) as answer:
        return json.loads(answer.read())
