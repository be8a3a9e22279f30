"""`hangarlog schema show`, `check` and `lock`."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click
import msgspec

from hangarlog import EventsNotFoundError, HangarlogError, SchemaLockError
from hangarlog.cli.app import STORE_VARIABLE, Group, exits_with, hangarlog, named, note_done, with_store
from hangarlog.cli.exit_codes import ExitCode
from hangarlog.cli.standard_streams import OutputError
from hangarlog.cli.terminal import counted, is_terminal, progress, say, say_lines, styled, write_json, write_object
from hangarlog.events.serializer import EventSerializer
from hangarlog.schema.check import Finding, check, failing
from hangarlog.schema.elsewhere import find_varying, may_be_varying
from hangarlog.schema.history import check_history, count_events, show_history
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.schema.locking import make_lock, not_locked, refused, unread_types, with_gathered, without
from hangarlog.schema.losses import losses_in_order
from hangarlog.schema.proof import forget_lacking, forgive_tags, loss_findings, with_proof
from hangarlog.schema.share import StoredKind
from hangarlog.schema.target import Settings, find_settings, load_events, module_file, why_distrusted

Callback = Callable[..., Any]
_FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    show_default=True,
    help="text is for people, as in a build's log. json is JSON lines, for programs. auto is text on a terminal and "
    "json elsewhere.",
)


@hangarlog.group(cls=Group)
def schema() -> None:
    """Show, check and lock the shapes of stored events.

    --events MODULE:ATTRIBUTE names the application's events: a serializer, a chain, a registry, or a function that
    returns one. You can set it and the lock file in pyproject.toml, as `events` and `schema_lock` in [tool.hangarlog].
    """


def _events_options(callback: Callback) -> Callback:
    for decorate in (
        _FORMAT,
        click.option("--lock", "lock_path", metavar="PATH", help="The lock file. The default is event-schema.json."),
        click.option("--events", metavar="MODULE[:ATTRIBUTE]", help="The application's events."),
        click.option("--no-store", is_flag=True, help="Do not read a store, even if HANGARLOG_STORE names one."),
        click.option("--store", "store_option", metavar="STORE", help="The same as the argument STORE."),
        click.argument("store", required=False, metavar="[STORE]"),
    ):
        callback = decorate(callback)
    return callback


def _target_and_lock(events: str | None, lock_path: str | None) -> tuple[str, str, str]:
    """Return (the application's events, path of the lock, folder to import from)."""
    here = os.getcwd()
    found, folder, why = find_settings(here) if events is None or lock_path is None else (Settings(), here, None)
    if why is None and events is None and found.events:
        why = why_distrusted(found.events, folder)
    if why is not None:
        name = "pyproject.toml" if folder == here else os.path.join(folder, "pyproject.toml")
        raise click.UsageError(f"{name} is ignored because {why}; give --events MODULE and --lock PATH")
    target = events or found.events
    if not target:
        raise click.UsageError(
            "the application's events are not named; give --events MODULE:ATTRIBUTE, or set `events` in the table "
            "[tool.hangarlog] of pyproject.toml"
        )
    path = lock_path or (found.schema_lock if folder == here else os.path.join(folder, found.schema_lock))
    return target, path, here if events else folder


def _load(target: str, folder: str) -> EventSerializer:
    """Import the application's events.

    If the module is in the current folder or the project's, print its file first. It may belong to another user.
    """
    where = module_file(target, folder)
    if where is not None:
        what = "the current folder" if folder == os.getcwd() else "the project's folder"
        say(f"hangarlog: importing {where} from {what}", err=True)
    try:
        return load_events(target, folder)
    except EventsNotFoundError as error:
        if error.__cause__ is not None and not _names_nothing(error.__cause__, target):
            exits_with(error, ExitCode.UNCHECKED)
        raise


def _names_nothing(cause: BaseException, target: str) -> bool:
    """True if the module or attribute that the user has named does not exist, and False if importing it fails."""
    if isinstance(cause, ModuleNotFoundError):
        return f"{target.partition(':')[0]}.".startswith(f"{cause.name}.")
    if isinstance(cause, AttributeError):
        return cause.__traceback__ is not None and cause.__traceback__.tb_next is None
    return isinstance(cause, ValueError) and target.startswith(":")


def _unchecked_on_errors(callback: Callback) -> Callback:
    """Make the exit code of every error, expected or not, `UNCHECKED`; wrong usage keeps its own.

    1 is for history that would break.
    """

    @wraps(callback)
    def checked(**options: Any) -> Any:
        try:
            result = callback(**options)
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort, EventsNotFoundError):
            raise
        except (HangarlogError, OSError, MemoryError, OutputError) as error:
            exits_with(error, ExitCode.UNCHECKED)
            raise
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            return ExitCode.UNCHECKED

    return checked


def _store_path(store: str | None, option: str | None, no_store: bool) -> str | None:
    if store and option and store != option:
        raise click.UsageError("two stores are named; name one")
    if "" in (store, option):
        raise click.UsageError("the store's name is empty; leave it out, or give --no-store to read no store")
    return None if no_store else store or option or os.environ.get(STORE_VARIABLE)


@schema.command("check", short_help="Fail if stored events can no longer be read.")
@_events_options
@click.option("--locked", is_flag=True, help="Fail unless the lock file is exactly what `lock` would write.")
@_unchecked_on_errors
def check_(
    store: str | None,
    store_option: str | None,
    no_store: bool,
    events: str | None,
    lock_path: str | None,
    form: str,
    locked: bool,
) -> int:
    """Exit with 1 if the application can no longer read its stored events, and with 3 if they cannot be checked.

    The classes and upcasters are compared with the lock file; no store is needed. Each change is printed by field, with
    a draft of the upcaster to write. With STORE, every stored event is read through the chain too, and what reads lose
    is counted. A default that no stored event needs may change.
    """
    target, path, folder = _target_and_lock(events, lock_path)
    where = _store_path(store, store_option, no_store)
    serializer = _load(target, folder)
    try:
        lock: SchemaLock | None = read_lock(path)
    except SchemaLockError:
        if where is None or locked or os.path.exists(path):
            raise
        say(f"hangarlog: there is no lock file {path}: only the store is checked", err=True)
        lock = None
    stored = _read_history(where, target, folder)
    forgive_tags(lock or SchemaLock(), serializer, stored)
    findings = _check_lock(serializer, lock, target, folder, stored, locked) if lock is not None else []
    _write_findings(findings, _is_text(form))
    for each in stored:
        _write_stored(each, _is_text(form))
    failures = len(failing(findings)) + sum(each.fails for each in stored)
    if _is_text(form):
        untried = sum(finding.kind == "untried" for finding in findings)
        verdict = counted(failures, "failure") if failures else "all history can be read"
        doubt = f", as far as it was tried: {untried} could not be, see above" if untried else ""
        say(f"{counted(len(serializer.registry.types), 'event type')}: {verdict}{doubt}")
    damaged = 0 if where is None else max(0, count_events(where) - sum(each.count for each in stored))
    if damaged:
        say(f"hangarlog: {damaged:,} events are damaged in both copies, so they were not checked", err=True)
    return 1 if failures else ExitCode.UNCHECKED if damaged else 0


def _check_lock(
    serializer: EventSerializer,
    lock: SchemaLock,
    target: str,
    folder: str,
    stored: Sequence[StoredKind],
    locked: bool,
) -> list[Finding]:
    """Check a lock. What may come from a default that differs between processes is checked again without it."""

    def found() -> list[Finding]:
        outdated = not_locked(serializer, lock) if locked else []
        return [*check(serializer, with_proof(lock, serializer, stored)), *outdated]

    findings = found()
    if may_be_varying(findings) and find_varying(serializer, target, folder):
        findings = found()
    return findings


def _read_history(store: str | None, target: str, folder: str, *, with_fields: bool = False) -> list[StoredKind]:
    if store is None:
        return []
    with progress("reading", count_events(store)) as advance:
        return check_history(store, target, folder=folder, progress=advance, with_fields=with_fields)


@schema.command(short_help="Write the shapes of your events to the lock file.")
@_events_options
@click.option("--accept", multiple=True, metavar="TYPE", help="Forget the locked shapes of TYPE.")
def lock(
    store: str | None,
    store_option: str | None,
    no_store: bool,
    events: str | None,
    lock_path: str | None,
    form: str,
    accept: tuple[str, ...],
) -> int:
    """Write the wire shape of every event type to the lock file, or add what is new to it.

    Nothing is written if `check` would fail. With STORE, shapes of versions that the lock does not know are inferred
    from stored events, and what reads of them lose is printed.
    """
    target, path, folder = _target_and_lock(events, lock_path)
    where = _store_path(store, store_option, no_store)
    present = read_lock(path) if os.path.exists(path) else None
    before = without(present or SchemaLock(), accept)
    serializer = _load(target, folder)
    find_varying(serializer, target, folder)
    if where is None and (findings := refused(serializer, before)):
        return _refuse(path, findings, form)
    made = make_lock(serializer, before)
    if where is not None:
        stored = _read_history(where, target, folder, with_fields=True)
        forgive_tags(before, serializer, stored)
        findings = unread_types(made, stored, accept)
        known = [each for each in stored if each.event_type in made.events and each.event_type not in accept]
        findings += refused(serializer, with_proof(before, serializer, stored))
        made = with_gathered(made, known)
        findings += refused(serializer, with_proof(made, serializer, stored)) if not findings else []
        losses = loss_findings(known)
        if findings or failing(losses):
            return _refuse(path, findings or losses, form)
        _write_findings(losses, _is_text(form))
        forget_lacking(made, serializer, known)
    if made != present:
        with named(f"the lock file {path} was not written"):
            write_lock(path, made)
        note_done(f"the lock file {path} was written")
    versions = sum(len(locked.schemas) for locked in made.events.values())
    write_object({"path": path, "types": len(made.events), "versions": versions}, text=_is_text(form))
    return 0


def _refuse(path: str, findings: Sequence[Finding], form: str) -> int:
    _write_findings(findings, _is_text(form))
    say(f"hangarlog: {path} is unchanged; --accept TYPE forgets the locked shapes of a type on purpose", err=True)
    return 1


@schema.command(short_help="Print what STORE holds by event type and version.")
@with_store()
@_FORMAT
def show(store: str, form: str) -> int:
    """Print what STORE holds by event type and schema version: counts, first and last event, fields.

    Exit with 1 if events are damaged in both copies: they are not counted.
    """
    count = count_events(store)
    with progress("reading", count) as advance:
        found = show_history(store, progress=advance)
    for stored in found:
        fields = stored.payload.shown() if stored.payload else {}
        if not _is_text(form):
            write_json({**_counts(stored), "fields": fields})
            continue
        say(styled(f"{stored.event_type} v{stored.version}: {counted(stored.count, 'event')}", bold=True))
        say(f"  first {stored.first_recorded_at} at position {stored.first_position:,}")
        say(f"  last  {stored.last_recorded_at} at position {stored.last_position:,}")
        width = max(map(len, fields), default=0)
        for name, types in fields.items():
            say(f"    {name.ljust(width)}  {types}")
    damaged = max(0, count - sum(each.count for each in found))
    if damaged:
        say(f"hangarlog: {damaged:,} events are damaged in both copies, so they were not counted", err=True)
    return 1 if damaged else 0


def _counts(stored: StoredKind) -> dict[str, Any]:
    return {
        "event_type": stored.event_type,
        "version": stored.version,
        "count": stored.count,
        "first_position": stored.first_position,
        "first_recorded_at": stored.first_recorded_at,
        "last_position": stored.last_position,
        "last_recorded_at": stored.last_recorded_at,
    }


def _write_findings(findings: Sequence[Finding], text: bool) -> None:
    for finding in findings:
        if not text:
            write_json({"fails": finding.fails, **msgspec.to_builtins(finding)})
            continue
        mark = styled("FAIL", fg="red", bold=True) if finding.fails else styled("note", dim=True)
        say(mark, " ", styled(finding.event_type, bold=True), f": {finding.message}")
        for detail in finding.details:
            say(f"       {detail}")
        if finding.code:
            say_lines(textwrap.indent(finding.code.removesuffix("\n"), " " * 8))


def _write_stored(stored: StoredKind, text: bool) -> None:
    losses = [(loss, stored.seen.get(loss.path)) for loss in losses_in_order(stored.losses)]
    if not text:
        lost = [
            {**msgspec.to_builtins(loss), "fails": loss.fails(seen), "message": loss.text(stored.count, seen)}
            for loss, seen in losses
        ]
        more = {"failed": stored.failed, "failures": stored.failures, "impure": stored.impure, "losses": lost}
        write_json({**_counts(stored), **more})
        return
    mark = styled("FAIL", fg="red", bold=True) if stored.fails else styled("  ok", fg="green")
    what = f", {stored.failed:,} cannot be read" if stored.failed else ""
    say(mark, f" {stored.event_type} v{stored.version}: {counted(stored.count, 'event')}{what}")
    last_cause = ""
    for failure in stored.failures:
        cause = "the same" if failure.cause == last_cause else failure.cause
        last_cause = failure.cause
        say(f"       position {failure.position}, {failure.stream_id}@{failure.stream_version}: {cause}")
    for cause in stored.impure:
        say(f"       {cause}")
    for loss, seen in losses:
        say(f"       {loss.text(stored.count, seen)}")


def _is_text(form: str) -> bool:
    return form == "text" or (form == "auto" and is_terminal())
