"""`hangarlog read` and `hangarlog tail`.

What they need is imported when they run: a short command is mostly imports.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from hangarlog import EventStore, FileEventStore
from hangarlog.cli.app import hangarlog, open_folder, open_store, refuse_servers, with_store
from hangarlog.cli.terminal import progress_to_file, say
from hangarlog.record.envelope import Envelope

if TYPE_CHECKING:
    from hangarlog.cli.following import Filters


_STEP = 256
"""Events after which a read reports its progress: each by itself would cost a twentieth of the time."""


def _parse_time(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    from hangarlog.cli.times import parse_time

    return parse_time(context, parameter, value)


def _display_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how events are printed."""
    for option in (
        click.option("--raw", is_flag=True, help="Print the stored lines even on a terminal."),
        click.option("--full", is_flag=True, help="Do not cut lines to the width of the terminal."),
        click.option("--pretty", is_flag=True, help="Print payloads indented, over several lines, in a pipe too."),
    ):
        command = option(command)
    return command


@hangarlog.command(short_help="Print the events of STREAM, or of the whole store.")
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
@click.option(
    "--since",
    metavar="TIME",
    callback=_parse_time,
    help="Print only events recorded at TIME or later: 2026-11-23T03:01:02Z, 2026-11-23 (both in UTC unless TIME has "
    "an offset), yesterday, or 2h, 30m, 1d12h for so long ago.",
)
@click.option("--until", metavar="TIME", callback=_parse_time, help="Print only events recorded before TIME.")
@click.option("--skip-damaged", is_flag=True, help="Skip events that are damaged in both copies, with a warning.")
@click.option("--archive", metavar="TARGET", help="Also print the events of the store's archive TARGET.")
@_display_options
def read(
    store: str,
    stream: str | None,
    start: int | None,
    limit: int | None,
    reverse: bool,
    event_types: tuple[str, ...],
    category: str | None,
    since: datetime | None,
    until: datetime | None,
    skip_damaged: bool,
    archive: str | None,
    **shown: bool,
) -> None:
    """Print the events of STREAM, or of the whole store in commit order.

    On a terminal an event is one line, cut to its width, with its time in UTC. In a pipe it is the stored line.
    """
    from hangarlog.cli.display import event_writer

    if since and until and since > until:
        raise click.UsageError(f"--since ({since}) is after --until ({until})")
    write = event_writer(**shown)
    filters = {"event_types": event_types or None, "category": category, "since": since, "until": until}
    if archive is not None:
        refuse_servers(store, "read --archive", "leave --archive out")
    with open_store(store) as event_store, _opened(archive) as archived:
        _check_exists(event_store, stream, ("read", store))
        found = _found(event_store, archived, stream, start, limit, reverse, skip_damaged, filters)
        with progress_to_file("reading") as advance:
            for number, (envelope, line) in enumerate(found, 1):
                write(envelope, line)
                if number % _STEP == 0:
                    advance(_STEP)


def _opened(archive: str | None) -> contextlib.AbstractContextManager[FileEventStore | None]:
    return contextlib.nullcontext() if archive is None else open_folder(archive)


def _found(
    store: EventStore[Any],
    archive: FileEventStore | None,
    stream: str | None,
    start: int | None,
    limit: int | None,
    reverse: bool,
    skip_damaged: bool,
    filters: dict[str, Any],
) -> Iterator[tuple[Envelope, bytes]]:
    if archive and isinstance(store, FileEventStore):
        from hangarlog.cli.both import records_of_both

        flags = {"reverse": reverse, "skip_damaged": skip_damaged}
        return records_of_both(store, archive, stream, start, limit, **flags, **filters)
    from hangarlog.cli.display import with_lines

    begin: dict[str, Any] = {"from_version" if stream else "from_position": start}
    damage: Any = "skip" if skip_damaged else "raise"
    blocks = store.envelopes(stream, limit=limit, reverse=reverse, on_damage=damage, **begin, **filters)
    return with_lines(store, blocks, skip_damaged)


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
@_display_options
def tail(
    store: str,
    stream: str | None,
    count: int,
    follow: bool,
    start: int | None,
    event_types: tuple[str, ...],
    category: str | None,
    name: str | None,
    **shown: bool,
) -> None:
    """Print the last events of STREAM, or of the whole store.

    With -f it ends when the reader of its output goes, or with exit code 1 if the store's folder is deleted, moved or
    replaced. If older files are put in place, it says so, and goes on after the last event that is still there.
    """
    from hangarlog.cli.display import event_writer, with_lines
    from hangarlog.cli.following import collected_interrupts, follow_named
    from hangarlog.cli.following import follow as follow_on

    if start is not None and not follow:
        raise click.UsageError("--from needs -f; without it use `hangarlog read --from`")
    if name is not None and not follow:
        raise click.UsageError("--name needs -f")
    filters: Filters = {"event_types": event_types or None, "category": category}
    write = event_writer(**shown)
    with collected_interrupts() as interrupts, open_store(store) as event_store:
        if name is not None:
            follow_named(event_store, stream, start or 0, filters, interrupts, write, store, name)
            return
        if not follow:
            _check_exists(event_store, stream, ("tail", store))
        seen = event_store.last_position
        if start is None:
            for envelope, line in with_lines(event_store, _last_events(event_store, stream, count, seen, filters)):
                write(envelope, line)
                seen = max(seen, envelope.position)
        if follow:
            _hint(event_store, stream, ("tail", store, "-f"))
            sys.stdout.flush()
            follow_on(event_store, stream, seen if start is None else start, filters, interrupts, write, store)


def _last_events(
    store: EventStore[Any], stream: str | None, count: int, committed: int, filters: Filters
) -> Iterator[Sequence[Envelope]]:
    """Yield the last `count` events. Without filters, memory does not grow with `count`."""
    if filters != {"event_types": None, "category": None}:
        blocks = store.envelopes(stream, reverse=True, limit=count, **filters)
        return iter([[envelope for block in blocks for envelope in block][::-1]])
    if stream is None:
        return store.envelopes(from_position=max(0, committed - count), limit=min(count, committed))
    return store.envelopes(stream, from_version=max(0, store.get_stream_version(stream) - count + 1), limit=count)


def _check_exists(store: EventStore[Any], stream: str | None, words: Sequence[str]) -> None:
    if stream is not None and store.get_stream_version(stream) < 0:
        from hangarlog.cli.unknown_stream import unknown_stream

        raise unknown_stream(store, stream, words)


def _hint(store: EventStore[Any], stream: str | None, words: Sequence[str]) -> None:
    """Say what else the user may have meant by a stream that does not exist yet: it is waited for."""
    if stream is not None and store.get_stream_version(stream) < 0:
        from hangarlog.cli.unknown_stream import suggestion

        found = suggestion(store, stream, words)
        if found:
            say(f"hangarlog: there is no stream {stream!r} yet, so this waits for it; {found}", err=True)
