"""`hangarlog import` and `hangarlog export`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import click
import msgspec

from hangarlog import FileEventStore
from hangarlog.cli.app import hangarlog, open_store, with_store
from hangarlog.cli.terminal import is_terminal, progress, say, write_line, write_object
from hangarlog.integrations.export import cloud_events, journal_lines, new_file

_FORMAT_BY_SUFFIX = {".db": "db", ".sqlite": "db", ".sqlite3": "db", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@hangarlog.command("import")
@with_store("source")
def import_(store: str, source: str) -> int:
    """Import the events and snapshots of SOURCE, an MCP Hangar SQLite database.

    Order, versions, event ids and times are kept. You can run it again: only what is new is imported.
    """
    from hangarlog.integrations.mcp_hangar_sqlite import count_events, import_database

    count = count_events(source)
    with open_store(store, create=True, durability="relaxed") as event_store, progress("importing", count) as advance:
        report = import_database(event_store, source, advance)
    write_object({name: value for name, value in msgspec.structs.asdict(report).items() if "not_taken" not in name})
    for stream_id, cause in report.not_taken.items():
        say(f"hangarlog: stream {stream_id!r} was not imported: {cause}", err=True)
    for stream_id, cause in report.snapshots_not_taken.items():
        say(f"hangarlog: the snapshot of stream {stream_id!r} was not imported: {cause}", err=True)
    return 1 if report.not_taken or report.snapshots_not_taken else 0


@hangarlog.command()
@with_store("target")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["db", "jsonl", "cloudevents"]),
    help="The default follows from TARGET's suffix, and is jsonl for standard output.",
)
@click.option("--skip-damaged", is_flag=True, help="Skip events that are damaged in both copies, with a warning.")
def export(store: str, target: str, kind: str | None, skip_damaged: bool) -> int:
    """Export all events to the new file TARGET: an MCP Hangar database (.db), JSON lines (.jsonl), or CloudEvents.

    TARGET - is standard output. A file appears only when it is complete. Exit with 1 if not all events were written.
    """
    kind = kind or ("jsonl" if target == "-" else _FORMAT_BY_SUFFIX.get(os.path.splitext(target)[1]))
    if kind is None:
        raise click.UsageError(f"the suffix of {target!r} names no format; give --format")
    if kind == "db" and target == "-":
        raise click.UsageError("a database cannot be written to standard output; name a file")
    with open_store(store) as event_store:
        committed = event_store.get_event_count()
        if kind == "db":
            from hangarlog.integrations.mcp_hangar_sqlite import export_database

            with progress("exporting", committed) as advance:
                count = export_database(event_store, target, advance, skip_damaged=skip_damaged)
        elif target == "-":
            count = _write_events(event_store, kind, _write_lines, skip_damaged)
        else:
            with new_file(target) as file:
                count = _write_events(event_store, kind, lambda lines: file.write(lines + b"\n"), skip_damaged)
    if target != "-":
        write_object({"events": count, "target": target})
    if count < committed:
        lost = f"{committed - count} of {committed} events are damaged in both copies and were not written; see above"
        say(f"hangarlog: {lost}", err=True)
    return 1 if count < committed else 0


def _write_lines(lines: bytes) -> None:
    if is_terminal():
        for line in lines.split(b"\n"):
            write_line(line)
    else:
        sys.stdout.buffer.write(lines + b"\n")


def _write_events(store: FileEventStore, kind: str, write: Callable[[bytes], object], skip_damaged: bool) -> int:
    count = 0
    events = journal_lines if kind == "jsonl" else cloud_events
    for block in events(store, skip_damaged=skip_damaged):
        write(block)
        count += block.count(b"\n") + 1
    return count
