"""Turns of the processes that append to one stream at once. Else the one that knows its end wins again and again.

Whoever has conflicts says that it wants a turn. Who has it appends for a moment, and passes it on with the list of
those who want it. This is advice, by messages that are not stored: whoever hears nothing for a while appends as ever,
and every append is checked by the servers.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from time import monotonic
from typing import Any
from uuid import uuid4

import msgspec

from hangarlog.jetstream.connection import Connection

_TURN_SECONDS = 0.03
_IDLE_SECONDS = 0.002
"""For one's next append. Then the turn is passed on."""
_LOST_SECONDS, _UNHEARD_SECONDS = 0.25, 0.1
"""Without a word, whoever has the turn is taken for dead; and if there never was one, nobody else appends."""
_OVER_SECONDS = 0.5
_RECENT_SECONDS = 0.05
_MOST_STREAMS, _MOST_PROCESSES = 1 << 12, 1 << 10


class _Word(msgspec.Struct, frozen=True):
    """`sender` wants a turn, or gives it to the first of `to`, with those who want it next."""

    sender: str
    subject: str
    to: list[str] = []


class _Contended:
    """A stream to which several processes or threads append.

    Attributes:
        holder: who has the turn; None: nobody knows.
        wanted: who wants it next.
        has_asked: this process is among those, as far as it knows.
        waiting: the threads of this process that wait, in their order.
        next_thread: which of them has seen the end last, and until when the others let it go first.
        running: how many calls of this process are not done.
    """

    def __init__(self) -> None:
        self.holder: str | None = None
        self.wanted = dict[str, None]()
        self.heard = self.until = monotonic()
        self.patience = _UNHEARD_SECONDS
        self.has_asked = False
        self.waiting = deque[int]()
        self.next_thread = 0, 0.0
        self.running = self.calls = 0

    @property
    def is_idle(self) -> bool:
        """True if no thread of this process appends, or waits."""
        return not (self.running or self.waiting)


_decode, _encode = msgspec.json.Decoder(_Word).decode, msgspec.json.encode


class Turns:
    """The turns that this process takes. The methods are for any thread."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self._subject, self._me = connection, f"{name}.turn", uuid4().hex
        self._changed = threading.Condition()
        self._contended = dict[str, _Contended]()
        self._written, self._conflicts = dict[str, float](), dict[str, float]()
        self._closed = False
        connection.run(connection.hear(self._subject, self._heard))

    def take(self, subject: str, until: float) -> bool:
        """Begin an append to a stream: wait for this process's turn, at most until then. False if there are none."""
        if subject not in self._contended:
            return False
        with self._changed:
            stream = self._contended.get(subject)
            if stream is None:
                return False
            if stream.holder != self._me and monotonic() > stream.heard + _OVER_SECONDS and stream.is_idle:
                del self._contended[subject]
                return False
            own = threading.get_ident()
            (stream.waiting.appendleft if stream.next_thread[0] == own else stream.waiting.append)(own)
            try:
                while not self._closed and (left := self._left(subject, stream, own, until)) > 0:
                    self._changed.wait(left)
            finally:
                stream.waiting.remove(own)
            stream.running += 1
            stream.calls += 1
            return True

    def _left(self, subject: str, stream: _Contended, own: int, until: float) -> float:
        """Return how many seconds a thread must wait, unless something changes, 0 if it may append."""
        now = monotonic()
        if stream.holder != self._me:
            if not stream.has_asked:
                stream.has_asked, stream.heard = True, max(stream.heard, now - stream.patience / 2)
                self._say(subject)
            left = min(stream.heard + stream.patience, until) - now
            if left > 0:
                return left
            stream.wanted.clear()  # Who is still there asks again.
            self._give(stream, self._me, now)
        if stream.running or stream.waiting[0] != own:
            return until - now
        return 0 if stream.next_thread[0] == own else stream.next_thread[1] - now

    def wrote(self, subject: str) -> None:
        """Note that an append was written, before `done`."""
        if len(self._written) > _MOST_STREAMS:
            self._written.clear()
        self._written[subject] = monotonic()
        stream = self._contended.get(subject)
        if stream and stream.next_thread[1]:
            with self._changed:
                stream.next_thread = 0, 0.0
                self._changed.notify_all()

    def done(self, subject: str) -> None:
        """End what `take` began."""
        with self._changed:
            stream = self._contended[subject]
            stream.running -= 1
            if stream.holder == self._me and not stream.running:
                if monotonic() >= stream.until:
                    self._pass(subject, stream)
                elif stream.wanted and not stream.waiting:
                    self._connection.post(self._pass_later, subject, stream.calls)
            if stream.waiting:
                self._changed.notify_all()

    def contend(self, subject: str) -> None:
        """Note a conflict, before `done`. After the second one within a moment, this process asks for turns."""
        now, before = monotonic(), self._conflicts.get(subject, 0)
        if len(self._conflicts) > _MOST_STREAMS:
            self._conflicts.clear()
        self._conflicts[subject] = now
        with self._changed:
            if now - before < _OVER_SECONDS and subject not in self._contended:
                self._begin(subject)
            if stream := self._contended.get(subject):
                stream.next_thread = threading.get_ident(), now + _IDLE_SECONDS

    def _begin(self, subject: str) -> _Contended:
        if len(self._contended) > _MOST_STREAMS:
            self._contended = {key: stream for key, stream in self._contended.items() if not stream.is_idle}
        self._contended[subject] = stream = _Contended()
        return stream

    def close(self) -> None:
        """Let all go on that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _say(self, subject: str, to: list[str] | None = None) -> None:
        body = _encode(_Word(self._me, subject, to or []))
        command = f"PUB {self._subject} {len(body)}\r\n".encode() + body + b"\r\n"
        self._connection.post(self._connection.publish, command)

    def _give(self, stream: _Contended, holder: str, now: float) -> None:
        stream.holder, stream.heard, stream.until = holder, now, now + _TURN_SECONDS
        stream.wanted.pop(holder, None)
        self._changed.notify_all()

    def _pass(self, subject: str, stream: _Contended) -> None:
        if stream.wanted:
            to = [*stream.wanted, *([self._me] if stream.waiting else [])]
            stream.has_asked = bool(stream.waiting)
            self._give(stream, to[0], monotonic())
            self._say(subject, to)

    def _pass_later(self, subject: str, calls: int) -> None:
        asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._pass_if_idle, subject, calls)

    def _pass_if_idle(self, subject: str, calls: int) -> None:
        with self._changed:
            stream = self._contended.get(subject)
            if stream and stream.holder == self._me and stream.calls == calls and stream.is_idle:
                self._pass(subject, stream)

    async def _heard(self, message: Any) -> None:
        try:
            word = _decode(message.data)
        except msgspec.MsgspecError:  # Somebody else has sent it.
            return
        now = monotonic()
        with self._changed:
            stream = self._contended.get(word.subject)
            if word.sender == self._me:
                return
            if stream is None:
                if word.to[:1] != [self._me] and now - self._written.get(word.subject, 0) > _RECENT_SECONDS:
                    return
                stream = self._begin(word.subject)
                stream.holder, stream.until = self._me, now + _TURN_SECONDS
            stream.heard, stream.patience = now, _LOST_SECONDS
            if word.to:
                stream.has_asked = self._me in word.to
                stream.wanted = dict.fromkeys([*word.to[:_MOST_PROCESSES], *stream.wanted])
                self._give(stream, word.to[0], now)
            elif len(stream.wanted) < _MOST_PROCESSES:
                stream.wanted[word.sender] = None
            if stream.holder == self._me and stream.is_idle:
                self._pass_later(word.subject, stream.calls)
