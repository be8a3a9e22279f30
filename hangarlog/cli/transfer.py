"""`hangarlog import` and `hangarlog export`."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import click
import msgspec

from hangarlog import EventStore, FileEventStore, OutcomeUnknownError, SourceError
from hangarlog.cli.app import hangarlog, named, note_done, open_folder, open_store, refuse_servers, with_store
from hangarlog.cli.terminal import is_terminal, progress, progress_to_file, say, write_line, write_object
from hangarlog.integrations.export import cloud_events, journal_lines, new_file
from hangarlog.opening import is_on_servers, shown_address

if TYPE_CHECKING:
    from hangarlog.integrations.imported import Imported

_FORMAT_BY_SUFFIX = {".db": "db", ".sqlite": "db", ".sqlite3": "db", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@hangarlog.command("import", short_help="Import an export, or an MCP Hangar database.")
@with_store("source")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["db", "jsonl", "cloudevents", "claude", "codex"]),
    help="The default follows from SOURCE, and is jsonl for standard input.",
)
@click.option("--partial", is_flag=True, help="Accept JSON lines that are a part of an export, with gaps.")
@click.argument("more", nargs=-1, metavar="[SOURCE]...")
def import_(store: str, source: str, more: tuple[str, ...], kind: str | None, partial: bool) -> int:
    """Import the events of SOURCE: an MCP Hangar database (.db), or what `export` wrote.

    SOURCE - is standard input. Order, versions, event ids, times and metadata are kept, and those of JSON lines byte
    for byte, with their batches. In an empty store they get the same positions. You can run it again: only what is new
    is imported. A database's snapshots are imported, too.

    A line that is damaged, torn, missing or something else ends the import, with its number. What comes before it is
    imported.

    With --format claude or codex, SOURCEs are files or folders of transcripts of Claude Code or Codex, with --format
    jsonl also any other JSON lines. Each file becomes a stream, each whole record an event. What is torn is named with
    its file and offset, and the import goes on; at the end it exits with 1.
    """
    from hangarlog.cli.transcripts import are_transcripts, take_transcripts
    from hangarlog.integrations.imported import Imported

    if are_transcripts(kind, source, more):
        if partial:
            raise click.UsageError("--partial is for what `export` wrote")
        return take_transcripts(store, [source, *more], kind)
    if more:
        raise click.UsageError("several SOURCEs need --format claude, codex or jsonl")
    report = Imported()
    kind = kind or _kind_of(source)
    try:
        if kind == "db":
            _import_database(store, source, report, partial)
        else:
            _import_lines(store, source, report, partial)
    except BaseException as error:
        if report.taken:
            say(f"hangarlog: {_events(report.taken)} imported before this; run it again for the others", err=True)
        if isinstance(error, OutcomeUnknownError):  # Its advice is for a single append.
            cause = f"its events in the store may not survive a power cut: {error.cause}; run the import again"
            raise SourceError(source, cause) from error
        raise
    note_done(f"{_events(report.taken)} imported, {report.already} were there already")
    write_object({name: value for name, value in msgspec.structs.asdict(report).items() if name in _SHOWN})
    for stream_id, cause in report.not_taken.items():
        say(f"hangarlog: stream {stream_id!r} was not imported: {cause}", err=True)
    for stream_id, cause in report.snapshots_not_taken.items():
        say(f"hangarlog: the snapshot of stream {stream_id!r} was not imported: {cause}", err=True)
    if not report.positions_kept:
        say(
            "hangarlog: the events have other positions than in the source: the store had others, or some lack",
            err=True,
        )
    return 1 if report.not_taken or report.snapshots_not_taken else 0


_SHOWN = ("taken", "already", "streams", "snapshots")


def _events(count: int) -> str:
    return "1 event was" if count == 1 else f"{count} events were"


def _kind_of(source: str) -> str:
    """Return the format of a source: by its suffix, else a regular file's first byte."""
    suffix = _FORMAT_BY_SUFFIX.get(os.path.splitext(source)[1])
    if source == "-" or suffix:
        return suffix or "jsonl"
    if os.path.isfile(source):
        from hangarlog.integrations.line_source import is_text

        with contextlib.suppress(OSError), open(source, "rb") as file:
            return "jsonl" if is_text(file) else "db"
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.stat(source).st_mode):  # As of `<(zcat FILE)`.
            return "jsonl"
    return "db"


def _import_database(store: str, source: str, report: Imported, partial: bool) -> None:
    from hangarlog.integrations.mcp_hangar_sqlite import count_events, import_database

    if partial:
        raise click.UsageError("--partial is for JSON lines; a database is imported as a whole")
    if source == "-":
        raise click.UsageError("a database cannot be read from standard input; name a file")
    if is_on_servers(source) or os.path.isfile(os.path.join(source, "hangarlog.json")):
        shown = shown_address(source)
        command = shlex.join(["hangarlog", "export", shown, "-"])
        copy = "copy" if is_on_servers(source) else "backup"
        raise click.UsageError(f"{shown} is a store; copy it by `hangarlog {copy}`, or pipe `{command}` into an import")
    count = count_events(source)
    with open_store(store, create=True, durability="relaxed") as event_store, progress("importing", count) as advance:
        import_database(event_store, source, advance, report)


def _import_lines(store: str, source: str, report: Imported, partial: bool) -> None:
    from hangarlog.integrations.json_lines import import_lines
    from hangarlog.integrations.line_source import LineSource

    with contextlib.ExitStack() as opened:
        if source == "-":
            file, size, name = sys.stdin.buffer, 0, "standard input"
        else:
            try:
                file, name = opened.enter_context(open(source, "rb")), source
            except OSError as error:
                raise SourceError(source, f"it cannot be read: {error.strerror}") from error
            size = os.fstat(file.fileno()).st_size
        advance = opened.enter_context(progress("importing", size)) if size else lambda count: None
        lines = LineSource(file, name, advance)
        lines.check_start()
        event_store = opened.enter_context(open_store(store, create=True, durability="relaxed"))
        import_lines(event_store, lines, report, partial=partial)


@hangarlog.command(short_help="Export all events to a file or standard output.")
@with_store("target")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["db", "jsonl", "cloudevents"]),
    help="The default follows from TARGET's suffix, and is jsonl for standard output.",
)
@click.option("--skip-damaged", is_flag=True, help="Skip events that are damaged in both copies, with a warning.")
@click.option("--archive", metavar="FOLDER", help="Also export the events of the store's archive in FOLDER.")
def export(store: str, target: str, kind: str | None, skip_damaged: bool, archive: str | None) -> int:
    """Export all events to the new file TARGET: an MCP Hangar database (.db), JSON lines (.jsonl), or CloudEvents.

    TARGET - is standard output. A file appears only when it is complete. Exit with 1 if not all events were written.
    """
    kind = kind or ("jsonl" if target == "-" else _FORMAT_BY_SUFFIX.get(os.path.splitext(target)[1]))
    if kind is None:
        raise click.UsageError(f"the suffix of {target!r} names no format; give --format")
    if kind == "db" and target == "-":
        raise click.UsageError("a database cannot be written to standard output; name a file")
    if kind == "db" and archive:
        raise click.UsageError("--archive is for JSON lines and CloudEvents")
    if archive:
        refuse_servers(store, "export --archive", "leave --archive out")
    failed = f"the export of {shown_address(store)} failed" if target == "-" else f"no file {target} was written"
    with contextlib.ExitStack() as opened:
        opened.enter_context(_ended_by_signals(target != "-"))
        opened.enter_context(named(failed))
        event_store = opened.enter_context(open_store(store))
        archived = opened.enter_context(open_folder(archive)) if archive else None
        committed = event_store.get_event_count()
        if archived:
            committed = event_store.last_position - archived.first_position + 1
        if kind == "db":
            from hangarlog.integrations.mcp_hangar_sqlite import export_database

            with progress("exporting", committed) as advance:
                count = export_database(event_store, target, advance, skip_damaged=skip_damaged)
        elif target == "-":
            with progress_to_file("exporting", committed) as advance:
                count = _write_events(event_store, archived, kind, _write_lines, skip_damaged, advance)
        else:
            with new_file(target) as file, progress("exporting", committed) as advance:
                write = lambda lines: file.write(lines + b"\n")  # noqa: E731
                count = _write_events(event_store, archived, kind, write, skip_damaged, advance)
    if target != "-":
        note_done(f"{count} events were exported to {target}")
        write_object({"events": count, "target": target})
    if count < committed:
        lost = f"{committed - count} of {committed} events are damaged in both copies and were not written; see above"
        say(f"hangarlog: {lost}", err=True)
    return 1 if count < committed else 0


@contextlib.contextmanager
def _ended_by_signals(writes_file: bool) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does if it writes a file, so that no piece of it is left."""
    if writes_file:
        from hangarlog.system.interrupts import Interrupts

        with Interrupts() as interrupts:
            interrupts.release()
            yield
    else:
        yield


def _write_lines(lines: bytes) -> None:
    if is_terminal():
        for line in lines.split(b"\n"):
            write_line(line)
    else:
        sys.stdout.buffer.write(lines + b"\n")


def _write_events(
    store: EventStore[Any],
    archive: FileEventStore | None,
    kind: str,
    write: Callable[[bytes], object],
    skip_damaged: bool,
    advance: Callable[[int], None],
) -> int:
    count = 0
    events = journal_lines if kind == "jsonl" else cloud_events
    found = events(store, skip_damaged=skip_damaged)
    if archive and isinstance(store, FileEventStore):
        from hangarlog.cli.both import bound, unmoved

        first = bound(store, archive)
        before = events(archive, skip_damaged=skip_damaged, last=first - 1)
        found = chain(before, unmoved(found, archive.path, first, lambda: bound(store, archive)))
    for block in found:
        write(block)
        lines = block.count(b"\n") + 1
        count += lines
        advance(lines)
    return count
