"""Verification of a store on servers: the copy of every server, and what is kept beside the events."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any

from hangarlog.errors import CorruptionError
from hangarlog.eventstore.progress import Progress
from hangarlog.eventstore.server_errors import UnavailableError
from hangarlog.jetstream.messages import EVENT_ID, FIRST, VERSION, decode, version_of
from hangarlog.jetstream.server_copies import Copies
from hangarlog.jetstream.settings import bucket_of
from hangarlog.jetstream.store import JetStreamEventStore
from hangarlog.jetstream.subjects import stream_id_of, untoken
from hangarlog.jetstream.value_copies import flaws
from hangarlog.jetstream.wire import Message
from hangarlog.record.checked_json import with_crc
from hangarlog.record.envelope import MAX_NUMBER, Envelope
from hangarlog.record.strict import record_or_cause

_BLOCK, _BLOCK_BYTES = 1000, 8 << 20
_TRIES, _JOIN_SECONDS = 100, 10.0
"""How often a block is asked for until each server has answered: with five of them, one in 10^9 misses a server.

A server that was just started takes part in answering only after some seconds.
"""
_LOOKS, _LOOKS_AT_ANY = 3, 24
"""What looks like damage is read again so often: from one server, and from any of them."""
_CATCH_UP_SECONDS, _PAUSE_SECONDS = 5.0, 0.05
_Found = dict[str, dict[int, Message]]
"""By server: its messages by position."""


class Verification:
    """One verification.

    Attributes:
        events: how many events the store has; `streams`: how many streams, at the end.
        copies: by server: how many events its copy has whole.
        notes: what is odd, and costs no event.
    """

    def __init__(self, store: JetStreamEventStore[Any], progress: Progress = lambda events: None) -> None:
        self._store, self._progress = store, progress
        self._connection, self.path = store._connection, store.path
        self._servers: set[str] = set()
        """Those whose copies of events are read."""
        self._keepers: set[str] = set()
        """Those that have the bucket."""
        self._ends: dict[str, tuple[int, int]] = {}  # By stream: its first and its last version.
        self._open_batch = self._lost = 0
        self._sound = set[tuple[int, tuple[object, ...]]]()
        """Of the block: the positions and contents that were checked."""
        self._patience: dict[str, float] = {}  # By server: until when it may catch up.
        self.events, self.streams = store._reader.last(), 0
        self.copies: dict[str, int] = {}
        self.notes: list[str] = []

    def damages(self) -> Iterator[CorruptionError]:
        """Yield all that is damaged, missing or not to be read. Others may write meanwhile.

        What looks like damage is read again. Memory grows with the number of streams.

        Raises `UnavailableError` and `StorageError`, as reads do.
        """
        for name in (self._store.name, bucket_of(self._store.name)):
            yield from self._states(name)
        self.copies = dict.fromkeys(sorted(self._servers), 0)
        self._until = monotonic() + _JOIN_SECONDS
        with contextlib.closing(Copies(self._connection, self._store.name)) as copies:
            yield from self._events(copies)
        yield from self._mark()
        yield from self._snapshots()
        yield from self._cursors()
        yield from self._projections()
        yield from self._values()
        self._count()
        self.streams = len(self._ends)
        with contextlib.suppress(CorruptionError):
            self.streams = self._store.get_stream_count()

    def _events(self, copies: Copies) -> Iterator[CorruptionError]:
        at = 1
        while at <= self.events:
            self._sound.clear()
            found, stop = self._found(copies, at, min(at + _BLOCK - 1, self.events))
            yield from self._unread(at)
            yield from self._block(found, at, stop)
            at = stop + 1

    def _damage(self, where: str, cause: str, position: int | None = None, event: Any = None) -> CorruptionError:
        stream_id, version = (event.stream_id, event.stream_version) if event else (None, None)
        return CorruptionError(self.path, where, 0, cause, position, stream_id, version, mendable=False)

    # Servers

    def _states(self, name: str) -> Iterator[CorruptionError]:
        """Yield which servers lack a part of a JetStream stream, as its leader says, and note the others."""
        until = monotonic() + _CATCH_UP_SECONDS
        while True:
            info = self._connection.run(self._connection.api(f"STREAM.INFO.{name}"))
            cluster = info.get("cluster") or {}
            others = cluster.get("replicas") or []
            if all(other.get("current") for other in others) or monotonic() > until:
                break
            sleep(_PAUSE_SECONDS)
        leader = cluster.get("leader") or self._connection.nc._server_info["server_name"]
        servers = {leader, *(other["name"] for other in others if not other.get("offline"))}
        if name == self._store.name:
            self._servers = servers
        else:
            self._keepers = servers
        wanted, there = info["config"]["num_replicas"], 1 + len(others)
        if there < wanted:
            yield self._damage(name, f"it has {there} copies, and must have {wanted}")
        for other in others:
            if other.get("offline"):
                yield self._damage(other["name"], f"the server is offline: its copy of {name!r} cannot be read")
            elif not other.get("current"):
                lag = other.get("lag", 0)
                yield self._damage(other["name"], f"its copy of {name!r} is behind the leader's, by {lag} operations")

    def _unread(self, at: int) -> Iterator[CorruptionError]:
        for server in sorted(self.copies.keys() - self._servers):
            if self._patience.pop(server, 0) >= 0:
                self._patience[server] = -1  # It is said once.
                yield self._damage(server, f"it gave no answer: its copy was not read from position {at} on", at)

    # Copies

    def _found(self, copies: Copies, at: int, stop: int) -> tuple[_Found, int]:
        """Return the messages of every server from one position to another, and to which, if that is less."""
        found: _Found = {}
        looks, tries, answered = Counter[str](), 0, monotonic()
        while left := self._servers - found.keys():
            copy = copies.read(at, stop - at + 1, _BLOCK_BYTES)
            tries += 1
            answered = monotonic() if copy else answered
            if monotonic() - answered > self._connection.seconds:
                raise UnavailableError(self.path, "no server answers reads", self._connection.seconds, reading=True)
            if copy and not copy.server and len(self._servers) > 1:
                self._cannot_tell()
                continue
            server = copy.server if copy and len(self._servers) > 1 else next(iter(self._servers))
            if copy and server in left:
                if copy.goes_on and copy.messages:
                    stop = min(stop, copy.messages[-1].seq)
                messages = {message.seq: message for message in copy.messages}
                looks[server] += 1
                if self._is_good(messages, at, stop) or self._is_final(server, messages, stop, looks[server]):
                    found[server] = messages
            elif tries > _TRIES and monotonic() < self._until:
                sleep(_PAUSE_SECONDS)
            elif tries > _TRIES and found:
                self._servers -= left
            elif tries > _TRIES:
                self._cannot_tell()
        return found, stop

    def _cannot_tell(self) -> None:
        """Go on as if there were one copy: nothing says whose it is."""
        self.notes.append("the servers do not say which of them has answered: each event was read from any of them")
        self._servers, self.copies = {""}, {"": 0}

    def _is_good(self, messages: dict[int, Message], at: int, stop: int) -> bool:
        return all(position in messages and not self._flaw(messages[position]) for position in range(at, stop + 1))

    def _is_final(self, server: str, messages: dict[int, Message], stop: int, looks: int) -> bool:
        """True if a flawed copy was read often enough. One that only ends too early may have to catch up."""
        if max(messages, default=0) < stop:
            until = self._patience.setdefault(server, monotonic() + _CATCH_UP_SECONDS)
            if monotonic() < until:
                sleep(_PAUSE_SECONDS)
                return False
        return looks >= (_LOOKS if server else _LOOKS_AT_ANY)

    def _flaw(self, message: Message) -> str | None:
        """Return why a message is not as it was written."""
        content = message.seq, _content(message)
        if content in self._sound:
            return None
        found = record_or_cause(message.data)
        if isinstance(found, str):
            return found
        try:
            decode(message, self.path)
        except CorruptionError as error:
            return error.cause
        self._sound.add(content)
        return None

    def _block(self, found: _Found, at: int, stop: int) -> Iterator[CorruptionError]:
        for position in range(at, stop + 1):
            flaws: dict[str, str] = {}
            whole: dict[tuple[object, ...], tuple[str, Message]] = {}  # By content.
            for server, messages in found.items():
                message = messages.get(position)
                flaw = self._flaw(message) if message else "it is missing"
                if flaw:
                    flaws[server] = flaw
                elif message:
                    whole.setdefault(_content(message), (server, message))
                    self.copies[server] += 1
            self._progress(len(found))
            yield from self._place(position, flaws, whole)

    def _place(
        self, position: int, flaws: dict[str, str], whole: dict[tuple[object, ...], tuple[str, Message]]
    ) -> Iterator[CorruptionError]:
        """Yield what is wrong at a position."""
        copies = list(whole.values())
        event = decode(copies[0][1], self.path) if copies else None
        advice = "another server has it whole" if copies else "no server has it whole"
        for server, flaw in flaws.items():
            yield self._damage(server, f"{flaw}; {advice}", position, event)
        for server, message in copies[1:]:
            differs = f"it has another event there than {copies[0][0]}"
            yield self._damage(server, differs, position, decode(message, self.path))
        if event is None:
            self._lost += 1
            self._open_batch = 0
        elif cause := self._disorder(event, copies[0][1]):
            yield self._damage(copies[0][0], cause, position, event)

    def _disorder(self, event: Envelope, message: Message) -> str | None:
        """Return why an event cannot follow those before it. Lost ones leave gaps, which are said already."""
        begin = message.headers.get(FIRST, "0")
        first, last = self._ends.get(event.stream_id, (None, int(begin) - 1 if begin.isdecimal() else -1))
        due, version = last + 1, event.stream_version
        self._ends[event.stream_id] = due if first is None else first, version
        follows = event.may_follow(self._open_batch) or self._lost > 0
        self._open_batch = event.open_batch
        if version < due or (version > due and not self._lost):
            return f"it is version {version} of its stream, and version {due} must come here"
        return None if follows else f"its batch_end is {event.batch_end}, and it is in another batch"

    # What is kept beside the events

    def _mark(self) -> Iterator[CorruptionError]:
        try:
            noted = self._store._mark.read()
        except CorruptionError as error:
            yield error
            return
        last = self._connection.run(self._connection.state(self._store.name))["last_seq"]
        if noted > last:
            yield self._damage(self._store.name, f"it ends at position {last}, and position {noted} was there")

    def _snapshots(self) -> Iterator[CorruptionError]:
        snapshots, bucket = self._store._snapshots, self._store._bucket
        for key in bucket.keys("s."):
            try:
                snapshot = snapshots.load(stream_id_of(key))
            except CorruptionError as error:
                yield error
                continue
            except ValueError as error:
                yield bucket.damage(key, str(error))
                continue
            if snapshot and not snapshot.is_beginning:
                end = self._end(snapshot.stream_id)
                if snapshot.compacted_through > end:
                    cause = f"it covers compacted events up to version {snapshot.compacted_through}, "
                    yield bucket.damage(key, f"{cause}but the stream ends at {end}")

    def _cursors(self) -> Iterator[CorruptionError]:
        for key in self._store._bucket.keys("c."):
            try:
                self._store._cursors.position(untoken(key.removeprefix("c.")))
            except CorruptionError as error:
                yield error
            except ValueError as error:
                yield self._store._bucket.damage(key, str(error))

    def _projections(self) -> Iterator[CorruptionError]:
        bucket = self._store._bucket
        for key in bucket.keys("p."):
            try:
                bucket.checked(key, bucket.get(key).content or with_crc({}))
            except CorruptionError as error:
                yield error

    def _values(self) -> Iterator[CorruptionError]:
        """Yield how the servers' copies of what is kept in the bucket differ."""
        if len(self._keepers) > 1 and "" not in self._servers:
            for flaw in flaws(self._connection, self._store.name, self._keepers):
                what = f"its copy of {flaw.key}" if flaw.key else f"its copies from revision {flaw.revision} on"
                yield self._damage(flaw.server, f"{what} in the bucket: {flaw.cause}")

    def _count(self) -> None:
        """Note the streams of which the leader counts another number of events. Its index is wrong, not its events."""
        offset, connection, name = 0, self._connection, self._store.name
        while page := connection.run(connection.state(name, f"{name}.e.>", offset)).get("subjects"):
            offset += len(page)
            for subject, count in page.items():
                with contextlib.suppress(ValueError):
                    stream_id = stream_id_of(subject)
                    first, last = self._ends.get(stream_id, (0, -1))
                    if last - first + 1 != count and self._end(stream_id) == last:
                        there = f"and {last - first + 1} are there"
                        self.notes.append(f"the leader counts {count} events of stream {stream_id!r}, {there}")

    def _end(self, stream_id: str) -> int:
        """Return the version of a stream now. If its end is damaged, that is said already."""
        try:
            return self._store.get_stream_version(stream_id)
        except CorruptionError:
            return MAX_NUMBER


def _content(message: Message) -> tuple[object, ...]:
    headers = message.headers
    return (
        message.subject,
        message.data,
        *(headers.get(name) for name in (VERSION, EVENT_ID, FIRST)),
        version_of(message),
    )
