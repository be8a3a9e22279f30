"""`hangarlog doctor`."""

from __future__ import annotations

from collections import Counter

import click
import msgspec

from hangarlog.cli.app import hangarlog, with_store
from hangarlog.cli.terminal import is_terminal, progress, say, styled, write_json
from hangarlog.doctor.finding import KINDS, SEVERITIES, Finding

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}


@hangarlog.command(short_help="Say how a store is doing, and what to do about it.")
@with_store(instead="`hangarlog verify ADDRESS` says how its servers are")
@click.option("--thorough", is_flag=True, help="Look at all files, however many streams there are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, on a terminal too.")
@click.option(
    "--least",
    type=click.Choice(SEVERITIES),
    default="ok",
    show_default=True,
    help="Print only what is at least so bad. The exit code is the same.",
)
@click.option(
    "--ignore",
    multiple=True,
    type=click.Choice([*KINDS]),
    metavar="KIND",
    help="Pass over findings of this kind, such as file-system-in-memory. Repeat it for several.",
)
def doctor(store: str, thorough: bool, as_json: bool, least: str, ignore: tuple[str, ...]) -> int:
    """Say how a store is doing: its disk, rights, processes, followers, growth, leftovers, clocks.

    Exit with 1 if there is a warning or a problem. Each finding has a kind, and the next step. docs/doctor.md has all
    of them.

    Nothing is changed, locked or recovered, and processes may write meanwhile. The folder may be damaged, or no store.
    Whether the events are whole is for `verify` to say.
    """
    from hangarlog.doctor.examination import examine

    counts, shown = Counter[str](), 0
    with progress("examining") as advance:
        for finding in examine(store, thorough=thorough):
            advance(1)
            if finding.kind in ignore:
                continue
            counts[finding.severity] += 1
            if SEVERITIES.index(finding.severity) >= SEVERITIES.index(least):
                shown += 1
                _write(finding, as_json)
    if least == "ok" or shown:
        if as_json or not is_terminal():
            write_json({severity: counts[severity] for severity in SEVERITIES})
        else:
            say(", ".join(f"{severity}: {counts[severity]}" for severity in reversed(SEVERITIES)))
    return 1 if counts["warning"] or counts["problem"] else 0


def _write(finding: Finding, as_json: bool) -> None:
    if as_json or not is_terminal():
        write_json(msgspec.to_builtins(finding))
        return
    say(
        styled(f"{finding.severity:<8}", fg=_COLOURS[finding.severity], bold=finding.severity == "problem"),
        f" {finding.kind}: {finding.what}",
    )
    if finding.severity != "ok":
        say(styled(f"         at {finding.where}", dim=True))
        if finding.next:
            say("         next: ", finding.next)
