"""The `hangarlog` command, which imports its commands when they are asked for, and how they are given their store."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import click
import msgspec

from hangarlog import FileEventStore, __version__
from hangarlog.cli.terminal import say
from hangarlog.events.serializer import EventSerializer
from hangarlog.system.read_only import for_reading

STORE_VARIABLE = "HANGARLOG_STORE"

_MODULES = {
    "append": "append",
    "backup": "backup",
    "demo": "demo",
    "export": "transfer",
    "import": "transfer",
    "read": "read",
    "repair": "inspect",
    "schema": "schema",
    "stats": "inspect",
    "streams": "inspect",
    "tail": "read",
    "verify": "inspect",
}
"""Command -> the module of this package that registers it."""

Callback = Callable[..., Any]


class _Group(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        """All commands, sorted, whether their modules are imported yet or not."""
        return list(_MODULES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """A command, whose module is imported only now: starting is most of what a short command costs."""
        if name in _MODULES:
            import_module(f"hangarlog.cli.{_MODULES[name]}")
        return super().get_command(context, name)

    def invoke(self, context: click.Context) -> Any:
        """Run a command; a reader of the pipe that has seen enough is no error (click would exit with 1)."""
        try:
            code = super().invoke(context)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered must not be written, and complained of, at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return code


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hangarlog")
@click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for other processes that have the store locked.",
)
def hangarlog(lock_timeout: float) -> None:
    """An event store that is a folder of plain text.

    STORE is the folder; it may be left out where HANGARLOG_STORE names it. Results are JSON lines in a pipe, and made
    for reading on a terminal. Exit codes: 0 fine, 1 the store says no, 2 wrong usage.
    """
    context = click.get_current_context()
    context.obj = lock_timeout
    if os.environ.get("NO_COLOR"):
        context.color = False


def lock_timeout() -> float:
    """The seconds that this command waits for others."""
    return float(click.get_current_context().obj)


def with_store(*names: str, optional: bool = False) -> Callable[[Callback], Callback]:
    """Give a command the argument STORE, and after it those in `names`; with `optional` the last may be left out.

    The callback gets the store's path as `store`.
    """

    def decorate(callback: Callback) -> Callback:
        @wraps(callback)
        def shifted(*, store: str | None, **options: Any) -> Any:
            given = [value for value in (store, *(options.pop(name) for name in names)) if value is not None]
            values = _place(given, names, optional)
            try:
                return callback(store=values[0], **dict(zip(names, values[1:], strict=True)), **options)
            except MemoryError as error:
                error.add_note(f"the store {values[0]}")  # Behind that of a place in it, if one is known.
                raise

        wrapped: Callback = shifted
        for name in reversed(names):
            shown = name.upper()
            wrapped = click.argument(name, required=False, metavar=f"[{shown}]" if optional else shown)(wrapped)
        return click.argument("store", required=False, metavar="STORE")(wrapped)

    return decorate


def _place(given: list[str], names: tuple[str, ...], optional: bool) -> list[str | None]:
    """The values for STORE and `names`, with the store from the environment where the arguments leave it out."""
    default = os.environ.get(STORE_VARIABLE)
    full = 1 + len(names)
    if default and len(given) < full:
        # With an optional last argument a lone one may be either: it is the store if it looks like one.
        ambiguous = optional and len(given) == 1
        if not (ambiguous and os.path.isfile(os.path.join(given[0], "hangarlog.json"))):
            given = [default, *given]
    least = full - 1 if optional else full
    if len(given) < least:
        raise click.UsageError(f"Missing argument '{('store', *names)[len(given)].upper()}'.")
    return [*given, *[None] * (full - len(given))]


def open_store(path: str, *, create: bool = False, durability: Any = "always") -> FileEventStore:
    """The store a command works on; event types need not be known to it."""
    serializer = EventSerializer(unknown="untyped")
    seconds = lock_timeout()
    store = FileEventStore(
        path,
        serializer=serializer,
        create=create,
        durability=durability,
        lock_timeout=seconds,
        filesystem=None if create else for_reading(path),
    )
    _say_what_was_recovered(store)
    return store


def _say_what_was_recovered(store: FileEventStore) -> None:
    if store.recovered is None:
        return
    done = msgspec.structs.asdict(store.recovered)
    since, _ = done.pop("since"), done.pop("last")
    done["damage"] = len(store.recovered.damage)  # Each of it was warned of.
    changes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in done.items() if value)
    if changes:
        say(f"hangarlog: recovered after a crash, from position {since} on: {changes}", err=True)
