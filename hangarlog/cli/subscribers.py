"""`hangarlog subscribers` and `hangarlog replay`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click
import msgspec

from hangarlog import EventSerializer, EventsNotFoundError, EventStore, HangarlogError
from hangarlog.cli.app import hangarlog, note_done, open_store, with_store
from hangarlog.cli.terminal import is_terminal, say, write_json, write_object
from hangarlog.eventstore.subscribers import SubscriberStatus
from hangarlog.opening import shown_address
from hangarlog.schema.target import load_events, module_file


@hangarlog.command(short_help="List the named subscribers: how far they are, and owners.")
@with_store()
def subscribers(store: str) -> None:
    """List the named subscribers: position, lag in events and seconds, owner, parked events."""
    with open_store(store) as event_store:
        found = event_store.subscribers()
    if not is_terminal():
        for status in found:
            write_json(msgspec.structs.asdict(status))
    elif found:
        rows = [("POSITION", "LAG", "SECONDS", "OWNER", "PARKED", "NAME"), *map(_row, found)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
        for row in rows:
            say("  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def _row(status: SubscriberStatus) -> tuple[str, ...]:
    owner = "none" if status.owner is None else str(status.owner or "unknown")
    numbers = f"{status.position:,}", f"{status.lag:,}", f"{status.lag_seconds:,.1f}", owner, f"{status.parked:,}"
    return (*numbers, status.name)


@hangarlog.command()
@with_store("name")
@click.option("--handler", metavar="MODULE:FUNCTION", help="Call this function with the record of each parked event.")
@click.option(
    "--events",
    metavar="MODULE[:ATTRIBUTE]",
    help="The application's events, as for `schema check`. By default, those that the handler's module registers; "
    "events of other types are untyped.",
)
@click.option(
    "--on-failure",
    type=click.Choice(["stop", "park"]),
    default="stop",
    show_default=True,
    help="What to do if the handler fails: stop, or leave the event parked and go on with other streams.",
)
@click.option(
    "--attempts", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Calls for each event."
)
def replay(store: str, name: str, handler: str | None, events: str | None, on_failure: str, attempts: int) -> None:
    """Process the events that subscriber NAME has parked. Without --handler, print them.

    The subscriber may be running. Its position does not change. Events that the handler processed are no longer parked.
    """
    if handler is None:
        with open_store(store) as event_store:
            parked = event_store.parked(name)
            for event in parked:
                write_json(msgspec.structs.asdict(event))
            if not parked:
                _warn_of_unknown(event_store, name, store)
        return
    function = _load(handler)
    serializer = EventSerializer(unknown="untyped")
    if events:
        _announce(events)
        serializer = load_events(events, os.getcwd())
    with open_store(store, writes=True, serializer=serializer) as event_store:
        done = event_store.replay(name, function, on_failure=on_failure, attempts=attempts)
        note_done(f"{done} events were replayed")
        parked = event_store.parked(name)
        write_object({"replayed": done, "parked": len(parked)})
        if not (done or parked):
            _warn_of_unknown(event_store, name, store)


def _warn_of_unknown(event_store: EventStore[Any], name: str, store: str) -> None:
    """Print a warning if no subscriber has the name: with a wrong one, nothing seems to be parked."""
    if all(each.name != name for each in event_store.subscribers()):
        command = shlex.join(["hangarlog", "subscribers", shown_address(store)])
        say(f"hangarlog: no subscriber is named {name!r}; list them with `{command}`", err=True)


def _announce(target: str) -> bool:
    """Print the file of a module if it would be imported from the current folder, and return True then."""
    where = module_file(target, os.getcwd())
    if where is not None:
        say(f"hangarlog: importing {where} from the current folder", err=True)
    return where is not None


def _load(target: str) -> Callable[[Any], object]:
    """Import a function. The current folder is searched last for its module, whose file is then printed."""
    name, _, attribute = target.partition(":")
    if not (name and attribute):
        raise click.UsageError(f"--handler is MODULE:FUNCTION, not {target!r}")
    if _announce(name):
        sys.path.append(os.getcwd())  # Last, so that its files do not hide Python's modules.
    try:
        found: Any = import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except HangarlogError:
        raise
    except (Exception, SystemExit) as error:  # The application's module may raise anything.
        raise EventsNotFoundError(target, f"{type(error).__name__}: {error}") from error
    if not callable(found):
        raise EventsNotFoundError(target, f"it is a {type(found).__name__}, not a function")
    function: Callable[[Any], object] = found
    return function
