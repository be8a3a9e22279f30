"""`hangarlog copy`."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from hangarlog.cli.app import checked_seconds, hangarlog, named, note_done, open_store, with_store
from hangarlog.cli.terminal import counted, is_terminal, progress_of_steps, say, write_json, write_object
from hangarlog.copying import Copied, Copy, CopyError
from hangarlog.opening import shown_address
from hangarlog.system.interrupts import Interrupts


@hangarlog.command(short_help="Copy a store into another one, of any engine.")
@with_store("target")
@click.option("--follow", is_flag=True, help="Then copy what comes, until Ctrl-C or SIGTERM, for a switch-over.")
@click.option(
    "--until-idle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    callback=lambda context, parameter, value: value if value is None else checked_seconds(context, parameter, value),
    help="With --follow, end once no event has come for so long.",
)
def copy(store: str, target: str, follow: bool, until_idle: float | None) -> int:
    """Copy all events of STORE to TARGET, with snapshots and cursors, and compare the two, event by event.

    TARGET is new, or an earlier copy, which is brought up to date: after an interruption, run it again. Ids, versions,
    times, payloads and batches are kept, and so are positions, unless a retention has dropped or erased events. Exit
    with 1 if the two differ, or somebody else writes to TARGET. Either may be a folder or `nats://host:port/name`.

    With --follow, stop the writers, then this command. Once it says `complete`, start the writers on TARGET.
    docs/copy.md has the whole recipe.
    """
    if until_idle is not None and not follow:
        raise click.UsageError("--until-idle is for --follow")
    with (
        named(f"the copy to {shown_address(target)} is not complete; run it again"),
        open_store(store) as source,
        open_store(target, create=True, durability="relaxed") as opened,
        progress_of_steps() as show,
    ):
        work = Copy(source, opened, progress=show)
        try:
            if follow:
                _follow(work, until_idle)
            else:
                work.catch_up()
                work.finish()
                work.compare()
        except BaseException as error:
            if work.done.events and not isinstance(error, CopyError):
                say(f"hangarlog: up to position {work.done.position} it is copied; run it again for the rest", err=True)
            raise
        late = work.left() if follow else 0
    return _report(shown_address(target), work.done, late)


def _follow(work: Copy, until_idle: float | None) -> None:
    """Follow until a signal comes. Before the target has caught up, and while both are compared, it interrupts."""
    with Interrupts(work.stop) as interrupts:

        def caught_up() -> None:
            interrupts.hold()
            _tell("following", work.done)

        interrupts.release()
        work.follow(until_idle=until_idle, caught_up=caught_up)
        _tell("complete", work.finish())
        interrupts.forget()
        work.compare()


def _tell(state: str, done: Copied) -> None:
    """Write where a copy is that others wait for."""
    note_done(f"the target has everything up to position {done.position}, and is not compared")
    if is_terminal():
        more = ": stop the writers, then press Ctrl-C" if state == "following" else ": start the writers on the target"
        say(f"{state}, up to position {done.position:,}{more}")
    else:
        write_json({"state": state, "position": done.position, "target_position": done.target_position})
    sys.stdout.flush()


def _report(target: str, done: Copied, late: int) -> int:
    note_done(f"{done.events} events were copied, and all {done.compared} are equal in both")
    values: dict[str, Any] = {"target": target, **msgspec.structs.asdict(done)}
    not_taken, ahead = values.pop("not_taken"), values.pop("cursors_ahead")
    write_object(values)
    if is_terminal():
        say(f"{counted(done.compared, 'event')} compared, one by one: equal in both")
    for stream_id, cause in not_taken.items():
        say(f"hangarlog: stream {stream_id!r} is not in the target: {cause}", err=True)
    for name, position in ahead.items():
        say(f"hangarlog: cursor {name!r} is further on in the target, at {position}, and was left there", err=True)
    if not done.positions_kept:
        say("hangarlog: the events have other positions than in the source, which has dropped some", err=True)
    if late:
        what = f"{counted(late, 'event')} came to the source after the copy was complete: its writers had not stopped"
        say(f"hangarlog: {what}; stop them, and run it again before others write to the target", err=True)
    return 1 if late else 0
