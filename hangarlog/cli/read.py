"""`hangarlog read` and `hangarlog tail`."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType

import click

from hangarlog import FileEventStore, StreamNotFoundError
from hangarlog.cli.app import hangarlog, open_store, with_store
from hangarlog.cli.terminal import write_event
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.record.line import StoredEnvelope

_POLL_SECONDS = 0.02  # Seconds between looks at the shared state; a look costs a fraction of a microsecond.


@hangarlog.command()
@with_store("stream", optional=True)
@click.option(
    "--from",
    "start",
    type=click.IntRange(0),
    metavar="N",
    help="First version of STREAM; without one, the position to start after.",
)
@click.option("--limit", type=click.IntRange(0), metavar="N", help="At most so many events.")
@click.option("--reverse", is_flag=True, help="Latest first; --from counts from there.")
@click.option("--type", "event_types", multiple=True, metavar="T", help="Only events of this type; may be repeated.")
@click.option("--category", metavar="C", help="Only streams whose id begins with C and a colon.")
@click.option("--skip-damaged", is_flag=True, help="Pass over events that are damaged in both copies, with a warning.")
@click.option("--raw", is_flag=True, help="The stored lines on a terminal too.")
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
    with open_store(store) as log:
        _must_exist(log, stream)
        blocks = log.envelopes(
            stream,
            from_version=start if stream else None,
            from_position=None if stream else start,
            limit=limit,
            reverse=reverse,
            event_types=event_types or None,
            category=category,
            on_damage="skip" if skip_damaged else "raise",
        )
        for envelope, line in _lines_of(log, blocks, skip_damaged):
            write_event(envelope, line, raw=raw)


@hangarlog.command()
@with_store("stream", optional=True)
@click.option("-n", "count", type=click.IntRange(0), default=10, show_default=True, help="So many of the last events.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new events as they are committed, until interrupted.")
@click.option("--raw", is_flag=True, help="The stored lines on a terminal too.")
def tail(store: str, stream: str | None, count: int, follow: bool, raw: bool) -> None:
    """Print the last events of STREAM, or of the whole store."""
    with _interrupts() as interrupts, open_store(store) as log:
        if not follow:
            _must_exist(log, stream)
        seen = log.get_event_count()
        for envelope, line in _lines_of(log, _last(log, stream, count, seen)):
            write_event(envelope, line, raw=raw)
            seen = max(seen, envelope.position)
        if follow:
            sys.stdout.flush()
            for block in _follow(log, stream, seen, interrupts):
                for envelope, line in _lines_of(log, [block]):
                    write_event(envelope, line, raw=raw)
                sys.stdout.flush()


def _lines_of(
    log: FileEventStore, blocks: Iterable[Sequence[StoredEnvelope]], skip: bool = False
) -> Iterator[tuple[StoredEnvelope, bytes]]:
    for block, lines in as_stored(log, blocks, skip_damaged=skip):
        yield from zip(block, lines, strict=True)


def _last(log: FileEventStore, stream: str | None, count: int, committed: int) -> Iterator[Sequence[StoredEnvelope]]:
    """The last `count` events, in order: read from their first on, so that millions need no more memory than a few."""
    if stream is None:
        return log.envelopes(from_position=max(0, committed - count), limit=min(count, committed))
    return log.envelopes(stream, from_version=max(0, log.get_stream_version(stream) - count + 1), limit=count)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that any interrupt is put into: Python drops the exception of one that comes within a finalizer."""
    interrupts: list[int] = []
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield interrupts  # Somebody else sees to them, or they are ignored.
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if what.exc_type is not KeyboardInterrupt:
            hook(what)

    sys.unraisablehook = dropped
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook


def _follow(
    log: FileEventStore, stream: str | None, position: int, interrupts: list[int]
) -> Iterator[Sequence[StoredEnvelope]]:
    wait = threading.Event().wait
    while True:
        committed = log.get_event_count()
        if interrupts:
            raise KeyboardInterrupt
        if committed == position:
            wait(_POLL_SECONDS)
            continue
        for block in log.envelopes(from_position=position):
            position = block[-1].position
            wanted = block if stream is None else [envelope for envelope in block if envelope.stream_id == stream]
            if wanted:
                yield wanted


def _must_exist(log: FileEventStore, stream: str | None) -> None:
    if stream is not None and log.get_stream_version(stream) < 0:
        raise StreamNotFoundError(stream)
