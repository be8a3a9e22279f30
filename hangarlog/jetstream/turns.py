"""Turns of the processes that append to one stream at once. Else the one that knows its end wins again and again.

Whoever has conflicts says that it wants a turn. Who has it appends for a moment, and passes it on with the list of
those who want it. This is advice, by messages that are not stored: whoever hears nothing for a while appends as ever,
and every append is checked by the servers.
"""

from __future__ import annotations

import asyncio
import threading
from time import monotonic
from typing import Any
from uuid import uuid4

import msgspec

from hangarlog.jetstream.connection import Connection

_TURN_SECONDS = 0.03
_IDLE_SECONDS = 0.002
"""For one's next append. Then the turn is passed on."""
_LOST_SECONDS = 0.25
"""Without a word, whoever has the turn is taken for dead."""
_OVER_SECONDS = 0.5
_RECENT_SECONDS = 0.05
_MOST_STREAMS, _MOST_PROCESSES = 1 << 12, 1 << 10


class _Word(msgspec.Struct, frozen=True):
    """`sender` wants a turn, or gives it to the first of `to`, with those who want it next."""

    sender: str
    subject: str
    to: list[str] = []


class _Contended:
    """A stream to which several processes append: who has the turn (None: nobody knows), and who wants it."""

    def __init__(self) -> None:
        self.holder: str | None = None
        self.wanted = dict[str, None]()
        self.heard = self.until = monotonic()
        self.running = self.calls = 0


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
            if monotonic() > stream.heard + _OVER_SECONDS and not stream.running:
                del self._contended[subject]
                return False
            stream.running += 1
            stream.calls += 1
            if stream.holder != self._me:
                self._say(subject)
            while stream.holder != self._me and not self._closed:
                now = monotonic()
                left = min(stream.heard + _LOST_SECONDS, until) - now
                if left <= 0:
                    self._give(stream, self._me, now)
                    break
                self._changed.wait(left)
            return True

    def wrote(self, subject: str) -> None:
        """Note that an append was written."""
        if len(self._written) > _MOST_STREAMS:
            self._written.clear()
        self._written[subject] = monotonic()

    def done(self, subject: str) -> None:
        """End what `take` began."""
        with self._changed:
            stream = self._contended[subject]
            stream.running -= 1
            if stream.holder == self._me and not stream.running:
                if monotonic() >= stream.until:
                    self._pass(subject, stream)
                else:
                    self._connection.post(self._pass_later, subject, stream.calls)

    def contend(self, subject: str) -> None:
        """Note a conflict. After the second one within a moment, this process asks for turns."""
        now, before = monotonic(), self._conflicts.get(subject, 0)
        if len(self._conflicts) > _MOST_STREAMS:
            self._conflicts.clear()
        self._conflicts[subject] = now
        with self._changed:
            if now - before < _OVER_SECONDS and subject not in self._contended:
                self._contended[subject] = _Contended()

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
        if holder == self._me:
            self._changed.notify_all()

    def _pass(self, subject: str, stream: _Contended) -> None:
        if stream.wanted:
            to = list(stream.wanted)
            self._give(stream, to[0], monotonic())
            self._say(subject, to)

    def _pass_later(self, subject: str, calls: int) -> None:
        asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._pass_if_idle, subject, calls)

    def _pass_if_idle(self, subject: str, calls: int) -> None:
        with self._changed:
            stream = self._contended.get(subject)
            if stream and stream.holder == self._me and stream.calls == calls and not stream.running:
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
                stream = self._contended[word.subject] = _Contended()
                stream.holder, stream.until = self._me, now + _TURN_SECONDS
            stream.heard = now
            if word.to:
                stream.wanted = dict.fromkeys([*word.to[:_MOST_PROCESSES], *stream.wanted])
                self._give(stream, word.to[0], now)
            elif len(stream.wanted) < _MOST_PROCESSES:
                stream.wanted[word.sender] = None
            if stream.holder == self._me and not stream.running:
                self._pass_later(word.subject, stream.calls)
