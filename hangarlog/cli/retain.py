"""`hangarlog retain`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from hangarlog.cli.app import hangarlog, named, note_done, open_folder, with_store
from hangarlog.cli.terminal import is_terminal, progress, say, styled, write_json
from hangarlog.eventstore.retention_policy import RetentionPolicy, RetentionReport


@hangarlog.command(short_help="Drop events that are too old or too many.")
@with_store(instead="positions have no gaps there, so drop events of a copy: `hangarlog copy ADDRESS FOLDER` makes one")
@click.option("--prefix", metavar="TEXT", default="", help="Only streams whose ids begin with TEXT.")
@click.option("--max-age", metavar="AGE", help="Drop events of this age or older: 30d, 12h.")
@click.option("--max-events", metavar="N", type=int, help="Keep the newest N events.")
@click.option("--max-bytes", metavar="SIZE", help="Keep the newest events, this much text of one copy: 10G, 500M.")
@click.option("--max-events-per-stream", metavar="N", type=int, help="Keep the newest N events of each stream.")
@click.option("--behind-snapshot", is_flag=True, help="Drop only what a snapshot covers; all of it without a limit.")
@click.option("--past-subscribers", is_flag=True, help="Also drop what a subscriber or projection has not read yet.")
@click.option("--dry-run", is_flag=True, help="Change nothing; print what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, on a terminal too.")
def retain(store: str, dry_run: bool, as_json: bool, **limits: Any) -> None:
    """Drop events of STORE, and the segments of the journal that have no others.

    Only what is in sealed segments goes, and without --prefix, whole segments. Streams keep their versions, the journal
    its positions: reads begin with the first event that is left. Without options, what deletions, truncations and
    compactions have hidden goes. Try it with --dry-run first: what is gone cannot be brought back, except from a
    backup. Others may read and write meanwhile.
    """
    policies = _policies(limits)
    bars: list[int] = []
    with named("the rest stays as it was"), open_folder(store) as opened, progress("streams", None) as advance:

        def show(done: int, total: int) -> None:
            advance(done - sum(bars))
            bars[:] = [done]

        report = opened.retain(*policies, dry_run=dry_run, progress=show)
    if not dry_run:
        erased = f", {len(report.erased)} are written anew without what is hidden" if report.erased else ""
        note_done(f"{len(report.segments)} segments of the journal are dropped{erased}")
    write_report(report, as_json or not is_terminal())


def _policies(limits: dict[str, Any]) -> list[RetentionPolicy]:
    if not any(value not in (None, "", False) for value in limits.values()):
        return []
    try:
        return [RetentionPolicy(**limits)]
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def write_report(report: RetentionReport, as_json: bool, *, came: bool = False) -> None:
    """Print what went, or came."""
    if as_json:
        for segment in report.segments:
            write_json(msgspec.structs.asdict(segment))
        write_json({name: value for name, value in msgspec.to_builtins(report).items() if name != "segments"})
        return
    goes, hidden = ("would go", "would be hidden") if report.dry_run else ("went", "were hidden")
    goes = "came back" if came else goes
    for policy in report.policies:
        say(f"{policy.events:,} events of {policy.streams:,} streams {hidden}")
    for segment in report.segments:
        say(f"{segment.name}: positions {segment.first} to {segment.last}, {segment.bytes:,} bytes {goes}")
    for each in report.erased:
        say(f"{each.name}: {each.events:,} hidden events, {each.bytes:,} bytes {goes}")
    for path in report.damaged:
        say(f"{path} is damaged, and stays as it is; `hangarlog repair` mends it", err=True)
    size = sum(each.bytes for each in report.segments) if came else report.bytes_freed
    what = f"{size:,} bytes of the journal {goes}; it begins at position {report.first_position}"
    say(styled(what, bold=True))
    if report.held_by:
        say(styled(f"the next segment stays: {report.held_by}", dim=True))
