"""`hangarlog read` and `hangarlog tail`."""

from __future__ import annotations

import contextlib
import errno
import select
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, TypedDict, cast

import click

from hangarlog import FileEventStore, StreamNotFoundError
from hangarlog.cli.app import hangarlog, open_store, with_store
from hangarlog.cli.terminal import write_event
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.record.line import StoredEnvelope

_BEAT_SECONDS = 0.5
"""Seconds after which an idle `tail -f` looks whether its reader is still there."""


class Filters(TypedDict):
    """Which events are printed."""

    event_types: tuple[str, ...] | None
    category: str | None


@hangarlog.command()
@with_store("stream", optional=True)
@click.option(
    "--from",
    "start",
    type=click.IntRange(0),
    metavar="N",
    help="With STREAM, the first version to print. Without, the position to start after.",
)
@click.option("--limit", type=click.IntRange(0), metavar="N", help="Print at most N events.")
@click.option(
    "--reverse",
    is_flag=True,
    help="Print the latest events first. With --from, start at that version, or before that position.",
)
@click.option(
    "--type", "event_types", multiple=True, metavar="T", help="Print only events of type T. You can repeat this option."
)
@click.option("--category", metavar="C", help="Print only streams of category C, whose ids begin with C and a colon.")
@click.option("--skip-damaged", is_flag=True, help="Skip events that are damaged in both copies, with a warning.")
@click.option("--raw", is_flag=True, help="Print the stored lines even on a terminal.")
def read(
    store: str,
    stream: str | None,
    start: int | None,
    limit: int | None,
    reverse: bool,
    event_types: tuple[str, ...],
    category: str | None,
    skip_damaged: bool,
    raw: bool,
) -> None:
    """Print the events of STREAM, or of the whole store in commit order."""
    with open_store(store) as event_store:
        _check_exists(event_store, stream)
        blocks = event_store.envelopes(
            stream,
            from_version=start if stream else None,
            from_position=None if stream else start,
            limit=limit,
            reverse=reverse,
            event_types=event_types or None,
            category=category,
            on_damage="skip" if skip_damaged else "raise",
        )
        for envelope, line in _with_lines(event_store, blocks, skip_damaged):
            write_event(envelope, line, raw=raw)


@hangarlog.command()
@with_store("stream", optional=True)
@click.option(
    "-n", "count", type=click.IntRange(0), default=10, show_default=True, help="How many of the last events to print."
)
@click.option("-f", "--follow", is_flag=True, help="Print new events as they are committed, until interrupted.")
@click.option(
    "--from",
    "start",
    type=click.IntRange(0),
    metavar="N",
    help="With -f, print all events after position N of the store instead of the last ones.",
)
@click.option(
    "--type", "event_types", multiple=True, metavar="T", help="Print only events of type T. You can repeat this option."
)
@click.option("--category", metavar="C", help="Print only streams of category C, whose ids begin with C and a colon.")
@click.option(
    "--name",
    metavar="NAME",
    help="With -f, go on at the cursor NAME, and move it behind what was printed. Only one process at a time owns it.",
)
@click.option("--raw", is_flag=True, help="Print the stored lines even on a terminal.")
def tail(
    store: str,
    stream: str | None,
    count: int,
    follow: bool,
    start: int | None,
    event_types: tuple[str, ...],
    category: str | None,
    name: str | None,
    raw: bool,
) -> None:
    """Print the last events of STREAM, or of the whole store."""
    if start is not None and not follow:
        raise click.UsageError("--from needs -f; without it use `hangarlog read --from`")
    if name is not None and not follow:
        raise click.UsageError("--name needs -f")
    filters: Filters = {"event_types": event_types or None, "category": category}
    with _interrupts() as interrupts, open_store(store) as event_store:
        if name is not None:
            _follow_named(event_store, stream, start or 0, filters, interrupts, name, raw)
            return
        if not follow:
            _check_exists(event_store, stream)
        seen = event_store.get_event_count()
        if start is None:
            for envelope, line in _with_lines(event_store, _last_events(event_store, stream, count, seen, filters)):
                write_event(envelope, line, raw=raw)
                seen = max(seen, envelope.position)
        if follow:
            sys.stdout.flush()
            for block in _follow(event_store, stream, seen if start is None else start, filters, interrupts):
                for envelope, line in _with_lines(event_store, [block]):
                    write_event(envelope, line, raw=raw)
                sys.stdout.flush()


def _with_lines(
    store: FileEventStore, blocks: Iterable[Sequence[StoredEnvelope]], skip: bool = False
) -> Iterator[tuple[StoredEnvelope, bytes]]:
    for block, lines in as_stored(store, blocks, skip_damaged=skip):
        yield from zip(block, lines, strict=True)


def _last_events(
    store: FileEventStore, stream: str | None, count: int, committed: int, filters: Filters
) -> Iterator[Sequence[StoredEnvelope]]:
    """Yield the last `count` events. Without filters, memory does not grow with `count`."""
    if any(filters.values()):
        blocks = store.envelopes(stream, reverse=True, limit=count, **filters)
        return iter([[envelope for block in blocks for envelope in block][::-1]])
    if stream is None:
        return store.envelopes(from_position=max(0, committed - count), limit=min(count, committed))
    return store.envelopes(stream, from_version=max(0, store.get_stream_version(stream) - count + 1), limit=count)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
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


def _follow(
    store: FileEventStore, stream: str | None, position: int, filters: Filters, interrupts: list[int]
) -> Iterator[Sequence[StoredEnvelope]]:
    """Yield new events in blocks. Raises `BrokenPipeError` when the reader of the standard output has gone."""
    options: dict[str, Any] = {**filters, "stream_id": stream, "heartbeat": _BEAT_SECONDS}
    with store.follow_envelopes(position, **options) as blocks:
        for block in blocks:
            if interrupts:
                raise KeyboardInterrupt
            if block is None:
                _refuse_closed_output()
            else:
                yield cast("Sequence[StoredEnvelope]", block)


def _follow_named(
    store: FileEventStore,
    stream: str | None,
    start: int,
    filters: Filters,
    interrupts: list[int],
    name: str,
    raw: bool,
) -> None:
    """Print the durable events after the cursor `name`, and move it behind them. `start` is where a new one begins."""
    options: dict[str, Any] = {**filters, "stream_id": stream, "heartbeat": _BEAT_SECONDS}
    with store.subscribe(start, name=name, batch=1, **options) as subscription:
        for record in subscription:
            if interrupts:
                raise KeyboardInterrupt
            if record is None:
                _refuse_closed_output()
                continue
            for envelope, line in _with_lines(store, store.envelopes(from_position=record.position - 1, limit=1)):
                write_event(envelope, line, raw=raw)
            sys.stdout.flush()


def _refuse_closed_output() -> None:
    if not hasattr(select, "poll"):
        return  # It is noticed with the next event.
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return  # It is no file.
    if any(what & (select.POLLERR | select.POLLHUP) for _, what in poll.poll(0)):
        raise BrokenPipeError(errno.EPIPE, "the reader has gone")


def _check_exists(store: FileEventStore, stream: str | None) -> None:
    if stream is not None and store.get_stream_version(stream) < 0:
        raise StreamNotFoundError(stream)
