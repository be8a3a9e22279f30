"""`hangarlog metrics`."""

from __future__ import annotations

import click

from hangarlog.cli.app import hangarlog, with_store
from hangarlog.cli.terminal import say, write_text
from hangarlog.watching.prometheus import exposition
from hangarlog.watching.vitals import read_vitals


@hangarlog.command(short_help="Print metrics for Prometheus.")
@with_store(instead="its servers have figures of their own, at /jsz of their monitoring addresses")
@click.option("--no-files", is_flag=True, help="Do not list all files: their sizes take a second for 100,000 streams.")
def metrics(store: str, no_files: bool) -> None:
    """Print metrics in Prometheus's text format, for a scraper or node_exporter's textfile collector.

    The store is not opened: nothing is locked, recovered or written. What cannot be read is left out, with a warning,
    and counts in `hangarlog_read_problems`. docs/watching.md lists the metrics.
    """
    vitals = read_vitals(store, files=not no_files)
    for problem in vitals.problems:
        say(f"hangarlog: warning: {problem}", err=True)
    write_text(exposition(vitals))
