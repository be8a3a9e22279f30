"""`hangarlog streams`, `stats`, `verify` and `repair`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import click

from hangarlog import CorruptionError, EventStore, FileEventStore
from hangarlog.cli.app import (
    checked_seconds,
    hangarlog,
    lock_timeout,
    named,
    note_done,
    open_folder,
    open_store,
    refuse_servers,
    with_store,
)
from hangarlog.cli.display import shown_time
from hangarlog.cli.terminal import is_terminal, progress, say, styled, write_json, write_object
from hangarlog.filestore.file_owners import JournalNames
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.sizes import part_of, sizes_of_files
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.opening import is_on_servers
from hangarlog.system.filesystem import FileSystem

_WATCH_SECONDS = 1.0


@hangarlog.command()
@with_store()
@click.option("--prefix", default="", metavar="P", help="Only streams whose id begins with P.")
@click.option("-l", "--long", is_flag=True, help="Print the version of each stream too.")
@click.option("--path", "with_paths", is_flag=True, help="Print the files of each stream too, in the order of events.")
def streams(store: str, prefix: str, long: bool, with_paths: bool) -> None:
    """List the streams, sorted by id."""
    if with_paths:
        refuse_servers(store, "streams --path", "leave --path out")
    with open_store(store) as event_store:
        paths = _paths_in(event_store.folder) if isinstance(event_store, FileEventStore) else list
        for stream_id in event_store.list_streams(prefix):
            row: dict[str, Any] = {"stream_id": stream_id}
            if long:
                row["version"] = event_store.get_stream_version(stream_id)
            if with_paths:
                row["paths"] = paths(stream_id)
            if not is_terminal():
                write_json(row)
                continue
            say(f"{row['version']:>8}  {stream_id}" if long else stream_id)
            for path in row.get("paths", ()):
                say("    ", path)


def _paths_in(folder: Folder) -> Callable[[str], list[str]]:
    """Return what returns the paths of a stream's segments, in order. Each folder is listed once."""
    names, checked = JournalNames(folder.journal), set[str]()

    def paths(stream_id: str) -> list[str]:
        log = folder.stream(stream_id, checked)
        sealed = [*map(log.sealed_path, names.sealed(log))]
        return [*sealed, log.active_path] if folder.filesystem.is_there(log.active_path) else sealed

    return paths


class _Stats(click.Command):
    """A command whose option `--watch` may lack its value. What follows it is its value only if it is a number."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Give the option its default value."""
        for number, word in enumerate(args):
            following = args[number + 1] if number + 1 < len(args) else ""
            if word == "--watch" and not _is_number(following):
                args = [*args[:number], f"--watch={_WATCH_SECONDS:g}", *args[number + 1 :]]
        return super().parse_args(context, args)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@hangarlog.command(cls=_Stats, short_help="Count the events, streams, files and bytes, and draw them.")
@with_store()
@click.option(
    "--watch",
    "watch_seconds",
    type=click.FloatRange(min=0.1),
    metavar="[SECONDS]",
    callback=lambda context, parameter, value: value and checked_seconds(context, parameter, value),
    help=f"Show how the store is doing on one screen, every SECONDS (by default {_WATCH_SECONDS:g}). In a pipe, print "
    "a line of JSON each time. The store is not opened for writing.",
)
@click.option(
    "--html",
    "page_file",
    metavar="FILE",
    help="Write a page of plots to FILE, which opens in any browser. An earlier page is replaced. The store is not "
    "opened for writing.",
)
@click.option("--force", is_flag=True, help="With --html, replace FILE whatever it is.")
@click.option(
    "--plot/--no-plot",
    default=None,
    help="Draw a picture of growth and types below the figures. By default, on a terminal.",
)
def stats(store: str, watch_seconds: float | None, page_file: str | None, force: bool, plot: bool | None) -> int:
    """Print the number of events, streams, files and bytes, and draw when events came and of which types.

    With --watch, show what happens: appends, bytes and syncs a second, how long syncs take, busy and large streams,
    types, and followers. It ends with `q`, or when the reader of its output goes.
    """
    if watch_seconds is not None and page_file is not None:
        raise click.UsageError("--watch and --html exclude each other")
    if force and page_file is None:
        raise click.UsageError("--force needs --html")
    for option, given in {
        "--watch": watch_seconds is not None,
        "--html": page_file is not None,
        "--plot": plot,
    }.items():
        if given:
            refuse_servers(store, f"stats {option}", "without the option it counts")
    if watch_seconds is not None:
        from hangarlog.cli.watching import watch

        watch(store, watch_seconds)
        return 0
    if page_file is not None:
        from hangarlog.cli.pictures import write_page_of

        return write_page_of(store, page_file, force)
    with open_store(store) as event_store, progress("counting"):
        found = _stats(event_store)
    if is_terminal() or plot:
        found = {name: shown_time(value) if name.endswith("_at") and value else value for name, value in found.items()}
    write_object(found, text=plot or None)
    if plot or (plot is None and is_terminal() and not is_on_servers(store)):
        from hangarlog.cli.pictures import draw

        draw(store)
    return 0


def _stats(store: EventStore[Any]) -> dict[str, Any]:
    first, last = (next(as_stored(store, store.envelopes(limit=1, reverse=end)), None) for end in (False, True))
    counts = {
        "events": store.get_event_count(),
        "streams": store.get_stream_count(),
        "first_recorded_at": first[0][0].recorded_at if first else None,
        "last_recorded_at": last[0][0].recorded_at if last else None,
    }
    if not isinstance(store, FileEventStore):
        return {**counts, "bytes": store._size()[0]}
    sizes = {"journal": 0, "streams": 0, "other": 0}
    files = dict.fromkeys(sizes, 0)
    for path, size in sizes_of_files(store.folder.filesystem, store.path):
        kind = part_of(store.path, path)
        sizes[kind] += size
        files[kind] += 1
    return {
        "store_id": store.meta.store_id,
        "format": store.meta.format,
        "created_at": store.meta.created_at,
        "segment_bytes": store.meta.segment_bytes,
        **counts,
        **{f"{kind}_bytes": size for kind, size in sizes.items()},
        **{f"{kind}_files": count for kind, count in files.items()},
    }


@hangarlog.command()
@with_store()
@click.option("--read-only", is_flag=True, help="Do not change anything: no recovery after a crash.")
def verify(store: str, read_only: bool) -> int:
    """Check every line and both copies of every event. Of a store on servers, check the copy of each server.

    Exit with 1 if there is damage. Each damaged place is printed. Damage that a recovery repairs while the store is
    opened counts too. Other processes may write meanwhile.
    """
    from hangarlog.maintenance import verify as checks

    if is_on_servers(store):
        return _verify_servers(store)
    if read_only:
        folder = Folder(FileSystem(), store)
        folder.enter()
        events = checks.count_events(store)
        with progress("verifying", 2 * events) as advance:
            damaged = _write_all(checks.verify_folder(store, advance))
        streams = sum(1 for _ in folder.stream_ids())
    else:
        with open_folder(store) as event_store:
            events = event_store.get_event_count()
            with progress("verifying", 2 * events) as advance:
                damaged = _write_all(chain(checks.verify(event_store, advance), checks.mended(event_store)))
            streams = event_store.get_stream_count()
    write_object({"events": events, "streams": streams, "damaged": damaged})
    return 1 if damaged else 0


def _verify_servers(address: str) -> int:
    damaged = 0
    with open_store(address) as event_store:
        from hangarlog.jetstream import JetStreamEventStore
        from hangarlog.jetstream.verifying import Verification

        assert isinstance(event_store, JetStreamEventStore)
        with progress("verifying") as advance:
            work = Verification(event_store, advance)
            for damage in work.damages():
                damaged += 1
                _write_damage(damage)
    for note in work.notes:
        say(f"hangarlog: warning: {note}", err=True)
    write_object({"events": work.events, "streams": work.streams, "damaged": damaged, "copies": work.copies})
    return 1 if damaged else 0


def _write_all(damages: Iterable[CorruptionError]) -> int:
    places = set()
    for damage in damages:
        if (damage.path, damage.offset) not in places:
            places.add((damage.path, damage.offset))
            _write_damage(damage)
    return len(places)


def _write_damage(damage: CorruptionError) -> None:
    if is_terminal():
        say(styled("damaged ", fg="red"), str(damage))
    else:
        place = {"path": damage.path, "segment": damage.segment, "offset": damage.offset}
        event = {name: getattr(damage, name) for name in ("position", "stream_id", "stream_version")}
        known = {name: value for name, value in event.items() if value is not None}
        write_json({**place, **known, "cause": damage.cause})


@hangarlog.command()
@with_store(
    instead="what a server has lost it gets from the others, and `hangarlog verify ADDRESS` says what is damaged"
)
def repair(store: str) -> int:
    """Repair a damaged store so that it works again.

    Exit with 1 if committed events were lost or put aside. Each repaired file is printed, and events that were put
    aside or lost.

    A damaged copy is repaired from the other one. If no whole copy is left, the longest provable history is kept, and
    whole records that do not belong to it go to `put-aside.jsonl`. A replaced file is kept beside the new one, under
    its name with `.damaged`.
    """
    from hangarlog.maintenance.repair import Lost, PutAside, Repaired
    from hangarlog.maintenance.repair import repair as repair_store

    names = {Repaired: "mended", PutAside: "put aside", Lost: "lost"}
    mended = put_aside = lost = 0
    all_repaired = True
    with named(f"the repair of {store} is not complete"), progress("repairing") as advance:
        # All at once: it must not end half-way because its results cannot be written.
        results = list(repair_store(store, advance, lock_timeout=lock_timeout()))
    note_done("the store was repaired as far as possible; `hangarlog verify` says what is still damaged")
    for result in results:
        if isinstance(result, CorruptionError):
            _write_damage(result)
        elif is_terminal():
            color = "green" if isinstance(result, Repaired) else "red"
            say(styled(f"{names[type(result)]} ", fg=color), str(result))
        else:
            write_json({"result": names[type(result)], **result._asdict()})
        mended += isinstance(result, Repaired)
        put_aside += result.events if isinstance(result, PutAside) else 0
        lost += result.events if isinstance(result, Lost) and not result.stream_id else 0
        all_repaired &= isinstance(result, Repaired) or (isinstance(result, PutAside) and not result.committed)
    write_object({"mended": mended, "put_aside": put_aside, "lost": lost})
    return 0 if all_repaired else 1
