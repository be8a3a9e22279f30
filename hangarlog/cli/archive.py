"""`hangarlog archive`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import click

from hangarlog.cli.app import hangarlog, named, note_done, open_folder, with_store
from hangarlog.cli.retain import write_report
from hangarlog.cli.terminal import is_terminal, progress


def _parse_before(context: click.Context, parameter: click.Parameter, value: str | None) -> int | datetime | None:
    if value is None or value.isdecimal():
        return None if value is None else int(value)
    from hangarlog.cli.times import parse_time

    return parse_time(context, parameter, value)


@hangarlog.command(short_help="Move old events into an archive, or bring them back.")
@with_store("target", instead="archive a copy: `hangarlog copy ADDRESS FOLDER` makes one")
@click.option(
    "--before",
    metavar="WHEN",
    callback=_parse_before,
    help="Move segments that end before a position (1000000), before a time (2026-01-01), or are of an age (90d).",
)
@click.option("--compress", is_flag=True, help="Compress the segments of the archive.")
@click.option("--past-subscribers", is_flag=True, help="Also move what a subscriber or projection has not read yet.")
@click.option("--restore", is_flag=True, help="Bring back what the archive TARGET has.")
@click.option("--dry-run", is_flag=True, help="Change nothing; print what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, on a terminal too.")
def archive(
    store: str,
    target: str,
    before: int | datetime | None,
    compress: bool,
    past_subscribers: bool,
    restore: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Move the first segments of STORE's journal to the folder TARGET, a store that takes no appends.

    They are removed here when all of them are proved and on the device there. Streams keep their versions, the journal
    its positions. A later run adds to the archive. `read --archive TARGET` and `export --archive TARGET` show the
    events of both. Others may read and write meanwhile. After an interruption, run it again.
    """
    if restore and (before is not None or compress or past_subscribers or dry_run):
        raise click.UsageError("--restore takes no other options")
    if before is None and not restore:
        raise click.UsageError("Missing option '--before'.")
    with named("no event is lost; run it again"), open_folder(store) as opened, _shown() as show:
        if restore or before is None:
            report = opened.restore_archive(target, progress=show)
        else:
            options = {"compress": compress, "past_subscribers": past_subscribers, "dry_run": dry_run}
            report = opened.archive(target, before=before, **options, progress=show)
    what = "are back" if restore else "are in the archive"
    if not dry_run:
        note_done(f"{len(report.segments)} segments of the journal {what}")
    write_report(report, as_json or not is_terminal(), came=restore)


@contextmanager
def _shown() -> Iterator[Callable[[int, int], None]]:
    bars: list[int] = []
    with progress("reading", None) as advance:

        def show(done: int, total: int) -> None:
            advance(done - sum(bars))
            bars[:] = [done]

        yield show
