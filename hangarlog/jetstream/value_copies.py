"""Compares what the servers have of a store's bucket: each may be the next leader, whose values are read."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Set
from time import monotonic, sleep
from typing import NamedTuple
from zlib import crc32

from hangarlog.jetstream.connection import Connection
from hangarlog.jetstream.server_copies import Copies
from hangarlog.jetstream.settings import bucket_of, key_prefix
from hangarlog.jetstream.wire import Message
from hangarlog.record.checked_json import without_crc
from hangarlog.record.envelope import LineError

_BLOCK, _BLOCK_BYTES = 1000, 8 << 20
_TRIES, _SECONDS = 100, 10.0
"""So often and so long a block is asked for until each server has answered."""
_CATCH_UP_SECONDS, _PAUSE_SECONDS = 5.0, 0.2
_CHECKED, _FLEETING = ("s.", "c.", "p.", "m"), "o."
"""The keys whose values have a checksum, and those whose values go away by themselves."""

_Found = dict[str, list[Message]]
"""By server: its values."""


class _Value(NamedTuple):
    """A server's copy of a value."""

    revision: int
    crc: int
    damage: str | None


class Flaw(NamedTuple):
    """What is wrong with a server's copy of a value. The key is "" if its copies were not read from a revision on."""

    server: str
    key: str
    revision: int
    cause: str


def flaws(connection: Connection, name: str, servers: Set[str]) -> list[Flaw]:
    """Return how the servers' copies of a store's values differ, once that stays so.

    A value that is replaced meanwhile differs for a moment, and a server may be behind for another. Memory grows with
    the number of keys.
    """
    bucket, until = bucket_of(name), monotonic() + _CATCH_UP_SECONDS
    last = connection.run(connection.state(bucket))["last_seq"]
    with contextlib.closing(Copies(connection, bucket)) as copies:
        found = set(_once(copies, name, servers, last))
        while found and monotonic() < until:
            sleep(_PAUSE_SECONDS)
            found &= set(_once(copies, name, servers, last))
    return sorted(found)


def _once(copies: Copies, name: str, servers: Set[str], last: int) -> Iterator[Flaw]:
    values: defaultdict[str, dict[str, _Value]] = defaultdict(dict)  # By key and server: the newest one.
    at = 1
    while at <= last:
        found, stop = _block(copies, servers, at, last)
        yield from (Flaw(server, "", at, "it gave no answer") for server in servers - found.keys())
        servers = servers & found.keys()
        for server, messages in found.items():
            for message in messages:
                if message.seq <= stop:
                    key = message.subject.removeprefix(key_prefix(name))
                    values[key][server] = _Value(message.seq, crc32(message.data), _damage(key, message.data))
        at = stop + 1
    for key, copied in values.items():
        if not key.startswith(_FLEETING):
            yield from _of_key(key, copied, servers)


def _block(copies: Copies, servers: Set[str], at: int, last: int) -> tuple[_Found, int]:
    """Return the values of every server that answers from one revision to another, and to which."""
    found: _Found = {}
    stop, tries, until = last, 0, monotonic() + _SECONDS
    while servers - found.keys() and tries < _TRIES and monotonic() < until:
        copy = copies.read(at, _BLOCK, _BLOCK_BYTES)
        tries += 1
        if copy and copy.server in servers - found.keys():
            found[copy.server] = copy.messages
            if copy.goes_on and copy.messages:
                stop = min(stop, copy.messages[-1].seq)
    return found, stop


def _of_key(key: str, copied: dict[str, _Value], servers: Set[str]) -> Iterator[Flaw]:
    newest = max(value.revision for value in copied.values())
    causes: dict[str, str] = {}
    whole: dict[int, str] = {}  # By checksum: the first server that has it.
    for server in sorted(servers):
        value = copied.get(server)
        if value is None or value.revision < newest:
            causes[server] = "it is an older one" if value else "it is missing"
        elif value.damage:
            causes[server] = value.damage
        else:
            whole.setdefault(value.crc, server)
    advice = "another server has it whole" if whole else "no server has it whole"
    yield from (Flaw(server, key, newest, f"{cause}; {advice}") for server, cause in causes.items())
    first, *others = whole.values() or ("",)
    yield from (Flaw(server, key, newest, f"it is another value than that of {first}") for server in others)


def _damage(key: str, content: bytes) -> str | None:
    """Return why a value is not as it was written; None also for one that was deleted, or has no checksum."""
    if content and key.startswith(_CHECKED):
        try:
            without_crc(content)
        except LineError as error:
            return str(error)
    return None
