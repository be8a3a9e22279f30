"""`hangarlog bench`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click
import msgspec

from hangarlog.cli.app import STORE_VARIABLE, hangarlog, named, refuse_servers
from hangarlog.cli.terminal import is_terminal, progress, say, styled, write_json

if TYPE_CHECKING:
    from hangarlog.benchmark.payloads import Payloads
    from hangarlog.benchmark.plan import Plan
    from hangarlog.benchmark.results import Results

_QUICK_SECONDS = 10.0
_MAX_PROCESSES = 32
"""The most processes that are started without being asked for."""


@hangarlog.command(short_help="Measure appends, reads and following on your disk.")
@click.argument("store", required=False, metavar="[STORE|FOLDER]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to measure.",
)
@click.option("--quick", is_flag=True, help=f"Measure for {_QUICK_SECONDS:g} seconds: enough for a first look.")
@click.option(
    "--payload",
    metavar="FILE",
    help="The payloads to append: a JSON object, or one per line. - is standard input. The default is a sample.",
)
@click.option(
    "--size",
    type=click.IntRange(11, 16 << 20),
    metavar="BYTES",
    help="Append payloads of this size, with random text, instead.",
)
@click.option("--stored", is_flag=True, help="Take the payloads from the newest events of STORE, which is only read.")
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    metavar="N",
    help="How many processes append at once. The default is one for each core, from 2 to 32.",
)
def bench(
    store: str | None,
    seconds: float,
    quick: bool,
    payload: str | None,
    size: int | None,
    stored: bool,
    processes: int | None,
) -> None:
    """Measure appends, reads and following on this machine, beside the bare calls.

    It measures in a new private folder, which is removed at the end, below FOLDER (default: the current one). For a
    STORE it measures beside it, and writes nothing into it. On a terminal it prints tables, histograms and a verdict,
    in a pipe one JSON object. docs/bench.md says how to read them.
    """
    context = click.get_current_context()
    if quick:
        if context.get_parameter_source("seconds") is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError("--quick and --seconds contradict each other; leave one of them out")
        seconds = _QUICK_SECONDS
    if sum((payload is not None, size is not None, stored)) > 1:
        raise click.UsageError("--payload, --size and --stored exclude each other; give one of them")
    from hangarlog.benchmark.plan import make_plan
    from hangarlog.benchmark.results import cores
    from hangarlog.benchmark.rounds import run
    from hangarlog.benchmark.scratch import find_place, left_over

    where = store or os.environ.get(STORE_VARIABLE) or "."
    refuse_servers(where, "bench", "name a folder on the disk that you mean")
    place = find_place(where)
    if stored and place.store is None:
        raise click.UsageError(f"--stored needs a store, and {place.folder} is none; name one")
    payloads = _payloads(payload, size, place.store if stored else None)
    plan = make_plan(place, payloads, seconds, processes or min(_MAX_PROCESSES, max(2, cores())))
    for path in left_over(place.folder):
        say(f"hangarlog: warning: a benchmark that was killed has left {path}; delete it", err=True)
    with progress("measuring", plan.rounds * len(plan.measures)) as advance:
        outcome = run(place, payloads, plan, lambda title: advance(1), _say_plan)
    if outcome.results.measures or isinstance(outcome.error, KeyboardInterrupt):
        _show(outcome.results)
    if outcome.error is not None:
        with named(f"cannot measure in {place.folder}"):
            raise outcome.error


def _say_plan(plan: Plan, folder: str) -> None:
    say(
        f"hangarlog: measuring for {plan.seconds:g} s in {folder}, with up to {plan.needed_bytes >> 20:,} MiB of "
        "files, which are removed at the end",
        err=True,
    )


def _payloads(path: str | None, size: int | None, store: str | None) -> Payloads:
    from hangarlog.benchmark import payloads
    from hangarlog.benchmark.errors import BenchmarkError

    if store is not None:
        return payloads.from_store(store)
    if size is not None:
        return payloads.of_size(size)
    if path is None:
        return payloads.sample()
    try:
        if path == "-":
            if sys.stdin is None:
                raise BenchmarkError("standard input", "it is closed")
            return payloads.from_text(sys.stdin.buffer.read(payloads.MAX_BYTES + 1), "standard input")
        with open(path, "rb") as file:
            return payloads.from_text(file.read(payloads.MAX_BYTES + 1), path)
    except BenchmarkError as error:
        raise click.BadParameter(f"{error.path}: {error.cause}", param_hint="--payload") from error
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror or error}", param_hint="--payload") from error


def _show(results: Results) -> None:
    if not is_terminal():
        write_json(msgspec.to_builtins(results))
        return
    from hangarlog.cli.bench_report import report

    for line, heading in report(results, unicode=_shows_unicode()):
        say(styled(line, bold=True) if heading else line)


def _shows_unicode() -> bool:
    """True if the terminal's encoding has the characters of the report."""
    try:
        "µ█▏░→≥•".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
