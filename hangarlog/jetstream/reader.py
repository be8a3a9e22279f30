"""Reads events. Every one is checked, and asked for again where another replica may have it whole."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator, Sequence
from sys import maxsize
from time import monotonic, sleep
from typing import Any

from hangarlog.errors import CorruptionError, CorruptionWarning
from hangarlog.eventstore.selection import Span
from hangarlog.eventstore.server_errors import UnavailableError
from hangarlog.jetstream.confirming import Majority
from hangarlog.jetstream.connection import Connection
from hangarlog.jetstream.messages import NO_END, End, damage, decode, end_of, missing, version_of
from hangarlog.jetstream.subjects import stream_id_of, stream_tokens
from hangarlog.jetstream.wire import Message, counted
from hangarlog.record.envelope import Envelope

_BLOCK, _BLOCK_BYTES = 1000, 8 << 20
"""The most events, and bytes, that are asked for at once."""
_TRIES_ALONE, _TRIES = 3, 24
"""How often an event that is missing or damaged is asked for: of one server, and of several."""
_LONGEST_PAUSE_SECONDS = 0.1
_SUBJECTS, _PLACES = 1 << 12, 8
"""How many streams' ends are remembered, and how many of each."""


class Reader:
    """The events of a store.

    Attributes:
        seen: the highest position that this process knows to exist.
    """

    def __init__(self, connection: Connection, name: str, replicas: int, majority: Majority | None = None) -> None:
        """With a majority that confirms what the leader says of ends, reads are linearizable."""
        self._connection, self._name, self.path = connection, name, connection.path
        self.prefix = f"{name}.e."
        self._is_alone, self._majority = replicas == 1, majority
        self._tries = _TRIES_ALONE if self._is_alone else _TRIES
        self.seen = self._losses = 0
        self._places: dict[str, list[tuple[int, int]]] = {}  # By subject: the ends that it had lately.

    def subject(self, stream_id: str) -> str:
        """Return the subject of a stream."""
        return f"{self.prefix}{stream_tokens(stream_id)}"

    # What the leader knows

    async def state(self, subjects: str | None = None, offset: int = 0) -> dict[str, Any]:
        """Return the state of the events, with a page of the subjects asked for; confirmed, if reads are linearizable.

        Raises `UnavailableError`.
        """
        begun = monotonic()
        while True:
            state = await self._connection.state(self._name, subjects, offset)
            if self._majority is None or await self._majority.confirms(state["cluster"]):
                return state
            if monotonic() - begun > self._connection.seconds:
                leader = state["cluster"].get("leader")
                cause = f"most servers do not confirm at their monitoring addresses that {leader!r} is the leader"
                raise UnavailableError(self.path, cause, self._connection.seconds, reading=True)
            self._connection.doubt()
            await asyncio.sleep(_LONGEST_PAUSE_SECONDS)

    def last(self, *, confirmed: bool = True) -> int:
        """Return the position of the store's last event; for those who follow it, it needs not be `confirmed`.

        Raises `CorruptionError` if the store ends before an event that was there.
        """
        begun, tries = monotonic(), 0
        while True:
            seen = self.seen  # Taken before the question: another thread may append meanwhile.
            state = self._connection.run(self.state() if confirmed else self._connection.state(self._name))
            last = int(state["last_seq"])
            if last >= seen:
                self.seen = max(self.seen, last)
                return last
            tries += 1
            if self._is_alone and tries >= self._tries:
                cause = f"the store ends at position {last}, and position {seen} was there: its tail is gone; "
                cause += (
                    "restore the server's folder, or open the store with accept_loss=True to go on with what is left"
                )
                raise missing(self.path, cause, last + 1)
            if monotonic() - begun > self._connection.seconds:
                cause = f"the server ends at position {last}, and position {seen} was there; it may be cut off"
                raise UnavailableError(self.path, cause, self._connection.seconds, reading=True)
            self._connection.doubt()
            _pause(tries)

    def stream_ids(self, subjects: str) -> list[str]:
        """Return the streams whose subjects match. Raises `CorruptionError` if one is that of no stream."""
        found = self._connection.run(self._connection.subjects(self._name, subjects, self.state))
        try:
            return list(map(stream_id_of, found))
        except ValueError as error:
            raise missing(self.path, f"another program has written into the store: {error}") from error

    def refuse_cut_off(self) -> None:
        """After the connection was lost, raise what `last` raises if the store has lost its last events."""
        losses = self._connection.losses
        if losses != self._losses:
            self.last()
            self._losses = losses

    def end(self, stream_id: str, known: End = NO_END) -> End:
        """Return the end of a stream as the leader has it; `known` is one that was there before.

        Raises:
            CorruptionError: the last event is damaged, or events are missing that were counted or were there.
            UnavailableError: the same, where a server may only be cut off from the others.
        """
        subject, begun, tries = self.subject(stream_id), monotonic(), 0
        while True:
            count, message = self._connection.run(self._count_and_last(subject, known, tries))
            self.refuse_cut_off()
            try:
                end = end_of(message, self.path) if message else NO_END
                if end.position >= known.position and (
                    end.version - end.first + 1 >= count
                    or (tries > 1 and self._majority is None and self._reads_whole(subject, end))
                ):
                    self.note_end(subject, end)
                    return end
                flaw = self._no_end(stream_id, end, known, count)
            except CorruptionError as error:
                flaw = error
            tries += 1
            is_over = monotonic() - begun > self._connection.seconds or not isinstance(flaw, UnavailableError)
            if tries >= self._tries and is_over:
                raise flaw
            if isinstance(flaw, UnavailableError):
                self._connection.doubt()
            _pause(tries)

    def note_end(self, subject: str, end: End) -> None:
        """Remember where a stream has ended, to find that place again: a conflict looks at what follows it."""
        self.seen = max(self.seen, end.position)
        if end.version >= 0:
            places = self._places.pop(subject, [])[-_PLACES + 1 :]
            self._places[subject] = [*places, (end.version, end.position)]
            if len(self._places) > _SUBJECTS:
                self._places.pop(next(iter(self._places)), None)

    def _reads_whole(self, subject: str, end: End) -> bool:
        """True if a stream has all its versions up to its end, and nothing else.

        A server that has lost its copy and got it back from the others may count each event twice.
        """
        last = 0
        try:
            for block in self._walk(subject, 1, end.position, end.first, end.version, False, None):
                last = block[-1].position
        except CorruptionError:
            return False
        return last == end.position > 0

    def _no_end(self, stream_id: str, end: End, known: End, count: int) -> CorruptionError | UnavailableError:
        has = f"the last event of stream {stream_id!r} that can be read has version {end.version}"
        is_older = end.position < known.position
        held = f"version {known.version} was there" if is_older else f"{count} events are counted"
        if self._majority or (is_older and not self._is_alone):
            cause = f"{has}, and {held}: the server may be cut off from the others"
            return UnavailableError(self.path, cause, self._connection.seconds, reading=True)
        return missing(self.path, f"{has}, and {held}", None, stream_id, end.version + 1)

    async def _count_and_last(self, subject: str, known: End, tries: int) -> tuple[int, Message | None]:
        """Return how many events a stream must have, if that is to be asked for, and its last one.

        What the leader has first, then what any replica has.
        """
        # In this order: events that come between are more than were counted, never fewer.
        needless = known.version >= 0 and not tries and self._majority is None
        count = 0 if needless else counted(await self.state(subject), subject)
        if count == 0 and known.version < 0:
            return 0, None
        if tries % 2:
            found = await self._connection.fetch(self._name, {"multi_last": [subject], "batch": 1})
            return count, found[0] if found else None
        return count, await self._connection.stored(self._name, last_by_subj=subject)

    def following(self, stream_id: str, position: int) -> Message | None:
        """Return the first message of a stream after a position, as the leader has it."""
        stored = self._connection.stored(self._name, seq=position + 1, next_by_subj=self.subject(stream_id))
        return self._connection.run(stored)

    # Spans

    def blocks(self, span: Span, through: int) -> Iterator[Sequence[Envelope]]:
        """Yield the records of a span. Those of its stream begin after version `through`, which is hidden."""
        if span.stream_id is not None:
            return self._stream(span, span.stream_id, through)
        return self._store_backwards(span) if span.reverse else self._store_forwards(span)

    def _store_forwards(self, span: Span) -> Iterator[Sequence[Envelope]]:
        last = self.last()
        stop = last if span.stop is None else min(last, span.stop)
        return self.between((span.start or 0) + 1, stop, span.skip, span.limit)

    def ahead(self, position: int) -> list[Envelope]:
        """Return the whole events after a position that one server has at once. It may have none yet, and be behind."""
        return self._after(position, self._fetch(None, position + 1, _BLOCK))

    def next_at_leader(self, position: int) -> list[Envelope]:
        """Return the whole event after a position, [] if the leader has none."""
        found = self._connection.run(self._connection.stored(self._name, seq=position + 1))
        return self._after(position, [found] if found else [])

    def _after(self, position: int, messages: list[Message]) -> list[Envelope]:
        good, _ = self._sound(None, messages, maxsize, position + 1)
        if good:
            self.seen = max(self.seen, good[-1].position)
        return good

    def between(self, first: int, last: int, skip: bool, limit: int | None = None) -> Iterator[Sequence[Envelope]]:
        """Yield the events from one position to another, both inclusive, which must be there."""
        return self._walk(None, first, last, first, last, skip, limit)

    def _store_backwards(self, span: Span) -> Iterator[Sequence[Envelope]]:
        last = self.last()
        high = last if span.start is None else min(last, span.start - 1)
        low, size = max(1, span.stop or 1), min(span.limit or _BLOCK, _BLOCK)
        while high >= low:
            part = max(low, high - size + 1)
            yield from _backwards(self.between(part, high, span.skip))
            high, size = part - 1, _BLOCK

    def _stream(self, span: Span, stream_id: str, through: int) -> Iterator[Sequence[Envelope]]:
        end, subject = self.end(stream_id), self.subject(stream_id)
        low, high = (span.stop, span.start) if span.reverse else (span.start, span.stop)
        low = max(through + 1, end.first, 0 if low is None else low)
        high = end.version if high is None else min(end.version, high)
        if not span.reverse:
            if low <= high:
                yield from self._versions(subject, end, low, high, span)
            return
        size = min(span.limit or _BLOCK, _BLOCK)
        while high >= low:
            part = max(low, high - size + 1)
            yield from _backwards(self._versions(subject, end, part, high, span))
            high, size = part - 1, _BLOCK

    def versions(self, stream_id: str, end: End, low: int, high: int) -> Iterator[Sequence[Envelope]]:
        """Yield the events of a stream from one version to another, both inclusive, as far as it has them."""
        low, high = max(low, end.first), min(high, end.version)
        return self._versions(self.subject(stream_id), end, low, high, Span(stream_id)) if low <= high else iter(())

    def _versions(self, subject: str, end: End, low: int, high: int, span: Span) -> Iterator[Sequence[Envelope]]:
        """Yield the events of a stream from one version to another, both inclusive, which must be there."""
        at = self._place_of(subject, low, end)
        return self._walk(subject, at, end.position, low, high, span.skip, span.limit)

    def _place_of(self, subject: str, version: int, end: End) -> int:
        """Return a position after which the first event of a subject is that of a version, or at it.

        The server has no index of versions, so this is a search: by interpolation, with a bisection every third time.
        """
        low, low_version, high, high_version = 1, end.first, end.position, end.version
        for known, position in self._places.get(subject, ()):
            if low_version <= known < version:
                low, low_version = position + 1, known + 1
        step = 0
        while low_version < version and low < high:
            if version == high_version:
                return high
            step += 1
            guess = (low + high) // 2
            if step % 3:
                guess = low + (high - low) * (version - low_version) // (high_version - low_version + 1)
            guess = min(max(guess, low + 1), high)
            found = self._next(subject, guess)
            if found is None:
                return low  # It is damaged, or a replica is behind: the read that follows finds out.
            at = version_of(found)
            if at == version:
                return found.seq
            if at < version:
                low, low_version = found.seq + 1, at + 1
            else:
                high, high_version = guess - 1, at  # An upper bound.
        return low

    def _next(self, subject: str, position: int) -> Message | None:
        for tries in range(self._tries):
            found = self._fetch(subject, position, 1)
            if found:
                return found[0]
            _pause(tries)
        return None

    def _fetch(self, subject: str | None, position: int, count: int) -> list[Message]:
        request: dict[str, Any] = {"seq": position, "batch": count, "max_bytes": _BLOCK_BYTES}
        if subject is not None:
            request["next_by_subj"] = subject
        return self._connection.run(self._connection.fetch(self._name, request))

    def _walk(
        self, subject: str | None, at: int, stop: int, number: int, last: int, skip: bool, limit: int | None
    ) -> Iterator[Sequence[Envelope]]:
        """Yield the events from position `at` to `stop`, whose numbers must be dense from `number` to `last`.

        The numbers are versions of the subject's stream, without a subject positions.
        """
        tries, size = 0, min(limit or _BLOCK, _BLOCK)
        while number <= last:
            messages = self._fetch(subject, at, min(size, last - number + 1))
            good, flaw = self._sound(subject, messages, stop, number)
            if good:
                yield good
                at, number, tries, size = good[-1].position + 1, number + len(good), 0, _BLOCK
                continue
            tries += 1
            if tries < self._tries:
                _pause(tries)
                continue
            flaw = flaw or missing(self.path, f"{'version' if subject else 'position'} {number} is missing", at)
            if not skip:
                raise flaw
            warnings.warn(f"skipped: {flaw}", CorruptionWarning, stacklevel=2)
            beyond = [message for message in messages if _number(subject, message) > number]
            if not beyond:  # Nothing behind it was given: go on by position, which is dense in the store.
                at, number = (at + 1, number + 1) if subject is None else (stop + 1, last + 1)
            else:
                at, number, tries = beyond[0].seq, _number(subject, beyond[0]), 0

    def _sound(
        self, subject: str | None, messages: list[Message], stop: int, number: int
    ) -> tuple[list[Envelope], CorruptionError | None]:
        """Return the whole events that follow each other from `number` on, and what is wrong with the next one."""
        good: list[Envelope] = []
        for message in messages:
            if message.seq > stop:
                break
            found = _number(subject, message)
            if found != number + len(good):
                what = "version" if subject else "position"
                return good, damage(self.path, message, f"{what} {number + len(good)} is missing: this is {found}")
            try:
                good.append(decode(message, self.path))
            except CorruptionError as error:
                return good, error
        return good, None


def _number(subject: str | None, message: Message) -> int:
    return message.seq if subject is None else version_of(message)


def _backwards(blocks: Iterator[Sequence[Envelope]]) -> Iterator[Sequence[Envelope]]:
    for block in reversed(list(blocks)):
        yield block[::-1]


def _pause(tries: int) -> None:
    sleep(min(0.001 * 2**tries, _LONGEST_PAUSE_SECONDS))
