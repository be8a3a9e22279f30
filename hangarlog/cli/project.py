"""`hangarlog project`: runs a projection of an application."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import reduce
from importlib import import_module
from typing import Any

import click

from hangarlog.cli.app import hangarlog, note_done, open_store, with_store
from hangarlog.cli.terminal import progress, say, write_object
from hangarlog.projections.definition import Definition
from hangarlog.projections.follower import Follower
from hangarlog.schema.target import load_events, module_file


@hangarlog.command(short_help="Run a projection until it is interrupted.")
@with_store("projection")
@click.option("--once", is_flag=True, help="End when the projection has caught up.")
@click.option("--rebuild", is_flag=True, help="Build it anew, beside the live one, which stays until the end.")
@click.option("--standby", is_flag=True, help="If another runner has the projection, wait and take over from it.")
@click.option(
    "--events",
    metavar="MODULE[:ATTRIBUTE]",
    help="The application's events, as for `schema`. The default is what the module of the projection has.",
)
def project(store: str, projection: str, once: bool, rebuild: bool, standby: bool, events: str | None) -> int:
    """Run PROJECTION, which is MODULE:NAME, on STORE until it is interrupted.

    NAME is a Projection, a SqliteProjection, or a function that returns one. If its version is higher than that of what
    is stored, it is built anew first; so is one whose rebuild was interrupted. A projection that another process is
    running is refused.
    """
    definition = _load(projection)
    serializer = load_events(events or projection.partition(":")[0], os.getcwd())
    with (
        open_store(store, writes=True, serializer=serializer) as event_store,
        contextlib.ExitStack() as shown,
    ):
        follower = Follower(definition, event_store, rebuild=rebuild, standby=standby, progress=_Bar(shown).show)
        with _stopped_by_signals(follower) as signals:
            follower.run(0 if once else None)
        shown.close()
        cursor = event_store.cursor(definition.name).position
        note_done(f"the projection is at position {cursor}")
        lag = event_store.last_position - cursor
        write_object({"projection": definition.name, "version": definition.version, "position": cursor, "lag": lag})
    return 130 if signal.SIGINT in signals else 0


def _load(target: str) -> Definition:
    """Import the projection. If its module is in the current folder, print its file first."""
    name, colon, attribute = target.partition(":")
    if not (name and colon and attribute):
        raise click.UsageError(f"the projection must be named as MODULE:NAME, not {target!r}")
    folder = os.getcwd()
    where = module_file(target, folder)
    if where is not None:
        say(f"hangarlog: importing {where} from the current folder", err=True)
        if folder not in sys.path:
            sys.path.append(folder)  # Last, so that its files do not hide Python's modules.
    try:
        found: Any = reduce(getattr, attribute.split("."), import_module(name))
        if not isinstance(found, Definition) and callable(found):
            found = found()
    except (Exception, SystemExit) as error:  # The application's module may raise anything.
        raise click.UsageError(f"{target} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, Definition):
        raise click.UsageError(f"{target} is a {type(found).__name__}, not a projection")
    return found


class _Bar:
    """A progress bar that appears when a rebuild begins."""

    def __init__(self, shown: contextlib.ExitStack) -> None:
        self._shown, self._position = shown, 0
        self._advance: Callable[[int], None] | None = None

    def show(self, position: int, last: int) -> None:
        if self._advance is None:
            self._advance = self._shown.enter_context(progress("building", last))
        self._advance(position - self._position)
        self._position = position


@contextlib.contextmanager
def _stopped_by_signals(follower: Follower) -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM end the runner after its batch, and yield the list of those that came.

    A second one of the same kind ends the process.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, before[signal.Signals(number)])
        follower.stop()

    for number in before:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
