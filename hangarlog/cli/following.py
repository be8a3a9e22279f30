"""`hangarlog tail -f`: prints events as they come, until its reader goes, it is interrupted, or the store is gone."""

from __future__ import annotations

import contextlib
import errno
import select
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from types import FrameType
from typing import Any, TypedDict, cast

from hangarlog import (
    CorruptionError,
    EventSerializer,
    EventStore,
    FileEventStore,
    HangarlogError,
    PositionError,
    StoreOpenError,
    SubscriptionLostError,
    UnavailableError,
)
from hangarlog.cli.app import open_store
from hangarlog.cli.display import WriteEvent, with_lines
from hangarlog.cli.standard_streams import OutputError
from hangarlog.cli.terminal import say
from hangarlog.opening import is_on_servers, shown_address
from hangarlog.record.line import StoredEnvelope
from hangarlog.system.read_only import ReadOnly

_BEAT_SECONDS = 0.5
"""Seconds after which an idle follower looks whether its reader and its store are still there."""

_RECENT_MARKS = _OLDER_MARKS = 4096
"""So many of the last events are remembered, and so many older ones, at equal distances."""


class Filters(TypedDict):
    """Which events are printed."""

    event_types: tuple[str, ...] | None
    category: str | None


class FollowingError(HangarlogError):
    """`tail -f` cannot go on. Fields: `cause`, `advice`."""

    def __init__(self, cause: str, advice: str) -> None:
        super().__init__(cause, advice)
        self.cause, self.advice = cause, advice

    def __str__(self) -> str:
        return f"{self.cause}; {self.advice}"


_GONE = "gone"


class History:
    """What a follower has seen of a store, by which it notices that older files were put in place.

    The events that it has printed, and the last one that it has passed over, are remembered by their checksums.
    """

    def __init__(self, store: EventStore[Any], position: int) -> None:
        self._marks: list[tuple[int, str]] = []
        self._step = 1  # The distance between older marks.
        self.note_position(store, position)

    @property
    def position(self) -> int:
        """The position up to which the follower has seen the store."""
        return self._marks[-1][0]

    def note(self, block: Sequence[StoredEnvelope]) -> None:
        """Remember events that were printed."""
        self._marks += [(envelope.position, envelope.crc) for envelope in block]
        if len(self._marks) > _OLDER_MARKS + 2 * _RECENT_MARKS:
            self._thin_out()

    def _thin_out(self) -> None:
        older, recent = self._marks[:-_RECENT_MARKS], self._marks[-_RECENT_MARKS:]
        while True:
            first_of_step = {mark[0] // self._step: mark for mark in reversed(older)}
            if len(first_of_step) <= _OLDER_MARKS:
                self._marks = [*reversed(first_of_step.values()), *recent]
                return
            self._step *= 2

    def note_position(self, store: EventStore[Any], position: int) -> None:
        """Remember the event at a position. At 0 there is none."""
        if not self._marks or position > self.position:
            self._marks.append((position, _crc_at(store, position) or ""))

    def holds(self, store: EventStore[Any]) -> bool:
        """True if the last event that was seen is still in the store."""
        return _has(store, *self._marks[-1])

    def go_back(self, store: EventStore[Any]) -> int | None:
        """Forget the events that are no longer in the store. Return the position of the last one that is, or None."""
        marks = self._marks
        low, high = 0, len(marks)  # Two histories are equal up to some position, and differ from then on.
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if _has(store, *marks[middle]) else (low, middle)
        if not low:
            return None
        del marks[low:]
        return self.position


def _has(store: EventStore[Any], position: int, crc: str) -> bool:
    """True if the event at a position has this checksum, or was dropped or erased since."""
    return 0 < position < store.first_position or _crc_at(store, position) in (crc, _GONE)


def _crc_at(store: EventStore[Any], position: int) -> str | None:
    """Return the checksum of the event at a position, "" at 0, None if there is none, `_GONE` if it is erased."""
    if position == 0:
        return ""
    block = next(chain(store.envelopes(from_position=position - 1, limit=1)), ())
    if block and block[0].position == position:
        return cast("StoredEnvelope", block[0]).crc
    return _GONE if position <= store.get_event_count() else None


def follow(
    store: EventStore[Any],
    stream: str | None,
    position: int,
    filters: Filters,
    interrupts: list[int],
    write: WriteEvent,
    shown: str,
) -> None:
    """Print the committed events after `position`, and go on for ever. `shown` is the store as the user named it.

    If older files are put in place, say so and go on after the last event that both have.

    Raises:
        OutputError: the reader of standard output has gone.
        PositionError: `position` is beyond the last event.
        FollowingError: the store's folder is gone or replaced, or its history is another one.
    """
    if position > (last := store.last_position):
        raise PositionError(_path(store), position, last)
    history = History(store, position)
    with contextlib.ExitStack() as opened:
        looked = False
        while True:
            try:
                if _follow_on(store, stream, history, filters, interrupts, write):
                    return
            except PositionError:
                pass  # The store ends before it: older files were put in place.
            except (StoreOpenError, CorruptionError, UnavailableError) as error:
                other = None if looked else _other_history(store, history, opened)
                if other is None:
                    raise FollowingError(str(error), _advice(shown, stream, filters, history)) from error
                store, looked = other, True
            _go_back(store, stream, filters, history, shown)


def _other_history(store: EventStore[Any], history: History, opened: contextlib.ExitStack) -> EventStore[Any] | None:
    """Return the store opened anew if other files were put into its folder, whose history is another one, else None.

    The store is closed first: while it is open, the words that processes share count, which are those of before.
    """
    if not isinstance(store, FileEventStore):
        return None
    path = store.path
    with contextlib.suppress(HangarlogError, OSError):
        store.folder.refuse_moved()
        store.close()
        other = opened.enter_context(_opened_to_look(path))
        return None if history.holds(other) else other
    return None


def _follow_on(
    store: EventStore[Any],
    stream: str | None,
    history: History,
    filters: Filters,
    interrupts: list[int],
    write: WriteEvent,
) -> bool:
    """Print events after the last one seen. Return False if the store no longer has that one."""
    options: dict[str, Any] = {**filters, "stream_id": stream, "heartbeat": _BEAT_SECONDS}
    with store.follow_envelopes(history.position, **options) as subscription:
        for block in subscription:
            if interrupts:
                raise KeyboardInterrupt
            if block is None:
                refuse_closed_output()
                _refuse_moved(store)
            if not history.holds(store):
                return False
            if block is None:
                history.note_position(store, subscription.position)
                continue
            found = cast("Sequence[StoredEnvelope]", block)
            for envelope, line in with_lines(store, [found]):
                write(envelope, line)
            sys.stdout.flush()
            history.note(found)
    return True


def _path(store: EventStore[Any]) -> str:
    return str(getattr(store, "path", ""))


def _refuse_moved(store: EventStore[Any]) -> None:
    if isinstance(store, FileEventStore):
        store.folder.refuse_moved()


def _go_back(store: EventStore[Any], stream: str | None, filters: Filters, history: History, shown: str) -> None:
    seen, last = history.position, store.last_position
    cause = f"older files were put in place of {_path(store)}: it ends at position {last} now"
    if last >= seen:
        cause = f"other files were put in place of {_path(store)}: position {seen} has another event now"
    position = history.go_back(store)
    if position is None:
        advice = f"begin where you want: `{_command(shown, stream, filters, 0)}`"
        raise FollowingError(f"{cause}, and nothing that was printed last is left", advice)
    say(f"hangarlog: {cause}, and events up to {seen} were seen; going on after position {position}", err=True)


def _advice(shown: str, stream: str | None, filters: Filters, history: History) -> str:
    """Return how to go on after an error: from the last event that the store at the path has, if there is one.

    Nothing is changed there: somebody may be restoring it just now.
    """
    seen = position = history.position
    begin = "when the store is whole and in its place again, go on with"
    with contextlib.suppress(HangarlogError, OSError), _opened_to_look(shown) as store:
        position, begin = history.go_back(store) or 0, "go on with"
    return f"events up to position {seen} were seen; {begin} `{_command(shown, stream, filters, position)}`"


def _opened_to_look(path: str) -> EventStore[Any]:
    if is_on_servers(path):
        return open_store(path)
    serializer = EventSerializer(unknown="untyped")
    return FileEventStore(path, serializer=serializer, create=False, lock_timeout=0, filesystem=ReadOnly())


def _command(shown: str, stream: str | None, filters: Filters, position: int) -> str:
    words = ["hangarlog", "tail", shown_address(shown), *([stream] if stream else []), "-f", "--from", str(position)]
    for event_type in filters["event_types"] or ():
        words += ["--type", event_type]
    if filters["category"] is not None:
        words += ["--category", filters["category"]]
    return shlex.join(words)


def follow_named(
    store: EventStore[Any],
    stream: str | None,
    start: int,
    filters: Filters,
    interrupts: list[int],
    write: WriteEvent,
    shown: str,
    name: str,
) -> None:
    """Print the durable events after the cursor `name`, and move it behind them. `start` is where a new one begins.

    Raises what `follow` raises; `FollowingError` also if the cursor is beyond the store's last event.
    """
    options: dict[str, Any] = {**filters, "stream_id": stream, "heartbeat": _BEAT_SECONDS}
    printed = 0
    try:
        with store.subscribe(start, name=name, batch=1, **options) as subscription:
            for record in subscription:
                if interrupts:
                    raise KeyboardInterrupt
                if record is None:
                    refuse_closed_output()
                    _refuse_moved(store)
                    continue
                block = next(store.envelopes(from_position=record.position - 1, limit=1), ())
                for envelope, line in with_lines(store, [block]):
                    write(envelope, line)
                sys.stdout.flush()
                printed = record.position
    except (PositionError, StoreOpenError, CorruptionError, SubscriptionLostError, UnavailableError) as error:
        if not printed:
            raise
        begin = f"{_command(shown, stream, filters, min(printed, _end_of(shown)))} --name NAME"
        advice = (
            f"events up to position {printed} were printed; run the same command again, or, if it refuses the cursor"
        )
        raise FollowingError(str(error), f"{advice}, begin another one: `{begin}`") from error


def _end_of(path: str) -> int:
    """Return the last position of the store at a path, 0 if there is none."""
    with contextlib.suppress(HangarlogError, OSError), _opened_to_look(path) as store:
        return store.last_position
    return 0


def refuse_closed_output() -> None:
    """Raise `OutputError` if the reader of standard output has gone."""
    if not hasattr(select, "poll"):
        return  # It is noticed with the next event.
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return  # It is no file.
    if any(what & (select.POLLERR | select.POLLHUP) for _, what in poll.poll(0)):
        raise OutputError(BrokenPipeError(errno.EPIPE, "the reader has gone"))


@contextlib.contextmanager
def collected_interrupts() -> Iterator[list[int]]:
    """Yield a list that collects interrupts.

    Python drops the KeyboardInterrupt of one that arrives in a finalizer.
    """
    interrupts: list[int] = []
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield interrupts  # Another handler is set, or interrupts are ignored.
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        if what.exc_type is not KeyboardInterrupt:
            hook(what)

    sys.unraisablehook = unraisable
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook
