"""`hangarlog compress`."""

from __future__ import annotations

import click
import msgspec

from hangarlog.cli.app import hangarlog, named, note_done, open_folder, with_store
from hangarlog.cli.exit_codes import ExitCode
from hangarlog.cli.terminal import progress, say, write_object
from hangarlog.eventstore.arguments import seconds_of


def parse_age(context: click.Context, parameter: click.Parameter, value: str | None) -> float:
    """Return the seconds of an age such as `1d`, 0 for None. Raises `click.BadParameter`."""
    seconds = 0.0 if value is None else seconds_of(value)
    if seconds is None:
        cause = f"{value!r} is not an age; give one such as '1d' (s, m, h, d or w)"
        raise click.BadParameter(cause, context, parameter)
    return seconds


@hangarlog.command(short_help="Compress sealed segments.")
@with_store(instead="compress a copy: `hangarlog copy ADDRESS FOLDER` makes one")
@click.option("--older-than", metavar="AGE", callback=parse_age, help="Only segments that are sealed for AGE: 1d, 12h.")
@click.option("--seal", is_flag=True, help="First seal the active segments of that age with 16 KiB or more.")
def compress(store: str, older_than: float, seal: bool) -> int:
    """Compress the sealed segments of STORE, as zstd files that zstdcat, zstdgrep and DuckDB read.

    Others may read and write meanwhile. The active segments stay plain text, so tail and grep show what is new. Exit
    with 1 if a segment is damaged; it stays as it is.
    """
    bars: list[int] = []
    with named("the rest is not compressed"), open_folder(store) as opened, progress("compressing", None) as advance:

        def show(done: int, total: int) -> None:
            advance(done - sum(bars))
            bars[:] = [done]

        done = opened.compress(older_than=older_than, seal=seal, progress=show)
    note_done(f"{done.segments} segments are compressed")
    write_object(msgspec.structs.asdict(done))
    for path in done.damaged:
        say(f"hangarlog: {path} is damaged, and not compressed; run `hangarlog repair {store}` first", err=True)
    return ExitCode.FAILED if done.damaged else ExitCode.SUCCESS
