"""The `hangarlog` command group, which imports its commands on demand, and what commands share."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module
from typing import Any

import click
import msgspec

from hangarlog import EventSerializer, EventStore, FileEventStore, StoreOpenError, __version__
from hangarlog.cli.exit_codes import ExitCode
from hangarlog.cli.standard_streams import OutputError
from hangarlog.cli.suggestions import suggestion
from hangarlog.cli.terminal import progress, say
from hangarlog.opening import is_on_servers, shown_address
from hangarlog.opening import open as open_address
from hangarlog.system.read_only import for_reading

STORE_VARIABLE = "HANGARLOG_STORE"

_MODULES = {
    "append": "append",
    "archive": "archive",
    "backup": "backup",
    "bench": "bench",
    "completion": "completion",
    "compress": "compress",
    "copy": "copy",
    "demo": "demo",
    "doctor": "doctor",
    "export": "transfer",
    "import": "transfer",
    "metrics": "metrics",
    "project": "project",
    "read": "read",
    "repair": "inspect",
    "replay": "subscribers",
    "retain": "retain",
    "schema": "schema",
    "stats": "inspect",
    "streams": "inspect",
    "subscribers": "subscribers",
    "tail": "read",
    "verify": "inspect",
}
"""Command -> the module of this package that registers it."""

Callback = Callable[..., Any]


_DONE = "hangarlog.done"


class Group(click.Group):
    """A group of commands, some of whose names a person may guess wrong."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return (name, command, the rest of the arguments). Raises `UsageError` with a suggestion."""
        name = args[0]
        if not context.resilient_parsing and name[:1] != "-" and self.get_command(context, name) is None:
            meant = suggestion(name, self.list_commands(context))
            raise click.UsageError(f"No such command {name!r}. {meant}", context)
        return super().resolve_command(context, args)


class _Hangarlog(Group):
    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all commands, sorted, without importing their modules."""
        return list(_MODULES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command, and import its module only now: imports are most of the cost of a short command."""
        if name in _MODULES:
            import_module(f"hangarlog.cli.{_MODULES[name]}")
        return super().get_command(context, name)

    def invoke(self, context: click.Context) -> Any:
        """Run a command. An `OutputError` tells what the command had done."""
        result = 0
        try:
            result = super().invoke(context)
            sys.stdout.flush()
        except OutputError as error:
            error.done, error.result = context.meta.get(_DONE, ""), result or 0
            if error.done:
                exits_with(error, ExitCode.UNTOLD)
            raise
        return result


def note_done(what: str) -> None:
    """Note what the command has changed. If it cannot write its answer, it says this, and exits with `UNTOLD`."""
    click.get_current_context().meta[_DONE] = what


_MAX_SECONDS = 1e9  # Thirty years. The system's calls take no more than three hundred.


def checked_seconds(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Return a number of seconds that the system's calls take, for an option."""
    if math.isnan(value):
        raise click.BadParameter("it is not a number", context, parameter)
    return min(value, _MAX_SECONDS)


@click.group(cls=_Hangarlog, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hangarlog")
@click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    callback=checked_seconds,
    help="How long to wait while other processes have the store locked.",
)
def hangarlog(lock_timeout: float) -> None:
    """An event store that is a folder of plain text.

    STORE is the folder. You can leave it out if HANGARLOG_STORE names it. Results are readable text on a terminal and
    JSON lines in a pipe. Exit codes: 0 for success, 1 if the store refuses or is damaged, 2 for wrong usage.
    docs/cli.md has all of them. `hangarlog completion bash --install` lets your shell complete commands.
    """
    context = click.get_current_context()
    context.obj = lock_timeout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False


def exits_with(error: BaseException, code: int) -> None:
    """Make the command exit with a code of its own if the error ends it."""
    error.exit_code = code  # type: ignore[attr-defined]


def exit_code(error: BaseException, default: int) -> int:
    """Return the code to exit with after an error."""
    return int(getattr(error, "exit_code", default))


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Let the message about a call that the system refuses begin with `what`, such as "the repair is not complete"."""
    try:
        yield
    except OSError as error:
        error.add_note(what)
        raise


def lock_timeout() -> float:
    """Return how many seconds this command waits for other processes."""
    return float(click.get_current_context().obj)


def with_store(*names: str, optional: bool = False, instead: str | None = None) -> Callable[[Callback], Callback]:
    """Add the argument STORE to a command, followed by the arguments in `names`.

    With `optional` the last is optional. The callback receives the address of the store as `store`. A command that is
    about files says what to do `instead` for a store on servers, and gets no address of one.
    """

    def decorate(callback: Callback) -> Callback:
        @wraps(callback)
        def shifted(*, store: str | None, **options: Any) -> Any:
            given = [value for value in (store, *(options.pop(name) for name in names)) if value is not None]
            values = _assign(given, names, optional)
            for value in values if instead else ():
                refuse_servers(value, str(click.get_current_context().info_name), str(instead))
            try:
                return callback(store=values[0], **dict(zip(names, values[1:], strict=True)), **options)
            except MemoryError as error:
                shown = shown_address(str(values[0]))
                error.add_note(f"the store {shown}")  # After a more precise note, if there is one.
                raise

        wrapped: Callback = shifted
        for name in reversed(names):
            shown = name.upper()
            wrapped = click.argument(name, required=False, metavar=f"[{shown}]" if optional else shown)(wrapped)
        return click.argument("store", required=False, metavar="STORE")(wrapped)

    return decorate


def _assign(given: list[str], names: tuple[str, ...], optional: bool) -> list[str | None]:
    """Return the values for STORE and `names`; a missing store comes from the environment."""
    default = os.environ.get(STORE_VARIABLE)
    full = 1 + len(names)
    if default and len(given) < full:
        # If the last argument is optional, a single one may be either. It is the store if it looks like one.
        ambiguous = optional and len(given) == 1
        if not (ambiguous and (is_on_servers(given[0]) or os.path.isfile(os.path.join(given[0], "hangarlog.json")))):
            given = [default, *given]
    least = full - 1 if optional else full
    shown = [name.upper() for name in ("store", *names)]
    if len(given) < least:
        raise click.UsageError(f"Missing argument '{shown[len(given)]}'.")
    if "" in given:  # As from a variable that is not set. As a path, it would be the current folder.
        raise click.UsageError(f"{shown[given.index('')]} is empty.")
    return [*given, *[None] * (full - len(given))]


def open_store(
    address: str,
    *,
    create: bool = False,
    writes: bool = False,
    durability: Any = "always",
    serializer: EventSerializer | None = None,
) -> EventStore[Any]:
    """Open the store at an address, in a folder or on servers. By default events of any type can be read.

    `create` also makes it. `durability` is that of a folder: how servers keep events is in their address. Unless the
    command `writes`, or makes a store, nobody needs to vouch for their syncs.
    """
    if not is_on_servers(address):
        return open_folder(address, create=create, writes=writes, durability=durability, serializer=serializer)
    options: dict[str, Any] = {} if create or writes else {"durability": "relaxed"}
    with progress("opening the store"):
        return open_address(address, serializer=serializer or _untyped(), create=create, **options)


def open_folder(
    path: str,
    *,
    create: bool = False,
    writes: bool = False,
    durability: Any = "always",
    serializer: EventSerializer | None = None,
) -> FileEventStore[Any]:
    """Open the store in a folder, as `open_store` does."""
    refuse_servers(path, str(click.get_current_context().info_name), "name a folder")
    seconds = lock_timeout()
    with progress("opening the store"):
        store = FileEventStore(
            path,
            serializer=serializer or _untyped(),
            create=create,
            durability=durability,
            lock_timeout=seconds,
            filesystem=None if create or writes else for_reading(path),
        )
    _report_recovery(store)
    return store


def _untyped() -> EventSerializer:
    return EventSerializer(unknown="untyped")


def refuse_servers(address: str | None, what: str, instead: str) -> None:
    """Raise `StoreOpenError` if an address is that of servers: the command `what` is about files."""
    if address is not None and is_on_servers(address):
        cause = f"`hangarlog {what}` is about the files of a store in a folder, and this one is on servers; {instead}"
        raise StoreOpenError(shown_address(address), cause)


def _report_recovery(store: FileEventStore) -> None:
    if store.recovered is None:
        return
    done = msgspec.structs.asdict(store.recovered)
    since, _ = done.pop("since"), done.pop("last")
    done["damage"] = len(store.recovered.damage)  # A warning was printed for each.
    changes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in done.items() if value)
    if changes:
        say(f"hangarlog: recovered after a crash, from position {since} on: {changes}", err=True)
