"""The journal's records after a position, as they are committed, and sleep until there are more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from time import monotonic, perf_counter, sleep
from typing import Protocol

from hangarlog.errors import CorruptionError, PositionError
from hangarlog.eventstore.selection import Span
from hangarlog.eventstore.tail import Tail
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.reader import Reader
from hangarlog.filestore.running_calls import RunningCalls
from hangarlog.filestore.shared_state import (
    COMMITTED,
    DURABLE,
    JOURNAL_FIRST,
    JOURNAL_SIZE,
    LAYOUT,
    SharedState,
    Words,
    consistent,
    words_of,
)
from hangarlog.log.segment import Segment
from hangarlog.record.envelope import LineError
from hangarlog.record.line import StoredEnvelope, decode_records
from hangarlog.record.verified_block import without_erased

PATIENCE_SECONDS = 2.0
"""Seconds after which a sleeper that nobody woke looks again: a writer may have died before it woke anybody."""

_UNWATCHED_SECONDS = 0.001
"""Seconds for which a replaced file may go unnoticed."""
_LOOKS_SECONDS = (0.002, 0.008, 0.032, 0.128, 0.512)
"""Looks after falling asleep: the writer of a commit in progress read the word before this sleeper announced itself."""
_BUSY_SECONDS, _BUSY_TIMES, _NAP_SECONDS, _MAX_NAP_SECONDS = 0.0003, 3, 0.001, 0.02
"""Who is woken so soon after falling asleep, so many times in a row, then naps: it costs the writer nothing.

So does who is woken for several events, sooner than after the longest nap.
"""
_BUSY_EVENTS = 4
"""Naps end when one finds fewer events for each of its milliseconds: a wake-up for each then costs little."""
_LATE_SECONDS, _LATE = 0.0005, 0.7
"""A nap that ends so much too late, or by such a part of it, shows that there are too few processors."""
_POLL_SECONDS, _MAX_POLL_SECONDS = 0.001, 0.02
_MAX_LOOKS = 1000
_CHUNK_BYTES = 256 << 10
_SYNCING_SECONDS = 1.0
"""Seconds after which a follower of durable events syncs those that nobody has synced."""


class Followed(Protocol):
    """What a tail uses of a store."""

    folder: Folder
    _reader: Reader
    _state: SharedState

    _calls: RunningCalls

    def _calling(self) -> AbstractContextManager[None]: ...
    def _refuse_closed(self) -> None: ...
    def _committed(self) -> int: ...
    def _use_files_in_place(self) -> bool: ...
    def sync(self) -> None:
        """As `EventStore.sync`."""

    def recover_after_dead_writer(self) -> None:
        """As `FileEventStore.recover_after_dead_writer`."""


class FileTail(Tail):
    """Reads the journal after `position`, up to the committed or the durable position.

    While it is behind, it reads as every read does. At the end it keeps the active segment open, and its place in it.
    """

    def __init__(self, store: Followed, position: int | None, *, durable: bool, skip: bool) -> None:
        """Begin after `position`, None for the end. Raises `PositionError`, and what reads raise."""
        self._folder, self._reader, self._state = store.folder, store._reader, store._state
        self._calling, self._committed, self._sync = store._calling, store._committed, store.sync
        self._use_files_in_place = store._use_files_in_place
        self._during, self._refuse_closed = store._calls.during, store._refuse_closed
        self._recover = store.recover_after_dead_writer
        self._durable, self._skip = durable, skip
        self._checked_at = 0.0
        self._seen: Words = words_of(b"")
        self._sound = False  # True if they are of this session.
        self._news = False  # True if `wait` has just seen them, and `step` may use them.
        self._behind: Iterator[Sequence[StoredEnvelope]] | None = None
        self._until = 0  # Where `_behind` ends.
        self._segment: Segment | None = None
        self._offset, self._attached = 0, (-1, -1, -1)
        self._sleeper = _Sleeper(store._state, durable=durable)
        self._unsynced_since = 0.0
        self.position = self.end() if position is None else position
        with self._calling():
            self._sleeper.attach()
            if self.position > (last := self._committed()):
                raise PositionError(self._folder.path, self.position, last)

    # Reading

    def end(self) -> int:
        """As `Tail.end`."""
        with self._calling():
            last = self._committed()
            return min(self._state.durable, last) if self._durable and self._state.session else last

    def step(self) -> Sequence[StoredEnvelope] | None:
        """As `Tail.step`.

        Raises:
            PositionError: `position` is beyond the store's last event.
        """
        return self._during(self._refuse_closed, self._step)

    def _step(self) -> Sequence[StoredEnvelope] | None:
        words = self._words()
        end = self._end(words)
        if end <= self.position:
            if words[COMMITTED] < self.position and (last := self._committed()) < self.position:
                raise PositionError(self._folder.path, self.position, last)
            return None
        if self._segment and self._attached == (self._state.session, words[LAYOUT], words[JOURNAL_FIRST]):
            try:
                return self._at_end(self._segment, words[JOURNAL_SIZE], end)
            except CorruptionError:
                return self._catch_up(words, end)  # It reads the other copy.
        return self._catch_up(words, end)

    def seek(self, position: int) -> None:
        """As `Tail.seek`."""
        self.position, self._behind = position, None
        self._release()

    def _words(self) -> Words:
        now, news = monotonic(), self._news
        self._news = False
        if now - self._checked_at > _UNWATCHED_SECONDS:
            news = not self._use_files_in_place() and news
            self._checked_at = now
            self._sleeper.attach()
        if not news:
            self._look()
        if not self._sound:
            self._committed()  # It uses the state that is in place now.
            self._look()
        return self._seen

    def _look(self) -> Words:
        state = self._state
        for _ in range(_MAX_LOOKS):
            words = self._seen = state.look()
            if consistent(words):
                self._sound = state.believes(words)
                return words
            if not any(words):
                break  # There is no state yet, or somebody has emptied it.
        self._sound = False  # A writer is publishing. A sleeper would not be woken for what came before.
        return self._seen

    def _end(self, words: tuple[int, ...]) -> int:
        if not self._state.session:  # Read-only, and no writer has it open.
            return self._committed()
        if not self._sound:
            return self.position  # A writer recovers.
        return min(words[DURABLE], words[COMMITTED]) if self._durable else words[COMMITTED]

    def _at_end(self, segment: Segment, size: int, end: int) -> Sequence[StoredEnvelope] | None:
        segment.size = size
        lines, _ = segment.lines_at(self._offset, _CHUNK_BYTES)
        lines, first = lines[: end - self.position], self.position + 1
        try:
            records = decode_records(lines)
        except LineError as error:
            raise segment.damage(self._offset, str(error)) from error
        last = self.position + len(records)
        if not records or (records[0].position, records[-1].position) != (first, last):
            raise segment.damage(self._offset, f"position {first} must come here")
        self._offset += sum(map(len, lines)) + len(lines)
        self.position = last
        return without_erased(records) or None

    def _catch_up(self, words: tuple[int, ...], end: int) -> Sequence[StoredEnvelope] | None:
        self._release()
        if self._behind is None:
            self._reader.layout = words[LAYOUT]
            self._behind = self._reader.blocks(Span(None, self.position, skip=self._skip), end)
            self._until = end
        try:
            block = next(self._behind, None)
        except BaseException:
            self._behind = None  # The next step tries again.
            raise
        if block is not None:
            self.position = block[-1].position
        if block is None or self.position >= self._until:
            self._behind, self.position = None, self._until  # The last ones may be damaged, and skipped.
            self._attach(words)
        return block

    def _attach(self, words: tuple[int, ...]) -> None:
        """From here on read the active segment at the place of `position`, if it has that place."""
        first, following = words[JOURNAL_FIRST], self.position + 1
        with contextlib.suppress(OSError, CorruptionError):
            segment = self._folder.journal.open_active()
            now = self._state.look()
            if segment is None or (now[LAYOUT], now[JOURNAL_FIRST]) != (words[LAYOUT], first) or following < first:
                return  # It was rolled or replaced meanwhile.
            segment.size = words[JOURNAL_SIZE]
            offset, number = segment.seek(following, first)
            while number < following:
                lines, after = segment.lines_at(offset)
                if not lines:
                    return
                skipped = lines[: following - number]
                number += len(skipped)
                offset = after if len(skipped) == len(lines) else offset + sum(map(len, skipped)) + len(skipped)
            self._segment, self._offset = segment, offset
            self._attached = (self._state.session, words[LAYOUT], first)

    def _release(self) -> None:
        segment, self._segment = self._segment, None
        if segment:
            segment.close()

    # Waiting

    def wait(self, seconds: float) -> None:
        """As `Tail.wait`. Committed events that nobody syncs are synced, if this follows the durable ones.

        If a writer died while it recovered the store, this recovers it.
        """
        try:
            self._sleeper.sleep(self._looking, self._word(), min(seconds, PATIENCE_SECONDS))
        except OSError:
            with self._calling():  # It raises `StoreOpenError` if the store was closed meanwhile.
                raise
        if not (self._state.session and self._news):
            with self._calling():
                self._tend()

    def _looking(self) -> tuple[int, int]:
        return self._during(self._refuse_closed, self._look_for_events)

    def _look_for_events(self) -> tuple[int, int]:
        """Return (the word to sleep at, the number of events after `position`)."""
        moved = max(0, self._end(self._look()) - self.position)
        self._news = moved > 0
        return self._word(), moved

    def _word(self) -> int:
        return self._state.word_in(self._seen, durable=self._durable)

    def _tend(self) -> None:
        """Do what nobody else may do for the events to come."""
        words = self._words()
        if self._state.session and not self._sound:
            self._recover()
        if self._durable:
            self._sync_overdue(words)

    def _sync_overdue(self, words: tuple[int, ...]) -> None:
        """Sync what was committed a while ago and is not durable, so that relaxed appends arrive, too."""
        overdue = self._state.writable and self._state.session and words[COMMITTED] > words[DURABLE]
        if not overdue or self._end(words) > self.position:
            self._unsynced_since = 0.0
        elif not self._unsynced_since:
            self._unsynced_since = monotonic()
        elif monotonic() - self._unsynced_since >= _SYNCING_SECONDS:
            self._unsynced_since = 0.0
            self._sync()

    def wake(self) -> None:
        """Let a running `wait` look again."""
        self._sleeper.wake()

    def stop(self) -> None:
        """As `Tail.stop`."""
        self._sleeper.stop()

    def close(self) -> None:
        """As `Tail.close`."""
        self._behind = None
        self._release()
        self._sleeper.close()


class _Sleeper:
    """Sleeps until the store has grown: at a futex, or by polling where there is none."""

    def __init__(self, state: SharedState, *, durable: bool) -> None:
        self._state, self._durable, self._inode = state, durable, -1
        self._waking, self._word = state.waking(durable=durable), 0
        self._busy, self._nap, self._poll = 0, _NAP_SECONDS, _POLL_SECONDS
        # No `Event`: a signal handler may set it while this thread has the event's lock.
        self._sleeping = self._stopped = False

    def attach(self) -> None:
        """Use the shared state's file that is open now."""
        if self._inode != self._state.inode:
            self._inode = self._state.inode
            self._state.attach(self._waking, durable=self._durable)
            self._waking.map()

    def sleep(self, look: Callable[[], tuple[int, int]], seen: int, seconds: float) -> None:
        """Sleep until events have come, for at most `seconds`.

        `look` returns (the word, the number of events that have come). `seen` is the word when there were none.
        """
        if self._stopped:
            return
        if self._busy >= _BUSY_TIMES:
            self._take_nap(min(self._nap, seconds), look)
        elif self._waking.works:
            self._sleeping = True
            try:
                self._sleep_at_word(look, seen, seconds)
            finally:
                self._sleeping = False
        elif not look()[1]:
            sleep(min(self._poll, seconds))
            self._poll = _POLL_SECONDS if look()[1] else min(2 * self._poll, _MAX_POLL_SECONDS)

    def _take_nap(self, seconds: float, look: Callable[[], tuple[int, int]]) -> None:
        began = perf_counter()
        sleep(seconds)
        late = perf_counter() - began - seconds
        few = look()[1] < _BUSY_EVENTS * seconds / _NAP_SECONDS
        # Few events for each wake-up: its own cost is most of what a follower costs.
        if late > (_LATE_SECONDS if few else _LATE * seconds):
            self._nap = min(self._nap * 2, _MAX_NAP_SECONDS)
        elif few and self._nap <= _NAP_SECONDS:
            self._busy = 0
        else:
            self._nap = max(_NAP_SECONDS, self._nap / (1.2 if few else 2))

    def _sleep_at_word(self, look: Callable[[], tuple[int, int]], seen: int, seconds: float) -> None:
        waking = self._waking
        word, before = waking.announce(seen), self._word
        if look()[1]:
            return
        # If the word is as it was at the last sleep, every writer since then has seen the bit.
        looks, self._word = iter(() if self._durable or word == before else _LOOKS_SECONDS), word
        deadline = monotonic() + seconds
        while not self._stopped and (left := deadline - monotonic()) > 0:
            began = perf_counter()
            try:
                woken = waking.wait(word, min(left, next(looks, PATIENCE_SECONDS)))
                now, moved = look()
            except BaseException:
                waking.relay()  # An interrupt came, perhaps with a wake-up.
                raise
            if woken:
                waking.relay(now)
            if moved:
                limit = _BUSY_SECONDS if moved == 1 else _MAX_NAP_SECONDS
                self._busy = self._busy + 1 if perf_counter() - began < limit else 0
            if moved or woken:
                return

    def stop(self) -> None:
        """End the sleep, and let later ones end at once."""
        self._stopped = True
        self.wake()

    def wake(self) -> None:
        """Let the sleeper look again. One word is for all, so this wakes all sleepers of the store."""
        if self._sleeping:
            self._waking.wake_everybody()

    def close(self) -> None:
        """Release the mapped word."""
        self._waking.detach()
